"""Naming another system by flag gives the config that system's settings."""

import json

import jax
import pytest

from avs_jax import systems
from avs_jax.errors import InputError
from avs_jax.model import build_model, example_inputs, system_settings
from configs import common, quickstart, real_media, tiny
from configs.recipes.switch import settle


@pytest.mark.parametrize("name", sorted(common.SYSTEMS))
@pytest.mark.parametrize("before", ["avsbench", "sdavs"])
def test_any_system_can_be_named_by_flag_and_the_config_is_still_readable(name, before):
  config = tiny.get_config(before)
  config.model.system = name  # what --config.model.system=NAME does
  settle(config)
  assert config.is_locked and config.model.width == tiny.SMALL["width"]
  assert isinstance(systems.build(**system_settings(config)), systems.SYSTEMS[name])
  again = common.from_json(json.loads(config.to_json_best_effort()), "config.json")
  assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("name", sorted(common.SYSTEMS))
@pytest.mark.parametrize("file", [quickstart, real_media])
def test_a_stand_ins_config_has_a_width_that_every_system_can_have(file, name):
  config = file.get_config()
  config.model.system = name
  settle(config)
  model = build_model(config)
  jax.eval_shape(lambda key: model.init(key, *example_inputs(config)), jax.random.key(0))


def test_a_config_of_its_own_system_and_an_unknown_one_stay_as_they_are():
  config = tiny.get_config("sdavs")
  config.model.stc = False
  before = config.to_dict()
  assert settle(config).to_dict() == before
  config.model.system = "sdav"
  assert settle(config).model.system == "sdav" and not config.model.stc


def test_a_data_set_named_by_flag_as_papers_do_gets_the_name_used_here():
  config = tiny.get_config()
  config.data.name = "V1M"
  assert settle(config).data.name == "ms3"
  config.data.name = "V9"
  with pytest.raises(InputError, match="data.name='V9' is not a data set"):
    settle(config)
