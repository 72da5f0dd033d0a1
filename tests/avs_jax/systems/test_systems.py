"""Systems are built by name, and a wrong setting is refused before anything is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax.core import FrozenDict

from avs_jax import encoders, systems
from avs_jax.errors import InputError
from avs_jax.systems.system import System


def test_the_config_keys_are_the_attributes_and_lists_become_tuples():
  model = systems.build(
    "avsbench", visual="resnet50", num_classes=71, tpavi_stages=[3, 4], visual_args={"width": 8}
  )
  assert isinstance(model, System)
  assert (model.visual, model.num_classes, model.tpavi_stages) == ("resnet50", 71, (3, 4))
  assert model.visual_args == FrozenDict({"width": 8})
  hash(model)  # a static argument of jitted functions


@pytest.mark.parametrize("name", systems.NAMES)
def test_every_system_is_a_system_with_defaults_of_its_own(name):
  model = systems.build(name)
  assert isinstance(model, System) and model.visual in encoders.VISUAL and model.audio in encoders.AUDIO
  assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(System))


@pytest.mark.parametrize("name", systems.NAMES)
def test_every_system_built_bare_takes_an_encoders_embedding_of_each_second(name):
  model = systems.build(name, visual="conv_pyramid", visual_args={"width": 4})
  frames = jax.ShapeDtypeStruct((1, 2, 32, 32, 3), jnp.uint8)
  log_mel = jax.ShapeDtypeStruct((1, 2, 96, 64), jnp.float32)
  audio = jax.ShapeDtypeStruct((1, 2, model.bind({}).audio_encoder.dim), jnp.float32)

  def masks(frames, log_mel, audio):
    variables = model.init(jax.random.key(0), frames, log_mel)
    return model.apply(variables, frames, audio, method="segment").logits

  assert audio.shape[-1] == 128
  assert jax.eval_shape(masks, frames, log_mel, audio).shape == (1, 2, 32, 32, 1)


def test_an_unknown_system_is_refused_with_the_list_of_systems():
  with pytest.raises(InputError, match="model.system='avsbanch' is not known; choose one of avsbench"):
    systems.build("avsbanch")


def test_unknown_settings_are_refused_with_the_list_of_settings():
  with pytest.raises(InputError, match="avsbench has no setting tpavi_stage, widht; it knows .*tpavi_stages"):
    systems.build("avsbench", widht=3, tpavi_stage=(1,))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"visual": "vggish"}, "model.visual='vggish' is not known; choose one of .*pvt_v2_b5"),
    ({"audio": "resnet50"}, "model.audio='resnet50' is not known; choose one of vggish"),
    ({"dtype": "float16"}, "model.dtype='float16' is not known; choose one of float32, bfloat16"),
    ({"num_classes": 0}, "model.num_classes=0 is not a number of classes; give 1 for binary masks"),
    ({"tpavi_stages": (0, 4)}, r"model.tpavi_stages=\(0, 4\): give each of 1, 2, 3, 4 at most once"),
    ({"tpavi_stages": [4, 4]}, r"model.tpavi_stages=\(4, 4\): give each of 1, 2, 3, 4 at most once"),
    ({"tpavi_modes": ("av",)}, r"model.tpavi_modes=\('av',\): give each of 'va', 'vv' at most once"),
    ({"tpavi_modes": ()}, r"model.tpavi_modes is empty; .* or set model.tpavi_stages to \(\)"),
    ({"group_seconds": -5}, "model.group_seconds=-5 is negative; give 0 for the whole clip"),
  ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings, message):
  with pytest.raises(InputError, match=message):
    systems.build("avsbench", **settings)


def test_no_modes_are_needed_where_no_stage_hears():
  assert systems.build("avsbench", tpavi_stages=(), tpavi_modes=()).tpavi_modes == ()
