"""Negatives: pure, redrawn each epoch, in the asked shares; an off-screen sound is never of what is seen."""

import pickle

import numpy as np
import pytest

from avs_jax.errors import InputError
from avs_jax.types import Condition
from data_pipelines import negatives as module
from data_pipelines.generated import Generated
from data_pipelines.loader import eval_batches
from data_pipelines.negatives import (
  EVALUATION,
  NOISE,
  OFFSCREEN,
  POSITIVE,
  SILENCE,
  Donors,
  Negatives,
  Pair,
  manifest,
  noise_of_bytes,
  read_manifest,
  write_manifest,
)
from data_pipelines.sources import Limited

GROUPS = {"music": "guitar piano", "human": "man woman", "animal": "dog cat", "device": "car gun"}


class Listed:
  """A source that knows nothing but what is in its clips."""

  title, is_stand_in, num_classes, seconds, size = "listed clips", False, 1, 5, (8, 8)
  categories = tuple(name for names in GROUPS.values() for name in names.split())
  broad = tuple(group for group, names in GROUPS.items() for _ in names.split())

  def __init__(self, *clips):
    self.clips = [frozenset(clip.split()) for clip in clips]
    self.ids = tuple(f"clip{i}" for i in range(len(clips)))

  def __len__(self):
    return len(self.clips)

  def objects(self, index):
    return self.clips[index]


def groups(source, index):
  return {source.broad[source.categories.index(name)] for name in source.objects(index)}


def test_values_are_those_of_the_condition_type():
  assert tuple(Condition) == (POSITIVE, SILENCE, NOISE, OFFSCREEN)
  assert tuple(condition.name.lower() for condition in Condition) == module.CONDITIONS


@pytest.mark.parametrize("subset", ["single", "multi", "semantic"])
def test_a_donor_never_shares_a_category_or_a_group_with_the_picture(subset):
  source = Generated(subset, "train", 150)
  negatives = Negatives(fraction=1, silence=0, noise=0)
  objects = [source.objects(i) for i in range(150)]
  broad = [groups(source, i) for i in range(150)]
  relaxed = 0
  for epoch in range(12):
    for index in range(150):
      pair = negatives.draw(epoch, index, source)
      assert pair.condition == OFFSCREEN and pair.donor != index
      assert not objects[index] & objects[pair.donor]
      relaxed += pair.kind == "category"
      assert pair.kind == "category" or not broad[index] & broad[pair.donor]
  assert relaxed == 0


def test_donors_with_one_object_are_preferred_among_stand_ins():
  source = Generated("semantic", "train", 120)
  donors = Donors(source)
  assert donors.rule == "disjoint"
  for index in range(120):
    clips, _ = donors.candidates(index)
    assert {len(source.objects(int(i))) for i in clips} == {1}


def test_pairs_are_pure_and_redrawn_every_epoch():
  source = Generated("single", "train", 60)
  negatives, again = Negatives(0.5, seed=3), pickle.loads(pickle.dumps(Negatives(0.5, seed=3)))
  epochs = [[negatives.draw(e, i, source) for i in range(60)] for e in range(3)]
  assert epochs[1] == [again.draw(1, i, source) for i in reversed(range(60))][::-1]
  assert epochs[0] != epochs[1] != epochs[2]
  assert epochs[0] != [Negatives(0.5, seed=4).draw(0, i, source) for i in range(60)]


def test_pairs_stay_without_redrawing():
  source = Generated("single", "train", 40)
  fixed = Negatives(0.5, redraw=False)
  assert [fixed.draw(0, i, source) for i in range(40)] == [fixed.draw(5, i, source) for i in range(40)]
  assert fixed.pair(OFFSCREEN, EVALUATION, 3, source) == Negatives(0.5).pair(OFFSCREEN, EVALUATION, 3, source)


def test_conditions_come_in_the_asked_shares():
  source = Generated("single", "train", 50)
  negatives = Negatives(0.4, silence=1, noise=1, offscreen=2)
  drawn = [negatives.draw(e, i, source).condition for e in range(100) for i in range(50)]
  shares = np.bincount(drawn, minlength=4) / len(drawn)
  np.testing.assert_allclose(shares, [0.6, 0.1, 0.1, 0.2], atol=0.02)


@pytest.mark.parametrize("subset", ["single", "multi", "semantic"])
def test_two_generated_clips_are_enough(subset):
  for seed in range(30):
    Donors(Generated(subset, "test", 2, seed=seed)).check()


