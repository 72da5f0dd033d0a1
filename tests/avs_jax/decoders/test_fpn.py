"""The parts of AVSBench's decoder, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.fpn import ASPP, FeatureFusion, MaskHead, ResidualUnit
from avs_jax.initialise import initialise

RANDOM = np.random.default_rng(0)


def draw(*shape):
  return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


PARTS = {
  "neck": (ASPP(6), (draw(2, 5, 7, 3),), (2, 5, 7, 6)),
  "unit": (ResidualUnit(), (draw(2, 5, 7, 4),), (2, 5, 7, 4)),
  "coarsest": (FeatureFusion(), (draw(2, 2, 3, 4),), (2, 4, 6, 4)),
  "fusion": (FeatureFusion(), (draw(2, 4, 6, 4), draw(2, 4, 6, 4)), (2, 8, 12, 4)),
  "head": (MaskHead(5, 16), (draw(2, 5, 7, 16),), (2, 10, 14, 5)),
}
parts = pytest.mark.parametrize(("module", "inputs", "shape"), PARTS.values(), ids=PARTS)


def constant(module, *inputs, **values):
  """Variables whose leaves are constants: a leaf's value is looked up under its layer's or its own name."""
  flat = traverse_util.flatten_dict(initialise(module, *inputs, seed=0))
  return traverse_util.unflatten_dict(
    {
      path: np.full_like(leaf, values.get(f"{path[-2]}_{path[-1]}", values.get(path[-1], 0)))
      for path, leaf in flat.items()
    }
  )


def impulse(module, *inputs):
  """Variables under which each 3 x 3 convolution passes its input on unchanged."""
  flat = traverse_util.flatten_dict(constant(module, *inputs))
  for path, leaf in flat.items():
    if path[-1] == "kernel":
      leaf[leaf.shape[0] // 2, leaf.shape[1] // 2] = np.eye(*leaf.shape[2:])
  return traverse_util.unflatten_dict(flat)


@parts
def test_shapes_types_and_batch_order(module, inputs, shape):
  variables = initialise(module, *inputs, seed=0)
  out = module.apply(variables, *inputs)
  assert out.shape == shape and out.dtype == jnp.float32
  swapped = module.apply(variables, *(x[::-1] for x in inputs))
  np.testing.assert_allclose(swapped, out[::-1], rtol=1e-5, atol=1e-6)


@parts
def test_gradients_are_finite_and_reach_every_parameter(module, inputs, shape):
  variables = initialise(module, *inputs, seed=0)
  weigh = draw(*shape)
  gradient = jax.grad(lambda params: (module.apply({"params": params}, *inputs) * weigh).sum())(
    variables["params"]
  )
  for path, leaf in traverse_util.flatten_dict(gradient).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@parts
def test_half_precision_stays_near_and_keeps_float32_parameters(module, inputs, shape):
  variables = initialise(module, *inputs, seed=0)
  exact = module.apply(variables, *inputs)
  half = module.clone(dtype=jnp.bfloat16)
  rough = half.apply(variables, *(x.astype(jnp.bfloat16) for x in inputs))
  assert rough.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
  assert np.abs(rough.astype(jnp.float32) - exact).max() < 0.03 * np.abs(exact).max()


def test_the_neck_sums_one_tap_of_each_dilation():
  x = jnp.zeros((1, 41, 41, 1)).at[0, 20, 20, 0].set(1.0)
  module = ASPP(1)
  out = np.asarray(module.apply(constant(module, x, kernel=1, bias=0.25), x))[0, :, :, 0]
  expected = np.full((41, 41), 1.0)  # four biases of a quarter
  for rate in (3, 6, 12, 18):
    for row in (-rate, 0, rate):
      for col in (-rate, 0, rate):
        expected[20 + row, 20 + col] += 1
  np.testing.assert_allclose(out, expected, rtol=1e-6)
  assert out[20, 20] == 5  # the centre is hit by all four


def test_the_neck_is_linear_apart_from_its_biases():
  module, (x,), _ = PARTS["neck"]
  variables = initialise(module, x, seed=0)
  out, doubled, nothing = (module.apply(variables, factor * x) for factor in (1, 2, 0))
  np.testing.assert_allclose(doubled - nothing, 2 * (out - nothing), rtol=1e-4, atol=1e-5)


def test_fresh_neck_weights_are_normal_with_deviation_one_hundredth():
  kernel = initialise(ASPP(64), jnp.zeros((1, 4, 4, 64)), seed=0)["params"]["conv2d_list_3"]["kernel"]
  assert abs(kernel.std() - 0.01) < 3e-4 and abs(kernel.mean()) < 3e-4


def test_the_skip_of_a_residual_unit_is_rectified():
  x = jnp.array([-3.0, 2.0]).reshape(1, 1, 2, 1)
  module = ResidualUnit()
  silent = module.apply(constant(module, x), x)
  np.testing.assert_array_equal(silent.reshape(-1), [0, 2])
  doubled = module.apply(impulse(module, x), x)  # ReLU(ReLU(x)) + ReLU(x)
  np.testing.assert_array_equal(doubled.reshape(-1), [0, 4])


def test_the_coarsest_fusion_step_refines_and_doubles_with_corners_aligned():
  x = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
  module = FeatureFusion()
  assert set(initialise(module, x, seed=0)["params"]) == {"resConfUnit2"}
  out = module.apply(constant(module, x), x)
  np.testing.assert_allclose(out[0, :, :, 0], [[1, 5 / 3, 7 / 3, 3]] * 2, rtol=1e-6)


def test_a_fusion_step_adds_the_rectified_finer_map_before_refining():
  coarse, fine = (jnp.full((1, 2, 2, 1), value) for value in (1.0, 2.0))
  module = FeatureFusion()
  silent = constant(module, coarse, fine)
  np.testing.assert_allclose(module.apply(silent, coarse, fine), np.full((1, 4, 4, 1), 3), rtol=1e-6)
  np.testing.assert_allclose(module.apply(silent, coarse, -fine), np.full((1, 4, 4, 1), 1), rtol=1e-6)
  passing = impulse(module, coarse, fine)  # units double: 2 * (1 + 2 * 2)
  np.testing.assert_allclose(module.apply(passing, coarse, fine), np.full((1, 4, 4, 1), 10), rtol=1e-6)


def test_a_fusion_step_takes_the_size_of_an_odd_finer_map():
  coarse, fine = draw(1, 8, 10, 2), draw(1, 7, 9, 2)
  module = FeatureFusion()
  variables = initialise(module, coarse, fine, seed=0)
  assert module.apply(variables, coarse, fine).shape == (1, 14, 18, 2)
  ramp = jnp.broadcast_to(jnp.linspace(0.0, 1.0, 8).reshape(1, 8, 1, 1), (1, 8, 10, 2))
  out = module.apply(constant(module, coarse, fine), ramp, 0 * fine)
  np.testing.assert_allclose(out[0, :, 0, 0], np.linspace(0, 1, 14), atol=1e-6)  # corners keep their values


def test_the_head_doubles_between_its_convolutions_with_pixels_as_squares():
  x = jnp.zeros((1, 1, 2, 8)).at[0, 0, 1].set(4.0)
  module = MaskHead(1, 8)
  variables = impulse(module, x)
  variables["params"]["output_conv_4"]["bias"][:] = -1.5
  out = module.apply(variables, x)
  np.testing.assert_allclose(out[0, :, :, 0], [[-1.5, -0.5, 1.5, 2.5]] * 2, rtol=1e-6)


def test_the_head_rectifies_its_last_hidden_layer_only():
  x = jnp.full((1, 2, 2, 8), -4.0)
  module = MaskHead(2, 8)
  variables = impulse(module, x)
  np.testing.assert_array_equal(module.apply(variables, x), np.zeros((1, 4, 4, 2)))
  variables["params"]["output_conv_2"]["kernel"] *= -1  # the first layer's -4 arrives unrectified
  assert module.apply(variables, x)[0, :, :, 0].max() == 4


def test_hidden_layers_of_the_head_have_a_half_and_an_eighth_of_the_channels():
  params = initialise(MaskHead(71, 256), jnp.zeros((1, 2, 2, 256)), seed=0)["params"]
  shapes = {name: layer["kernel"].shape for name, layer in params.items()}
  assert shapes == {
    "output_conv_0": (3, 3, 256, 128),
    "output_conv_2": (3, 3, 128, 32),
    "output_conv_4": (1, 1, 32, 71),
  }
