"""Clips are pure, masks exact and splits apart: on a small bank made here, and on the true one if there."""

import dataclasses
import pickle

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import compose, media_packages, media_reading, real_media
from data_pipelines.clips import PAIR, SWITCH
from data_pipelines.media_bank import Bank, Item, load_bank, write_bank
from data_pipelines.real_media import POOLS, RealMedia, noise_recordings

CLASSES = {"cow": "animal", "dog": "animal", "piano": "music", "car": "device"}


def _item(kind: str, category: str, split: str, name: str, array: np.ndarray) -> Item:
  return Item(kind, category, split, name, f"package 1: {name}", "GPL-2", "someone", array)


def _picture(rng: np.random.Generator, value: int) -> np.ndarray:
  """An opaque ellipse on nothing, one colour a picture."""
  y, x = np.mgrid[-1:1:60j, -1:1:90j]
  picture = np.zeros((60, 90, 4), np.uint8)
  picture[..., :3] = value
  picture[..., 3] = 255 * ((x**2 + y**2) < rng.uniform(0.7, 1.0))
  return picture


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """A cache with a bank of four classes; "car" has no unseen picture, "piano" nothing kept for validation."""
  rng = np.random.default_rng(0)
  items = []
  for k, name in enumerate(CLASSES):
    for split in ("train", "unseen"):
      for n in range(2):
        if (name, split) != ("car", "unseen"):
          label = f"{name}-{split}-{n}.png"
          items.append(_item("picture", name, split, label, _picture(rng, 40 + 30 * k + n)))
    for split in ("train", "val", "unseen"):
      if (name, split) != ("piano", "val"):
        length = 8_000 if name == "dog" else 40_000
        tone = 0.1 * np.sin(0.05 * (k + 1) * np.arange(length)).astype(np.float32)
        items.append(_item("sound", name, split, f"{name}-{split}.ogg", tone))
  for split in ("train", "val", "test"):
    for n in range(3):
      photo = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
      items.append(_item("background", "", split, f"{split}-{n}.jpg", photo))
  for split in ("train", "test"):
    hiss = 0.1 * rng.standard_normal(9_000).astype(np.float32)
    items.append(_item("noise", "", split, f"rain-{split}.ogg", hiss))
  folder = tmp_path_factory.mktemp("media")
  write_bank(Bank(dict(CLASSES), tuple(items)), folder)
  return folder


def _source(cache, subset="multi", split="train", num_clips=12, **settings) -> RealMedia:
  return RealMedia(
    subset, split, num_clips, **{"size": 48, "classes": tuple(CLASSES), "cache_dir": cache, **settings}
  )


def _names(source: RealMedia, count: int) -> set[str]:
  """Names of all items that the first `count` clips use."""
  return {line.split(":")[0] for index in range(count) for line in source.credits(index)}


@pytest.mark.parametrize("subset", real_media.SUBSETS)
def test_a_clip_has_the_shapes_and_types_of_the_contract(cache, subset):
  source = _source(cache, subset)
  clip = source.clip(3)
  assert clip.frames.shape == (5, 48, 48, 3)
  assert clip.frames.dtype == np.uint8
  assert clip.masks.shape == (5, 48, 48)
  assert clip.masks.dtype == np.int32
  assert clip.waveform is not None
  assert clip.waveform.shape == (80_000,)
  assert clip.waveform.dtype == np.float32
  assert np.abs(clip.waveform).max() <= 1
  assert clip.annotated.all()
  assert clip.present.all()
  assert clip.id == source.ids[3]
  assert source.is_stand_in
  assert "stand-in" in source.title
  assert source.num_classes == (1 if subset in ("single", "multi") else 5)
  assert 0 <= clip.masks.min() <= clip.masks.max() <= max(source.num_classes - 1, 1)
  assert source.broad == ("animal", "animal", "music", "device")


def test_only_the_first_frame_is_annotated_on_request(cache):
  assert _source(cache, "single", annotated="first").clip(3).annotated.tolist() == [True] + [False] * 4
  with pytest.raises(InputError, match="annotated is 'some', expected all or first"):
    _source(cache, "single", annotated="some")


@pytest.mark.parametrize("subset", real_media.SUBSETS)
def test_a_clip_depends_on_its_index_and_the_seed_alone(cache, subset):
  source, other = _source(cache, subset), _source(cache, subset, num_clips=99)
  source.clip(0)
  first, again = source.clip(7), other.clip(7)
  for name in ("frames", "masks", "waveform", "sounding", "visible"):
    np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
  assert not np.array_equal(first.frames, _source(cache, subset, seed=1).clip(7).frames)
  assert not np.array_equal(first.frames, source.clip(8).frames)