def test_pairs_are_the_same_when_only_some_clips_are_shown():
  source, negatives = Generated("multi", "test", 30), Negatives()
  few = Limited(source, 3)
  for index in range(3):
    assert negatives.pair(OFFSCREEN, -1, index, few) == negatives.pair(OFFSCREEN, -1, index, source)
  assert manifest(negatives, few, "test", [OFFSCREEN]) == manifest(negatives, source, "test", [OFFSCREEN])[:3]
  assert eval_batches(few, batch=2, condition=OFFSCREEN, cache=True)[1]["index"].tolist() == [2, -1]


def test_published_rule_for_single_sources_avoids_the_least_suitable_contrast():
  source = Listed("guitar", "man", "dog", "car", "piano", "cat")
  donors = Donors(source)
  assert donors.rule == "s4"
  allowed = {i: {source.broad[source.categories.index(next(iter(source.clips[c])))] for c in clips}
             for i in range(4) for clips, _ in [donors.candidates(i)]}  # fmt: skip
  assert allowed == {
    0: {"animal", "device"},
    1: {"animal", "device"},
    2: {"music", "device"},
    3: {"music", "human", "animal"},
  }


def test_published_rule_for_single_sources_draws_the_category_first():
  source = Listed("guitar", *["dog"] * 30, "car")
  rng = np.random.default_rng(0)
  drawn = [Donors(source, "s4").draw(0, rng)[0] for _ in range(400)]
  assert 0.4 < np.mean([donor == 31 for donor in drawn]) < 0.6


def test_published_rule_for_multiple_sources_unites_what_is_excluded():
  source = Listed("man dog", "guitar", "car", "piano car", "cat", "man")
  donors = Donors(source)
  assert donors.rule == "ms3"
  assert donors.candidates(0)[0].tolist() == [2]  # human and animal: own groups, music and human excluded
  assert donors.candidates(3)[0].tolist() == [4]  # music and device exclude human and music


def test_demands_fall_in_order_and_never_to_the_categories():
  contrast_only = Listed("guitar", "man")
  assert Donors(contrast_only, "s4").candidates(0)[1] == "broad"
  same_group = Listed("guitar", "piano")
  assert Donors(same_group, "s4").candidates(0)[1] == "category"
  with pytest.raises(InputError, match="no clip can lend an off-screen sound to clip0"):
    Donors(Listed("guitar", "guitar man"), "ms3").candidates(0)


def test_a_clip_of_unknown_content_takes_any_other_clip(caplog):
  donors = Donors(Listed("", "man", "dog"))
  assert "listed clips: 1 of 3 clips name no objects" in caplog.text
  clips, kind = donors.candidates(0)
  assert clips.tolist() == [1, 2] and kind == "any"
  assert 0 not in donors.candidates(1)[0]


def test_a_lone_clip_has_no_donor():
  with pytest.raises(InputError, match="no clip can lend"):
    Donors(Listed("man")).check()
  with pytest.raises(InputError, match="no clip can lend"):
    Donors(Listed(""), guess=True).check()


def test_a_data_set_without_categories_is_refused():
  with pytest.raises(InputError, match="no clip names its objects"):
    Negatives(1.0, silence=0, noise=0).draw(0, 0, Listed("", ""))
  assert Negatives(1.0, silence=0, noise=0, guess=True).draw(0, 0, Listed("", "")) == (OFFSCREEN, 1, "any")


@pytest.mark.parametrize(
  ("setting", "word"),
  [
    ({"fraction": 1.5}, "negatives.fraction"),
    ({"silence": -1}, "shares"),
    ({"silence": 0, "noise": 0, "offscreen": 0}, "shares"),
    ({"rule": "free"}, "negatives.rule"),
    ({"noise_format": "int"}, "negatives.noise_format"),
    ({"noise_kinds": ("grey",)}, "grey"),
    ({"noise_kinds": ("recorded",)}, "recordings"),
    ({"seed": -1}, "negatives.seed"),
  ],
)
def test_a_wrong_setting_is_named(setting, word):
  with pytest.raises(InputError, match=word):
    Negatives(**setting)


