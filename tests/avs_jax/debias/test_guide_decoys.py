"""Decoys: sounds of nothing, held against every picture of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import model, systems
from avs_jax.debias.guide import Guided, decoy_loss
from avs_jax.errors import InputError
from avs_jax.types import Outputs
from configs import tiny

SMALL = {
  "visual": "conv_pyramid",
  "visual_args": {"width": 4},
  "audio_args": {"width": 1 / 32},
  "width": 8,
}


def test_the_loss_is_the_mean_over_all_pictures_and_all_decoys_and_leaves_padding_out(pairs):
  batch = pairs([[True, True], [True, False]], [0, 0])
  seen = jnp.asarray([[[[1.0]], [[2.0]]], [[[3.0]], [[100.0]]]])  # [B, T, N, E]
  decoys = jnp.asarray([[[1.0], [-1.0]], [[2.0], [0.5]]])  # [B, T, E]
  outputs = Outputs(logits=np.zeros((2, 2, 1, 1, 1), np.float32), seen_embedding=seen, decoy_embedding=decoys)
  # Second 0: pictures 1 and 3 with decoys 1 and 2. Second 1: picture 2 with decoys -1 and 0.5; the other is padding.
  expected = np.mean(np.log1p(np.exp([1, 2, 3, 6, -2, 1])))
  np.testing.assert_allclose(decoy_loss(outputs, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("system", ["avsbench", "sdavs"])
def test_decoys_change_nothing_but_their_own_embedding(system):
  guided = Guided(systems.build(system, **SMALL), form="localised")
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
  sound, decoy = (rng.normal(size=(2, 2, 96, 64)).astype(np.float32) for _ in range(2))

  def both(key):
    variables = guided.init(key, frames, sound)
    plain = guided.apply(variables, frames, sound)
    more = guided.apply(variables, frames, sound, decoy=decoy)
    swapped = guided.apply(variables, frames, decoy)
    return (
      plain.logits,
      more.logits,
      plain.similarity,
      more.similarity,
      more.decoy_embedding,
      swapped.heard_embedding,
    )

  plain, more, similarity, the_same, decoys, as_sound = jax.jit(both)(jax.random.key(0))
  np.testing.assert_array_equal(plain, more)
  np.testing.assert_allclose(similarity, the_same, atol=1e-6)
  np.testing.assert_allclose(decoys, as_sound, atol=1e-6)


def test_what_cannot_hold_decoys_against_pictures_says_so(pairs):
  config = tiny.get_config()
  with config.unlocked():
    config.debias.decoys = 1.0
  with pytest.raises(InputError, match="debias.decoys=1.0 needs a debias.guide"):
    model.build_objective(config)
  with pytest.raises(InputError, match="debias.decoys needs a debias.guide and training data"):
    decoy_loss(Outputs(logits=np.zeros((1, 1, 1, 1, 1), np.float32)), pairs([[True]], [0]))
  frames, sound = np.zeros((1, 1, 32, 32, 3), np.uint8), np.zeros((1, 1, 96, 64), np.float32)
  guided = Guided(systems.build("avsbench", **SMALL), form="euclidean")
  with pytest.raises(InputError, match="debias.guide='euclidean': choose cosine"):
    jax.eval_shape(lambda key: guided.init(key, frames, sound, decoy=sound)["params"], jax.random.key(0))