def test_sound_and_objects_agree_with_the_whole_clip(cache):
  source = _source(cache)
  for index in range(4):
    clip = source.clip(index)
    assert clip.visible is not None
    np.testing.assert_array_equal(clip.waveform, source.sound(index))
    seen = {name for name, is_seen in zip(source.categories, clip.visible, strict=True) if is_seen}
    assert seen == source.objects(index)


def test_a_source_goes_to_another_process_without_the_bank(cache):
  source = _source(cache)
  copy = pickle.loads(pickle.dumps(source))
  assert len(pickle.dumps(source)) < 5_000
  np.testing.assert_array_equal(copy.clip(2).frames, source.clip(2).frames)


def test_a_multi_source_clip_shows_different_classes(cache):
  source = _source(cache, num_clips=200)
  counts = {len(source.objects(index)) for index in range(200)}
  assert counts == {2, 3}
  for index in range(50):
    plan = source._plan(index)
    assert len({thing.category for thing in plan.things}) == len(plan.things)


def test_seconds_in_which_nothing_sounds_have_empty_masks_and_faint_sound(cache):
  source = _source(cache, num_clips=60)
  found = 0
  for index in range(60):
    clip = source.clip(index)
    assert clip.sounding is not None
    level = clip.waveform.reshape(5, -1).std(axis=1)
    for t in range(5):
      if clip.sounding[t].any():
        assert level[t] > 0.01
      else:
        found += 1
        assert not clip.masks[t].any()
        assert level[t] < 0.003
  assert found > 5


def test_a_lone_object_sounds_in_every_second(cache):
  source = _source(cache, "single", num_clips=20)
  for index in range(20):
    clip = source.clip(index)
    assert clip.sounding is not None
    assert (clip.sounding.sum(axis=1) == 1).all()
    assert clip.masks.any(axis=(1, 2)).all()


def test_semantic_masks_hold_the_class_of_what_sounds(cache):
  source = _source(cache, "semantic", num_clips=30)
  for index in range(30):
    clip = source.clip(index)
    assert clip.sounding is not None
    for t in range(5):
      heard = {0} | {int(k) + 1 for k in np.flatnonzero(clip.sounding[t])}
      assert set(np.unique(clip.masks[t]).tolist()) <= heard


def test_of_two_of_a_kind_one_sounds_on_its_side_of_the_picture(cache):
  source = _source(cache, "vpo_msmi", num_clips=40, seconds=2, has_pan=True)
  pairs = [index for index in range(40) if PAIR in source.kinds(index)]
  assert 10 < len(pairs) < 30
  for index in pairs[:6]:
    plan, clip = source._plan(index), source.clip(index)
    assert len(source.objects(index)) == 1 and len(plan.things) == 2
    assert plan.things[0].picture != plan.things[1].picture
    assert (plan.sounding.sum(1) == 1).all() and (plan.sounding == plan.sounding[0]).all()
    middle = np.nonzero(clip.masks.any(0))[1].mean() / 48
    assert clip.pan.shape == (2, 64) and (clip.pan.mean() > 0) == (middle > 0.5)
  assert source.kinds(pairs[0]) == {PAIR}
  assert source.clip(next(i for i in range(40) if i not in pairs)).pan.shape == (2, 64)


def test_vpo_like_clips_switch_and_have_bits_on_demand(cache):
  source = _source(cache, "vpo_ms", num_clips=40, seconds=5)
  assert np.mean([SWITCH in source.kinds(index) for index in range(40)]) > 0.9
  bits = _source(cache, "vpo_ms", num_clips=40, seconds=5, binary=True)
  assert bits.num_classes == 1 and bits.clip(0).pan is None
  np.testing.assert_array_equal(bits.clip(0).masks, source.clip(0).masks > 0)
  assert not _source(cache, "vpo_ss").kinds(0)


def test_splits_share_no_unseen_recording_picture_or_background(cache):
  names = {split: _names(_source(cache, "single", split, num_clips=300), 300) for split in POOLS}
  ending = {split: {kind: {n for n in found if n.endswith(kind)} for kind in ("png", "ogg", "jpg")}
            for split, found in names.items()}  # fmt: skip
  assert not ending["train"]["jpg"] & (ending["val"]["jpg"] | ending["test"]["jpg"])
  assert not ending["val"]["jpg"] & ending["test"]["jpg"]
  assert not (ending["train"]["ogg"] | ending["val"]["ogg"]) & ending["test"]["ogg"]
  assert ending["train"]["ogg"] & ending["val"]["ogg"] == {"piano-train.ogg"}  # it has none kept apart
  assert ending["train"]["png"] == ending["test"]["png"]
  assert not ending["train"]["png"] & ending["test_unseen"]["png"]
  assert ending["test"]["ogg"] >= ending["test_unseen"]["ogg"]


