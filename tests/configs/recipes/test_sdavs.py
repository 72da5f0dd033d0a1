"""SDAVS trains as section IV-A of its paper says, on each of the three benchmarks."""

import importlib
import json

import pytest

from avs_jax import losses, systems
from avs_jax.model import system_settings
from configs import common


def load(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize(("name", "epochs"), [("s4", 40), ("ms3", 60), ("avss", 40)])
def test_sdavs_trains_as_its_paper_says(name, epochs):
  config = load(name, "sdavs")
  rule, schedule = config.optimizer, config.schedule
  assert (config.data.size, schedule.batch, schedule.epochs) == (384, 4, epochs)
  assert (rule.name, rule.lr, schedule.decay, rule.frozen) == ("adamw_all", 5e-5, "steps", ("audio_encoder",))
  chosen = losses.settings(config.loss.to_dict())
  parts = (
    "bce",
    "cross_entropy",
    "dice",
    "soft_iou",
    "class_dice",
    "class_iou",
    "matching_weight",
    "alignment",
  )
  wanted = {"cross_entropy", "class_dice", "class_iou"} if name == "avss" else {"bce", "dice", "soft_iou"}
  assert {part: chosen[part] for part in parts if chosen[part]} == dict.fromkeys(wanted, 1.0)
  assert systems.build(**system_settings(config)).visual == "swin_base_w12"
  saved = json.loads(config.to_json_best_effort())
  assert common.from_json(saved, "config.json").to_dict() == config.to_dict()


def test_the_settings_are_the_systems_own_and_at_its_values():
  from configs.recipes.sdavs import SETTINGS

  system = systems.build("sdavs")
  # Built bare, it hears an encoder's embedding, as every system does.
  assert {key: getattr(system, key) for key in SETTINGS} == {**SETTINGS, "sound_map": "embedding"}
