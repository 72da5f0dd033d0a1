"""Real-media clips: photographs of animals, instruments and machines over photographs, with their recordings.

A stand-in for AVSBench that needs no data set: pictures with mattes and recordings of the same things come
from Debian packages (media_packages.py, media_bank.py), clips are composed on the fly (compose.py), masks are
exact. `python -m data_pipelines.real_media --cache=DIR` fetches and builds the bank.

| split         | pictures of objects | recordings                             | backgrounds        |
|---------------|---------------------|----------------------------------------|--------------------|
| train         | train               | train                                  | 7 of 10            |
| val           | train               | kept apart where the class has enough  | 1 of 10, its own   |
| test ("A")    | train               | unseen                                 | 1 of 5, its own    |
| test_unseen   | unseen              | unseen                                 | as test            |

"Unseen" recordings are other recordings, other speakers' languages, the other sound font, or the last 40 % of
a class's only recording. Classes without an unseen recording do not occur in either test split, those without
an unseen picture not in test_unseen. The class "person" is
drawn persons with recorded speech.
"""

import functools
import os
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import compose, media_packages
from data_pipelines.clips import SAMPLE_RATE_HZ, SUBSETS, Clip
from data_pipelines.media_bank import Bank, Item, load_bank, write_bank

DEFAULT_CLASSES = (
  *("chicken", "duck", "cow", "dog", "bigcat", "bee"),
  *("trumpet", "violin", "drumkit", "person", "fireengine", "car"),
)
PAIR_SHARE = 0.5  # of vpo_msmi's clips: two of a kind, one sounding; the others are as vpo_ms
# split -> splits of the pictures, the recordings and the backgrounds it draws from
POOLS = {
  "train": ("train", "train", "train"),
  "val": ("train", "val", "val"),
  "test": ("train", "unseen", "test"),
  "test_unseen": ("unseen", "unseen", "test"),
}


