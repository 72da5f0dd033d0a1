"""Where a sound comes from: two channels made from positions, and what they tell of the direction, band by band.

A position is 0 at the left border of the picture and 1 at the right one. VPO pans linearly: the left channel gets
(1 - position) of the sound, the right one `position`. Here both are twice that, so that the mean of the channels
is the mono sound itself and a system that hears no direction hears what it always did.

`pan`, what a model with `model.stereo` gets beside the sound, is the right channel's log-mel minus the left's: for a
lone sound log(position / (1 - position)) in the bands where it is louder than the log-mel's offset, 0 where there is
nothing to hear. It is free of what was played and how loud, and it is the same for every audio encoder.
"""

import numpy as np
from jaxtyping import Float

from data_pipelines.audio import BANDS, clip_log_mel
from data_pipelines.clips import SAMPLE_RATE_HZ


def place(sound: Float[np.ndarray, "S"], position: Float[np.ndarray, "T"]) -> Float[np.ndarray, "S 2"]:
  """A mono sound as (left, right), float32; `position` holds in the middle of each second, between them it glides."""
  middle = (np.arange(len(position)) + 0.5) * SAMPLE_RATE_HZ
  right = np.interp(np.arange(len(sound)), middle, np.clip(position, 0, 1)).astype(np.float32)
  return np.stack([2 * (1 - right) * sound, 2 * right * sound], axis=-1)


def pan(channels: Float[np.ndarray, "S 2"], seconds: int) -> Float[np.ndarray, "T 64"]:
  """Right minus left log-mel of each second and band, mean over the second's 96 frames; float32."""
  left, right = (clip_log_mel(channels[:, k], seconds) for k in (0, 1))
  return (right - left).mean(axis=1)  # [T, 64]


def nowhere(seconds: int) -> Float[np.ndarray, "T 64"]:
  """The pan of silence, and of a sound that is as loud on both sides."""
  return np.zeros((seconds, BANDS), np.float32)


def mirrored(pan: Float[np.ndarray, "T 64"]) -> Float[np.ndarray, "T 64"]:
  """The pan of a clip whose picture is mirrored left to right."""
  return -pan
