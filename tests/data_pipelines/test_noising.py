"""Noising: the closed form equals the steps, the decibels are exact, the colours slope as they should."""

import numpy as np
import pytest

from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError
from data_pipelines.audio import clip_log_mel
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.noising import (
  MADE,
  Augment,
  Noising,
  change_pitch,
  check_colours,
  choose_noise,
  coloured_noise,
  crop_noise,
  diffuse,
  equalise,
  made_up_tones,
  make_noise,
  mix,
  reverberate,
)


def rng(seed=0):
  return np.random.default_rng(seed)


def tone(hz=1000.0, seconds=1):
  return (
    np.sin(2 * np.pi * hz * np.arange(seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32) * 0.1
  )


def loudest_hz(sound):
  return np.argmax(np.abs(np.fft.rfft(sound))) * SAMPLE_RATE_HZ / len(sound)


def test_step_zero_changes_nothing_and_the_last_is_noise_of_the_given_unit():
  x = rng().standard_normal(100_000).astype(np.float32)
  np.testing.assert_allclose(diffuse(x, Diffusion().kept(0), rng()), x)
  last = diffuse(x, Diffusion().kept(1000), rng(5), mean=-2.0, std=3.0)
  assert last.mean() == pytest.approx(-2, abs=0.05) and last.std() == pytest.approx(3, abs=0.05)
  assert abs(np.corrcoef(x, last)[0, 1]) < 0.02


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 13.7, 40.0])
def test_mixing_gives_the_asked_ratio_exactly(snr_db):
  sound = rng(1).standard_normal(16_000).astype(np.float32) * 0.05
  noise = coloured_noise(rng(2), 16_000, "pink")
  added = mix(sound, noise, snr_db).astype(np.float64) - sound
  measured = 10 * np.log10(np.sum(sound.astype(np.float64) ** 2) / np.sum(added**2))
  assert measured == pytest.approx(snr_db, abs=0.01)


def test_silence_has_no_ratio_and_stays_silence():
  silence = np.zeros(100, np.float32)
  np.testing.assert_array_equal(mix(silence, np.ones(100, np.float32), 0), silence)
  np.testing.assert_array_equal(mix(np.ones(100, np.float32), silence, 0), np.ones(100))


@pytest.mark.parametrize(("colour", "slope_db"), [("white", 0), ("pink", -3), ("brown", -6), ("blue", 3)])
def test_colours_fall_by_their_decibels_an_octave(colour, slope_db):
  noise = coloured_noise(rng(3), 1 << 18, colour)
  assert np.mean(noise.astype(np.float64) ** 2) == pytest.approx(1, rel=1e-4)
  power = np.abs(np.fft.rfft(noise)) ** 2
  f_hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE_HZ)
  octaves = [power[(f_hz >= low) & (f_hz < 2 * low)].mean() for low in (125, 250, 500, 1000, 2000)]
  assert np.diff(10 * np.log10(octaves)).mean() == pytest.approx(slope_db, abs=0.2)


def test_a_short_recording_is_repeated_and_a_long_one_cropped():
  np.testing.assert_array_equal(crop_noise(rng(), np.arange(3.0), 7), [0, 1, 2, 0, 1, 2, 0])
  stretch = crop_noise(rng(), np.arange(100.0), 10)
  np.testing.assert_array_equal(np.diff(stretch), np.ones(9))


def test_recorded_noise_is_named_and_comes_from_the_recording():
  recordings = {"rain": np.full(50, 0.5, np.float32)}
  kind = choose_noise(rng(), ("recorded",), recordings)
  assert kind == "recorded:rain"
  np.testing.assert_array_equal(make_noise(rng(), 80, kind, recordings), np.full(80, 0.5))


def test_noising_is_drawn_from_its_generator_alone_and_hits_its_share():
  noising = Noising(share=0.5, diffusion=Diffusion(), steps=(10, 20), snr_db=(0, 20))
  sound, mel = tone(), np.zeros((1, 96, 64), np.float32)
  np.testing.assert_array_equal(noising.waveform(sound, rng(4)), noising.waveform(sound, rng(4)))
  np.testing.assert_array_equal(noising.log_mel(mel, rng(4)), noising.log_mel(mel, rng(4)))
  assert 0.4 < np.mean([noising.chooses(rng(seed)) for seed in range(200)]) < 0.6


