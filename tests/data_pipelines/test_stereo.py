"""Positions in sound: the mean of the channels is the sound itself, and the pan tells the side."""

import numpy as np
import pytest

from data_pipelines import stereo
from data_pipelines.clips import SAMPLE_RATE_HZ


def tone(seconds: int = 2) -> np.ndarray:
  noise = np.random.default_rng(0).standard_normal(seconds * SAMPLE_RATE_HZ)
  return (0.2 * noise).astype(np.float32)


def test_the_mean_of_the_channels_is_the_mono_sound():
  sound = tone()
  channels = stereo.place(sound, np.array([0.1, 0.8]))
  np.testing.assert_allclose(channels.mean(axis=1), sound, atol=1e-7)


@pytest.mark.parametrize("position", [0.0, 0.2, 0.5, 0.9])
def test_a_lone_sound_has_the_logarithm_of_its_gains_as_pan(position):
  found = stereo.pan(stereo.place(tone(), np.full(2, position)), 2)
  assert found.shape == (2, 64) and found.dtype == np.float32
  expected = np.log(np.maximum(position, 1e-3) / np.maximum(1 - position, 1e-3))
  if 0 < position < 1:
    assert abs(np.median(found) - expected) < 0.1
  else:
    assert found.max() < -3


def test_silence_and_a_sound_in_the_middle_come_from_nowhere():
  np.testing.assert_array_equal(stereo.pan(np.zeros((32000, 2), np.float32), 2), stereo.nowhere(2))
  np.testing.assert_array_equal(stereo.pan(stereo.place(tone(), np.full(2, 0.5)), 2), stereo.nowhere(2))


def test_a_mirrored_picture_has_the_opposite_pan():
  left, right = (stereo.pan(stereo.place(tone(), np.full(2, p)), 2) for p in (0.3, 0.7))
  np.testing.assert_allclose(stereo.mirrored(left), right, atol=1e-6)


def test_a_position_glides_between_seconds_without_a_jump():
  channels = stereo.place(np.ones(3 * SAMPLE_RATE_HZ, np.float32), np.array([0.0, 1.0, 1.0]))
  assert np.abs(np.diff(channels[:, 1])).max() < 1e-3
  assert channels[0, 1] == 0 and channels[-1, 1] == 2
