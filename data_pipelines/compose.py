"""Composes a clip: cut-outs moving over a photograph, and the sounds of those that sound.

Everything is drawn from generators made of the clip's own seed, so a clip is a pure function of it. What is
in the clip (`Plan`) is drawn first and without touching a pixel; picture and sound have generators of their
own, so either can be made without the other.

Positions and sizes are fractions of the frame's side S, hence the same clip at every S, up to rounding.
"""

import dataclasses
import itertools

import numpy as np
from PIL import Image

from data_pipelines import stereo
from data_pipelines.clips import PAIR, SAMPLE_RATE_HZ, kinds_of

SINGLE_SIDE = (0.65, 1.05)  # longest side of a lone object, in S; mean area about that of AVSBench-S4
MULTI_SIDE = (0.35, 0.60)  # the same where two or three share the frame
MULTI_GAP = 0.5  # S between the centres of two objects, where there is room
NUM_SOUNDING_P = (0.09, 0.61, 0.30)  # of none, one or two objects sounding in a second (as in MS3)
KEEP_P = 0.5  # that a second keeps the sounding objects of the one before
PITCH = 0.12  # largest change of speed and pitch of a recording
LOG_GAIN = 0.8  # largest change of its level, in nepers
FADE_S = 0.02  # at both ends of a second
FLOOR_DB = (-80.0, -54.0)  # level of the noise floor of a clip


@dataclasses.dataclass(frozen=True)
class Thing:
  """One object of a clip: which class, and where in the class's lists its picture and recording are drawn.

  `picture` and `sound` are in [0, 1): fractions of the lists, so that a plan needs no bank.
  """

  category: int
  picture: float
  sound: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a clip shows and what sounds in it: the objects, and bool [T, N], which of them each second."""

  things: tuple[Thing, ...]
  sounding: np.ndarray

  @property
  def kinds(self) -> frozenset[str]:
    return kinds_of([str(thing.category) for thing in self.things], self.sounding)

  @property
  def is_pair(self) -> bool:
    return PAIR in self.kinds


def draw_pair(rng: np.random.Generator, categories: list[int], seconds: int) -> Plan:
  """Draws two objects of one class, of which one sounds all the time and the other never."""
  category = categories[int(rng.integers(len(categories)))]
  first, second = rng.random(2)
  # At least a fifth of the class's list apart, so that where it is longer their pictures differ.
  pictures = (first, (first + 0.2 + 0.6 * second) % 1)
  sounding = np.repeat(rng.permutation([True, False])[None], seconds, axis=0)
  return Plan(tuple(Thing(category, picture, rng.random()) for picture in pictures), sounding)


def draw_plan(
  rng: np.random.Generator, categories: list[int], seconds: int, is_single: bool, keep_p: float = KEEP_P
) -> Plan:
  """Draws objects of different classes and the seconds in which each sounds.

  A lone object sounds all the time. Of two or three, none, one or two sound in a second (NUM_SOUNDING_P);
  with a chance of `keep_p` it is like the one before. Clips that would be silent throughout are drawn again.
  """
  count = 1 if is_single else min(int(rng.integers(2, 4)), len(categories))
  chosen = rng.choice(len(categories), size=count, replace=False)
  things = tuple(Thing(categories[k], rng.random(), rng.random()) for k in chosen)
  sounding = np.ones((seconds, count), bool)
  while not is_single:
    for t in range(seconds):
      if t and rng.random() < keep_p:
        sounding[t] = sounding[t - 1]
        continue
      sounding[t] = False
      active = min(rng.choice(3, p=NUM_SOUNDING_P), count)
      sounding[t, rng.choice(count, size=active, replace=False)] = True
    if sounding.any():
      break
  return Plan(things, sounding)


def compose_frames(
  rng: np.random.Generator,
  background: np.ndarray,
  pictures: list[np.ndarray],
  size: int,
  seconds: int,
  sideways: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Paints `pictures` (uint8 RGBA) over `background` (uint8 RGB), each drifting.

  Args:
    sideways: objects are set apart from left to right, not in any direction.

  Returns:
    frames uint8 [T, S, S, 3], and visible bool [T, N, S, S]: where an object's opacity exceeds one half and
    that of no later object does.
  """
  frames = _moving_background(rng, background, size, seconds)  # [T, S, S, 3]
  visible = np.zeros((seconds, len(pictures), size, size), bool)
  side_range = SINGLE_SIDE if len(pictures) == 1 else MULTI_SIDE
  patches = [_turn_and_scale(rng, picture, side_range, size) for picture in pictures]
  corners = _paths(rng, [patch.shape[:2] for patch in patches], size, seconds, sideways)  # [T, N, 2]
  for t, n in itertools.product(range(seconds), range(len(patches))):
    top, left = (int(v) for v in corners[t, n])
    inside = (slice(max(top, 0), top + patches[n].shape[0]), slice(max(left, 0), left + patches[n].shape[1]))
    patch = patches[n][max(-top, 0) : size - top, max(-left, 0) : size - left]
    alpha = patch[..., 3:]
    frames[t][inside] = frames[t][inside] * (1 - alpha) + patch[..., :3]
    is_opaque = alpha[..., 0] > 0.5
    visible[t, :n, *inside] &= ~is_opaque
    visible[t, n, *inside] = is_opaque
  return np.clip(frames + 0.5, 0, 255).astype(np.uint8), visible


