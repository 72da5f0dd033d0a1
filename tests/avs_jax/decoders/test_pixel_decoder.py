"""Tokens of three levels keep their places; the mask feature lies at stride 4 and is rectified."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.pixel_decoder import PixelDecoder, cell_centres, sine_position
from avs_jax.initialise import initialise

SMALL = {"width": 16, "layers": 2, "heads": 4, "points": 2}
CHANNELS = (4, 6, 8, 10)


def pyramid(rows=8, cols=12, count=2, seed=0):
  draw = np.random.default_rng(seed)
  return [
    jnp.asarray(draw.standard_normal((count, rows >> i, cols >> i, channels)), jnp.float32)
    for i, channels in enumerate(CHANNELS)
  ]


@pytest.fixture(scope="module")
def decoder():
  return PixelDecoder(**SMALL), initialise(PixelDecoder(**SMALL), pyramid(), seed=0)


@pytest.fixture(scope="module")
def plain(decoder):
  module, variables = decoder
  return module.apply(variables, pyramid())


def test_positions_count_rows_and_columns_from_one():
  code = sine_position(3, 5, 8)
  assert code.shape == (3, 5, 8) and code.dtype == np.float32
  expected = [np.sin(2), np.cos(2), np.sin(2 / 100), np.cos(2 / 100)]  # row 2; 10000 ** (2 * 1 / 4) = 100
  np.testing.assert_allclose(code[1, 4, :4], expected, rtol=1e-6)
  expected = [np.sin(5), np.cos(5), np.sin(5 / 100), np.cos(5 / 100)]  # column 5
  np.testing.assert_allclose(code[1, 4, 4:], expected, rtol=1e-6)


def test_centres_of_cells_by_hand():
  expected = [(0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)]
  np.testing.assert_allclose(cell_centres(((1, 2), (2, 1))), expected)


def test_shapes_for_maps_of_any_size(decoder, plain):
  module, variables = decoder
  tokens, feature = plain
  assert tokens.shape == (2, 4 * 6 + 2 * 3 + 1 * 1, 16) and feature.shape == (2, 8, 12, 16)
  assert feature.dtype == jnp.float32 and feature.min() == 0 and feature.max() > 0
  half = PixelDecoder(**SMALL, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(half.apply, variables, pyramid(16, 8, 1))
  assert [(x.shape, x.dtype) for x in shapes] == [
    ((1, 8 * 4 + 4 * 2 + 2 * 1, 16), jnp.bfloat16),
    ((1, 16, 8, 16), jnp.bfloat16),
  ]


def test_group_norms_have_eight_channels_a_group_as_published(decoder):
  maps = pyramid()
  wide = PixelDecoder(layers=0)
  variables = initialise(wide, maps, seed=0)
  _, kept = wide.apply(
    variables,
    maps,
    capture_intermediates=lambda module, _: module.name == "in_proj_0_1",
    mutable="intermediates",
  )
  normed = np.asarray(kept["intermediates"]["in_proj_0_1"]["__call__"][0]).reshape(2, -1, 32, 8)
  np.testing.assert_allclose(normed.mean((1, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(normed.std((1, 3)), 1, atol=1e-2)


def test_frames_do_not_see_one_another(decoder, plain):
  module, variables = decoder
  turned = module.apply(variables, [level[::-1] for level in pyramid()])
  for one, other in zip(turned, plain, strict=True):
    np.testing.assert_allclose(one, other[::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradients_reach_every_parameter_and_recomputation_leaves_them_equal():
  maps = pyramid(8, 8, 1)
  settings = {**SMALL, "layers": 1}
  draw = np.random.default_rng(
    1
  )  # fresh attention looks nowhere in particular: no gradient for the positions
  variables = jax.tree.map(
    lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32),
    initialise(PixelDecoder(**settings), maps, seed=0),
  )

  def slope(module):
    def total(variables):
      tokens, feature = module.apply(variables, maps)
      return jnp.sin(tokens).sum() + jnp.sin(feature).sum()

    return jax.jit(jax.grad(total))(variables)

  first, other = slope(PixelDecoder(**settings)), slope(PixelDecoder(**settings, remat=True))
  for path, leaf in traverse_util.flatten_dict(first["params"]).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), first, other)


def test_dropout_acts_in_training_alone(decoder, plain):
  module, variables = decoder
  dropped, _ = module.apply(variables, pyramid(), train=True, rngs={"dropout": jax.random.key(0)})
  assert not np.allclose(dropped, plain[0])
  still = PixelDecoder(**SMALL, dropout=0.0)
  tokens, _ = still.apply(variables, pyramid(), train=True)
  np.testing.assert_allclose(tokens, plain[0], rtol=1e-5, atol=1e-6)


@pytest.mark.golden
def test_positions_and_references_equal_the_published_ones(golden, rule):
  wide, kept = (np.load(golden(f"avsegformer/ms3_pvt2_{size}.npz")) for size in (512, 224))
  for side, arrays in ((64, wide), (32, wide), (16, wide), (28, kept), (14, kept), (7, kept)):
    rule.check(sine_position(side, side, 256).transpose(2, 0, 1), arrays[f"posenc_{side}"])
  centres = cell_centres(((28, 28), (14, 14), (7, 7)))
  rule.check(np.broadcast_to(centres[None, :, None], (5, 1029, 3, 2)), kept["reference_points"])