class RealMedia:
  """Source of composed clips; see `data_pipelines.clips.Source`.

  Clip i depends on seed, subset, split, classes and i alone, not on how many clips there are: a training
  set as large as the training run costs nothing.

  Attributes:
    subset: "single": one object that sounds throughout, binary masks (as S4). "multi": two or three objects
      of different classes, none to two of which sound in a second, binary masks (as MS3). "semantic": half
      of the clips of either kind, masks hold 1 + the class's place in `categories` (as AVSS). "vpo_ss", "vpo_ms",
      "vpo_msmi" as in `data_pipelines.generated`, with such masks, or 0/1 where `binary`.
    split: a key of POOLS.
  """

  is_stand_in = True

  def __init__(
    self,
    subset: str,
    split: str,
    num_clips: int,
    size: int = 128,
    seconds: int = 5,
    seed: int = 0,
    classes: Sequence[str] = DEFAULT_CLASSES,
    cache_dir: str | os.PathLike | None = None,
    binary: bool = False,
    has_pan: bool = False,
    annotated: str = "all",
  ):
    _require(annotated in ("all", "first"), f"annotated is {annotated!r}, expected all or first; name one")
    _require(
      subset in SUBSETS, f"subset {subset!r} is unknown, expected one of {', '.join(SUBSETS)}; name one"
    )
    _require(split in POOLS, f"split {split!r} is unknown, expected one of {', '.join(POOLS)}; name one")
    for name, value, least in (("num_clips", num_clips, 1), ("size", size, 16), ("seconds", seconds, 1)):
      _require(value >= least, f"{name} is {value}, expected at least {least}; raise it")
    self._cache = media_packages.cache_folder(cache_dir)
    known = load_bank(self._cache).broad
    unknown = [name for name in classes if name not in known]
    _require(not unknown, f"classes {unknown} are unknown, expected some of {', '.join(known)}; drop them")
    least = 1 if subset in ("single", "vpo_ss") else 2
    _require(
      len(set(classes)) == len(classes) >= least,
      f"classes holds {list(classes)}, expected at least {least} different names; mend the list",
    )
    self.subset, self.split, self.seed, self.annotated = subset, split, seed, annotated
    self.categories = tuple(classes)
    self.broad = tuple(known[name] for name in classes)
    self.size, self.seconds = (size, size), seconds
    has_classes = subset == "semantic" or (subset.startswith("vpo") and not binary)
    self.num_classes, self.has_pan = 1 + len(classes) if has_classes else 1, has_pan
    self.title = f"composed {SUBSETS[subset]} clips of real media, {split} (stand-in)"
    self.ids = tuple(f"{subset}-{split}-{seed}-{k:06d}" for k in range(num_clips))
    _require(
      len(self._classes_at_hand) >= least and self._backgrounds,
      f"split {split} of the media bank in {self._cache} holds too little for subset {subset} and classes "
      f"{list(classes)}, expected pictures, recordings and backgrounds; name more classes or rebuild it",
    )

  def __len__(self) -> int:
    return len(self.ids)

  def __getstate__(self) -> dict:
    """Leaves the bank out: a worker process opens it again instead of receiving a copy."""
    return {key: value for key, value in self.__dict__.items() if key not in _LOADED}

  def clip(self, index: int) -> Clip:
    """Composes clip `index`."""
    plan = self._plan(index)
    rng = self._rng(index, "picture")
    background = self._backgrounds[int(rng.integers(len(self._backgrounds)))].array
    pictures = [self._picture(thing).array for thing in plan.things]
    frames, visible = compose.compose_frames(
      rng, background, pictures, self.size[0], self.seconds, sideways=plan.is_pair
    )
    masks = np.zeros((self.seconds, *self.size), np.int32)
    sounding = np.zeros((self.seconds, len(self.categories)), bool)
    for n, thing in enumerate(plan.things):
      value = 1 + thing.category if self.num_classes > 1 else 1
      masks[visible[:, n] & plan.sounding[:, n, None, None]] = value
      sounding[:, thing.category] |= plan.sounding[:, n]
    seen = np.zeros(len(self.categories), bool)
    seen[[thing.category for thing in plan.things]] = True
    every = np.ones(self.seconds, bool)
    return Clip(
      self.ids[index],
      frames,
      masks,
      every if self.annotated == "all" else np.arange(self.seconds) == 0,
      every.copy(),
      self.sound(index),
      sounding=sounding,
      visible=seen,
      pan=self._pan(index, plan, visible) if self.has_pan else None,
    )

  def _pan(self, index: int, plan: compose.Plan, visible: np.ndarray) -> np.ndarray:
    """float32 [T, 64]: where the clip's sound comes from."""
    recordings = [self._recording(thing).array for thing in plan.things]
    places = compose.positions(visible)
    return compose.compose_pan(self._rng(index, "sound"), recordings, plan.sounding, places)

  def kinds(self, index: int) -> frozenset[str]:
    """What makes the clip hard, see `clips.kinds_of`."""
    return self._plan(index).kinds

  def sound(self, index: int) -> np.ndarray:
    """float32 [T * 16000], the sound of clip `index`, without its frames."""
    plan = self._plan(index)
    recordings = [self._recording(thing).array for thing in plan.things]
    return compose.compose_sound(self._rng(index, "sound"), recordings, plan.sounding)

  def objects(self, index: int) -> frozenset[str]:
    """Classes of the objects in clip `index`, sounding or not."""
    return frozenset(self.categories[thing.category] for thing in self._plan(index).things)

  def recordings(self, index: int) -> tuple[str, ...]:
    """Names of the recordings that clip `index` is made of, one for each object."""
    return tuple(self._recording(thing).name for thing in self._plan(index).things)

  def credits(self, index: int) -> list[str]:
    """Whose pictures and recordings clip `index` shows, one line each."""
    things = self._plan(index).things
    background = self._backgrounds[int(self._rng(index, "picture").integers(len(self._backgrounds)))]
    names = [item.name for thing in things for item in (self._picture(thing), self._recording(thing))]
    return self._bank.credits([background.name, *names])

  def _plan(self, index: int) -> compose.Plan:
    """Objects and sounding seconds of clip `index`."""
    index = range(len(self))[index]
    rng = self._rng(index, "plan")
    is_single = self.subset in ("single", "vpo_ss") or (self.subset == "semantic" and rng.random() < 0.5)
    if self.subset == "vpo_msmi" and rng.random() < PAIR_SHARE:
      return compose.draw_pair(rng, self._classes_at_hand, self.seconds)
    keep_p = 0.0 if self.subset.startswith("vpo") else compose.KEEP_P
    return compose.draw_plan(rng, self._classes_at_hand, self.seconds, is_single, keep_p)

  def _rng(self, index: int, part: str) -> np.random.Generator:
    """The generator of one part of one clip."""
    index = range(len(self))[index]
    name = zlib.crc32(f"{self.subset} {self.split} {part}".encode())
    return np.random.default_rng([self.seed, name, index])

  def _picture(self, thing: compose.Thing) -> Item:
    found = self._bank.select("picture", POOLS[self.split][0], self.categories[thing.category])
    return found[int(thing.picture * len(found))]

  def _recording(self, thing: compose.Thing) -> Item:
    found = _recordings(self._bank, POOLS[self.split][1], self.categories[thing.category])
    return found[int(thing.sound * len(found))]

  @functools.cached_property
  def _bank(self) -> Bank:
    return load_bank(self._cache)

  @functools.cached_property
  def _backgrounds(self) -> tuple[Item, ...]:
    return self._bank.select("background", POOLS[self.split][2])

  @functools.cached_property
  def _classes_at_hand(self) -> list[int]:
    """Places in `categories` of the classes that have pictures and recordings in this split."""
    pictures, sounds, _ = POOLS[self.split]
    return [
      k
      for k, name in enumerate(self.categories)
      if self._bank.select("picture", pictures, name) and _recordings(self._bank, sounds, name)
    ]


