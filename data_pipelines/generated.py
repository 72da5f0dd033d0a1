"""Generated clips with known masks: drawn things that sound, in made scenes. Needs numpy and no file at all.

The embedded default, a stand-in for AVSBench. Three subsets copy the three benchmarks' statistics:

  single    one object, sounding all the time and covering 0.19 of the frame on average (AVSBench-S4's share):
            whoever segments the salient thing is right, so the visual prior pays
  multi     two or three objects of different categories; each second none, one or two of them sound
            (.09 / .61 / .30, kept from the second before with probability .5); masks are binary
  semantic  half of each; masks hold the category (1 to 8) of what sounds, 0 background

Three more stand in for VPO, with the category in their masks (or 0/1 on demand) and positions in their sound:

  vpo_ss    as single
  vpo_ms    as multi, but nothing is kept from the second before: what sounds switches from second to second
  vpo_msmi  half vpo_ms (as VPO-MSMI holds clips of VPO-MS); half two of a kind side by side, one of which sounds,
            so that nothing but the direction of the sound tells which

Clip i is a pure function of (subset, seed, split, i). The splits share no instance: hue, light, width, detail
and pitch are drawn from interleaved bands of the same ranges, so a test object is new but not outlandish.
"""

import dataclasses

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import stereo
from data_pipelines.clips import PAIR, SAMPLE_RATE_HZ, SUBSETS, Clip, kinds_of
from data_pipelines.sprites import BROAD, CATEGORIES, Look, area, draw, rgb
from data_pipelines.synthesis import synthesize

# The part of a band that a split draws from.
BANDS = {"train": (0.0, 0.6), "val": (0.65, 0.8), "test": (0.85, 1.0)}
NUM_BANDS = 5