def test_a_class_without_an_unseen_picture_is_left_out_of_test_unseen(cache):
  source = _source(cache, "single", "test_unseen", num_clips=100)
  assert {name for index in range(100) for name in source.objects(index)} == {"cow", "dog", "piano"}
  assert source.categories == tuple(CLASSES)


def test_every_class_comes_up_about_equally_often(cache):
  source = _source(cache, "single", num_clips=2_000)
  counts = np.zeros(4)
  for index in range(2_000):
    counts[source.categories.index(next(iter(source.objects(index))))] += 1
  assert (np.abs(counts - 500) < 100).all()


def test_noise_recordings_differ_between_training_and_test(cache):
  train, test = noise_recordings("train", cache), noise_recordings("test", cache)
  assert len(train) == len(test) == 1
  assert not np.array_equal(train[0], test[0])
  with pytest.raises(InputError, match="noise split 'val' is unknown"):
    noise_recordings("val", cache)


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"subset": "stereo"}, "subset 'stereo' is unknown"),
    ({"split": "dev"}, "split 'dev' is unknown"),
    ({"num_clips": 0}, "num_clips is 0"),
    ({"size": 8}, "size is 8"),
    ({"seconds": 0}, "seconds is 0"),
    ({"classes": ("cow", "unicorn")}, r"classes \['unicorn'\] are unknown"),
    ({"classes": ("cow", "cow")}, "different names"),
    ({"classes": ("cow",)}, "at least 2 different names"),
    ({"classes": ("car", "cow"), "split": "test_unseen"}, "holds too little"),
  ],
)
def test_a_wrong_setting_is_named(cache, settings, words):
  with pytest.raises(InputError, match=words):
    _source(cache, **settings)


def test_a_missing_bank_says_how_to_make_it(tmp_path):
  with pytest.raises(InputError, match="python -m data_pipelines.real_media"):
    _source(tmp_path)


def test_preparing_keeps_the_bank_of_this_catalogue_and_replaces_another(cache, tmp_path, monkeypatch):
  bank = load_bank(cache)
  monkeypatch.setattr(media_reading, "read_bank", lambda folder: dataclasses.replace(bank, catalogue=digest))
  digest = media_reading.catalogue_digest()
  for _ in range(2):
    assert real_media.prepare(tmp_path) == tmp_path / "bank"
  written = (tmp_path / "bank" / "manifest.json").stat().st_ino
  real_media.prepare(tmp_path)
  assert (tmp_path / "bank" / "manifest.json").stat().st_ino == written
  write_bank(dataclasses.replace(bank, catalogue="of last year"), tmp_path)
  real_media.prepare(tmp_path)
  assert load_bank(tmp_path).catalogue == digest


@pytest.fixture(scope="module")
def true_cache():
  folder = media_packages.cache_folder()
  if not (folder / "bank" / "manifest.json").is_file():
    pytest.skip(f"no media bank in {folder}; `python -m data_pipelines.real_media` builds it")
  return folder


def test_the_true_bank_gives_single_source_clips_as_large_as_those_of_avsbench(true_cache):
  for split in POOLS:
    source = RealMedia("single", split, 80, size=64, cache_dir=true_cache)
    area = np.mean([(source.clip(index).masks > 0).mean() for index in range(80)])
    assert 0.15 < area < 0.25, split


def test_the_true_bank_has_every_second_of_a_lone_object_audible(true_cache):
  for split in POOLS:
    source = RealMedia("single", split, 60, size=64, cache_dir=true_cache)
    level = np.concatenate([source.sound(index).reshape(5, -1).std(axis=1) for index in range(60)])
    assert np.quantile(level, 0.02) > 10 ** (-36 / 20), split


def test_the_true_bank_keeps_pictures_recordings_and_backgrounds_apart(true_cache):
  bank = load_bank(true_cache)
  assert len({item.name for item in bank.items}) == len(bank.items)
  assert all(item.owner and item.licence for item in bank.items)
  for kind in ("picture", "sound", "background", "noise"):
    arrays = [item.array.tobytes() for item in bank.items if item.kind == kind]
    assert len(set(arrays)) == len(arrays), f"two {kind}s are the same"


def test_objects_are_no_larger_than_planned():
  assert compose.SINGLE_SIDE == (0.65, 1.05)
  assert sum(compose.NUM_SOUNDING_P) == pytest.approx(1)
