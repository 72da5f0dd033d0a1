"""Sounds that do not belong to a video, as long as it is: silence, noise, and something that is not in the picture.

They begin with the first picture and are the same at every call. Used to ask whether a model listens.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avs_jax.errors import InputError
from data_pipelines import media_streams, video
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.synthesis import UNSEEN, synthesize_unseen

SOUNDS = ("positive", "silence", "noise", "offscreen")
OFFSCREEN = "rooster"  # as in the Robust paper; made here
NOISE_DB = -24.0  # root mean square below full scale: the middle of the evaluation's noise
LOOP_S = 20  # a made sound repeats after so long

Blocks = Iterator[Float[np.ndarray, "n channels"]]


def under(footage: video.Footage, name: str, *, offscreen: str | None = None, seed: int = 0) -> video.Footage:
  """The footage under its own sound ("positive") or another of `SOUNDS`.

  Args:
    offscreen: a made sound (tuning_fork, rooster, sheep, thunder) or a file; repeated to the video's length.
    seed: of the noise.

  Raises:
    InputError: another name, or a file without sound.
  """
  if name == "positive":
    return footage
  if name == "silence":
    return dataclasses.replace(footage, blocks=_silence, has_sound=True, rate_hz=SAMPLE_RATE_HZ, channels=1)
  if name == "noise":
    made = noise(seed)
    return dataclasses.replace(footage, blocks=made, has_sound=True, rate_hz=SAMPLE_RATE_HZ, channels=1)
  if name != "offscreen":
    raise InputError(f"sound {name!r} is unknown; choose one of {', '.join(SOUNDS)}.")
  offscreen = offscreen or OFFSCREEN
  if offscreen in UNSEEN:
    blocks = repeated(synthesize_unseen(offscreen, LOOP_S))
    return dataclasses.replace(footage, blocks=blocks, has_sound=True, rate_hz=SAMPLE_RATE_HZ, channels=1)
  if not Path(offscreen).is_file():
    raise InputError(
      f"--offscreen={offscreen}: no such file, and none of the made sounds {', '.join(UNSEEN)}; give one of them."
    )
  return dataclasses.replace(video.with_sound(footage, offscreen), blocks=looped(offscreen, footage.notes))


def noise(seed: int = 0) -> Callable[[float], Blocks]:
  """White noise without end; a sample is the same wherever reading starts."""
  level = np.float32(10 ** (NOISE_DB / 20))

  def blocks(start_s: float) -> Blocks:
    first = round(start_s * SAMPLE_RATE_HZ)
    second, skip = divmod(first, SAMPLE_RATE_HZ)
    while True:
      drawn = np.random.default_rng([seed, second]).standard_normal((SAMPLE_RATE_HZ, 1), np.float32)
      yield np.clip(level * drawn[skip:], -1, 1)
      second, skip = second + 1, 0

  return blocks


def repeated(waveform: Float[np.ndarray, "S"]) -> Callable[[float], Blocks]:
  """A sound over and over."""

  def blocks(start_s: float) -> Blocks:
    position = round(start_s * SAMPLE_RATE_HZ)
    while True:
      piece = waveform[position % len(waveform) :][:SAMPLE_RATE_HZ]
      position += len(piece)
      yield piece[:, None]

  return blocks


def looped(path: str, notes: list[str]) -> Callable[[float], Blocks]:
  """A file's sound over and over, streamed.

  Raises:
    InputError: the file cannot be read, or has no sound track.
  """
  track = media_streams.probe_sound(path, notes)
  if track is None:
    raise InputError(f"{path} has no sound track; give a file that has one.")

  def blocks(start_s: float) -> Blocks:
    begin = start_s % max(media_streams.length_s(track), 1e-3) if start_s else 0.0
    while True:
      count = 0
      for block in media_streams.blocks(track, notes, begin):
        count += len(block)
        yield block
      if not count and not begin:
        return
      begin = 0.0

  return blocks


def _silence(start_s: float) -> Blocks:
  del start_s
  while True:
    yield np.zeros((SAMPLE_RATE_HZ, 1), np.float32)