SINGLE_AREA = (0.10, 0.30)  # share of the frame, before what the border cuts off; mean as AVSBench-S4
MULTI_AREA = (0.05, 0.12)
SOUNDING = (0.09, 0.61, 0.30)  # chance that none, one, two objects sound in a second, as in AVSBench-MS3
STICKY = 0.5  # chance that a second sounds as the one before
PAIR_SHARE = 0.5  # of vpo_msmi's clips: two of a kind
# Steepest line between two of a kind: they lie at least 0.27 of the frame apart sideways.
PAIR_TILT = np.pi / 3
PITCH = 0.12  # instances differ by this share in pitch
FADE_S = 0.02
LEVEL_RMS = 0.11


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object of a clip: what it is, how it looks and moves (frame shares a second), how it sounds."""

  category: str
  look: Look
  pitch: float
  timbre: float
  gain: float
  area: float
  aspect: float
  turn: float
  spin: float
  flip: bool
  centre: tuple[float, float]
  drift: tuple[float, float]
  growth: float


@dataclasses.dataclass(frozen=True)
class Script:
  """All that happens in a clip, before anything is drawn or sounded; `heard` is bool [T, objects]."""

  things: tuple[Thing, ...]
  heard: np.ndarray


class Generated:
  """A split of generated clips (a `Source`).

  Args:
    subset: one of `SUBSETS`.
    split: "train", "val" or "test".
    num_clips: length of the split.
    size: height and width of the frames in pixels; the same scene at every size.
    seconds: T.
    seed: another seed, other clips.
    annotated: "all" frames, or only the "first" as in the training split of AVSBench-S4.
    binary: masks of VPO's subsets are 0/1 instead of categories.
    has_pan: clips say where their sound comes from (`data_pipelines.stereo`).
  """

  is_stand_in = True
  categories = CATEGORIES
  broad = tuple(BROAD.values())

  def __init__(
    self,
    subset: str = "single",
    split: str = "train",
    num_clips: int = 600,
    size: int = 64,
    seconds: int = 5,
    seed: int = 0,
    annotated: str = "all",
    binary: bool = False,
    has_pan: bool = False,
  ):
    for name, value, known in (
      ("subset", subset, tuple(SUBSETS)),
      ("split", split, tuple(BANDS)),
      ("annotated", annotated, ("all", "first")),
    ):
      if value not in known:
        raise InputError(f"generated clips: {name} is {value!r}, expected one of {', '.join(known)}.")
    for name, value in (("num_clips", num_clips), ("size", size), ("seconds", seconds)):
      if value < 1:
        raise InputError(f"generated clips: {name} is {value}, expected a positive number.")
    self.subset, self.split, self.seed, self.annotated = subset, split, int(seed), annotated
    self.seconds = int(seconds)
    self.size = (int(size), int(size))
    has_classes = subset == "semantic" or (subset.startswith("vpo") and not binary)
    self.num_classes = 1 + len(CATEGORIES) if has_classes else 1
    self.has_pan = has_pan
    self.title = f"generated {SUBSETS[subset]} clips (stand-in)"
    self.ids = tuple(f"{subset}_{split}_{seed}_{i:05d}" for i in range(num_clips))

  def __len__(self) -> int:
    return len(self.ids)

  def objects(self, index: int) -> frozenset[str]:
    """Categories seen in the clip; whatever sounds is seen."""
    return frozenset(self._choose(index))

  def kinds(self, index: int) -> frozenset[str]:
    """What makes the clip hard, see `clips.kinds_of`."""
    script = self._script(index)
    return kinds_of([thing.category for thing in script.things], script.heard)

  def sound(self, index: int) -> np.ndarray:
    """float32 [seconds * 16000]: the sounding objects' waveforms added up, over a faint noise floor."""
    floor, voices = self._voices(index, self._script(index))
    for _, voice in voices:
      floor += voice
    return np.clip(floor, -1, 1).astype(np.float32)

  def pan(self, index: int) -> np.ndarray:
    """float32 [T, 64]: where the sound comes from, the objects panned by where they are in each second."""
    script = self._script(index)
    floor, voices = self._voices(index, script)
    channels = np.repeat(floor[:, None], 2, axis=1)
    for number, voice in voices:
      channels += stereo.place(voice, self._centres(script.things[number])[:, 0])
    return stereo.pan(channels, self.seconds)

  def _voices(self, index: int, script: "Script") -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """The noise floor, and of each object that sounds its number and its waveform, all [S]."""
    rng = self._rng(index, "sound")
    floor_rms = 10 ** rng.uniform(-4.0, -2.9)  # -80 to -58 dB
    floor = rng.standard_normal(self.seconds * SAMPLE_RATE_HZ, np.float32) * floor_rms
    voices = []
    for number, (thing, heard) in enumerate(zip(script.things, script.heard.T, strict=True)):
      if heard.any():
        voice = synthesize(
          thing.category, self._rng(index, "voice", number), self.seconds, thing.pitch, thing.timbre
        )
        voices.append((number, LEVEL_RMS * thing.gain * gate(heard) * voice))
    return floor, voices

  def _centres(self, thing: Thing) -> np.ndarray:
    """[T, 2]: the object's centre in each second, x and y as shares of the frame."""
    time = np.arange(self.seconds) - (self.seconds - 1) / 2
    return np.array(thing.centre) + time[:, None] * np.array(thing.drift)

  def clip(self, index: int) -> Clip:
    """Draws the frames and masks of a clip and makes its sound."""
    script = self._script(index)
    frames = paint_scene(self._rng(index, "scene"), self.seconds, self.size)
    owner = np.zeros((self.seconds, *self.size), np.int32)
    time = np.arange(self.seconds) - (self.seconds - 1) / 2
    for number, thing in enumerate(script.things, 1):
      draw(
        frames,
        owner,
        number,
        thing.category,
        thing.look,
        centre=self._centres(thing),
        scale=np.sqrt(thing.area / area(thing.category)) * (1 + thing.growth * time),
        aspect=thing.aspect,
        turn=thing.turn + thing.spin * time,
        flip=thing.flip,
      )
    frames += self._rng(index, "grain").standard_normal(frames.shape, np.float32) * 2.0
    numbers = np.array([CATEGORIES.index(thing.category) for thing in script.things])
    label = numbers + 1 if self.num_classes > 1 else np.ones_like(numbers)
    silent = np.zeros((self.seconds, 1), np.int64)
    table = np.concatenate([silent, script.heard * label], axis=1)  # [T, 1 + objects]
    masks = np.take_along_axis(table, owner.reshape(self.seconds, -1), axis=1)
    sounding = np.zeros((self.seconds, len(CATEGORIES)), bool)
    for number, heard in zip(numbers, script.heard.T, strict=True):
      sounding[:, number] |= heard  # two of a kind have one number
    visible = np.zeros(len(CATEGORIES), bool)
    visible[numbers] = True
    annotated = np.ones(self.seconds, bool) if self.annotated == "all" else np.arange(self.seconds) == 0
    return Clip(
      id=self.ids[index],
      frames=np.clip(frames + 0.5, 0, 255).astype(np.uint8),
      masks=masks.reshape(owner.shape).astype(np.int32),
      annotated=annotated,
      present=np.ones(self.seconds, bool),
      waveform=self.sound(index),
      sounding=sounding,
      visible=visible,
      pan=self.pan(index) if self.has_pan else None,
    )

  def _rng(self, index: int, what: str, number: int = 0) -> np.random.Generator:
    """A generator of its own for each part of each clip, so that one part never shifts another."""
    stream = ("choice", "script", "heard", "sound", "voice", "scene", "grain").index(what)
    which = (tuple(SUBSETS).index(self.subset), tuple(BANDS).index(self.split))
    return np.random.default_rng([self.seed, *which, index, stream, number])

  def _choose(self, index: int) -> list[str]:
    """Categories of a clip's objects.

    Clip 2j + 1 keeps clear of clip 2j's broad groups (of its categories, if too few are left), so that even a
    few clips can lend each other off-screen sounds; every category stays equally frequent.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.title}: clip {index} of {len(self)}")
    rng = self._rng(index, "choice")
    alone = self.subset in ("single", "vpo_ss") or (self.subset == "semantic" and rng.uniform() < 0.5)
    is_pair = self.subset == "vpo_msmi" and rng.uniform() < PAIR_SHARE
    count = 1 if alone or is_pair else int(rng.integers(2, 4))
    free = list(CATEGORIES)
    if index % 2:
      taken = self._choose(index - 1)
      groups = {BROAD[category] for category in taken}
      clear = [category for category in CATEGORIES if BROAD[category] not in groups]
      free = clear if len(clear) >= count else [c for c in CATEGORIES if c not in taken]
    return (1 + is_pair) * [free[i] for i in rng.choice(len(free), count, replace=False)]

  def _script(self, index: int) -> Script:
    chosen = self._choose(index)
    count, alone = len(chosen), len(chosen) == 1
    rng = self._rng(index, "script")
    low, high = SINGLE_AREA if alone else MULTI_AREA
    is_pair = PAIR in kinds_of(chosen, np.zeros((0, count), bool))
    things = tuple(
      cast(rng, self.split, category, float(rng.uniform(low, high)), centre)
      for category, centre in zip(chosen, place(rng, count, PAIR_TILT if is_pair else np.pi), strict=True)
    )
    own = self._rng(index, "heard")
    if alone:
      return Script(things, np.ones((self.seconds, 1), bool))
    if is_pair:
      return Script(things, np.repeat(own.permutation([True, False])[None], self.seconds, axis=0))
    sticky = 0.0 if self.subset.startswith("vpo") else STICKY
    return Script(things, schedule(own, self.seconds, count, sticky))


def band(rng: np.random.Generator, split: str) -> float:
  """A number in [0, 1) from the split's own bands; no other split ever draws from them."""
  low, high = BANDS[split]
  return float(rng.integers(NUM_BANDS) + rng.uniform(low, high)) / NUM_BANDS


