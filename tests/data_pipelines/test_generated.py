"""Generated clips: pure, exact, sized and timed as promised."""

import dataclasses

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines.clips import PAIR, SAMPLE_RATE_HZ, SWITCH, Clip
from data_pipelines.generated import BANDS, NUM_BANDS, Generated, band, gate, schedule

MANY = 60


def same(a: Clip, b: Clip) -> bool:
  """Whether two clips agree to the bit in every field."""
  pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Clip)]
  return all(np.array_equal(x, y) for x, y in pairs if x is not None or y is not None)


@pytest.mark.parametrize("subset", ["single", "multi", "semantic"])
def test_a_clip_is_a_pure_function_of_seed_split_and_number(subset):
  one, two = Generated(subset, "train", 4), Generated(subset, "train", 9)
  assert same(one.clip(3), two.clip(3))
  assert same(one.clip(3), one.clip(3))
  assert not np.array_equal(one.clip(3).frames, Generated(subset, "train", 4, seed=1).clip(3).frames)
  assert not np.array_equal(one.clip(3).frames, Generated(subset, "test", 4).clip(3).frames)
  assert not np.array_equal(one.clip(3).frames, one.clip(2).frames)


def test_shapes_and_types_follow_the_clip_contract():
  source = Generated("semantic", "val", 3, size=32, seconds=4)
  clip = source.clip(2)
  assert clip.frames.shape == (4, 32, 32, 3) and clip.frames.dtype == np.uint8
  assert clip.masks.shape == (4, 32, 32) and clip.masks.dtype == np.int32
  assert clip.waveform.shape == (4 * SAMPLE_RATE_HZ,) and clip.waveform.dtype == np.float32
  assert clip.sounding.shape == (4, len(source.categories)) and clip.visible.shape == (
    len(source.categories),
  )
  assert clip.annotated.all() and clip.present.all() and clip.id == source.ids[2]
  assert (
    len(source) == 3 and len(set(source.ids)) == 3 and source.num_classes == 9 and source.size == (32, 32)
  )
  assert source.is_stand_in and "stand-in" in source.title
  assert sorted(source.broad) == sorted(["music", "human", "animal", "device"] * 2)


@pytest.mark.parametrize("subset", ["single", "multi"])
def test_sound_and_objects_agree_with_the_whole_clip(subset):
  source = Generated(subset, "train", 5)
  for i in range(5):
    clip = source.clip(i)
    np.testing.assert_array_equal(source.sound(i), clip.waveform)
    assert source.objects(i) == {source.categories[k] for k in np.flatnonzero(clip.visible)}
    assert np.abs(clip.waveform).max() <= 1 and np.isfinite(clip.waveform).all()


def test_single_source_objects_cover_a_fifth_of_the_frame_and_sound_all_the_time():
  source = Generated("single", "train", MANY, size=32)
  clips = [source.clip(i) for i in range(MANY)]
  assert 0.16 < np.mean([clip.masks.mean() for clip in clips]) < 0.22
  assert all(clip.masks.reshape(5, -1).any(1).all() and clip.sounding.sum() == 5 for clip in clips)
  assert {int(clip.masks.max()) for clip in clips} == {1}


def test_multi_source_masks_hold_just_what_sounds():
  source = Generated("multi", "train", 20, size=32)
  for i in range(20):
    clip = source.clip(i)
    assert 2 <= clip.visible.sum() <= 3
    assert not (clip.sounding & ~clip.visible).any()
    np.testing.assert_array_equal(clip.masks.reshape(5, -1).any(1), clip.sounding.any(1))


def test_semantic_masks_name_the_sounding_categories():
  source = Generated("semantic", "train", 20, size=48)
  for i in range(20):
    clip = source.clip(i)
    for t in range(5):
      named = {int(k) - 1 for k in np.unique(clip.masks[t]) if k}
      assert named == set(np.flatnonzero(clip.sounding[t]))


def test_numbers_of_sounding_objects_follow_the_published_shares():
  rng = np.random.default_rng(0)
  counts = np.concatenate([schedule(rng, 5, 3).sum(1) for _ in range(3000)])
  np.testing.assert_allclose(np.bincount(counts, minlength=4) / len(counts), [0.09, 0.61, 0.30, 0], atol=0.02)


def test_a_silent_second_is_silent_and_a_sounding_one_is_not():
  source = Generated("multi", "train", 40)
  quiet, loud = [], []
  for i in range(40):
    rms = np.sqrt(np.mean(source.sound(i).reshape(5, -1) ** 2, axis=1))
    sounds = source.clip(i).sounding.any(1)
    quiet += list(rms[~sounds])
    loud += list(rms[sounds])
  assert quiet and max(quiet) < 0.002 < 0.01 < min(loud)


def test_gate_ramps_only_where_a_sound_starts_or_ends():
  level = gate(np.array([True, True, False]))
  assert level[0] == 0 and level[2 * SAMPLE_RATE_HZ :].max() == 0
  assert level[320 : 2 * SAMPLE_RATE_HZ - 320].min() == 1


