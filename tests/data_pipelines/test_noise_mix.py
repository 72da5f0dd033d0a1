"""Noise in the clips' own sound (`eval.noise_mix`): how loud, where, which stretch of a recording."""

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import audio, sounds, sources


def test_noise_is_mixed_into_the_clips_own_sound_over_its_whole_length(config):
  with config.unlocked():
    config.eval.noise_mix = {"kind": ("brown", "made_train"), "snr_db": (0.0, 20.0), "factor": 0.1}
  source = sources.build(config, "test")
  added = ("mixed_brown_0db", "mixed_brown_20db", "mixed_made_train_0db", "mixed_made_train_20db")
  assert sounds.names(config)[-4:] == added
  for name, snr_db in zip(added, (0, 20, 0, 20), strict=True):
    make, own = sounds.mixed(config, source, name), source.sound(1)
    noise = make(1) - own
    power = [np.mean(np.square(x, dtype=np.float64)) for x in (own, noise)]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(snr_db, abs=0.01)
    assert (np.abs(noise.reshape(5, -1)).max(1) > 0).all()
    np.testing.assert_array_equal(make(1), make(1))
    assert np.abs(make(0) - source.sound(0) - noise).max() > 1e-3  # each clip has noise of its own
  batches = list(sounds.batches(config, source, added[1]))
  log_mel, masks, index, condition = (
    np.concatenate([batch[key] for batch in batches]) for key in ("log_mel", "masks", "index", "condition")
  )
  assert (condition == 0).all() and masks[index >= 0].any(axis=(1, 2, 3)).all()
  expected = audio.clip_log_mel(sounds.mixed(config, source, added[1])(2), 5)
  np.testing.assert_allclose(log_mel[index == 2][0], expected, atol=1e-6)


def test_without_decibels_a_tenth_of_the_noise_is_added(config, tmp_path):
  path = str(tmp_path / "moving train.wav")
  audio.write_wav(path, 0.25 * np.sin(np.arange(32_000) / 20).astype(np.float32))
  config.eval.noise_mix.kind = ("white", path)
  source = sources.build(config, "test")
  assert sounds.names(config)[-2:] == ("mixed_white_x0.1", "mixed_moving train_x0.1")
  for name in sounds.names(config)[-2:]:
    noise = sounds.mixed(config, source, name)(0) - source.sound(0)
    assert np.abs(noise).max() == pytest.approx(0.1, abs=1e-5)


def own_and_noise(config, row: str, clips: int) -> list[np.ndarray]:
  """What a row of the noise mix adds to each clip."""
  source = sources.build(config, "test")
  make = sounds.mixed(config, source, row)
  return [make(clip) - source.sound(clip) for clip in range(clips)]


@pytest.mark.parametrize("seconds", [2, 5, 30])
def test_a_recording_of_any_length_is_noise_in_every_second_and_each_clip_gets_its_own_stretch(
  config, tmp_path, seconds
):
  path = str(tmp_path / "passing.wav")
  wave = 0.1 * np.random.default_rng(0).standard_normal(seconds * 16_000)
  audio.write_wav(path, wave.clip(-1, 1).astype(np.float32))
  with config.unlocked():
    config.eval.noise_mix = {"kind": (path,), "snr_db": (0.0,), "factor": 0.1}
  first, second = own_and_noise(config, "mixed_passing_0db", 2)
  for noise in (first, second):
    level = np.sqrt(np.mean(np.square(noise.reshape(5, -1)), axis=1))
    assert level.min() > 0.9 * level.max()
  assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
  if seconds == 2:
    np.testing.assert_allclose(first[32_000:64_000], first[:32_000], atol=1e-6)
  for before, after in zip((first, second), own_and_noise(config, "mixed_passing_0db", 2), strict=True):
    np.testing.assert_array_equal(before, after)


def test_noises_that_are_not_there_and_settings_that_add_none_are_one_sentence(config):
  source = sources.build(config, "test")
  config.eval.noise_mix.kind = ("train",)
  with pytest.raises(
    InputError, match="'train' is not made here .*made_babble, made_train are.* or give a .wav"
  ):
    sounds.mixed(config, source, "mixed_train_x0.1")
  config.eval.noise_mix.factor = 0.0
  with pytest.raises(InputError, match="eval.noise_mix.factor=0.0 adds no noise; give a positive one"):
    sounds.names(config)
  config.eval.noise_mix.kind, config.eval.noise_mix.factor = ("pink", "pink"), 0.1
  with pytest.raises(InputError, match="mixed_pink_x0.1 is there twice"):
    sounds.names(config)
