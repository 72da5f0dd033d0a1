"""A user's own video, second by second: what is seen and what is heard in it, in constant memory.

  talk.mp4                   any container, codec, size, frame rate (also variable), sample rate, channels; upright
  photo.jpg   + a sound      a still picture as long as the sound
  frames/     + a sound      pictures 1.png, 2.png ... in the order of their numbers, `fps` of them a second
  videos/, "videos/*.mp4"    many of them, one after the other (`find`)

Second k is [start + k, start + k + 1) by the time stamps of both tracks, counted from the first picture. A file
without a sound track is silent, and that is said.
"""

import dataclasses
import functools
import glob
import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ImageOps

from avs_jax.errors import InputError
from data_pipelines import audio, media_streams, transforms
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.media_streams import Picture, say

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEOS = (
  *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".ogv"),
  *(".wmv", ".flv", ".gif"),
)

Blocks = Iterator[Float[np.ndarray, "n channels"]]


@dataclasses.dataclass(frozen=True)
class Footage:
  """Pictures and their sound, not yet read.

  Attributes:
    name: of the file or folder, without its ending.
    path: as it was given.
    size: (H, W) as shown.
    fps: mean frame rate.
    duration_s: as the file says; None where it does not.
    rate_hz, channels: of the sound.
    pictures: pictures(start_s) gives every picture from the one that is on at that time.
    blocks: blocks(start_s) gives the sound from there on, [n, channels], until it ends.
    has_sound: False: `blocks` gives nothing, which counts as silence.
    notes: what had to be said of the file; grows while it is read.
  """

  name: str
  path: str
  size: tuple[int, int]
  fps: float
  duration_s: float | None
  rate_hz: int
  channels: int
  pictures: Callable[[float], Iterator[Picture]]
  blocks: Callable[[float], Blocks]
  has_sound: bool
  notes: list[str]


@dataclasses.dataclass(frozen=True)
class Second:
  """One second of footage.

  Attributes:
    start_s: where it begins, from the first picture.
    end_s: where it ends: a second later, or with the footage.
    times_s: from when each picture stands for its part of the second; one that was on before counts from `start_s`.
    pictures_s: when each picture came on.
    frames: what `fit` made of the pictures; never empty.
    sound: float32 at 16 kHz, mono; [16000, 2], left and right, where `stereo` was asked for.
  """

  start_s: float
  end_s: float
  times_s: tuple[float, ...]
  pictures_s: tuple[float, ...]
  frames: tuple[Any, ...]
  sound: Float[np.ndarray, "16000"] | Float[np.ndarray, "16000 2"]


def find(source: str | Path) -> list[str]:
  """The inputs that a path or pattern names: one video, picture or folder of frames, or many videos.

  Raises:
    InputError: nothing is there, or a folder holds neither pictures nor videos, or both.
  """
  text = str(source)
  path = Path(text)
  if path.is_file():
    return [text]
  if path.is_dir():
    names = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    videos = [str(p) for p in names if p.suffix.lower() in VIDEOS]
    images = [p for p in names if p.suffix.lower() in IMAGES]
    if videos and images:
      raise InputError(
        f"{text} holds both videos and pictures; put them into two folders, or give a pattern like '{text}/*.mp4'."
      )
    if not videos and not images:
      raise InputError(
        f"{text} holds no video and no picture; give a folder of videos, or of frames with --sound."
      )
    return videos or [text]
  found = sorted(p for p in glob.glob(text, recursive=True) if Path(p).is_file())
  if not found:
    raise InputError(f"{text}: there is no such file or folder, and no file of such a pattern.")
  return found


def open_footage(
  source: str | Path, sound: str | Path | np.ndarray | None = None, *, fps: float = 1.0
) -> Footage:
  """Opens one input.

  Args:
    source: a video, a picture, or a folder of frames.
    sound: in place of the source's own: a file with a sound track, or mono samples at 16 kHz.
    fps: frames a second of a folder of frames.

  Raises:
    InputError: nothing of it can be read.
  """
  path, notes = Path(source), []
  if path.is_dir():
    footage = _folder(path, fps, notes)
  elif path.suffix.lower() in IMAGES:
    footage = _still(path, sound, notes)
  else:
    footage = _file(path, notes)
  if sound is not None:
    return with_sound(footage, sound)
  if not footage.has_sound and not notes:
    say(notes, f"{source} has no sound track; it counts as silence")
  return footage


def with_sound(footage: Footage, sound: str | Path | np.ndarray) -> Footage:
  """The same pictures under another sound, which begins with the first picture.

  Raises:
    InputError: the file has no sound track.
  """
  rate, channels, blocks, _ = _other_sound(sound, footage.notes)
  return dataclasses.replace(footage, rate_hz=rate, channels=channels, blocks=blocks, has_sound=True)