def _moving_background(rng: np.random.Generator, photo: np.ndarray, size: int, seconds: int) -> np.ndarray:
  """float32 [T, S, S, 3]: a random part of the photograph, moving up to one pixel (of 128) a second."""
  height, width = photo.shape[:2]
  zoom = rng.uniform(0.6, 1.0) * min(height, width)
  top, left = rng.random() * (height - zoom), rng.random() * (width - zoom)
  step = max(round(size / 128), 1)
  moves = np.cumsum(rng.integers(-1, 2, size=(seconds, 2)), axis=0) * step
  margin = seconds * step
  side = size + 2 * margin
  part = Image.fromarray(photo).resize(
    (side, side), Image.Resampling.BILINEAR, (left, top, left + zoom, top + zoom)
  )
  pixels = np.asarray(part, np.float32) * np.float32(rng.uniform(0.85, 1.15))
  if rng.random() < 0.5:
    pixels = pixels[:, ::-1]
  return np.stack([pixels[margin + y : margin + y + size, margin + x : margin + x + size] for y, x in moves])


def _turn_and_scale(
  rng: np.random.Generator, picture: np.ndarray, side_range: tuple[float, float], size: int
) -> np.ndarray:
  """float32 [h, w, 4], colours in [0, 255] times opacity, opacity in [0, 1]: one object as it is painted."""
  height, width = picture.shape[:2]
  aspect = rng.uniform(0.85, 1.15)
  height, width = height * aspect, width / aspect
  factor = rng.uniform(*side_range) * size / max(height, width)
  image = Image.fromarray(picture)
  image = image.resize(
    (max(round(width * factor), 4), max(round(height * factor), 4)), Image.Resampling.LANCZOS
  )
  if rng.random() < 0.5:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)
  pixels = np.array(image, np.float32)  # [h, w, 4]
  alpha = pixels[..., 3:] / 255
  brightness = np.float32(rng.uniform(0.75, 1.25))
  return np.concatenate([np.minimum(pixels[..., :3] * brightness, 255) * alpha, alpha], axis=-1)


def positions(visible: np.ndarray) -> np.ndarray:
  """float [T, N] in [0, 1]: where between left and right the middle of what is seen of each object lies.

  Args:
    visible: bool [T, N, S, S], as `compose_frames` gives it; an object of which nothing is seen counts as central.
  """
  columns = visible.sum(axis=2)  # [T, N, S]
  total = columns.sum(axis=-1)
  place = (np.arange(visible.shape[-1]) + 0.5) / visible.shape[-1]
  return np.where(total > 0, (columns @ place) / np.maximum(total, 1), 0.5)


