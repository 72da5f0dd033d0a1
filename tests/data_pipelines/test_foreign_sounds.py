"""Sounds that are not the video's: as long as it, the same wherever reading starts."""

import itertools

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import foreign_sounds, video
from data_pipelines.audio import read_wav, write_wav

RATE = 16_000
OWN = np.random.default_rng(0).uniform(-0.3, 0.3, 5 * RATE).astype(np.float32)


@pytest.fixture
def footage():
  return video.of_arrays(np.zeros((5, 8, 8, 3), np.uint8), OWN)


def heard(footage, start: float = 0.0, seconds: int = 5) -> np.ndarray:
  return np.concatenate(list(itertools.islice(video.sound_seconds(footage, start), seconds)))


def test_the_four_sounds_are_what_they_are_called(footage):
  found = {name: heard(foreign_sounds.under(footage, name)) for name in foreign_sounds.SOUNDS}
  np.testing.assert_array_equal(found["positive"], OWN)
  assert not found["silence"].any()
  level_db = 20 * np.log10(np.sqrt(np.mean(found["noise"] ** 2)))
  assert level_db == pytest.approx(foreign_sounds.NOISE_DB, abs=0.2)
  assert all(np.abs(second).max() > 0.05 for second in found["offscreen"].reshape(5, RATE))


@pytest.mark.parametrize("name", foreign_sounds.SOUNDS)
def test_reading_may_start_anywhere(footage, name):
  other = foreign_sounds.under(footage, name)
  np.testing.assert_array_equal(heard(other, 1.5, 3), heard(other)[RATE * 3 // 2 :][: 3 * RATE])


def test_the_noise_follows_its_seed(footage):
  one, same, other = (heard(foreign_sounds.under(footage, "noise", seed=seed)) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, same)
  assert (one != other).mean() > 0.99


def test_a_file_is_repeated_to_the_videos_length(footage, tmp_path):
  path = str(tmp_path / "bark.wav")
  write_wav(path, OWN[: int(1.5 * RATE)])
  bark = read_wav(path)
  other = foreign_sounds.under(footage, "offscreen", offscreen=path)
  np.testing.assert_allclose(heard(other), np.resize(bark, 5 * RATE), atol=1e-6)
  np.testing.assert_allclose(heard(other, 2.0, 2), np.resize(bark, 5 * RATE)[2 * RATE : 4 * RATE], atol=1e-6)


def test_unknown_sounds_are_refused(footage):
  with pytest.raises(InputError, match="sound 'loud' is unknown; choose one of positive, silence"):
    foreign_sounds.under(footage, "loud")
  with pytest.raises(
    InputError, match="--offscreen=dragon: no such file, and none of the made sounds tuning_fork"
  ):
    foreign_sounds.under(footage, "offscreen", offscreen="dragon")
