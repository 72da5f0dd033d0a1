"""Queries read where their masks lie; dormant ones pass through, and the others do not see them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.masked_decoder import MaskedDecoder, MaskedLayer, open_where
from avs_jax.initialise import initialise

DECODER = MaskedDecoder(3, width=16, num_queries=5, layers=2, heads=4)
LAYER = MaskedLayer(4, True, jnp.float32)


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


PROMPT, FEATURE = normal((2, 5, 16)), normal((2, 8, 12, 16), 1)
LEVELS = tuple(normal((2, *size, 16), 2 + i) for i, size in enumerate([(1, 2), (2, 3), (4, 6)]))
ACTIVE = jnp.asarray([[True, False, True, False, True], [True, True, False, False, False]])


@pytest.fixture(scope="module")
def variables():
  start = initialise(DECODER, PROMPT, FEATURE, LEVELS, seed=0)
  draw = np.random.default_rng(3)
  return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)


def test_predictions_come_before_the_first_layer_and_after_each(variables):
  masks, classes = jax.eval_shape(DECODER.apply, variables, PROMPT, FEATURE, LEVELS)
  assert [x.shape for x in masks] == [(2, 8, 12, 5)] * 3 and [x.shape for x in classes] == [(2, 5, 3)] * 3
  half = MaskedDecoder(3, 16, 5, 2, 4, dtype=jnp.bfloat16)
  masks, classes = jax.eval_shape(half.apply, variables, PROMPT, FEATURE, LEVELS)
  assert masks[0].dtype == classes[0].dtype == jnp.float32


def test_a_query_sees_cells_of_its_mask_and_one_without_any_sees_all():
  expected = jnp.asarray([[[1.0, -1.0, 0.0], [-1.0, -2.0, -3.0]]])
  assert open_where(expected).tolist() == [[[True, False, True], [True, True, True]]]


def test_forbidden_cells_change_nothing_and_opened_ones_do():
  x, position, memory = normal((1, 5, 16)), normal((1, 5, 16), 1), normal((1, 6, 16), 2)
  allowed = jnp.ones((1, 5, 6), bool).at[:, :, 4:].set(False)
  variables = initialise(LAYER, x, position, memory, memory, allowed, None, seed=0)
  run = jax.jit(lambda memory: LAYER.apply(variables, x, position, memory, memory, allowed, None))
  out = run(memory)
  np.testing.assert_allclose(run(memory.at[:, 4:].add(9)), out, rtol=1e-5, atol=1e-6)
  assert np.abs(run(memory.at[:, :4].add(9)) - out).max() > 0.1


def test_dormant_queries_leave_as_they_came_and_nobody_sees_them():
  x, position, memory = normal((2, 5, 16)), normal((1, 5, 16), 1), normal((2, 6, 16), 2)
  allowed = jnp.ones((2, 5, 6), bool)
  variables = initialise(LAYER, x, position, memory, memory, allowed, ACTIVE, seed=0)
  run = jax.jit(lambda x: LAYER.apply(variables, x, position, memory, memory, allowed, ACTIVE))
  out, dormant = run(x), np.asarray(~ACTIVE)
  np.testing.assert_array_equal(np.asarray(out)[dormant], np.asarray(x)[dormant])
  other = run(jnp.where(ACTIVE[..., None], x, 7.0))
  np.testing.assert_array_equal(np.asarray(other)[~dormant], np.asarray(out)[~dormant])
  # Alone, an active query gets what it got in company of dormant ones.
  alone = LAYER.apply(variables, x[1:, :2], position[:, :2], memory[1:], memory[1:], allowed[1:, :2], None)
  np.testing.assert_allclose(alone[0], out[1, :2], rtol=1e-4, atol=1e-5)


def test_the_order_of_frames_is_kept(variables):
  run = jax.jit(lambda *x: DECODER.apply(variables, *x))
  masks, classes = run(PROMPT, FEATURE, LEVELS, ACTIVE)
  turned = run(PROMPT[::-1], FEATURE[::-1], tuple(x[::-1] for x in LEVELS), ACTIVE[::-1])
  np.testing.assert_allclose(turned[0][-1][::-1], masks[-1], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(turned[1][-1][::-1], classes[-1], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_recomputation_leaves_them_equal(variables):
  def slope(module):
    def value(variables):
      masks, classes = module.apply(variables, PROMPT, FEATURE, LEVELS)
      return sum(jnp.sin(x).sum() for x in (*masks, *classes))

    return jax.jit(jax.grad(value))(variables)

  first = slope(DECODER)
  other = slope(MaskedDecoder(3, width=16, num_queries=5, layers=2, heads=4, remat=True))
  for path, leaf in traverse_util.flatten_dict(first["params"]).items():
    assert np.isfinite(leaf).all(), path
    if path[-2:] != ("k_proj", "bias"):  # the same for all keys: softmax does not see it
      assert np.abs(leaf).max() > 0, path
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
