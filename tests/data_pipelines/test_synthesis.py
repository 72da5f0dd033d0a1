"""Made sounds: right length and level, no long pause, pitch where it is asked for."""

import numpy as np
import pytest

from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.sprites import CATEGORIES
from data_pipelines.synthesis import synthesize


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_voice_sounds_in_every_second_at_unit_level(category):
  sound = synthesize(category, np.random.default_rng(3), 5, 1.0, 0.5)
  assert sound.shape == (5 * SAMPLE_RATE_HZ,) and sound.dtype == np.float32
  assert np.sqrt(np.mean(sound**2)) == pytest.approx(1, rel=1e-3)
  assert np.sqrt(np.mean(sound.reshape(5, -1) ** 2, axis=1)).min() > 0.5
  pauses = np.sqrt(np.mean(sound.reshape(-1, int(0.4 * SAMPLE_RATE_HZ) // 16 * 5) ** 2, axis=1))
  assert pauses.min() > 0.02


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_voice_repeats_for_the_same_generator_and_varies_with_another(category):
  one, two, other = (synthesize(category, np.random.default_rng(seed), 1, 1.0, 0.5) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)


def test_pitch_moves_the_spectrum_of_a_siren():
  def middle_hz(pitch):
    power = np.abs(np.fft.rfft(synthesize("siren", np.random.default_rng(0), 5, pitch, 0.5))) ** 2
    return np.sum(power * np.fft.rfftfreq(5 * SAMPLE_RATE_HZ, 1 / SAMPLE_RATE_HZ)) / np.sum(power)

  assert middle_hz(1.1) / middle_hz(1.0) == pytest.approx(1.1, rel=0.02)
