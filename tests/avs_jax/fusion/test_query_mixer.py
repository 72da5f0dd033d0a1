"""Queries hear the sound of their own frame; the mixer opens and closes channels by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.errors import InputError
from avs_jax.fusion.query_mixer import CrossModalMixer, QueryGenerator
from avs_jax.initialise import initialise

GENERATOR = QueryGenerator(width=16, num_queries=6, layers=2, heads=4)


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def generator():
  return initialise(GENERATOR, normal((1, 1, 16)), seed=0)


def test_queries_come_in_the_size_asked_for(generator):
  out = GENERATOR.apply(generator, normal((3, 1, 16)))
  assert out.shape == (3, 6, 16) and out.dtype == jnp.float32
  half = QueryGenerator(16, 6, 2, 4, jnp.bfloat16).apply(generator, normal((3, 1, 16)))
  assert half.dtype == jnp.bfloat16


def test_every_frame_hears_its_own_sound(generator):
  aud = normal((3, 1, 16))
  out = GENERATOR.apply(generator, aud)
  np.testing.assert_allclose(GENERATOR.apply(generator, aud[::-1]), out[::-1], rtol=1e-5, atol=1e-6)
  assert np.abs(out[0] - out[1]).max() > 1e-2


def test_with_one_token_the_keys_of_the_sound_have_no_effect_and_no_gradient(generator):
  aud = normal((2, 1, 16))
  slopes = jax.grad(lambda v: jnp.square(GENERATOR.apply(v, aud)[..., 0]).sum())(generator)
  for path, slope in traverse_util.flatten_dict(slopes["params"]).items():
    assert np.isfinite(slope).all(), path
    if path[1:] == ("cross_attn", "in_proj_weight"):
      assert not np.abs(slope[:32]).any() and np.abs(slope[32:]).max() > 0, path
    else:
      assert np.abs(slope).max() > 0, path


def mixer(form, vis, aud, **changes):
  module = CrossModalMixer(heads=2, form=form)
  variables = initialise(module, vis, aud, seed=0)
  for name, values in changes.items():
    layer, leaf = name.split("__")
    variables["params"][layer][leaf] = np.asarray(values, np.float32)
  return module.apply(variables, vis, aud), (module, variables)


def test_one_pixel_by_hand_in_both_forms():
  vis, aud = normal((1, 1, 1, 4)), normal((1, 4), 1)
  pass_on = {
    "kv_proj__kernel": np.concatenate([np.zeros((4, 4)), np.eye(4)], 1),
    "proj__kernel": np.eye(4),
    "proj__bias": [0.0, 1.0, -1.0, 2.0],
  }
  weight = vis + jnp.asarray([0.0, 1.0, -1.0, 2.0]).reshape(1, 1, 1, 4)
  released, _ = mixer("released", vis, aud, **pass_on)
  np.testing.assert_allclose(released, vis / (1 + jnp.exp(-weight)), rtol=1e-5)
  paper, _ = mixer("paper", vis, aud, **pass_on)
  np.testing.assert_allclose(paper, vis * (1 + weight), rtol=1e-5)


def test_two_pixels_are_pooled_by_their_likeness_to_the_sound():
  vis = jnp.asarray([[[[1.0, 0.0], [0.0, 3.0]]]])  # [N, h, w, D]
  aud = jnp.asarray([[2.0, 0.0]])
  module = CrossModalMixer(heads=1, form="paper")
  variables = initialise(module, vis, aud, seed=0)
  variables["params"] = {
    "q_proj": {"kernel": np.eye(2, dtype=np.float32)},
    "kv_proj": {"kernel": np.concatenate([np.eye(2), np.eye(2)], 1).astype(np.float32)},
    "proj": {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)},
  }
  share = 1 / (1 + np.exp(-2 / np.sqrt(2)))  # softmax of (2, 0) / sqrt(2)
  weight = np.array([share, 3 * (1 - share)])
  expected = np.asarray(vis) * (1 + weight)
  np.testing.assert_allclose(module.apply(variables, vis, aud), expected, rtol=1e-5)


def test_a_closed_gate_shuts_every_channel():
  vis, aud = normal((2, 3, 5, 4)), normal((2, 4), 1)
  closed, _ = mixer("released", vis, aud, proj__bias=np.full(4, -200.0))
  np.testing.assert_array_equal(closed, jnp.zeros_like(vis))


@pytest.mark.parametrize("form", ["released", "paper"])
def test_permuting_pixels_permutes_the_map_and_gradients_reach_every_parameter(form):
  vis, aud = normal((2, 3, 5, 4)), normal((2, 4), 1)
  out, (module, variables) = mixer(form, vis, aud)
  turned = module.apply(variables, vis[:, ::-1, ::-1], aud)
  np.testing.assert_allclose(turned, out[:, ::-1, ::-1], rtol=1e-5, atol=1e-6)
  slopes = jax.grad(lambda v: jnp.square(module.apply(v, vis, aud)).sum())(variables)
  flat = traverse_util.flatten_dict(slopes["params"])
  assert all(np.isfinite(slope).all() and np.abs(slope).max() > 0 for slope in flat.values())


def test_an_unknown_mixer_is_refused_with_the_known_ones():
  with pytest.raises(InputError, match="model.mixer='open' is not known; choose one of released, paper"):
    mixer("open", normal((1, 1, 1, 4)), normal((1, 4)))