def of_arrays(
  frames: UInt8[np.ndarray, "N H W 3"],
  waveform: Float[np.ndarray, "S"] | None = None,
  *,
  fps: float = 1.0,
  name: str = "arrays",
) -> Footage:
  """Footage from memory: frames, `fps` of them a second, and mono samples at 16 kHz."""
  notes: list[str] = []

  def pictures(start_s: float) -> Iterator[Picture]:
    for k in range(int(start_s * fps + 1e-9), len(frames)):
      yield Picture(k / fps, 1 / fps, functools.partial(frames.__getitem__, k))

  silent = Footage(name, name, frames.shape[1:3], fps, len(frames) / fps, SAMPLE_RATE_HZ, 1, pictures, _nothing,
                   False, notes)  # fmt: skip
  return silent if waveform is None else with_sound(silent, waveform)


def seconds(
  footage: Footage,
  *,
  every: str = "second",
  start: float = 0.0,
  end: float | None = None,
  fit: Callable[[UInt8[np.ndarray, "H W 3"]], Any] = lambda picture: picture,
  stereo: bool = False,
) -> Iterator[Second]:
  """Reads the footage once, from `start` to `end`.

  Args:
    every: "second" gives the picture that is on in the middle of each second, "frame" all that come on in it; a
      second in which none comes on has the one that is still on.
    fit: applied to each picture that is given out, e.g. a resize; only its result is kept.
    stereo: where the sound comes from is wanted: its first two channels, or one twice.

  Raises:
    InputError: `start` lies beyond the last picture, or `end` not behind it.
  """
  if not 0 <= start < (math.inf if end is None else end):
    raise InputError(f"start={start:g}, end={end}: seconds are wanted, start 0 or more, and end later.")
  heard = sound_seconds(footage, start, end, stereo=stereo)
  stream, limit = footage.pictures(start), math.inf if end is None else end
  first, second = next(stream, None), next(stream, None)
  # A picture lasts until the next one, whatever its file says: of a variable rate Matroska gives the mean duration.
  if first is None or (second is None and first.time_s + first.duration_s <= start):
    raise InputError(f"{footage.path}: start={start:g} s lies beyond its last picture; give an earlier one.")
  stream = (picture for picture in itertools.chain((first, second), stream) if picture is not None)
  now, ahead = None, next(stream, None)
  for k in itertools.count():
    begin, middle = start + k, now
    chosen, frames = [], []
    while ahead is not None and ahead.time_s < min(begin + 1, limit):
      now = ahead
      if middle is None or now.time_s <= begin + 0.5:
        middle = now
      if every == "frame" and (now.time_s >= begin or k == 0):
        chosen.append(now.time_s)
        frames.append(fit(now.read()))  # at once: the decoder's own frame is large
      ahead = next(stream, None)
    if not frames:
      chosen.append(middle.time_s)
      frames.append(fit(middle.read()))
    times = (begin,) if every == "second" else tuple(max(t, begin) for t in chosen)
    last = min(math.inf if ahead is not None else now.time_s + now.duration_s, limit)
    yield Second(begin, min(begin + 1, last), times, tuple(chosen), tuple(frames), next(heard))
    if last <= begin + 1 + 1e-3:
      return


def sound_seconds(
  footage: Footage, start: float = 0.0, end: float | None = None, *, stereo: bool = False
) -> Iterator[Float[np.ndarray, "16000"] | Float[np.ndarray, "16000 2"]]:
  """The sound at 16 kHz, a second a time from `start`; silence where it has ended, without end."""
  left = math.inf if end is None else round((end - start) * SAMPLE_RATE_HZ)
  kept = np.zeros((0, 1 + stereo), np.float32)
  for block in at_16_khz(folded(footage.blocks(start), stereo), footage.rate_hz):
    kept = np.concatenate([kept, block[: int(min(left, len(block)))]])
    left -= len(block)
    while len(kept) >= SAMPLE_RATE_HZ:
      yield kept[:SAMPLE_RATE_HZ] if stereo else kept[:SAMPLE_RATE_HZ, 0]
      kept = kept[SAMPLE_RATE_HZ:]
    if left <= 0:
      break
  while True:
    second = np.pad(kept, ((0, SAMPLE_RATE_HZ - len(kept)), (0, 0)))
    yield second if stereo else second[:, 0]
    kept = kept[:0]


def folded(blocks: Blocks, stereo: bool) -> Blocks:
  """The mean of the channels [n, 1], or left and right [n, 2]."""
  for block in blocks:
    yield np.broadcast_to(block[:, :2], (len(block), 2)) if stereo else block.mean(axis=1, keepdims=True)