def test_substituted_sounds_are_what_they_are_called():
  source, negatives = Generated("single", "train", 20), Negatives()
  own = source.sound(0)
  assert negatives.substitute(own, Pair(POSITIVE), 0, 0) is own
  assert not negatives.substitute(own, Pair(SILENCE), 0, 0).any()
  pair = negatives.pair(OFFSCREEN, 0, 0, source)
  donor = source.sound(pair.donor)
  np.testing.assert_array_equal(negatives.substitute(own, pair, 0, 0, donor), donor)
  short = negatives.substitute(
    own, pair, 0, 0, donor[: len(own) // 2]
  )  # as of five seconds for a clip of ten
  assert short.shape == own.shape
  np.testing.assert_array_equal(short[len(own) // 2 :][: len(own) // 2], donor[: len(own) // 2])


def test_noise_keeps_to_its_level_and_kinds_and_varies_with_epoch_and_clip():
  negatives, own = Negatives(noise_db=(-30, -20)), np.zeros(16_000, np.float32)
  kinds, levels = set(), []
  for index in range(40):
    pair = negatives.pair(NOISE, 0, index, None)
    noise = negatives.substitute(own, pair, 0, index)
    kinds.add(pair.kind)
    levels.append(10 * np.log10(np.mean(noise.astype(np.float64) ** 2)))
  assert kinds == {"white", "pink", "brown", "coloured"}
  assert -30.1 < min(levels) < max(levels) < -19.9
  pair = Pair(NOISE, kind="white")
  first = negatives.substitute(own, pair, 0, 0)
  np.testing.assert_array_equal(first, negatives.substitute(own, pair, 0, 0))
  assert not np.array_equal(first, negatives.substitute(own, pair, 1, 0))


def test_published_noise_bytes_are_loud_and_white():
  negatives, own = Negatives(noise_format="bytes"), np.zeros(80_000, np.float32)
  pair = negatives.pair(NOISE, EVALUATION, 0, None)
  noise = negatives.substitute(own, pair, EVALUATION, 0)
  assert pair.kind == "bytes" and noise.shape == own.shape
  # RMS .56 at 44.1 kHz; a white sound keeps 16/44.1 of its power at 16 kHz, less the filter's edge.
  assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.56 * np.sqrt(16 / 44.1), rel=0.08)
  power = (np.abs(np.fft.rfft(noise)) ** 2)[: 8 * 4000].reshape(8, -1).mean(1)  # up to 6.4 kHz
  assert power.max() / power.min() < 1.1


def test_noise_as_recorded_is_the_noise_that_is_given_at_16_khz():
  negatives = Negatives(noise_format="bytes", seed=3)
  recorded = negatives.noise_as_recorded(1, 7, 5)
  assert (recorded.samples.size, recorded.rate_hz) == (5 * 44_100, 44_100)
  given = negatives.substitute(np.zeros(80_000, np.float32), Pair(NOISE, kind="bytes"), 1, 7)
  np.testing.assert_allclose(recorded.at_16_khz()[:79_900], given[:79_900], atol=1e-6)  # the filter's reach


@pytest.mark.golden
def test_noise_of_bytes_holds_the_samples_of_the_released_file(golden):
  kept = np.load(golden("avsbench_robust/logmel.npz"))["noise_seed42_first_pcm"]
  samples = noise_of_bytes(np.random.RandomState(42), len(kept))  # noqa: NPY002  numpy's global generator, as released
  np.testing.assert_array_equal(np.rint(samples * 32768).astype(np.int16), kept)


def test_silence_may_have_a_faint_floor():
  negatives = Negatives(silence_db=-70)
  floor = negatives.substitute(np.zeros(16_000, np.float32), Pair(SILENCE), 0, 0)
  assert 20 * np.log10(np.std(floor)) == pytest.approx(-70, abs=0.2)


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
  source, negatives = Generated("multi", "test", 12), Negatives(seed=5)
  rows = manifest(negatives, source, "test", [SILENCE, NOISE, OFFSCREEN])
  assert len(rows) == 36 and {row.epoch for row in rows} == {-1}
  write_manifest(tmp_path / "manifest.csv", rows)
  assert read_manifest(tmp_path / "manifest.csv") == rows
  assert rows == manifest(Negatives(seed=5), source, "test", [SILENCE, NOISE, OFFSCREEN])


def test_a_broken_manifest_is_named_with_its_line(tmp_path):
  path = tmp_path / "manifest.csv"
  with pytest.raises(InputError, match="no such manifest"):
    read_manifest(path)
  path.write_text("a,b\n")
  with pytest.raises(InputError, match="line 1"):
    read_manifest(path)
  path.write_text("split,epoch,clip,condition,donor,kind,seed\ntest,-1,a,loud,,,0\n")
  with pytest.raises(InputError, match="line 2"):
    read_manifest(path)
