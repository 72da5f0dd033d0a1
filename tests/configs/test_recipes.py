"""The benchmarks' configs follow the paper of the system they are asked for."""

import importlib
import json

import pytest

from avs_jax import losses
from configs import common

# Size, clips a batch, epochs, epochs in which the visual encoder stands still: AVSegFormer's released configs.
AVSEGFORMER = {"s4": (512, 2, 30, 5), "ms3": (512, 2, 60, 10), "avss": (224, 4, 30, 0)}


def load(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("name", AVSEGFORMER)
def test_avsegformer_trains_as_its_authors_trained_it(name):
  config = load(name, "avsegformer")
  size, batch, epochs, still = AVSEGFORMER[name]
  assert (config.data.size, config.schedule.batch, config.schedule.epochs) == (size, batch, epochs)
  assert config.optimizer.freeze_epochs.to_dict() == ({"visual_encoder": still} if still else {})
  rule = config.optimizer
  assert (rule.name, rule.lr, rule.weight_decay) == ("adamw_all", 2e-5, 0.01)
  assert (config.schedule.decay, config.schedule.lr_warmup_steps, rule.clip_norm) == ("constant", 0, 0.0)
  chosen = losses.settings(config.loss.to_dict())
  main = "cross_entropy" if name == "avss" else "dice"
  parts = ("bce", "cross_entropy", "dice", "soft_iou", "focal", "mix_dice", "matching_weight")
  assert {part: chosen[part] for part in parts if chosen[part]} == {main: 1.0, "mix_dice": 0.1}
  assert (config.model.width, config.model.num_queries, config.model.mixer) == (256, 300, "released")


@pytest.mark.parametrize("name", AVSEGFORMER)
def test_following_one_paper_leaves_the_other_as_it_was(name):
  before = load(name).to_dict()
  config = load(name, "avsegformer")
  assert (
    common.from_json(json.loads(config.to_json_best_effort()), "config.json").to_dict() == config.to_dict()
  )
  assert load(name).to_dict() == before
  assert before["optimizer"]["name"] == "adam" and before["data"]["size"] == 224


def test_a_benchmark_that_a_paper_does_not_know_keeps_its_recipe():
  config = common.get_config()
  before = config.to_dict()
  common.follow_paper(config, "s4")
  common.select_system(config, "avsegformer")
  common.follow_paper(config, "elsewhere")
  after = {**config.to_dict(), "model": before["model"]}
  assert after == before
