"""From a config to a data set: VPO by name, its masks by the model's classes, directions where they are asked for."""

import pytest

from avs_jax.errors import InputError
from configs import tiny
from data_pipelines import sources
from data_pipelines.clips import PAIR, SWITCH


def config(**changes):
  chosen = tiny.get_config()
  with chosen.unlocked():
    chosen.data.seconds = 2
    for name, value in changes.items():
      section, key = name.split("_", 1)
      chosen[section][key] = value
  return chosen


def test_vpo_stand_ins_follow_the_models_classes_and_its_ears():
  bits = sources.build(config(data_name="vpo_msmi"), "test")
  classes = sources.build(config(data_name="vpo_msmi", model_num_classes=22, model_stereo=True), "test")
  assert (bits.num_classes, classes.num_classes) == (1, 9)
  assert bits.clip(0).pan is None and classes.clip(0).pan.shape == (2, 64)
  kinds = {kind for index in range(len(bits)) for kind in sources.Limited(bits, 4).kinds(index)}
  assert kinds <= {PAIR, SWITCH}


def test_real_data_without_directions_are_refused_to_a_model_that_asks(tmp_path):
  with pytest.raises(InputError, match="s4 does not say where sounds come from"):
    sources.build(config(data_root=str(tmp_path), model_stereo=True), "train")
  with pytest.raises(InputError, match="a packed copy does not say where"):
    sources.build(
      config(data_name="vpo_ss", data_root=str(tmp_path), data_packed=True, model_stereo=True), "train"
    )
  with pytest.raises(InputError, match=r"VPO-SS: .* set data\.root to the folder"):
    sources.build(config(data_name="vpo_ss", data_root=str(tmp_path)), "train")
