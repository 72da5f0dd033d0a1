"""Co-AVS: pictures of known objects, and the sound of each by itself at six levels, alone or mixed.

"Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024), supplement A and
section 5: two categories with one instance each, the clip's own sound replaced by mixtures. The paper gives no
decibels and the released code level pairs only; here level l is an amplitude of l / 4 of a common loudness.

  generated   clips made for it: one or two objects of any size, all of them sounding all the time
  any source  with class labels in its masks (AVSS, real media): clips that show two categories, in the seconds
              that have both masks; the sounds come from clips of the same split with one of the two alone
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from data_pipelines.audio import fit
from data_pipelines.clips import SAMPLE_RATE_HZ, Clip, Source
from data_pipelines.generated import Generated, Script, cast, place
from data_pipelines.sprites import CATEGORIES
from data_pipelines.synthesis import synthesize

LEVELS = (1, 2, 3, 4, 5, 6)
PAIRS = ((2, 6), (3, 5), (4, 4), (5, 3), (6, 2))  # the released code's, of equal sum
UNIT = 4  # level of an amplitude of 1
LOUDNESS_RMS = 0.11  # of every object's sound at level 4, AVSBench's mean
SINGLE_AREA = (0.30, 0.40)  # share of the frame where categories are compared (supplement A.1)
PAIR_AREA = (0.08, 0.16)


@dataclasses.dataclass(frozen=True)
class Scene:
  """A clip whose sound is yet to be chosen.

  Attributes:
    id: of the clip.
    frames: uint8 [T, H, W, 3].
    parts: bool [objects, T, H, W], where each object is.
    counted: bool [T], seconds whose masks are known.
    categories: name of each object.
    voices: float32 [objects, S], each object's sound at level 4, 16 kHz.
  """

  id: str
  frames: np.ndarray
  parts: np.ndarray
  counted: np.ndarray
  categories: tuple[str, ...]
  voices: np.ndarray

  def sound(self, levels: Mapping[int, int] | tuple[int, ...]) -> np.ndarray:
    """float32 [S]: the objects' sounds at these levels, 0 for silence; clipped to [-1, 1]."""
    given = dict(enumerate(levels)) if not isinstance(levels, Mapping) else levels
    mixed = sum(
      (np.float32(given[n] / UNIT) * voice for n, voice in enumerate(self.voices) if given.get(n)), 0.0
    )
    return np.clip(np.broadcast_to(mixed, self.voices.shape[1:]), -1, 1).astype(np.float32)


def loud(wave: np.ndarray) -> np.ndarray:
  """The sound at the common loudness; digital silence stays what it is."""
  rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
  return (wave * (LOUDNESS_RMS / rms) if rms > 1e-6 else wave).astype(np.float32)


class Made(Generated):
  """Generated clips of one or two objects that sound all the time, each category equally often."""

  def __init__(self, count: int, area: tuple[float, float], **settings: Any):
    """Args: count: objects, 1 or 2. area: share of the frame of each. settings: as of `Generated`."""
    if count not in (1, 2):
      raise InputError(f"Co-AVS clips have one or two objects, not {count}.")
    super().__init__("semantic", **settings)
    self.count, self.area = count, area

  def _choose(self, index: int) -> list[str]:
    first = index % len(CATEGORIES)
    others = len(CATEGORIES) - 1
    step = 1 + (index // len(CATEGORIES) + index) % others
    return [CATEGORIES[first], CATEGORIES[(first + step) % len(CATEGORIES)]][: self.count]

  def _script(self, index: int) -> Script:
    rng = self._rng(index, "script")
    things = tuple(
      cast(rng, self.split, category, float(rng.uniform(*self.area)), centre)
      for category, centre in zip(self._choose(index), place(rng, self.count), strict=True)
    )
    return Script(things, np.ones((self.seconds, self.count), bool))

  def scene(self, index: int) -> Scene:
    """Clip `index` with the sounds of its objects apart."""
    clip, script = self.clip(index), self._script(index)
    names = tuple(thing.category for thing in script.things)
    voices = [
      loud(synthesize(thing.category, self._rng(index, "voice", n), self.seconds, thing.pitch, thing.timbre))
      for n, thing in enumerate(script.things)
    ]
    return Scene(
      clip.id, clip.frames, _parts(clip, names, self.categories), clip.present, names, np.stack(voices)
    )


def _parts(clip: Clip, names: tuple[str, ...], categories: tuple[str, ...]) -> np.ndarray:
  return np.stack([clip.masks == 1 + categories.index(name) for name in names])


def generated(
  count: int, num_clips: int, *, size: int, seconds: int = 5, seed: int = 0, split: str = "test"
) -> Iterator[Scene]:
  """Made clips of one object that fills 30 to 40 % of the frame, or of two."""
  area = SINGLE_AREA if count == 1 else PAIR_AREA
  source = Made(count, area, split=split, num_clips=num_clips, size=size, seconds=seconds, seed=seed)
  yield from map(source.scene, range(num_clips))


def from_source(source: Source, count: int, num_clips: int) -> Iterator[Scene]:
  """Clips of a labelled source that show `count` categories, with the sounds of clips that hold one of them alone.

  Raises:
    InputError: the source has no labels, or no clip fits.
  """
  if source.num_classes == 1 or not source.categories:
    raise InputError(
      f"Co-AVS needs masks that name categories, and {source.title} have none; use data.name=avss, or the generated"
      " stand-in."
    )
  shown = [source.objects(index) for index in range(len(source))]
  alone: dict[str, list[int]] = {}
  for index, objects in enumerate(shown):
    if len(objects) == 1:
      alone.setdefault(next(iter(objects)), []).append(index)
  lent = functools.lru_cache(maxsize=64)(source.sound)
  found = 0
  for index, objects in enumerate(shown):
    names = tuple(name for name in source.categories if name in objects)
    if found == num_clips:
      return
    if len(names) != count or any(name not in alone for name in names):
      continue
    clip = source.clip(index)
    parts = _parts(clip, names, source.categories)
    counted = clip.present & clip.annotated & parts.any((2, 3)).all(0)
    if not counted.any():
      continue
    donors = [next((k for k in alone[name] if k != index), alone[name][0]) for name in names]
    voices = [loud(fit(lent(donor), source.seconds * SAMPLE_RATE_HZ)) for donor in donors]
    found += 1
    yield Scene(clip.id, clip.frames, parts, counted, names, np.stack(voices))
  if not found:
    raise InputError(
      f"Co-AVS: no clip of {source.title} shows {count} categories that other clips hold alone; use more clips."
    )
