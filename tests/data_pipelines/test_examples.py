"""One row: the right sound through the right front end; the memory gives back what was read."""

import numpy as np
import pytest
from scipy.io import wavfile

from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError
from data_pipelines.audio import Recorded, clip_log_mel, robust_log_mel
from data_pipelines.avsbench import AVSBench
from data_pipelines.examples import BrokenDonor, Cached, Composer
from data_pipelines.generated import Generated
from data_pipelines.layout import write_layout
from data_pipelines.negatives import EVALUATION, NOISE, OFFSCREEN, POSITIVE, SILENCE, Negatives, Pair
from data_pipelines.noising import Augment, Noising

CLIPS = 12


def small():
  return Generated("single", "train", CLIPS, size=16, seconds=2)


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_memory_spares_reading_and_keeps_to_its_bound():
  class Counting(Generated):
    reads = 0

    def clip(self, index):
      self.reads += 1
      return super().clip(index)

  source = Counting("single", "train", 3, size=16, seconds=2)
  kept = Cached(source)
  for _ in range(2):
    for index in range(3):
      assert kept.clip(index).masks.dtype == np.int32
  assert source.reads == 3 and len(kept) == 3 and kept.title == source.title
  np.testing.assert_array_equal(kept.sound(1), source.sound(1))
  nothing = Cached(source, 0.001)
  nothing.clip(0), nothing.clip(0)
  assert source.reads == 5


def test_the_front_end_is_the_same_for_positives_and_negatives():
  """A clip shown with its own sound as a negative gives the very features of the positive."""
  source, negatives = small(), Negatives()
  clip = source.clip(0)
  composer = Composer(source, negatives)
  own = composer(clip, 0, Pair(POSITIVE), 0)
  lent = composer(clip, 0, Pair(OFFSCREEN, donor=0), 0)
  np.testing.assert_array_equal(own["log_mel"], lent["log_mel"])


def test_published_front_ends_differ_between_positives_and_negatives():
  source, negatives = small(), Negatives()
  clip = source.clip(0)
  composer = Composer(source, negatives, front_end="as_published")
  np.testing.assert_array_equal(
    composer(clip, 0, Pair(POSITIVE), 0)["log_mel"], clip_log_mel(clip.waveform, 2)
  )
  silence = composer(clip, 0, Pair(SILENCE), 0)["log_mel"]
  np.testing.assert_array_equal(silence, robust_log_mel(np.zeros(32_000), 16_000, 2))
  with pytest.raises(InputError, match="front_end"):
    Composer(source, negatives, front_end="mixed")


@pytest.mark.golden
def test_published_noise_reaches_the_published_front_end_at_its_own_rate(golden, rule, monkeypatch):
  source = Generated("single", "train", 1, size=16, seconds=5)
  negatives = Negatives(noise_format="bytes")
  # The released file comes from numpy's global generator.
  monkeypatch.setattr(negatives, "_rng", lambda *_: np.random.RandomState(42))  # noqa: NPY002
  row = Composer(source, negatives, front_end="as_published")(source.clip(0), 0, Pair(NOISE, kind="bytes"), 0)
  difference = np.abs(
    rule.sample(row["log_mel"]) - np.load(golden("avsbench_robust/logmel.npz"))["noise_seed42"]
  )
  assert difference.max() < 0.02 and difference.mean() < 2e-4  # as of other sounds that soxr resampled


def test_a_sound_as_recorded_is_resampled_by_the_published_front_end_alone():
  source = small()
  sound = Recorded(0.1 * np.random.default_rng(0).standard_normal(48_000), 24_000)
  clip, pair = source.clip(0), Pair(OFFSCREEN)
  published = Composer(source, Negatives(), front_end="as_published")(clip, 0, pair, EVALUATION, sound)
  np.testing.assert_array_equal(published["log_mel"], robust_log_mel(sound.samples, 24_000, 2))
  same = Composer(source, Negatives())(clip, 0, pair, EVALUATION, sound)
  np.testing.assert_array_equal(same["log_mel"], clip_log_mel(sound.at_16_khz(), 2))


