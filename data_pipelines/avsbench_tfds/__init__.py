"""Clips packed once into ArrayRecord by TFDS: one large file a split instead of dozens of small ones a clip.

  <dir>/<split>/source.json                                 subset, title, ids, size ...: what a source tells of itself
  <dir>/<split>/avsbench_tfds/1.0.0/*.array_record*         a record a clip, in order

A split appears under its name only when it is whole.
"""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import transforms
from data_pipelines.clips import Clip, Source

FORMAT = 1
PLAIN = ("title", "is_stand_in", "num_classes", "seconds")

log = logging.getLogger(__name__)


def pack(source: Source, out_dir: str | Path, split: str, *, subset: str | None = None) -> Path:
  """Writes a split. Frames and masks are kept to the bit, sound to 16 bits.

  Args:
    subset: the `data.name` it is of; a pack that does not say it is taken for whatever it is opened as.

  Returns: the split's folder.

  Raises:
    InputError: the split is there already, or a clip cannot be read (a pack never lacks clips).
  """
  import tensorflow_datasets as tfds

  from data_pipelines.avsbench_tfds.avsbench_tfds_dataset_builder import Builder

  final, partial = Path(out_dir) / split, Path(out_dir) / f"{split}.incomplete"
  if final.exists():
    raise InputError(f"{final}: there is a packed split already; remove it or choose another folder.")
  if partial.exists():
    shutil.rmtree(partial)
  partial.mkdir(parents=True)
  builder = Builder(source=source, split=split, data_dir=str(partial), file_format="array_record")
  try:
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except InputError as error:
    raise InputError(f"{final}: not packed, {error}") from error
  facts = {name: getattr(source, name) for name in PLAIN}
  facts |= {
    "left_out": getattr(source, "left_out", ""),
    "format": FORMAT,
    "subset": subset,
    "size": list(source.size),
    "ids": list(source.ids),
    "categories": list(source.categories),
    "broad": list(source.broad),
    "objects": [sorted(source.objects(i)) for i in range(len(source))],
    "audio_padding": getattr(source, "audio_padding", "last"),
    "parts": list(getattr(source, "parts", ())),
    "kinds": [sorted(kinds(i)) for i in range(len(source))]
    if (kinds := getattr(source, "kinds", None))
    else [],
    "masks": getattr(source, "masks", "mended"),
    "records": str(Path(builder.data_dir).relative_to(partial)),
  }
  (partial / "source.json").write_text(json.dumps(facts))
  os.replace(partial, final)
  log.info("packed %d clips of %s into %s", len(source), source.title, final)
  return final


class Packed:
  """A packed split as a `Source`, equal to what was packed but for the sound's 16 bits.

  Args:
    size: side of the pictures given out; None as they were packed.

  Attributes:
    subset: the `data.name` that was packed; None where the pack does not say.
    size, packed_size: height and width of the pictures given out, and of those in the pack.
    masks: the `data.masks` that its masks were read with.

  Raises:
    InputError: there is no such pack, it is damaged, or its pictures are smaller than `size`.
  """

  def __init__(self, folder: str | Path, split: str, *, size: int | None = None):
    self.path = Path(folder) / split
    try:
      facts = json.loads((self.path / "source.json").read_text())
    except OSError:
      raise InputError(
        f"{self.path}: there is no packed split here; make it with --mode=prepare or set data.packed=False."
      ) from None
    except ValueError as error:
      raise InputError(f"{self.path / 'source.json'}: damaged ({error}); pack the split again.") from None
    if facts.get("format") != FORMAT:
      raise InputError(
        f"{self.path}: packed in format {facts.get('format')}, not {FORMAT}; pack the split again."
      )
    self.title, self.is_stand_in = facts["title"], facts["is_stand_in"]
    self.num_classes, self.seconds = facts["num_classes"], facts["seconds"]
    self.subset: str | None = facts.get("subset")
    self.left_out: str = facts.get("left_out", "")
    self.packed_size, self.ids = tuple(facts["size"]), tuple(facts["ids"])
    self.size = self.packed_size if size is None else (size, size)
    if max(self.size) > min(self.packed_size):
      high, wide = self.packed_size
      raise InputError(
        f"data.size={size}: {self.path} was packed at {high}x{wide} pixels, and larger ones would only be made up; set"
        " data.size to that, or pack again with --mode=prepare."
      )
    self.categories, self.broad = tuple(facts["categories"]), tuple(facts["broad"])
    self.audio_padding = facts["audio_padding"]
    self.parts = tuple(facts.get("parts", ()))
    self.masks: str = facts.get("masks", "mended")
    self._kinds = [frozenset(names) for names in facts.get("kinds", ())]
    self._objects = [frozenset(names) for names in facts["objects"]]
    self._open(split, facts["records"])

  def _open(self, split: str, records: str) -> None:
    import tensorflow_datasets as tfds

    try:
      builder = tfds.builder_from_directory(str(self.path / records))
      self._records: Any = builder.as_data_source(split=split)
      count = len(self._records)
    except Exception as error:  # TFDS and ArrayRecord raise a dozen kinds for damaged files
      raise InputError(
        f"{self.path}: the records cannot be opened ({error}); pack the split again."
      ) from error
    if count != len(self.ids):
      raise InputError(f"{self.path}: {count} records for {len(self.ids)} clips; pack the split again.")

  def __len__(self) -> int:
    return len(self.ids)

  def clip(self, index: int) -> Clip:
    """Reads clip `index`; raises `InputError` naming it when its record is damaged."""
    from data_pipelines.avsbench_tfds.avsbench_tfds_dataset_builder import decode

    record = self._read(index)
    try:
      clip = decode(record)
    except (OSError, ValueError, SyntaxError) as error:
      raise InputError(f"{self.path}: record {index} is damaged ({error}); pack the split again.") from error
    if clip.id != self.ids[index]:
      raise InputError(
        f"{self.path}: record {index} is {clip.id}, not {self.ids[index]}; pack the split again."
      )
    frames = transforms.resize_frames(clip.frames, self.size)
    masks = transforms.resize_mask(clip.masks, self.size)
    return dataclasses.replace(clip, frames=frames, masks=masks)

  def sound(self, index: int) -> np.ndarray:
    """The clip's waveform; its pictures stay undecoded.

    Raises:
      InputError: the record cannot be read, or holds no sound.
    """
    from data_pipelines.avsbench_tfds.avsbench_tfds_dataset_builder import sound_of

    wave = sound_of(self._read(index))
    if wave is None:
      raise InputError(f"{self.ids[index]}: the pack holds a log-mel and no sound; pack from .wav files.")
    return wave

  def objects(self, index: int) -> frozenset[str]:
    """Categories seen or heard in the clip, as its source said."""
    return self._objects[index]

  def kinds(self, index: int) -> frozenset[str]:
    """Kinds that are scored apart, as its source said."""
    return self._kinds[index] if self._kinds else frozenset()

  def _read(self, index: int) -> dict:
    if not 0 <= index < len(self):
      raise IndexError(f"{self.title}: clip {index} of {len(self)}")
    try:
      return self._records[index]
    except Exception as error:  # as above
      raise InputError(
        f"{self.path}: record {index} ({self.ids[index]}) cannot be read ({error}); pack again."
      ) from error
