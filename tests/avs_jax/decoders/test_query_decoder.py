"""Queries read a frame's tokens; their likeness to the pixels becomes the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.query_decoder import QueryDecoder, QueryMaskHead
from avs_jax.initialise import initialise

DECODER = QueryDecoder(layers=2, heads=4)


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


QUERIES, MEMORY = normal((2, 6, 16)), normal((2, 10, 16), 1)
FEATURE = jnp.abs(normal((2, 3, 5, 16), 2))


@pytest.fixture(scope="module")
def decoder():
  return initialise(DECODER, QUERIES, MEMORY, seed=0)


@pytest.fixture(scope="module")
def read(decoder):
  return DECODER.apply(decoder, QUERIES, MEMORY)


def test_queries_keep_their_shape_and_type(decoder, read):
  assert read.shape == (2, 6, 16) and read.dtype == jnp.float32
  half = jax.eval_shape(QueryDecoder(2, 4, dtype=jnp.bfloat16).apply, decoder, QUERIES, MEMORY)
  assert half.dtype == jnp.bfloat16


def test_the_order_of_tokens_does_not_matter_and_that_of_queries_is_kept(decoder, read):
  other = DECODER.apply(decoder, QUERIES[:, ::-1], MEMORY[:, ::-1])
  np.testing.assert_allclose(other[:, ::-1], read, rtol=1e-4, atol=1e-5)


def test_frames_do_not_see_one_another(decoder, read):
  other = DECODER.apply(decoder, QUERIES[::-1], MEMORY[::-1])
  np.testing.assert_allclose(other[::-1], read, rtol=1e-4, atol=1e-5)


def test_without_layers_the_queries_pass_unchanged():
  np.testing.assert_array_equal(QueryDecoder(layers=0).apply({}, QUERIES, MEMORY), QUERIES)


def test_dropout_acts_in_training_alone(decoder, read):
  dropped = DECODER.apply(decoder, QUERIES, MEMORY, train=True, rngs={"dropout": jax.random.key(0)})
  assert not np.allclose(dropped, read)
  np.testing.assert_array_equal(DECODER.apply(decoder, QUERIES, MEMORY), read)


def test_gradients_reach_every_parameter_and_recomputation_leaves_them_equal(decoder):
  def slope(module):
    return jax.jit(jax.grad(lambda v: jnp.sin(module.apply(v, QUERIES, MEMORY)).sum()))(decoder)

  first, other = slope(DECODER), slope(QueryDecoder(layers=2, heads=4, remat=True))
  for path, leaf in traverse_util.flatten_dict(first["params"]).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), first, other)


def head(num_classes=1):
  module = QueryMaskHead(num_classes)
  return module, initialise(module, QUERIES, FEATURE, seed=0)


@pytest.mark.parametrize("classes", [1, 7])
def test_logits_are_four_times_as_large_as_the_feature(classes):
  module, variables = head(classes)
  assert jax.eval_shape(module.apply, variables, QUERIES, FEATURE).shape == (2, 12, 20, classes)
  assert set(variables["params"]["fc_4"]) == {"kernel"}


def test_a_flat_mask_by_hand():
  """One query, two channels: the likeness runs through known numbers up to the last linear layer."""
  module = QueryMaskHead(1)
  queries, feature = jnp.asarray([[[1.0] + [0.5] * 7]]), jnp.full((1, 3, 3, 8), 2.0)
  variables = initialise(module, queries, feature, seed=0)
  params = jax.tree.map(np.zeros_like, variables["params"])
  params["mlp"]["layers_0"]["kernel"][0, 0] = 1.0  # the likeness 1 * 2 + 7 * 0.5 * 2 = 9 into the first unit
  params["mlp"]["layers_1"]["kernel"][0, 0] = 2.0  # 18
  params["mlp"]["layers_2"]["kernel"][0, 0] = -1.0  # -18 onto channel 0, whose feature is 2: -16
  params["fc_0"]["kernel"][1, 1, 0, 0] = 0.5  # -8 at every pixel, not rectified
  params["fc_2"]["kernel"][1, 1, 0, 0] = -3.0  # 24, rectified
  params["fc_2"]["bias"][0] = 1.0  # 25
  params["fc_4"]["kernel"][0, 0, 0, 0] = 0.1
  out = module.apply({"params": params}, queries, feature)
  np.testing.assert_allclose(out, np.full((1, 12, 12, 1), 2.5), rtol=1e-6)


def test_the_order_of_frames_is_kept_and_gradients_reach_every_parameter():
  module, variables = head()
  out = module.apply(variables, QUERIES, FEATURE)
  other = module.apply(variables, QUERIES[::-1], FEATURE[::-1])
  np.testing.assert_allclose(other[::-1], out, rtol=1e-4, atol=1e-5)
  slopes = jax.grad(lambda v: jnp.sin(module.apply(v, QUERIES, FEATURE)).sum())(variables)
  flat = traverse_util.flatten_dict(slopes["params"])
  assert all(np.isfinite(slope).all() and np.abs(slope).max() > 0 for slope in flat.values())


@pytest.mark.parametrize(("asked", "channels"), [(0, 2), (5, 5)])
def test_a_narrow_head_may_keep_a_wide_last_layer(asked, channels):
  module = QueryMaskHead(head_channels=asked)
  params = jax.eval_shape(module.init, jax.random.key(0), QUERIES, FEATURE)["params"]
  assert params["fc_2"]["kernel"].shape[-1] == channels
