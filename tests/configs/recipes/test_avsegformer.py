"""AVSegFormer trains as its released configs do, on each of the three benchmarks."""

import importlib

import pytest

from avs_jax import losses, systems

# Size, clips a batch, epochs, epochs in which the visual encoder stands still.
RELEASED = {"s4": (512, 2, 30, 5), "ms3": (512, 2, 60, 10), "avss": (224, 4, 30, 0)}


def load(name, *arguments):
  return importlib.import_module(f"configs.{name}").get_config(*arguments)


@pytest.mark.parametrize("name", RELEASED)
def test_avsegformer_trains_as_its_authors_trained_it(name):
  config = load(name, "avsegformer")
  size, batch, epochs, still = RELEASED[name]
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


def test_the_settings_are_the_systems_own_and_at_its_values():
  from configs.recipes.avsegformer import SETTINGS

  system = systems.build("avsegformer")
  assert {key: getattr(system, key) for key in SETTINGS} == SETTINGS
