"""Every system has the five recipes, and all of them the same data, encoders and steps."""

import pytest

from avs_jax import systems as built
from avs_jax.errors import InputError
from experiments import study, systems


@pytest.mark.parametrize("arg", systems.SETTINGS)
def test_every_row_is_a_config_that_differs_from_the_others_in_system_and_recipe_alone(arg):
  found = systems.get_study(arg)
  configs = {row.name: study.configure(row, 1) for row in found.rows}
  assert len(configs) == len(built.NAMES) * 5
  for name, config in configs.items():
    system, way = name.split("-")
    assert config.model.system == system
    guides = {"robust": (0.1, "cosine"), "noised": (0.1, "cosine"), "grounded": (0.0, "localised")}
    assert (config.negatives.fraction, config.debias.guide) == guides.get(way, (0.0, "none"))
    assert (min(config.noising.mix_snr_db, default=0) < 0) == (way == "noised")
    assert config.debias.contrast == ("uncertainty" if way == "contrast" else "none")
    train = "train" if arg.startswith("real_media") else "made_train"  # recorded where there is a recording
    assert config.eval.noise_mix.kind == ("brown", train) and config.eval.noise_mix.snr_db == (10.0, 0.0)
  for section in ("data", "augment", "warmup", "schedule", "eval"):
    assert len({config[section].to_json() for config in configs.values()}) == 1, section
  encoders = ("visual", "visual_args", "audio", "audio_args")
  assert len({tuple(str(config.model[key]) for key in encoders) for config in configs.values()}) == 1


def test_the_table_has_a_line_for_every_row():
  found = systems.get_study()
  assert {line.row for line in found.tables[0].lines} == {row.name for row in found.rows}


def test_unknown_data_is_one_sentence():
  with pytest.raises(InputError, match="experiments/systems.py:s4: there is no such data; choose generated"):
    systems.get_study("s4")
