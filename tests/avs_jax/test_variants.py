"""Variants are trained in turn and set side by side; a mistake in the last is noticed before the first is trained."""

import json

import pytest
from ml_collections import ConfigDict

from avs_jax import variants
from avs_jax.errors import InputError
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
