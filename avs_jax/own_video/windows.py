"""Cuts a stream of seconds into windows of T seconds for a model, and puts what it says of each picture together.

Windows begin at 0, S, 2S ... (S the stride). If the last of them does not reach the end, one more is moved back to
end with the stream: it judges the seconds that no window before will still be asked about, and has the others as
context only. A stream shorter than T is one window, filled up by its last second.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from avs_jax.errors import InputError

AVERAGED = ("coarse", "uncertainty", "similarity")

Maps = dict[str, Any]


@dataclasses.dataclass
class Slot:
  """A picture, and what the windows that look at it say.

  Attributes:
    second: number of its second in the stream.
    end_s: of its second.
    time_s, picture_s: as of `prediction.Prediction`.
    said: weight and maps of each window.
  """

  second: int
  end_s: float
  time_s: float
  picture_s: float
  said: list[tuple[float, Maps]] = dataclasses.field(default_factory=list)

  def blended(self) -> Maps:
    """The weighted mean of the windows; what cannot be averaged is taken from the heaviest."""
    _, heaviest = max(self.said, key=lambda each: each[0])
    if len(self.said) == 1:
      return heaviest
    whole = sum(weight for weight, _ in self.said)
    mean = {
      name: sum(weight * maps[name] for weight, maps in self.said) / whole
      for name in AVERAGED
      if name in heaviest
    }
    return {**heaviest, **mean}


@dataclasses.dataclass(frozen=True)
class Window:
  """What a model sees at once: a picture a second, with their sound.

  Attributes:
    begin: seconds before it are finished with its first job.
    frames: at most T; the model's user fills up.
    sound: samples of these seconds.
    slots: where the answers go, None where nobody asks.
    heard: shared by the windows over these seconds (there are several where a second has several pictures), for
      what the model's user makes of the sound.
  """

  begin: int
  frames: list[np.ndarray]
  sound: np.ndarray
  slots: list[Slot | None]
  heard: dict[str, np.ndarray]


def weights(length: int) -> list[float]:
  """Of a window's seconds where windows overlap: 1 2 3 2 1; a second counts most with context on both sides. Ours."""
  return [min(i, length - 1 - i) + 1.0 for i in range(length)]


def cut(seconds: Iterable[Any], length: int, stride: int, slots: collections.deque[Slot]) -> Iterator[Window]:
  """Windows of `length` seconds (`data_pipelines.video.Second`); every picture's slot is appended to `slots`."""
  held: collections.deque[tuple[Any, list[Slot]]] = collections.deque(maxlen=length)
  begin = reached = count = 0
  for count, second in enumerate(seconds, 1):
    own = [
      Slot(count - 1, second.end_s, *each) for each in zip(second.times_s, second.pictures_s, strict=True)
    ]
    slots.extend(own)
    held.append((second, own))
    if count == begin + length:
      yield from _of(list(held), begin, 0)
      begin, reached = begin + stride, count
  if count > reached:
    yield from _of(list(held), begin, begin)


def _of(held: list[tuple[Any, list[Slot]]], begin: int, first: int) -> Iterator[Window]:
  """As many windows over the same seconds as the second with most pictures has; slots from second `first` on."""
  sound, heard = np.concatenate([second.sound for second, _ in held]), {}
  for k in range(max(len(own) for _, own in held)):
    frames = [second.frames[min(k, len(second.frames) - 1)] for second, _ in held]
    slots = [own[k] if k < len(own) and own[k].second >= first else None for _, own in held]
    if any(slots):
      yield Window(begin, frames, sound, slots, heard)


def judged(
  seconds: Iterable[Any],
  length: int,
  stride: int,
  batch: int,
  judge: Callable[[list[Window]], list[list[Maps]]],
) -> Iterator[tuple[Slot, Mapping[str, Any]]]:
  """Every picture in order with its blended maps, as soon as no further window is asked about it.

  Args:
    judge: gives for up to `batch` windows the maps of each of their T seconds.
  """
  waiting: collections.deque[Slot] = collections.deque()
  windows = cut(seconds, length, stride, waiting)
  while group := list(islice(windows, batch)):
    for window, answers in zip(group, judge(group), strict=True):
      for weight, slot, maps in zip(weights(length), window.slots, answers, strict=False):
        if slot is not None:
          slot.said.append((weight, maps))
    while waiting and waiting[0].second < group[-1].begin:
      slot = waiting.popleft()
      yield slot, slot.blended()
  while waiting:
    slot = waiting.popleft()
    yield slot, slot.blended()


def check_cut(start: float, end: float | None, threshold: float) -> None:
  """Raises `InputError` for seconds that hold nothing, and for a threshold that is no probability below 1."""
  if not 0 <= threshold < 1:
    raise InputError(f"threshold={threshold:g} must lie between 0 and 1.")
  if not (0 <= start < (math.inf if end is None else end) and end != math.inf):
    raise InputError(f"start={start:g}, end={end}: seconds are wanted, start 0 or more, and end later.")