def test_off_screen_sounds_of_files_reach_the_published_front_end_at_their_own_rate(tmp_path):
  made = Generated("single", "train", 3, size=32, seconds=5)
  write_layout(made, tmp_path, "s4", "train")
  wave = 0.1 * np.random.default_rng(0).standard_normal(5 * 44_100)
  for path in tmp_path.rglob("*.wav"):
    wavfile.write(path, 44_100, np.rint(32768 * wave).astype(np.int16))
  source = AVSBench(str(tmp_path), "s4", "train")
  composer = Composer(Cached(source), Negatives(), front_end="as_published")
  row = composer(source.clip(0), 0, Pair(OFFSCREEN, donor=1), 0)
  np.testing.assert_allclose(row["log_mel"], robust_log_mel(np.rint(32768 * wave) / 32768, 44_100), atol=1e-6)


def test_sounding_says_what_is_heard_whoever_makes_it():
  source, negatives = small(), Negatives()
  clip, donor = source.clip(0), source.clip(3)
  composer = Composer(source, negatives)
  np.testing.assert_array_equal(composer(clip, 0, Pair(OFFSCREEN, donor=3), 0)["sounding"], donor.sounding)
  assert not composer(clip, 0, Pair(SILENCE), 0)["sounding"].any()
  np.testing.assert_array_equal(composer(clip, 0, Pair(NOISE, kind="white"), 0)["visible"], clip.visible)


def test_noising_and_augmentation_touch_training_only_and_spare_silence():
  settings = {"noising": Noising(1.0, Diffusion(), steps=(500, 500)), "augment": Augment(flip=True)}
  source, negatives = small(), Negatives()
  clip = source.clip(0)
  plain, worse = Composer(source, negatives), Composer(source, negatives, **settings)
  equal(plain(clip, 0, Pair(POSITIVE), -1), worse(clip, 0, Pair(POSITIVE), -1))
  assert not np.array_equal(
    plain(clip, 0, Pair(POSITIVE), 0)["log_mel"], worse(clip, 0, Pair(POSITIVE), 0)["log_mel"]
  )
  silence = worse(clip, 0, Pair(SILENCE), 0)["log_mel"]
  np.testing.assert_array_equal(silence, plain(clip, 0, Pair(SILENCE), 0)["log_mel"])


def test_a_clip_that_stays_clean_is_spared_by_both_kinds_of_noise():
  source = small()
  clip = source.clip(0)
  both = Composer(source, None, noising=Noising(0.5, Diffusion(), steps=(500, 500), snr_db=(0, 0)))
  clean = Composer(source, None)(clip, 0, Pair(POSITIVE), 0)["log_mel"]
  spared = [np.array_equal(both(clip, 0, Pair(POSITIVE), epoch)["log_mel"], clean) for epoch in range(100)]
  assert 0.35 < np.mean(spared) < 0.65  # with a draw for each kind it was a quarter


def test_a_donor_that_cannot_be_read_is_told_from_a_broken_clip():
  class Broken(Generated):
    def clip(self, index):
      if index == 3:
        raise InputError("clip3.png: truncated; copy it again.")
      return super().clip(index)

  source = Broken("single", "train", CLIPS, size=16, seconds=2)
  with pytest.raises(BrokenDonor, match="off-screen sound cannot be read: clip3.png"):
    Composer(source, Negatives())(source.clip(0), 0, Pair(OFFSCREEN, donor=3), 0)


def test_a_row_is_worsened_the_same_way_each_time_it_is_made():
  source = small()
  composer = Composer(
    source, Negatives(), augment=Augment(flip=True), noising=Noising(1.0, Diffusion()), seed=3
  )
  clip = source.clip(2)
  equal(composer(clip, 2, Pair(POSITIVE), 4), composer(clip, 2, Pair(POSITIVE), 4))
  other = composer(clip, 2, Pair(POSITIVE), 5)
  assert not np.array_equal(other["log_mel"], composer(clip, 2, Pair(POSITIVE), 4)["log_mel"])


