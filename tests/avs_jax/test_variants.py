"""Variants are trained in turn and set side by side; a mistake in the last is noticed before the first is trained."""

import importlib
import json

import pytest
from ml_collections import ConfigDict

from avs_jax import variants
from avs_jax.errors import InputError
from avs_jax.logbook import write_config
from configs import common


@pytest.mark.slow
def test_variants_are_trained_in_turn_compared_and_judged_again_from_the_folder(
  small, devices, tmp_path, monkeypatch
):
  config = small({
    "title": "two", "steps": 2, "model.tpavi_stages": (),
    "variants": {"plain": {}, "with_negatives": {"negatives": {"fraction": 0.5}}},
  })  # fmt: skip
  results = variants.train_all(config, str(tmp_path))
  assert set(results) == {"plain", "with_negatives"}
  for name, title in (("plain", "two: plain"), ("with_negatives", "two: with negatives")):
    own = common.from_workdir(str(tmp_path / name))
    assert own.title == title
    assert not own.variants
  assert common.from_workdir(str(tmp_path / "with_negatives")).negatives.fraction == 0.5
  text = (tmp_path / "comparison.md").read_text()
  assert "| plain |" in text and "| with negatives |" in text

  from avs_jax import train

  monkeypatch.setattr(train, "train", lambda *args: pytest.fail("a finished variant was trained again"))
  assert json.dumps(variants.train_all(config, str(tmp_path))) == json.dumps(results)
  (tmp_path / "comparison.md").unlink()
  again = variants.evaluate_all(common.from_workdir(str(tmp_path)), str(tmp_path))
  assert again["plain"]["positive"] == results["plain"]["positive"]
  assert (tmp_path / "comparison.md").exists()


def test_a_variant_changes_what_it_names_and_nothing_else(small):
  config = small(
    {"variants": {"b": {"model": {"visual_args": {"depth": 3}}, "optimizer": {"multipliers": {"head": 2.0}}}}}
  )
  own = variants.variant(config, "b")
  assert own.model.visual_args.to_dict() == {"width": 4, "depth": 3}
  assert own.optimizer.multipliers.head == 2.0
  assert own.model.width == config.model.width
  assert "depth" not in config.model.visual_args


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"negatives": {"fractoin": 0.1}}, "variants.b.negatives.fractoin: the config has no such key"),
    ({"negativs": {"fraction": 0.1}}, "variants.b.negativs: the config has no such key"),
    ({"seed": "one"}, "variants.b.seed='one'"),
  ],
)
def test_a_mistyped_variant_is_refused_before_the_first_is_trained(small, tmp_path, changes, message):
  config = small()
  with config.unlocked():
    config.variants = ConfigDict({"a": {}, "b": changes})
  with pytest.raises(InputError, match=message):
    variants.train_all(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.fixture
def judged(small, tmp_path, monkeypatch):
  """judged(config) -> names of the variants that would be trained or judged, after one run of `JUDGED` was."""
  from avs_jax import train

  for name in JUDGED["variants"]:
    config = variants.variant(small(JUDGED), name)
    (tmp_path / name / "checkpoints" / "4").mkdir(parents=True)
    write_config(config, str(tmp_path / name))
    board = {"record": {"config": json.loads(config.to_json_best_effort())}}
    (tmp_path / name / "scoreboard.json").write_text(json.dumps(board))

  def names(config) -> list[str]:
    done = []
    monkeypatch.setattr(train, "train", lambda config, workdir: done.append(workdir.split("/")[-1]))
    monkeypatch.setattr(variants, "_side_by_side", lambda *args: {})
    variants.train_all(config, str(tmp_path))
    return done

  return names


JUDGED = {"variants": {"a": {}, "b": {"negatives": {"fraction": 0.5}}}}


def test_a_finished_variant_is_left_as_it_is_by_another_title(judged, small):
  assert judged(small(JUDGED)) == []
  assert judged(small({**JUDGED, "title": "named", "log.every_steps": 3})) == []


def test_a_variant_that_was_judged_before_its_last_step_goes_on(judged, small, tmp_path):
  (tmp_path / "b" / "checkpoints" / "4").rename(tmp_path / "b" / "checkpoints" / "3")
  assert judged(small(JUDGED)) == ["b"]


def test_a_variant_is_judged_again_under_other_sounds_and_goes_on_where_it_is_made_longer(judged, small):
  assert judged(small({**JUDGED, "eval.unseen": ("thunder",)})) == ["a", "b"]
  assert judged(small({**JUDGED, "steps": 100})) == ["a", "b"]


def test_a_variant_of_other_settings_is_refused_before_any_is_trained(judged, small, tmp_path):
  changed = {"variants": {"c": {}, "a": {}, "b": {"negatives": {"fraction": 0.25}}}}
  with pytest.raises(
    InputError, match=r"b holds a run that was trained with other settings \(negatives.fraction: 0.5"
  ):
    judged(small(changed))
  assert not (tmp_path / "c").exists() and not (tmp_path / "config.json").exists()


def test_variants_are_not_trained_over_a_single_run(small, tmp_path):
  (tmp_path / "best" / "4").mkdir(parents=True)
  with pytest.raises(InputError, match="holds a run of one config, and this one has variants"):
    variants.train_all(small(JUDGED), str(tmp_path))


@pytest.mark.parametrize(
  ("init", "own_runs", "folders"),
  [({}, False, ["a", "b"]), ({"init.run": "other"}, False, [""]), ({"init.run": "other"}, True, ["a", "b"])],
)
def test_given_weights_are_judged_once_unless_variants_have_their_own(
  small, tmp_path, monkeypatch, init, own_runs, folders
):
  from avs_jax import evaluate

  judged = []
  monkeypatch.setattr(evaluate, "evaluate", lambda config, folder: judged.append((config.variants, folder)))
  monkeypatch.setattr(variants.report, "read", lambda folder: {})
  monkeypatch.setattr(variants, "_side_by_side", lambda *args: {})
  if own_runs:
    (tmp_path / "a" / "best").mkdir(parents=True)
  variants.evaluate_all(small({**JUDGED, **init}), str(tmp_path))
  assert [folder for _, folder in judged] == [
    str(tmp_path / name) if name else str(tmp_path) for name in folders
  ]
  assert not any(own for own, _ in judged)


@pytest.mark.parametrize(("module", "name"), [("train", "train"), ("evaluate", "evaluate")])
def test_several_runs_are_not_taken_for_one(small, tmp_path, module, name):
  call = getattr(importlib.import_module(f"avs_jax.{module}"), name)
  with pytest.raises(
    InputError, match=rf"the config has variants \(a, b\).* call avs_jax.variants.{name}_all"
  ) as told:
    call(small(JUDGED), str(tmp_path / "run"))
  assert "give avs_jax.variants.variant(config, 'a') for one" in str(told.value)
  assert not (tmp_path / "run").exists()
