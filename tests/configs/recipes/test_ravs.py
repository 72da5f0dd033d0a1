"""RAVS's recipe: equation 12 on every benchmark, groups of section 4.1."""

import importlib

import pytest

from avs_jax import losses

PARTS = (
  "bce",
  "cross_entropy",
  "dice",
  "soft_iou",
  "class_dice",
  "class_iou",
  "focal",
  "mix_dice",
  "alignment",
)


@pytest.mark.parametrize("name", ["s4", "ms3", "avss", "tiny"])
def test_ravs_trains_with_the_three_mask_losses_and_a_tenth_of_the_alignment(name):
  config = importlib.import_module(f"configs.{name}").get_config("ravs")
  chosen = losses.settings(config.loss.to_dict())
  masks = ("cross_entropy", "class_dice", "class_iou") if name == "avss" else ("bce", "dice", "soft_iou")
  weights = {part: chosen[part] for part in PARTS if chosen[part]}
  assert weights == {**dict.fromkeys(masks, 1.0), "alignment": 0.1}
  assert chosen["alignment_threshold"] == 0.5 and chosen["matching"] == "none"
  assert config.optimizer.clip_norm == 1.0
  assert name == "tiny" or tuple(config.model.groups) == (14, 7, 5)


def test_following_ravs_leaves_the_other_systems_recipes_as_they_were():
  before = importlib.import_module("configs.avss").get_config().to_dict()
  importlib.import_module("configs.avss").get_config("ravs")
  assert importlib.import_module("configs.avss").get_config().to_dict() == before
  assert before["loss"]["alignment"] == 0.0 and before["optimizer"]["clip_norm"] == 0.0