def test_the_log_mel_of_the_memory_is_never_that_of_a_worsened_sound():
  source = Cached(small())
  clip = source.clip(0)
  plain = Composer(source, None)(clip, 0, Pair(POSITIVE), 0)["log_mel"]
  Composer(source, None, augment=Augment())(clip, 0, Pair(POSITIVE), 0)
  np.testing.assert_array_equal(
    Composer(source, None)(source.clip(0), 0, Pair(POSITIVE), 1)["log_mel"], plain
  )


def test_a_sounds_direction_goes_with_the_sound():
  source = Generated("vpo_msmi", "train", 6, size=16, seconds=2, has_pan=True)
  composer = Composer(source, Negatives(), pan=True)
  clip = source.clip(0)
  rows = [composer(clip, 0, Pair(kind, donor=3), 0) for kind in (POSITIVE, OFFSCREEN, SILENCE)]
  np.testing.assert_array_equal(rows[0]["pan"], clip.pan)
  np.testing.assert_array_equal(rows[1]["pan"], source.clip(3).pan)
  assert not rows[2]["pan"].any()
  noise = [composer(clip, 0, Negatives().pair(NOISE, epoch, 0, source), epoch)["pan"] for epoch in (0, 1)]
  assert all(pan.shape == (2, 64) and np.abs(pan).mean() > 0.01 for pan in noise)
  assert np.sign(noise[0].mean()) != 0 and not np.array_equal(*noise)
  given = composer(clip, 0, Pair(OFFSCREEN), EVALUATION, np.zeros(32_000, np.float32))
  assert not given["pan"].any()
  assert "pan" not in Composer(source, None)(clip, 0, Pair(POSITIVE), 0)


def test_a_mirrored_picture_mirrors_the_direction_of_its_sound():
  source = Generated("vpo_msmi", "train", 2, size=16, seconds=2, has_pan=True)
  clip = source.clip(0)
  quiet = Augment(
    gain_db=0, equaliser_db=0, shift_s=0, reverberation=0, mask_bands=0, mask_frames=0, flip=True
  )
  composer = Composer(source, None, augment=quiet, pan=True)
  sides = set()
  for epoch in range(8):
    row = composer(clip, 0, Pair(POSITIVE), epoch)
    is_mirrored = np.array_equal(row["frames"], clip.frames[:, :, ::-1])
    np.testing.assert_array_equal(row["pan"], -clip.pan if is_mirrored else clip.pan)
    sides.add(is_mirrored)
  assert sides == {True, False}


def test_clips_without_a_direction_are_named_where_one_is_wanted():
  source = Generated("vpo_msmi", "train", 2, size=16, seconds=2)
  with pytest.raises(InputError, match="do not say where sounds come from; set model.stereo=False"):
    Composer(source, None, pan=True)(source.clip(0), 0, Pair(POSITIVE), 0)


def test_a_decoy_stands_beside_the_clips_own_sound_and_is_another_each_epoch():
  source, decoys = small(), Negatives(fraction=1.0, silence=0.0, offscreen=0.0, seed=5)
  clip = source.clip(0)
  plain = Composer(source, None)(clip, 0, Pair(POSITIVE), 0)
  composer = Composer(source, None, decoys=decoys)
  row = composer(clip, 0, Pair(POSITIVE), 0)
  assert row["decoy"].shape == row["log_mel"].shape
  equal({key: value for key, value in row.items() if key != "decoy"}, plain)
  equal(row, composer(clip, 0, Pair(POSITIVE), 0))
  assert not np.array_equal(row["decoy"], composer(clip, 0, Pair(POSITIVE), 1)["decoy"])
  heard = Composer(source, None, waveform=True, decoys=decoys, raw_decoys=True)(clip, 0, Pair(POSITIVE), 0)
  assert heard["decoy"].shape == heard["waveform"].shape
  silent = Composer(source, None, decoys=Negatives(fraction=1.0, noise=0.0, offscreen=0.0))
  assert np.ptp(silent(clip, 0, Pair(POSITIVE), 0)["decoy"]) == 0