def cast(rng: np.random.Generator, split: str, category: str, share: float, centre) -> Thing:
  """Draws an instance of a category that covers `share` of the frame."""
  hue, second_hue, light, wide, detail, pitch, timbre = (band(rng, split) for _ in range(7))
  return Thing(
    category=category,
    look=Look(hue, light, wide, detail, second_hue),
    pitch=1 + PITCH * (2 * pitch - 1),
    timbre=timbre,
    gain=float(np.exp(rng.uniform(-0.8, 0.5))),
    area=share,
    aspect=float(np.exp(rng.uniform(-0.14, 0.14))),
    turn=float(rng.uniform(-0.3, 0.3)) + (0.5 if category == "guitar" else 0.0),
    spin=float(rng.uniform(-0.05, 0.05)),
    flip=bool(rng.uniform() < 0.5),
    centre=centre,
    drift=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02))),
    growth=float(rng.uniform(-0.02, 0.02)),
  )


def place(rng: np.random.Generator, count: int, tilt: float = np.pi) -> list[tuple[float, float]]:
  """Centres of one to three objects as shares of the frame; several lie more than 0.45 apart.

  Args:
    tilt: angle by which the first may lie above or below the line to the right of the middle.
  """
  if count == 1:
    return [(float(rng.uniform(0.36, 0.64)), float(rng.uniform(0.36, 0.64)))]
  turn = rng.uniform(0, 2 * np.pi) if tilt == np.pi else rng.uniform(-tilt, tilt)
  angle = turn + 2 * np.pi * np.arange(count) / count
  radius = rng.uniform(0.27, 0.31)
  x, y = rng.uniform(0.46, 0.54, 2)
  return [(float(x + radius * np.cos(a)), float(y + radius * np.sin(a))) for a in angle]


