"""A system that asks for it hears where a sound comes from; the others are as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import step, systems
from avs_jax.debias.contrast import Contrast
from avs_jax.errors import InputError
from avs_jax.types import Batch, Stereo

SMALL = {"visual": "conv_pyramid", "visual_args": {"width": 4}, "audio_args": {"width": 1 / 64}}
FRAMES = np.zeros((1, 2, 32, 32, 3), np.uint8)
SOUND = np.zeros((1, 2, 96, 64), np.float32)
PAN = np.random.default_rng(0).standard_normal((1, 2, 64)).astype(np.float32)
SETTINGS = {
  "avsbench": {"width": 8, "tpavi_stages": (4,)},
  "ravs": {"width": 32, "groups": (4, 3, 2), "merge_layers": 1},
  "sdavs": {"width": 16, "sound_map": "embedding"},
}


def shapes(module, sound):
  """Shapes of the logits and of the audio features."""

  def run():
    outputs, _ = module.init_with_output(jax.random.key(0), FRAMES, sound)
    return outputs.logits, outputs.audio_features

  return tuple(found.shape for found in jax.eval_shape(run))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_system_takes_a_direction_behind_its_embedding(name):
  module = systems.build(name, **SMALL, **SETTINGS[name], stereo=True)
  assert shapes(module, Stereo(SOUND, PAN)) == ((1, 2, 32, 32, 1), (1, 2, 128 + 64))


def test_the_direction_is_heard_as_it_is_given():
  module = systems.build("avsbench", **SMALL, **SETTINGS["avsbench"], stereo=True)
  plain = systems.build("avsbench", **SMALL, **SETTINGS["avsbench"])
  variables = {"params": {"audio_encoder": _audio_variables(plain)}}
  heard = module.apply(variables, Stereo(SOUND, PAN), method="listen")
  np.testing.assert_array_equal(heard[..., 128:], PAN)
  np.testing.assert_array_equal(heard[..., :128], plain.apply(variables, SOUND, method="listen"))


def _audio_variables(module):
  tree = jax.eval_shape(lambda: module.init(jax.random.key(0), SOUND, method="listen"))
  draw = np.random.default_rng(1)
  leaves = tree["params"]["audio_encoder"]
  return jax.tree.map(lambda x: draw.standard_normal(x.shape).astype(np.float32), leaves)


@pytest.mark.parametrize(("stereo", "sound"), [(True, SOUND), (False, Stereo(SOUND, PAN))])
def test_a_sound_of_the_other_sort_is_refused(stereo, sound):
  module = systems.build("avsbench", **SMALL, **SETTINGS["avsbench"], stereo=stereo)
  with pytest.raises(InputError, match="change model.stereo"):
    shapes(module, sound)


def test_a_batch_gives_its_direction_to_those_who_ask():
  batch = Batch(FRAMES, SOUND, np.zeros((1, 2, 32, 32), np.int32), *(np.ones((1, 2), bool),) * 2,
                condition=np.zeros(1, np.int32), index=np.zeros(1, np.int32), pan=PAN)  # fmt: skip
  plain, asks = (systems.build("avsbench", **SMALL, **SETTINGS["avsbench"], stereo=s) for s in (False, True))
  assert step.sound_of(plain, batch) is SOUND
  assert step.sound_of(asks, batch).pan is PAN
  with pytest.raises(InputError, match="needs sounds with a direction"):
    step.sound_of(asks, batch.replace(pan=None))


def test_noising_a_log_mel_leaves_its_direction_alone():
  module = systems.build("avsbench", **SMALL, **SETTINGS["avsbench"], stereo=True)
  wrapped = Contrast(module, "uncertainty", None, where="log_mel")
  found = jax.eval_shape(
    lambda: wrapped.init_with_output(jax.random.key(0), Stereo(SOUND, PAN), method="listen")
  )[0]
  assert found.shape == (1, 2, 2 * (128 + 64)) and found.dtype == jnp.float32


def test_cells_of_a_sounds_map_have_no_direction():
  module = systems.build("sdavs", **SMALL, width=16, sound_map="features", stereo=True)
  with pytest.raises(InputError, match="choose 'embedding'"):
    shapes(module, Stereo(SOUND, PAN))
