"""From a config to a data set: a real one at `data.root`, or the stand-in, which is said loudly."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import avsbench_index, loader, negatives
from data_pipelines.clips import Clip, Source

log = logging.getLogger(__name__)

# What the stand-ins call the data sets.
SUBSETS = {
  "s4": "single",
  "ms3": "multi",
  "avss": "semantic",
  **{name: name for name in avsbench_index.VPO_NAMES},
}
# Folders of negatives that the Robust paper's authors publish beside `audio_wav`.
FOLDERS = {"noise": "audio_wav_noise", "offscreen": "audio_wav_misaligned"}

_remembered: dict[str, Source] | None = None  # what `build` gave inside `remembering`
_NO_CONTENT = ("cache_mb", "threads", "workers", "curriculum")  # settings of config.data that change no clip


@contextlib.contextmanager
def remembering() -> Iterator[None]:
  """Inside, `build` gives the same source for the same settings, with one memory of its clips.

  For many runs on one data set in one process: only the first of them reads or composes the clips. Each source keeps
  up to the `data.cache_mb` of the run that asked for it first.
  """
  global _remembered  # noqa: PLW0603  the process's one memory
  before, _remembered = _remembered, {}
  try:
    yield
  finally:
    _remembered = before


def build(config: Any, split: str, *, limit: int = 0) -> Source:
  """The split of the data set that `config.data` names.

  Masks of VPO are 0/1 for a model of one class; clips say where their sound comes from if `config.model.stereo`. With
  `eval.negative_audio=published` and `data.allow_missing` the split to be judged lacks the clips that have no such
  negative; the log says how many.

  Args:
    split: train, val or test; test_unseen for the real-media stand-in.
    limit: use only so many clips, from the first; 0 for all.

  Raises:
    InputError: unknown name, a `data.root` that lacks files, data that do not know where sounds come from, or masks
      of other classes than the model's.
  """
  data, name = config.data, avsbench_index.data_name(config.data.name)
  source = _make(config, split, limit) if _remembered is None else _recall(_remembered, config, split, limit)
  _check_classes(source, config.model.num_classes)
  asks = config.eval.negative_audio == "published" and data.allow_missing
  if asks and split == config.eval.split:
    source = with_negatives(
      source, tuple(FOLDERS[name] for name in config.eval.conditions if name in FOLDERS)
    )
  if not data.root:
    log.warning(
      "data.root is empty: %s uses %s; its figures say nothing of %s.", split, source.title, name.upper()
    )
  return source


def _check_classes(source: Source, classes: int) -> None:
  """That a model of so many classes can learn from the masks; one of one class takes those of classes as 0/1."""
  if classes == 1 or 1 < source.num_classes <= classes:
    return
  has = "0/1 masks" if source.num_classes == 1 else f"{source.num_classes} classes"
  raise InputError(
    f"model.num_classes={classes}: {source.title} has {has}; set model.num_classes={source.num_classes}, or choose"
    " other data with data.name or data.root."
  )


def _recall(kept: dict[str, Source], config: Any, split: str, limit: int) -> Source:
  settings = {name: value for name, value in config.data.to_dict().items() if name not in _NO_CONTENT}
  key = json.dumps([settings, config.model.num_classes, config.model.stereo, split, limit], sort_keys=True)
  if key not in kept:
    kept[key] = loader.keep(_make(config, split, limit), config.data.cache_mb)
  return kept[key]


def with_negatives(source: Any, folders: tuple[str, ...]) -> Any:
  """The clips of a source that have a file in each of these folders, so that all sounds are judged on the same ones.

  The published generator writes no off-screen sound for a clip of which it knows no class.

  Raises:
    InputError: no clip has them all.
  """
  reader = negatives.whole(source)
  if not hasattr(reader, "published_negative"):
    return source  # what asks for the files says so
  paths = [[reader.published_negative(index, folder) for folder in folders] for index in range(len(source))]
  kept = [index for index, some in enumerate(paths) if all(map(os.path.isfile, some))]
  lacking = [source.ids[index] for index in sorted(set(range(len(source))) - set(kept))]
  if not lacking:
    return source
  said = f"{len(lacking)} of {len(source)} clips lack published negatives ({', '.join(folders)})"
  if not kept:
    raise InputError(
      f"{source.title}: {said}; copy these folders beside audio_wav, or set eval.negative_audio=drawn."
    )
  said = f"{said}: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
  log.warning("%s: %s; they are left out under every sound", source.title, said)
  return Chosen(source, kept, said)


def _make(config: Any, split: str, limit: int) -> Source:
  source = _real(config, split) if config.data.root else _stand_in(config, split)
  return Limited(source, limit) if limit and limit < len(source) else source


def _real(config: Any, split: str) -> Source:
  data, name = config.data, avsbench_index.data_name(config.data.name)
  is_vpo = name in avsbench_index.VPO_NAMES
  if config.model.stereo and (data.packed or not is_vpo):
    raise InputError(
      f"model.stereo=True: {'a packed copy' if data.packed else name} does not say where sounds come from; take"
      " vpo_ss, vpo_ms or vpo_msmi unpacked, or set model.stereo=False."
    )
  if data.packed:
    return _packed(data, name, split)
  if is_vpo:
    from data_pipelines.vpo import VPO

    binary = config.model.num_classes == 1
    return VPO(
      data.root,
      name,
      split,
      size=data.size,
      binary=binary,
      has_pan=config.model.stereo,
      allow_missing=data.allow_missing,
    )
  from data_pipelines.avsbench import AVSBench

  return AVSBench(
    data.root,
    name,
    split,
    size=data.size,
    masks=data.masks,
    audio=data.audio,
    allow_missing=data.allow_missing,
  )


def _packed(data: Any, name: str, split: str) -> Source:
  """The packed split, if it is of the data set."""
  from data_pipelines.avsbench_tfds import Packed

  source = Packed(data.root, split, size=data.size)
  if source.subset is None:
    log.warning("%s does not say which data set was packed; it is taken for %s.", source.path, name)
  elif source.subset != name:
    raise InputError(
      f"data.root={data.root} holds a pack of {source.subset}, not of {name}; set data.name={source.subset} or give"
      " another data.root."
    )
  if source.masks != data.masks:
    raise InputError(
      f"data.masks={data.masks}: the pack in {data.root} holds masks read as {source.masks}; set data.masks to that, or"
      " pack again."
    )
  if source.size != source.packed_size:
    log.warning(
      "%s: packed at %s px and made %s px now, so not the very pictures that the unpacked set gives at this size",
      source.path,
      source.packed_size[0],
      source.size[0],
    )
  return source


def _stand_in(config: Any, split: str) -> Source:
  data, name = config.data, avsbench_index.data_name(config.data.name)
  subset = SUBSETS[name]
  kind = "test" if split.startswith("test") else split
  if kind not in data.clips:
    raise InputError(f"there is no split {split!r}; give eval.split as one of {', '.join(data.clips)}.")
  count = data.clips[kind]
  is_first_only = name == "s4" and split == "train" and data.annotated == "published"
  told = {
    "annotated": "first" if is_first_only else "all",
    "binary": config.model.num_classes == 1,
    "has_pan": config.model.stereo,
  }
  if data.stand_in == "generated":
    from data_pipelines.generated import Generated

    return Generated(subset, split, count, size=data.size, seconds=data.seconds, seed=data.seed, **told)
  if data.stand_in == "real_media":
    from data_pipelines.real_media import RealMedia, prepare

    prepare(data.media_cache or None)  # fetched and built once

    return RealMedia(
      subset,
      split,
      count,
      size=data.size,
      seconds=data.seconds,
      seed=data.seed,
      cache_dir=data.media_cache or None,
      **told,
    )
  raise InputError(f"data.stand_in={data.stand_in!r} is unknown; choose generated or real_media.")


def _both(*sentences: str) -> str:
  return "; ".join(filter(None, sentences))


class Chosen:
  """Some clips of a source, as if it held no others: donors too come from these alone.

  Attributes:
    left_out: how many clips are, why, and the names of the first.
  """

  def __init__(self, source: Any, indices: list[int], left_out: str):
    self._all, self._indices = source, indices
    self.left_out = _both(getattr(source, "left_out", ""), left_out)
    self.ids = tuple(source.ids[index] for index in indices)
    self.title: str = source.title
    self.is_stand_in: bool = source.is_stand_in
    self.num_classes: int = source.num_classes
    self.seconds: int = source.seconds
    self.size: tuple[int, int] = source.size
    self.categories: tuple[str, ...] = source.categories
    self.broad: tuple[str, ...] = source.broad
    self.audio_padding: str = getattr(source, "audio_padding", "last")

  def __len__(self) -> int:
    return len(self._indices)

  def clip(self, index: int) -> Clip:
    return self._all.clip(self._indices[index])

  def sound(self, index: int) -> np.ndarray:
    return self._all.sound(self._indices[index])

  def objects(self, index: int) -> frozenset[str]:
    return self._all.objects(self._indices[index])

  def recorded(self, index: int) -> Any:
    read = getattr(negatives.whole(self._all), "recorded", None)
    return None if read is None else read(self._indices[index])

  def published_negative(self, index: int, folder: str) -> str:
    return negatives.whole(self._all).published_negative(self._indices[index], folder)


class Limited:
  """The first clips of a source."""

  title: str
  is_stand_in: bool
  num_classes: int
  seconds: int
  size: tuple[int, int]
  categories: tuple[str, ...]
  broad: tuple[str, ...]

  def __init__(self, source: Source, limit: int):
    self.source, self.limit = source, limit
    self.ids = source.ids[:limit]
    first = f"only the first {limit} of {len(source)} clips"
    self.left_out = _both(getattr(source, "left_out", ""), first)

  def __len__(self) -> int:
    return self.limit

  def clip(self, index: int) -> Clip:
    return self.source.clip(index)

  def sound(self, index: int) -> np.ndarray:
    return self.source.sound(index)

  def objects(self, index: int) -> frozenset[str]:
    return self.source.objects(index)

  def __getattr__(self, name: str) -> Any:
    if name in ("source", "limit", "ids", "left_out"):  # not yet set: being unpickled
      raise AttributeError(name)
    return getattr(self.source, name)