def test_diffusion_runs_on_one_side_of_the_front_end_only():
  mel, sound = np.zeros((1, 96, 64), np.float32), tone()
  before = Noising(1.0, Diffusion(), where="waveform", steps=(50, 50))
  after = Noising(1.0, Diffusion(), where="log_mel", steps=(50, 50))
  assert before.log_mel(mel, rng()) is mel and after.waveform(sound, rng()) is sound
  assert not np.array_equal(before.waveform(sound, rng()), sound)
  assert not np.array_equal(after.log_mel(mel, rng()), mel)


@pytest.mark.parametrize(
  ("make", "word"),
  [
    (lambda: Noising(where="mask"), "noising.where"),
    (lambda: Noising(share=2), "noising.share"),
    (lambda: Noising(diffusion=Diffusion(steps=10), steps=(1, 11)), "steps"),
    (lambda: Noising(colours=("grey",)), "grey"),
    (lambda: Noising(colours=()), "no kind of noise"),
    (lambda: Noising(colours=("recorded",)), "recordings"),
    (lambda: Noising(snr_db=(20.0, 5.0)), "noising.mix_snr_db"),
    (lambda: Noising(snr_db=(5.0,)), "noising.mix_snr_db"),
    (lambda: Augment(crop=0.0), "crop"),
    (lambda: Augment(mask_bands=65), "mask_bands"),
    (lambda: Augment(gain_db=-6.0), "gain_db=-6.0 must be a number from 0"),
    (lambda: Augment(equaliser_db=float("inf")), "equaliser_db=inf"),
    (lambda: Augment(shift_s=float("nan")), "shift_s=nan"),
    (lambda: Augment(mask_frames=97), "mask_frames"),
    (lambda: coloured_noise(rng(), 10, "grey"), "grey"),
    (lambda: crop_noise(rng(), np.zeros(0), 10), "empty"),
  ],
)
def test_a_wrong_setting_is_named(make, word):
  with pytest.raises(InputError, match=word):
    make()


@pytest.mark.parametrize("factor", [0.88, 0.95, 1.0, 1.07, 1.12])
def test_pitch_moves_a_tone_and_keeps_the_length(factor):
  changed = change_pitch(tone(1000, 2), factor)
  assert len(changed) == 2 * SAMPLE_RATE_HZ
  assert loudest_hz(changed) == pytest.approx(1000 * factor, rel=0.01)


def test_a_flat_equaliser_only_changes_the_level():
  sound = tone() + tone(3000)
  np.testing.assert_allclose(equalise(sound, np.full(6, 6.0)), sound * 10 ** (6 / 20), atol=1e-5)


def test_an_equaliser_lifts_the_knot_it_is_told_to():
  low, high = tone(60), tone(7999)
  knots_db = np.array([12.0, 0, 0, 0, 0, -12.0])
  assert np.std(equalise(low, knots_db)) / np.std(low) == pytest.approx(10 ** (12 / 20), rel=0.05)
  assert np.std(equalise(high, knots_db)) / np.std(high) == pytest.approx(10 ** (-12 / 20), rel=0.05)


def test_a_room_adds_a_tail_after_the_sound_and_nothing_before():
  click = np.zeros(8000, np.float32)
  click[1000] = 1
  heard = reverberate(click, 0.3, 0.5, rng())
  np.testing.assert_allclose(heard[:1000], 0, atol=1e-6)
  assert np.std(heard[1100:2000]) > np.std(heard[4000:5000]) > 0


def test_augmentation_is_seeded_and_keeps_shape_and_range():
  augment = Augment(pitch=0.05, flip=True, crop=0.7)
  sound = tone(seconds=2)
  one, two = augment.waveform(sound, rng(3)), augment.waveform(sound, rng(3))
  np.testing.assert_array_equal(one, two)
  assert one.shape == sound.shape and one.dtype == np.float32 and np.abs(one).max() <= 1
  assert not np.array_equal(one, augment.waveform(sound, rng(4)))


