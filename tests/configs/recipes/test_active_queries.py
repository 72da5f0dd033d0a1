"""BiasAVS's active queries train as their paper says, on each of the three benchmarks."""

import importlib
import json

import pytest

from avs_jax import losses, systems
from configs import common


def load(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("name", ("s4", "ms3", "avss"))
def test_active_queries_train_as_their_paper_says(name):
  config = load(name, "active_queries")
  model, rule = config.model, config.optimizer
  assert (model.visual, model.mode, model.num_queries, model.decoder_layers) == (
    "swin_base_w12",
    "paper",
    100,
    9,
  )
  assert config.data.curriculum == (("v1s", "v2", "v1m") if name == "avss" else ())
  assert (config.data.size, config.schedule.epochs, rule.name, rule.lr) == (384, 60, "adamw_all", 1e-3)
  assert rule.multipliers.to_dict() == {"visual_encoder": 0.1}
  assert {"visual_encoder", "!swin_adapt_1_0", "!swin_adapt_3_2"} <= set(rule.frozen)
  chosen = losses.settings(config.loss.to_dict())
  parts = ("bce", "cross_entropy", "dice", "soft_iou", "focal", "mix_dice", "matching_weight", "queries")
  assert {part: chosen[part] for part in parts if chosen[part]} == {"queries": 1.0}
  assert chosen["queries_weights"] == (5.0, 5.0, 2.0) and chosen["queries_drop"] == 0.4
  saved = json.loads(config.to_json_best_effort())
  assert common.from_json(saved, "config.json").to_dict() == config.to_dict()


def test_the_settings_are_the_systems_own_and_at_its_values():
  from configs.recipes.active_queries import SETTINGS

  system = systems.build("active_queries")
  assert {key: getattr(system, key) for key in SETTINGS} == SETTINGS