def schedule(rng: np.random.Generator, seconds: int, count: int, sticky: float = STICKY) -> np.ndarray:
  """bool [T, count]: which objects sound in each second; as in the one before with a chance of `sticky`."""
  heard = np.zeros((seconds, count), bool)
  for t in range(seconds):
    keep, number, order = rng.uniform(), rng.choice(len(SOUNDING), p=SOUNDING), rng.permutation(count)
    if t and keep < sticky:
      heard[t] = heard[t - 1]
    else:
      heard[t, order[:number]] = True
  return heard


def gate(heard: np.ndarray) -> np.ndarray:
  """float32 [T * 16000]: 1 in sounding seconds, else 0, with 20 ms ramps where a sound starts or ends."""
  level = np.repeat(heard.astype(np.float32), SAMPLE_RATE_HZ)
  ramp = int(FADE_S * SAMPLE_RATE_HZ)
  rise = np.arange(ramp, dtype=np.float32) / ramp
  padded = np.concatenate([[False], heard, [False]])
  for t in np.flatnonzero(heard):
    start, end = t * SAMPLE_RATE_HZ, (t + 1) * SAMPLE_RATE_HZ
    if not padded[t]:
      level[start : start + ramp] = rise
    if not padded[t + 2]:
      level[end - ramp : end] = rise[::-1]
  return level


def paint_scene(rng: np.random.Generator, seconds: int, size: tuple[int, int]) -> np.ndarray:
  """float32 [T, H, W, 3] in [0, 255]: a sky or wall over ground, with soft texture, drifting slowly.

  Muted colours, and no sharp edge but the horizon: nothing in it looks like an object.
  """
  height, width = size
  hue, other = rng.uniform(size=2)
  saturation, value = rng.uniform(0.10, 0.38), rng.uniform(0.5, 0.95)
  top = rgb(hue, saturation, value)
  bottom = rgb(hue + rng.uniform(-0.1, 0.1), saturation * 0.7, min(1.0, value * rng.uniform(0.8, 1.15)))
  ground = rgb(0.05 + 0.35 * other, rng.uniform(0.2, 0.45), value * rng.uniform(0.45, 0.8))
  horizon = rng.uniform(0.55, 0.95)
  drift = rng.uniform(-1, 1, 2) / 64  # a share of the frame a second
  time = np.arange(seconds) - (seconds - 1) / 2
  y = ((np.arange(height) + 0.5) / height) + drift[1] * time[:, None]  # [T, H]
  x = ((np.arange(width) + 0.5) / width) + drift[0] * time[:, None]  # [T, W]
  row = y[:, :, None].astype(np.float32)
  column = top + (bottom - top) * np.clip(row / horizon, 0, 1)
  below = 1 / (1 + np.exp(-np.clip((row - horizon) * 80, -30, 30)))
  column = column + below * (ground * (1.2 - 0.6 * (row - horizon)) - column)  # [T, H, 3]
  texture = np.zeros((seconds, height, width, 3), np.float32)
  for knots, strength in ((4, 0.20), (9, 0.13), (22, 0.08)):
    grid = rng.uniform(-1, 1, (knots, knots, 1)) + 0.25 * rng.uniform(-1, 1, (knots, knots, 3))
    across = np.einsum(
      "twk,jkc->tjwc", knot_weights(x, knots), strength * grid.astype(np.float32), optimize=True
    )
    texture += np.einsum("thj,tjwc->thwc", knot_weights(y, knots), across, optimize=True)
  return column[:, :, None, :] * (1 + texture)


def knot_weights(at: np.ndarray, knots: int) -> np.ndarray:
  """float32 [..., knots]: how much each of `knots` values, spread over [-0.1, 1.1], counts at each place."""
  position = np.clip((at + 0.1) / 1.2, 0, 1) * (knots - 1)
  near = np.clip(1 - np.abs(position[..., None] - np.arange(knots)), 0, 1)
  return (near * near * (3 - 2 * near)).astype(np.float32)
