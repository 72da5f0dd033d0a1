"""TFDS builder that writes the clips of any source to ArrayRecord, without TensorFlow.

Pictures are PNG bytes in string tensors and not TFDS images: those need TensorFlow to be written from arrays,
  and
cannot be left undecoded when only the sound is wanted.
"""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines.clips import Clip, Source


class Builder(tfds.core.GeneratorBasedBuilder):
  """One split of one source; record i is clip i."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, source: Source, split: str, **kwargs):
    self.source, self.split_name = source, split
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    seconds, categories = self.source.seconds, max(len(self.source.categories), 1)
    feature = tfds.features
    return tfds.core.DatasetInfo(
      builder=self,
      description=f"{self.source.title}, packed",
      features=feature.FeaturesDict(
        {
          "id": feature.Text(),
          "frames": feature.Tensor(shape=(seconds,), dtype=np.str_),  # PNG, RGB
          "masks": feature.Tensor(shape=(seconds,), dtype=np.str_),  # PNG, class ids as grey values
          "annotated": feature.Tensor(shape=(seconds,), dtype=np.bool_),
          "present": feature.Tensor(shape=(seconds,), dtype=np.bool_),
          "waveform": feature.Tensor(shape=(None,), dtype=np.int16),  # empty: none
          "log_mel": feature.Tensor(shape=(None,), dtype=np.float32),  # [T * 96 * 64], empty: none
          "sounding": feature.Tensor(shape=(seconds, categories), dtype=np.bool_),
          "visible": feature.Tensor(shape=(categories,), dtype=np.bool_),
          "knows": feature.Tensor(shape=(2,), dtype=np.bool_),  # whether sounding, visible are given
        }
      ),
      disable_shuffling=True,  # records stay in the source's order
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded: the source reads what is on disk, or makes it
    return {self.split_name: self._generate_examples()}

  def _generate_examples(self):
    for index in range(len(self.source)):
      yield index, encode(self.source.clip(index), len(self.source.categories))


def encode(clip: Clip, num_categories: int) -> dict:
  """The record of a clip. Raises `InputError` for masks that are not whole class ids of 0 to 255."""
  if clip.masks.dtype.kind not in "iu" or clip.masks.min() < 0 or clip.masks.max() > 255:
    raise InputError(f"{clip.id}: only masks of whole class ids can be packed; set data.masks=mended.")
  seconds, categories = len(clip.frames), max(num_categories, 1)
  wave = np.zeros(0) if clip.waveform is None else clip.waveform
  return {
    "id": clip.id,
    "frames": [png(frame) for frame in clip.frames],
    "masks": [png(mask.astype(np.uint8)) for mask in clip.masks],
    "annotated": clip.annotated,
    "present": clip.present,
    "waveform": np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16),
    "log_mel": np.zeros(0, np.float32)
    if clip.log_mel is None
    else clip.log_mel.astype(np.float32).reshape(-1),
    "sounding": np.zeros((seconds, categories), bool) if clip.sounding is None else clip.sounding,
    "visible": np.zeros(categories, bool) if clip.visible is None else clip.visible,
    "knows": np.array([clip.sounding is not None, clip.visible is not None]),
  }


def decode(record: dict) -> Clip:
  """The clip of a record; its sound has 16 bits."""
  knows_sounding, knows_visible = record["knows"]
  log_mel = record["log_mel"].reshape(-1, 96, 64)
  return Clip(
    id=record["id"].decode() if isinstance(record["id"], bytes) else record["id"],
    frames=np.stack([unpng(data) for data in record["frames"]]),
    masks=np.stack([unpng(data) for data in record["masks"]]).astype(np.int32),
    annotated=record["annotated"],
    present=record["present"],
    waveform=sound_of(record),
    log_mel=log_mel if len(log_mel) else None,
    sounding=record["sounding"] if knows_sounding else None,
    visible=record["visible"] if knows_visible else None,
  )


def sound_of(record: dict) -> np.ndarray | None:
  """float32 samples of a record, None where it has only a log-mel."""
  wave = record["waveform"]
  return (wave / 32768).astype(np.float32) if len(wave) else None


def png(pixels: np.ndarray) -> bytes:
  """uint8 [H, W] or [H, W, 3] as PNG, fast rather than small."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  return file.getvalue()


def unpng(data: bytes) -> np.ndarray:
  """The pixels of a PNG."""
  return np.asarray(Image.open(io.BytesIO(data)))
