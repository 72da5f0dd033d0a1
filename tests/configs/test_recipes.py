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
def test_active_queries_train_as_their_paper_says(name):
  config = load(name, "active_queries")
  model, rule = config.model, config.optimizer
  assert (model.visual, model.mode, model.num_queries, model.decoder_layers) == (
    "swin_base_w12",
    "paper",
    100,
    9,
  )
  assert (config.data.size, config.schedule.epochs, rule.name, rule.lr) == (384, 60, "adamw_all", 1e-3)
  assert rule.multipliers.to_dict() == {"visual_encoder": 0.1}
  assert {"visual_encoder", "!swin_adapt_1_0", "!swin_adapt_3_2"} <= set(rule.frozen)
  chosen = losses.settings(config.loss.to_dict())
  parts = ("bce", "cross_entropy", "dice", "soft_iou", "focal", "mix_dice", "matching_weight", "queries")
  assert {part: chosen[part] for part in parts if chosen[part]} == {"queries": 1.0}
  assert chosen["queries_weights"] == (5.0, 5.0, 2.0) and chosen["queries_drop"] == 0.4
  saved = json.loads(config.to_json_best_effort())
  assert common.from_json(saved, "config.json").to_dict() == config.to_dict()


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