def test_masking_blanks_whole_bands_and_frames_to_silence():
  mel = np.zeros((5, 96, 64), np.float32)
  masked = Augment(mask_bands=8, mask_frames=12).log_mel(mel, rng(1))
  silence = clip_log_mel(np.zeros(80_000, np.float32), 5)[0, 0, 0]
  assert set(np.unique(masked)) == {np.float32(silence), np.float32(0)}
  rows, columns = (masked == silence).all(axis=2), (masked == silence).all(axis=(0, 1))
  np.testing.assert_array_equal(masked == silence, rows[:, :, None] | columns[None, None])
  assert columns.sum() <= 8 and rows.sum(1).max() <= 12
  assert not mel.any()


def test_frames_and_masks_are_flipped_and_cropped_together():
  masks = rng().integers(0, 2, (2, 32, 32)).astype(np.int32)
  frames = np.repeat(masks[..., None] * 255, 3, axis=3).astype(np.uint8)
  augment = Augment(flip=True)
  flipped = {
    bool(np.array_equal(augment.picture(frames, masks, rng(s))[1], masks[:, :, ::-1])) for s in range(10)
  }
  assert flipped == {True, False}
  frames, masks = Augment(flip=True, crop=0.6).picture(frames, masks, rng(0))
  assert frames.shape == (2, 32, 32, 3) and frames.dtype == np.uint8 and masks.dtype == np.int32
  assert np.mean((frames[..., 0] > 127) == masks) > 0.8


def test_a_crop_keeps_a_pixel_at_least():
  frames, masks = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32), np.int32)
  for seed in range(20):
    cut, _ = Augment(crop=0.01).picture(frames, masks, rng(seed))
    assert cut.shape == frames.shape


def test_augmentation_of_nothing_changes_nothing():
  nothing = Augment(0, 0, 0, 0, 0, 0, 0)
  sound, mel = tone(), rng().standard_normal((1, 96, 64)).astype(np.float32)
  np.testing.assert_array_equal(nothing.waveform(sound, rng()), sound)
  np.testing.assert_array_equal(nothing.log_mel(mel, rng()), mel)


def test_made_up_tones_differ_from_call_to_call_and_are_heard():
  one, other = (made_up_tones(np.random.default_rng(seed), 16000) for seed in (0, 1))
  for wave in (one, other):
    assert wave.dtype == np.float32 and wave.shape == (16000,)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(wave))), 1, rtol=1e-4)
  assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
  np.testing.assert_array_equal(one, made_up_tones(np.random.default_rng(0), 16000))


def test_made_up_tones_are_a_kind_of_noise_that_can_be_asked_for():
  check_colours(("white", "tones"), {})
  wave = make_noise(np.random.default_rng(3), 800, "tones", {})
  np.testing.assert_array_equal(wave, made_up_tones(np.random.default_rng(3), 800))


@pytest.mark.parametrize("name", MADE)
def test_made_babble_and_train_sound_all_the_time_and_follow_their_generator(name):
  wave = MADE[name](np.random.default_rng(3), 40_000)
  assert wave.dtype == np.float32 and wave.shape == (40_000,)
  assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(1, abs=1e-4)
  assert (np.sqrt(np.mean(np.square(wave.reshape(10, -1)), axis=1)) > 0.3).all()
  np.testing.assert_array_equal(wave, MADE[name](np.random.default_rng(3), 40_000))
  assert np.abs(wave - MADE[name](np.random.default_rng(4), 40_000)).max() > 1


def test_a_made_train_rumbles_and_babble_lies_where_voices_do():
  f_hz = np.fft.rfftfreq(80_000, 1 / 16_000)
  share = {}
  for name, make in MADE.items():
    power = np.square(np.abs(np.fft.rfft(make(np.random.default_rng(0), 80_000))))
    share[name] = power[f_hz < 100].sum() / power.sum()
  assert share["made_train"] > 0.5 > 0.1 > share["made_babble"]