def at_16_khz(blocks: Blocks, rate_hz: int) -> Blocks:
  """Resampled a second a time: the same samples as `audio.resample` of the whole.

  Each piece is resampled with as much of its neighbours as the filter reaches.
  """
  if rate_hz == SAMPLE_RATE_HZ:
    yield from (block.astype(np.float32) for block in blocks)
    return
  divisor = math.gcd(rate_hz, SAMPLE_RATE_HZ)
  up, down = SAMPLE_RATE_HZ // divisor, rate_hz // divisor
  reach = math.ceil((audio.ZERO_CROSSINGS + 1) * max(1.0, down / up)) + 2
  units = -(-reach // down)  # a whole number of both grids
  before, context, context_out = 0, units * down, units * up
  kept = None
  for block in blocks:
    block = block.astype(np.float64)
    kept = block if kept is None else np.concatenate([kept, block])
    while len(kept) >= before + rate_hz + context:
      piece = _resampled(kept[: before + rate_hz + context], rate_hz)
      skip = context_out if before else 0
      yield piece[skip : skip + SAMPLE_RATE_HZ]
      kept = kept[before + rate_hz - context :]
      before = context
  if kept is not None and len(kept) > before:
    yield _resampled(kept, rate_hz)[context_out if before else 0 :]


def _resampled(block: Float[np.ndarray, "n channels"], rate_hz: int) -> Float[np.ndarray, "m channels"]:
  columns = [audio.resample(column, rate_hz, SAMPLE_RATE_HZ) for column in block.T]
  return np.stack(columns, axis=-1).astype(np.float32)


def _nothing(start_s: float) -> Blocks:
  del start_s
  return iter(())


def _file(path: Path, notes: list[str]) -> Footage:
  video = media_streams.probe_video(path)
  sound = media_streams.probe_sound(path, notes)
  blocks = _nothing
  if sound is not None:

    def blocks(start_s: float) -> Blocks:
      return media_streams.blocks(sound, notes, start_s, video.origin_s)

  return Footage(
    path.stem,
    str(path),
    video.size,
    video.fps,
    video.duration_s,
    sound.rate_hz if sound else SAMPLE_RATE_HZ,
    sound.channels if sound else 1,
    lambda start_s: media_streams.pictures(video, notes, start_s),
    blocks,
    sound is not None,
    notes,
  )


def _still(path: Path, sound: str | Path | np.ndarray | None, notes: list[str]) -> Footage:
  """A picture, a second long for each second of its sound."""
  picture = _read_picture(path)
  length = 1.0 if sound is None else max(_other_sound(sound, notes)[3], 1e-3)

  def pictures(start_s: float) -> Iterator[Picture]:
    for k in range(int(start_s), math.ceil(length)):
      yield Picture(float(k), min(1.0, length - k), lambda: picture)

  return Footage(
    path.stem, str(path), picture.shape[:2], 1.0, length, SAMPLE_RATE_HZ, 1, pictures, _nothing, False, notes
  )


def _folder(path: Path, fps: float, notes: list[str]) -> Footage:
  if not 0 < fps < math.inf:
    raise InputError(f"fps={fps:g} must be a number above 0: so many pictures of {path} make a second.")
  files = [p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".")]
  files.sort(key=lambda p: [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", p.name)])
  if not files:
    raise InputError(f"{path} holds no picture; give a folder of frames.")
  size = _read_picture(files[0]).shape[:2]

  def read(k: int) -> UInt8[np.ndarray, "H W 3"]:
    picture = _read_picture(files[k])
    if picture.shape[:2] != size:
      raise InputError(
        f"{files[k]} is {picture.shape[1]} x {picture.shape[0]} pixels, {files[0].name} is {size[1]} x {size[0]};"
        " all frames of a folder must have one size."
      )
    return picture

  def pictures(start_s: float) -> Iterator[Picture]:
    for k in range(int(start_s * fps + 1e-9), len(files)):
      yield Picture(k / fps, 1 / fps, functools.partial(read, k))

  return Footage(
    path.name, str(path), size, fps, len(files) / fps, SAMPLE_RATE_HZ, 1, pictures, _nothing, False, notes
  )


def _read_picture(path: Path) -> UInt8[np.ndarray, "H W 3"]:
  return transforms.to_rgb(ImageOps.exif_transpose(transforms.read_image(path)))


def _other_sound(
  sound: str | Path | np.ndarray, notes: list[str]
) -> tuple[int, int, Callable[[float], Blocks], float]:
  """Rate, channels, blocks and length in seconds of a sound from a file or from memory."""
  if isinstance(sound, np.ndarray):
    samples = audio.mono(sound).astype(np.float32)

    def from_memory(start_s: float) -> Blocks:
      for first in range(round(start_s * SAMPLE_RATE_HZ), len(samples), SAMPLE_RATE_HZ):
        yield samples[first : first + SAMPLE_RATE_HZ, None]

    return SAMPLE_RATE_HZ, 1, from_memory, len(samples) / SAMPLE_RATE_HZ
  track = media_streams.probe_sound(sound, notes)
  if track is None:
    raise InputError(f"{sound} has no sound track; give a file that has one.")
  return (
    track.rate_hz,
    track.channels,
    lambda start_s: media_streams.blocks(track, notes, start_s),
    media_streams.length_s(track),
  )