_LOADED = ("_bank", "_backgrounds", "_classes_at_hand")


def _recordings(bank: Bank, split: str, category: str) -> tuple[Item, ...]:
  """Recordings of a class; validation falls back on the training ones of a class that has too few."""
  found = bank.select("sound", split, category)
  return found or (bank.select("sound", "train", category) if split == "val" else ())


def _require(holds: object, message: str) -> None:
  if not holds:
    raise InputError(f"RealMedia: {message}")


def noise_recordings(split: str, cache_dir: str | os.PathLike | None = None) -> list[np.ndarray]:
  """Recordings of what no class is, for negatives: float32 mono at 16 kHz each, active level -20 dB.

  "train": rain, fire, applause, a factory, household machines. "test": other kinds: hits, thunder, a door.
  """
  _require(split in ("train", "test"), f"noise split {split!r} is unknown, expected train or test; name one")
  bank = load_bank(media_packages.cache_folder(cache_dir))
  return [item.array for item in bank.select("noise", split)]


def prepare(cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """Builds the bank in the cache, unless the one there is of this catalogue; returns the bank's folder."""
  from data_pipelines import media_reading  # needs PyAV, which composing does not

  cache = media_packages.cache_folder(cache_dir)
  try:
    is_current = load_bank(cache).catalogue == media_reading.catalogue_digest()
  except InputError:
    is_current = False
  return cache / "bank" if is_current else write_bank(media_reading.read_bank(cache), cache)


def main(argv: Sequence[str]) -> None:
  """Builds the bank and prints what it holds."""
  del argv
  folder = prepare(flags.FLAGS.cache)
  bank = load_bank(folder.parent)
  for kind, shape in (("picture", ""), ("background", ""), ("sound", "s"), ("noise", "s")):
    items = [item for item in bank.items if item.kind == kind]
    length = sum(len(item.array) for item in items) / SAMPLE_RATE_HZ
    print(f"{kind}: {len(items)} items" + (f", {length:.0f} s" if shape else ""))
  print(f"bank in {folder}; packages/ and programs/ beside it may be deleted")


if __name__ == "__main__":
  from absl import app, flags

  flags.DEFINE_string("cache", None, "cache folder; else $AVS_MEDIA_CACHE, else .media_cache")
  try:
    app.run(main)
  except InputError as error:
    raise SystemExit(str(error)) from error