def test_splits_never_share_an_instance():
  rng = np.random.default_rng(0)
  draws = {split: np.array([band(rng, split) for _ in range(500)]) * NUM_BANDS % 1 for split in BANDS}
  assert draws["train"].max() < draws["val"].min() and draws["val"].max() < draws["test"].min()


def test_the_same_scene_at_another_size_has_nearly_the_same_mask():
  small, large = Generated(size=32).clip(1).masks, Generated(size=128).clip(1).masks
  assert abs(small.mean() - large.mean()) < 0.01


def test_every_category_can_be_told_by_ear():
  train, test = Generated("single", "train", 120), Generated("single", "test", 40)

  def spectrum(wave):
    power = np.abs(np.fft.rfft(wave.reshape(-1, 1600), axis=1)) ** 2
    bands = np.log(power[:, :800].reshape(len(power), 40, 20).sum(2) + 1e-3)
    return np.concatenate([bands.mean(0), bands.std(0)])

  def features(source):
    return np.stack([spectrum(source.sound(i) / source.sound(i).std()) for i in range(len(source))])

  names = [next(iter(train.objects(i))) for i in range(len(train))]
  known, heard = features(train), features(test)
  nearest = np.argmin(np.abs(heard[:, None] - known[None]).sum(2), axis=1)
  right = [names[n] in test.objects(i) for i, n in enumerate(nearest)]
  assert np.mean(right) > 0.9


@pytest.mark.parametrize("subset", ["single", "multi", "semantic"])
def test_neighbours_share_no_category_and_all_categories_are_equally_frequent(subset):
  source = Generated(subset, "train", 1200)
  objects = [source.objects(i) for i in range(1200)]
  assert not any(objects[i] & objects[i + 1] for i in range(0, 1200, 2))
  for clips in (objects[::2], objects[1::2]):
    counts = [sum(name in clip for clip in clips) for name in source.categories]
    assert max(counts) < 1.3 * np.mean(counts) and min(counts) > 0.7 * np.mean(counts)


def test_only_the_first_frame_is_annotated_on_request():
  assert Generated(annotated="first").clip(0).annotated.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
  "wrong", [{"subset": "many"}, {"split": "dev"}, {"annotated": "some"}, {"num_clips": 0}]
)
def test_a_wrong_setting_is_named(wrong):
  with pytest.raises(InputError, match=next(iter(wrong))):
    Generated(**wrong)


def test_a_clip_beyond_the_end_is_refused():
  with pytest.raises(IndexError, match="clip 3 of 3"):
    Generated(num_clips=3).clip(3)


@pytest.mark.parametrize("subset", ["vpo_ss", "vpo_ms", "vpo_msmi"])
def test_vpo_like_clips_hold_categories_or_bits_and_say_where_their_sound_is(subset):
  source = Generated(subset, "test", 6, size=32, seconds=3, has_pan=True)
  bits = Generated(subset, "test", 6, size=32, seconds=3, binary=True)
  assert source.num_classes == 9 and bits.num_classes == 1
  for i in range(3):
    clip, plain = source.clip(i), bits.clip(i)
    np.testing.assert_array_equal(clip.frames, plain.frames)
    np.testing.assert_array_equal(clip.masks > 0, plain.masks > 0)
    assert clip.pan.shape == (3, 64) and plain.pan is None
    assert set(np.unique(clip.masks)) <= {0, *(1 + np.flatnonzero(clip.visible))}
    np.testing.assert_array_equal(source.sound(i), clip.waveform)


def test_what_sounds_in_vpo_like_multi_source_clips_switches():
  source = Generated("vpo_ms", "train", MANY, size=16)
  switching = [SWITCH in source.kinds(i) for i in range(MANY)]
  assert np.mean(switching) > 0.9
  assert not any(PAIR in source.kinds(i) for i in range(MANY))
  assert not any(Generated("vpo_ss", "train", 9).kinds(i) for i in range(9))


def test_of_two_of_a_kind_one_sounds_and_the_pan_tells_which():
  source = Generated("vpo_msmi", "test", MANY, size=32, seconds=2, has_pan=True)
  pairs = [i for i in range(MANY) if PAIR in source.kinds(i)]
  assert 0.3 < len(pairs) / MANY < 0.7
  right = 0
  for i in pairs[:12]:
    clip, script = source.clip(i), source._script(i)
    assert source.kinds(i) == {PAIR} and len(source.objects(i)) == 1 and clip.sounding.sum(1).max() == 1
    assert (script.heard.sum(1) == 1).all() and (script.heard == script.heard[0]).all()
    x = [thing.centre[0] for thing in script.things]
    assert abs(x[0] - x[1]) > 0.25
    sounding = int(script.heard[0].argmax())
    mean_x = np.nonzero(clip.masks.any(0))[1].mean() / 32
    assert (mean_x > 0.5) == (x[sounding] > x[1 - sounding])
    right += (clip.pan.mean() > 0) == (x[sounding] > 0.5)
  assert right == 12