def _paths(
  rng: np.random.Generator, shapes: list[tuple[int, int]], size: int, seconds: int, sideways: bool = False
) -> np.ndarray:
  """int [T, N, 2]: top-left corner of each object in each second; some may reach out of the frame."""
  shape = np.array(shapes) / size  # [N, 2]
  low, high = shape / 2 - 0.06, 1 - shape / 2 + 0.06
  low, high = np.minimum(low, high), np.maximum(low, high)
  best, best_gap = np.zeros_like(shape), -1.0
  for _ in range(30):
    centres = low + rng.random(shape.shape) * (high - low)
    measured = centres[:, 1:] if sideways else centres
    gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(measured, 2)]
    gap = float(min(gaps, default=np.inf))
    if gap > best_gap:
      best, best_gap = centres, gap
    if gap > MULTI_GAP:
      break
  speed = rng.uniform(-0.03, 0.03, size=shape.shape)
  times = np.arange(seconds)[:, None, None] - (seconds - 1) / 2
  centres = best[None] + times * speed[None]  # [T, N, 2]
  corners = np.rint((centres - shape[None] / 2) * size).astype(int)
  reach = np.rint(shape * size).astype(int)[None]
  # A corner of the object at least stays in the frame however far it drifts.
  return np.clip(corners, 4 - reach, size - 4)


def compose_sound(rng: np.random.Generator, recordings: list[np.ndarray], sounding: np.ndarray) -> np.ndarray:
  """float32 [T * 16000]: the sum of what sounds in each second, over a faint noise floor."""
  waveform, voices = _voices(rng, recordings, sounding)
  for voice in voices:
    waveform += voice
  return waveform / max(float(np.abs(waveform).max()), 1.0)


def compose_pan(
  rng: np.random.Generator, recordings: list[np.ndarray], sounding: np.ndarray, places: np.ndarray
) -> np.ndarray:
  """float32 [T, 64]: where the same sound comes from (`stereo.pan`), each object panned to its place, [T, N]."""
  waveform, voices = _voices(rng, recordings, sounding)
  loudest = max(float(np.abs(sum(voices, waveform)).max()), 1.0)
  channels = np.repeat(waveform[:, None], 2, axis=1)
  for voice, place in zip(voices, places.T, strict=True):
    channels += stereo.place(voice, place)
  return stereo.pan(channels / loudest, len(sounding))


def _voices(
  rng: np.random.Generator, recordings: list[np.ndarray], sounding: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
  """A faint noise floor, and each object's own sound in the seconds in which it sounds; float32 [T * 16000] each."""
  seconds = sounding.shape[0]
  floor = np.float32(10 ** (rng.uniform(*FLOOR_DB) / 20))
  waveform = (floor * rng.standard_normal(seconds * SAMPLE_RATE_HZ, dtype=np.float32)).astype(np.float32)
  ramp = np.linspace(0, 1, int(FADE_S * SAMPLE_RATE_HZ), dtype=np.float32)
  fade = np.concatenate([ramp, np.ones(SAMPLE_RATE_HZ - 2 * len(ramp), np.float32), ramp[::-1]])
  voices = []
  for n, recording in enumerate(recordings):
    voice = np.zeros_like(waveform)
    speed = rng.uniform(1 - PITCH, 1 + PITCH)
    gain = np.float32(np.exp(rng.uniform(-LOG_GAIN, LOG_GAIN)))
    for t in np.flatnonzero(sounding[:, n]):
      second = _second_of(rng, recording, speed)
      voice[t * SAMPLE_RATE_HZ : (t + 1) * SAMPLE_RATE_HZ] = gain * fade * second
    voices.append(voice)
  return waveform, voices


def _second_of(rng: np.random.Generator, recording: np.ndarray, speed: float) -> np.ndarray:
  """float32 [16000]: the loudest of four random seconds of a recording, played at `speed`.

  A recording that is shorter is repeated from a random moment on.
  """
  length = int(np.ceil(SAMPLE_RATE_HZ * speed)) + 1
  if len(recording) <= length:
    copies = -(-(length + len(recording)) // len(recording))
    start = int(rng.integers(len(recording)))
    piece = np.tile(recording, copies)[start : start + length]
  else:
    starts = rng.integers(len(recording) - length + 1, size=4)
    pieces = [recording[start : start + length] for start in starts]
    piece = max(pieces, key=lambda x: float(x @ x))
  return np.interp(np.arange(SAMPLE_RATE_HZ) * speed, np.arange(length), piece).astype(np.float32)
