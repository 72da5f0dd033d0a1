"""Three maps look at one another; the finest joins the map at stride 4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.multi_scale_decoder import Bottleneck, MultiScaleDecoder
from avs_jax.decoders.pixel_decoder import sine_position
from avs_jax.initial import ones
from avs_jax.initialise import initialise

DECODER = MultiScaleDecoder(width=16, layers=1, heads=4, points=2)


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


PYRAMID = tuple(normal((2, *size, 4 + i), i) for i, size in enumerate([(8, 12), (4, 6), (2, 3), (1, 2)]))


@pytest.fixture(scope="module")
def variables():
  start = initialise(DECODER, PYRAMID, seed=0)
  draw = np.random.default_rng(3)
  return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)


def test_the_feature_has_stride_4_and_the_maps_come_coarsest_first(variables):
  feature, maps = jax.eval_shape(DECODER.apply, variables, PYRAMID)
  assert feature.shape == (2, 8, 12, 16) and feature.dtype == jnp.float32
  assert [x.shape for x in maps] == [(2, 1, 2, 16), (2, 2, 3, 16), (2, 4, 6, 16)]
  half = MultiScaleDecoder(16, 1, 4, 2, dtype=jnp.bfloat16)
  assert jax.eval_shape(half.apply, variables, PYRAMID)[0].dtype == jnp.bfloat16


def test_normalised_positions_end_at_a_full_turn_whatever_the_size():
  for rows, cols in ((3, 5), (7, 4)):
    code = sine_position(rows, cols, 8, normalised=True)
    np.testing.assert_allclose(code[-1, -1, [0, 1, 4, 5]], [0, 1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(code[0, 0, 0], np.sin(2 * np.pi / rows), rtol=1e-5)


def test_an_adapter_by_hand_has_no_skip():
  module = Bottleneck(ones)
  x = jnp.asarray([[[1.0, 2.0, 3.0, -2.0], [-1.0, -1.0, -1.0, -1.0]]])
  out = module.apply(initialise(module, x, seed=0), x)
  np.testing.assert_allclose(out, [[[4] * 4, [0] * 4]])


def test_the_coarsest_map_reaches_the_feature_and_frames_do_not_see_one_another(variables):
  run = jax.jit(lambda *pyramid: DECODER.apply(variables, pyramid))
  feature, _ = run(*PYRAMID)
  other, _ = run(*PYRAMID[:3], PYRAMID[3].at[0].multiply(-2))
  change = np.abs(other - feature).max((1, 2, 3))
  assert change[0] > 1e-3 and change[1] == 0
  turned, _ = run(*(x[::-1] for x in PYRAMID))
  np.testing.assert_allclose(turned[::-1], feature, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_recomputation_leaves_them_equal(variables):
  def slope(module):
    def value(variables):
      feature, maps = module.apply(variables, PYRAMID)
      return jnp.sin(feature).sum() + sum(jnp.sin(x).sum() for x in maps)

    return jax.jit(jax.grad(value))(variables)

  first, other = slope(DECODER), slope(MultiScaleDecoder(16, 1, 4, 2, remat=True))
  for path, leaf in traverse_util.flatten_dict(first["params"]).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
