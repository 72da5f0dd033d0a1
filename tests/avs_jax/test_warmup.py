"""The warm-up teaches both encoders to name what they meet, and is kept for whoever would make the same."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import warmup
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, example_inputs
from avs_jax.stopping import StopFlag
from avs_jax.types import Batch, Condition
from configs import tiny
from data_pipelines import sources


def test_labels_are_shared_out_evenly_and_unlabelled_seconds_count_for_nothing():
  logits = jnp.zeros((1, 2, 4))
  labels = jnp.asarray([[[True, True, False, False], [False] * 4]])
  assert float(warmup.naming_loss(logits, labels)) == pytest.approx(np.log(4), rel=1e-6)
  sure = jnp.asarray([[[50.0, 0, 0, 0], [0.0, 0, 0, 0]]])
  one = jnp.asarray([[[True, False, False, False], [False] * 4]])
  assert float(warmup.naming_loss(sure, one)) == pytest.approx(0, abs=1e-6)
  assert float(warmup.naming_loss(logits, jnp.zeros((1, 2, 4), bool))) == 0


def test_accuracy_counts_labelled_seconds_only():
  logits = jnp.asarray([[[1.0, 0], [1.0, 0], [1.0, 0]]])
  labels = jnp.asarray([[[True, False], [False, True], [False, False]]])
  assert float(warmup.accuracy(logits, labels)) == 0.5


def two_clips(**said) -> Batch:
  """Two clips of three seconds in which there is nothing to see or hear; `said`: the rest of a batch."""
  shape = (2, 3)
  return Batch(
    frames=np.zeros((*shape, 4, 4, 3), np.uint8),
    log_mel=np.zeros((*shape, 96, 64), np.float32),
    masks=np.zeros((*shape, 4, 4), np.int32),
    annotated=np.ones(shape, bool),
    index=np.arange(2, dtype=np.int32),
    **said,
  )


def test_padding_shows_nothing_and_says_nothing():
  batch = two_clips(
    present=np.array([[True, True, True], [True, False, False]]),
    condition=np.array([Condition.POSITIVE, Condition.SILENCE], np.int32),
    sounding=np.ones((2, 3, 1), bool),
    visible=np.ones((2, 1), bool),
  )
  seen, heard = warmup.labels(batch)
  np.testing.assert_array_equal(seen.any(-1), batch.present)
  np.testing.assert_array_equal(heard[1], [[False, True, False], [False] * 3, [False] * 3])


def test_a_clip_that_may_hold_anything_is_asked_to_name_nothing():
  batch = two_clips(
    present=np.ones((2, 3), bool),
    condition=np.array([Condition.POSITIVE, Condition.NOISE], np.int32),
    sounding=np.ones((2, 3, 4), bool),
    visible=np.ones((2, 4), bool),
  )
  seen, heard = warmup.labels(batch)
  assert not seen.any() and not heard[0].any()
  np.testing.assert_array_equal(heard[1], [[False] * 5 + [True]] * 3)  # that noise is noise is known


def test_neighbouring_frames_from_a_random_second_or_all_of_them():
  frames = np.arange(2 * 5).reshape(2, 5, 1, 1, 1)
  starts = set()
  for seed in range(20):
    some = np.asarray(warmup.some_frames(frames, 2, jax.random.key(seed)))
    assert some.shape == (2, 2, 1, 1, 1) and (np.diff(some, axis=1) == 1).all()
    starts.add(int(some[0, 0, 0, 0, 0]))
  assert starts == {0, 1, 2, 3}
  for count in (0, 5, 9):
    np.testing.assert_array_equal(warmup.some_frames(frames, count, jax.random.key(0)), frames)
  one = warmup.some_frames(frames, 2, jax.random.key(3), clips=1)
  np.testing.assert_array_equal(one, warmup.some_frames(frames, 2, jax.random.key(3))[:1])


@pytest.mark.parametrize("system", ["ravs", "sdavs"])
def test_the_last_map_and_the_embedding_are_warmed_up_whatever_the_system_reads(system):
  config = tiny.get_config(system)
  recogniser = warmup.build_recogniser(config, 3)
  inputs = example_inputs(config)
  shapes = jax.eval_shape(lambda: recogniser.init(jax.random.key(0), *inputs))["params"]
  assert shapes["visual_proj"]["kernel"].shape[0] == 16 and shapes["audio_proj"]["kernel"].shape[0] == 128
  assert set(shapes["system"]["visual_encoder"]) == {"stage1", "stage2", "stage3", "stage4"}


@pytest.mark.slow
def test_a_warm_up_on_other_sounds_is_another_one(small):
  found = {}
  for audio in ("auto", "wav", "log_mel"):
    config = small({"data.audio": audio})
    found[audio] = warmup.ingredients(config, sources.build(small(), "train"))
  assert found["wav"] != found["log_mel"] != found["auto"]


def test_it_names_better_than_chance_is_kept_and_found_again(small, devices, tmp_path, same, monkeypatch):
  devices(1)
  config = small({
    "warmup.steps": 60, "warmup.batch": 8, "warmup.lr": 3e-3, "warmup.frames": 3, "warmup.pictures": 6,
    "data.clips": {"train": 8, "val": 2, "test": 2},
    "debias.guide": "cosine_calibrated", "model.tpavi_stages": (), "model.audio_args.width": 1 / 16,
  })  # fmt: skip
  model, source = build_model(config), sources.build(config, "train")
  start = initialise(model, *example_inputs(config), seed=0)
  start.setdefault("batch_stats", {})
  trained = warmup._train
  told = {}

  def train_once(*args):
    variables, figures = trained(*args)
    told.update(figures)
    return variables, figures

  monkeypatch.setattr(warmup, "_train", train_once)
  warmed = warmup.warm_up(config, start, source, str(tmp_path))
  chance = 1 / len(source.categories)
  assert told["seen"] > 2 * chance
  assert told["heard"] > 2 * chance
  params, before = warmed["params"], start["params"]
  changed = params["system"]["visual_encoder"], before["system"]["visual_encoder"]
  with pytest.raises(AssertionError, match="arrays differ"):
    same(*changed)
  same(params["system"]["head"], before["system"]["head"])
  with pytest.raises(AssertionError, match="arrays differ"):
    same(params["guide"]["visual_proj"], before["guide"]["visual_proj"])

  def never(*args):
    raise AssertionError("trained again")

  monkeypatch.setattr(warmup, "_train", never)
  same(warmup.warm_up(config, start, source, str(tmp_path)), warmed)
  other = config.copy_and_resolve_references()
  other.debias.guide_weight = 0.5  # nothing the warm-up could notice
  same(warmup.warm_up(other, start, source, str(tmp_path)), warmed)
  other.seed = 1
  with pytest.raises(AssertionError, match="trained again"):
    warmup.warm_up(other, start, source, str(tmp_path))


class StopAt(StopFlag):
  """A flag that is found set when it is looked at for the n-th time."""

  def __init__(self, number: int):
    self.left = number

  @property
  def is_set(self) -> bool:
    self.left -= 1
    return self.left <= 0


def test_a_warm_up_stopped_half_way_and_resumed_equals_an_uninterrupted_one_to_the_bit(
  small, devices, tmp_path, same, caplog
):
  devices(1)
  config = small({"warmup.steps": 6, "warmup.batch": 2, "warmup.frames": 1, "model.tpavi_stages": ()})
  model, source = build_model(config), sources.build(config, "train")
  start = initialise(model, *example_inputs(config), seed=0)
  start.setdefault("batch_stats", {})
  whole = warmup.warm_up(config, start, source, str(tmp_path / "whole"))
  folder = tmp_path / "stopped"
  config.log.checkpoint_steps = 2  # a save on the way too, which the later one takes the place of
  for stop, saved in ((StopAt(3), ["3"]), (StopAt(2), ["5"])):
    with pytest.raises(SystemExit) as stopped:
      warmup.warm_up(config, start, source, str(folder), stop)
    assert stopped.value.code == 0
    (begun,) = (folder / "warmup_begun").iterdir()
    assert [each.name for each in begun.iterdir()] == saved
  with caplog.at_level(logging.INFO, logger="avs_jax"):
    same(warmup.warm_up(config, start, source, str(folder)), whole)
  assert "warm-up resumed from step 5 of 6" in caplog.text
  assert not (folder / "warmup_begun").exists()


def test_a_signal_in_the_warm_ups_last_step_keeps_it_and_ends_the_run(small, devices, tmp_path, monkeypatch):
  config, source = small({"warmup.steps": 2}), Named()
  stop = StopFlag()

  def train(*_):
    stop.is_set = True
    return {"params": {"system": {"a": np.ones(2)}}, "batch_stats": {}}, {"loss": 1.0}

  monkeypatch.setattr(warmup, "_train", train)
  with pytest.raises(SystemExit) as stopped:
    warmup.warm_up(config, {}, source, str(tmp_path), stop)
  assert stopped.value.code == 0
  (kept,) = (tmp_path / "warmup").iterdir()
  assert [each.name for each in kept.iterdir()] == ["2"]


class Named:
  title, categories, ids = "S4", ("dog",), ("a",)

  def __len__(self):
    return 1


def test_a_data_set_without_class_labels_is_refused(small, tmp_path):
  class Nameless:
    title, categories = "S4", ()

  config = small({"warmup.steps": 5})
  with pytest.raises(InputError, match="warmup.steps=5: S4 has no class labels; set warmup.steps=0"):
    warmup.warm_up(config, {}, Nameless(), str(tmp_path))
