"""What a data set is to the rest of the program: a list of clips, each with frames, sound and masks.

A `Source` is random access and pure: `clip(i)` gives the same bits whenever it is called. It never
touches a random generator that outlives the call and never imports jax.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

SAMPLE_RATE_HZ = 16_000
# Subsets of both stand-ins, and what their clips are called; the order decides what generated clips draw.
SUBSETS = {
  "single": "single-source",
  "multi": "multi-source",
  "semantic": "semantic",
  "vpo_ss": "VPO-like single-source",
  "vpo_ms": "VPO-like multi-source",
  "vpo_msmi": "VPO-like two-of-a-kind and multi-source",
}
# Kinds of clips that are scored apart: an object sounds in some seconds and not in others; two of one category.
SWITCH, PAIR = "switch", "pair"


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip of T seconds.

  Attributes:
    id: name in the data set, unique in its split.
    frames: uint8 [T, H, W, 3], RGB in [0, 255].
    masks: int32 [T, H, W], class id of what sounds, 0 background.
    annotated: bool [T], frames whose mask is given.
    present: bool [T], real frames (False: padding).
    waveform: float32 [S], mono at 16 kHz in [-1, 1]; None where only a published log-mel exists.
    log_mel: float32 [T, 96, 64], published log-mel; None where it is to be computed from the waveform.
    sounding: bool [T, G] categories heard each second; None where the data set does not say.
    visible: bool [G] categories seen; None where the data set does not say.
    pan: float32 [T, 64], where the sound comes from (`data_pipelines.stereo`); None where it was not asked for.
  """

  id: str
  frames: np.ndarray
  masks: np.ndarray
  annotated: np.ndarray
  present: np.ndarray
  waveform: np.ndarray | None = None
  log_mel: np.ndarray | None = None
  sounding: np.ndarray | None = None
  visible: np.ndarray | None = None
  pan: np.ndarray | None = None


def kinds_of(categories: Sequence[str], heard: np.ndarray) -> frozenset[str]:
  """The kinds of a clip with these objects, one or several of which may be of one category.

  Args:
    heard: bool [T, objects], which of them sounds in each second.
  """
  switches = (heard.any(axis=0) & ~heard.all(axis=0)).any()
  has_pair = len(set(categories)) < len(categories)
  return frozenset(name for name, holds in ((SWITCH, switches), (PAIR, has_pair)) if holds)


class Source(Protocol):
  """A split of a data set. Where it knows them, `kinds(index)` gives a clip's kinds (`kinds_of`), `parts` each
  clip's part, `recorded(index)` its sound at the file's own rate, and `left_out` in which way its clips are not all.

  Attributes:
    title: how the set is named in logs, scoreboards and captions, e.g. "MS3" or
      "generated multi-source clips (stand-in)".
    is_stand_in: True for clips that stand in for a real data set; then `title` says so.
    ids: clip names, in a fixed order.
    num_classes: 1 for binary masks, 71 for AVSS.
    seconds: T.
    size: (H, W) of the frames that `clip` returns.
    categories: names of the G sound categories, () where unknown.
    broad: broad group of each category ("music", "human", "animal", "device" ...), same length.
  """

  title: str
  is_stand_in: bool
  ids: tuple[str, ...]
  num_classes: int
  seconds: int
  size: tuple[int, int]
  categories: tuple[str, ...]
  broad: tuple[str, ...]

  def __len__(self) -> int: ...

  def clip(self, index: int) -> Clip:
    """Reads or makes clip `index`. Raises `InputError` naming the file when it is missing or broken."""
    ...

  def sound(self, index: int) -> np.ndarray:
    """float32 [S], the clip's mono waveform at 16 kHz, without reading its frames."""
    ...

  def objects(self, index: int) -> frozenset[str]:
    """Categories seen or heard in the clip, without reading it; empty where the data set does not say."""
    ...
