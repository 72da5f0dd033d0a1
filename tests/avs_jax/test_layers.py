import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import convolution, layers
from avs_jax.errors import InputError


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def tree_close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_a_convolution_by_hand():
  x = jnp.arange(9.0).reshape(1, 3, 3, 1)
  variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.full((1,), 0.5)}}
  y = layers.Conv(1, 3, 2, 1).apply(variables, x)
  np.testing.assert_array_equal(y[0, :, :, 0], [[8.5, 12.5], [20.5, 24.5]])  # sums of the four corners


def test_a_convolution_takes_any_leading_axes():
  conv = layers.Conv(4, 3, padding=1)
  x = draw(2, 3, 5, 6, 2)
  variables = conv.init(jax.random.key(0), x)
  y = conv.apply(variables, x)
  assert y.shape == (2, 3, 5, 6, 4)
  np.testing.assert_allclose(y[1, 2], conv.apply(variables, x[1, 2:3])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [1, "SAME"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_both_forms_of_the_depthwise_convolution_agree_with_their_gradients(kernel, stride, padding):
  x = draw(2, 9, 6, 4)
  forms = [layers.DepthwiseConv(kernel, stride, padding, form=form) for form in ("shift", "grouped")]
  variables = {"params": {"kernel": draw(kernel, kernel, 1, 4, seed=1), "bias": draw(4, seed=2)}}
  slope = draw(*forms[0].apply(variables, x).shape, seed=3)

  @jax.jit
  def results(variables, x):
    def loss(form, variables, x):
      return (form.apply(variables, x) * slope).sum()

    return [jax.value_and_grad(loss, (1, 2))(form, variables, x) for form in forms]

  shift, grouped = results(variables, x)
  tree_close(shift, grouped, rtol=1e-4, atol=1e-4)


def test_the_shifted_convolution_takes_other_zeros_on_each_side():
  x, kernel, pads = draw(1, 5, 7, 2), draw(3, 3, 1, 2, seed=1), ((0, 2), (1, 0))

  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
    )

  ours, to_ours = jax.vjp(lambda *a: convolution.depthwise_shifted(*a, 1, pads), x, kernel)
  theirs, to_theirs = jax.vjp(grouped, x, kernel)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  tree_close(to_ours(theirs), to_theirs(theirs), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
def test_summing_row_by_row_gives_the_same_gradient(kernel, monkeypatch):
  x, weights = draw(2, 6, 7, 3), draw(kernel, kernel, 1, 3, seed=1)
  slope = draw(2, 6, 7, 3, seed=2)
  pads = ((kernel - 1, 0), (1, kernel - 2))
  whole = jax.vjp(lambda *a: convolution.depthwise_shifted(*a, 1, pads), x, weights)[1](slope)
  monkeypatch.setattr(convolution, "LARGE_MAP", 1)
  rows = jax.vjp(lambda *a: convolution.depthwise_shifted(*a, 1, pads), x, weights)[1](slope)
  tree_close(whole, rows, rtol=1e-5, atol=1e-5)


def test_a_form_of_depthwise_convolution_that_does_not_exist_is_named():
  with pytest.raises(InputError, match="form is 'fast'; give auto, shift or grouped"):
    layers.DepthwiseConv(form="fast").init(jax.random.key(0), jnp.ones((1, 3, 3, 2)))


def test_batch_norm_moves_its_statistics_as_pytorch_does():
  x = jnp.asarray([[1.0], [2.0], [6.0]])  # mean 3, variance 14/3 of the batch, 7 unbiased
  norm = layers.BatchNorm(epsilon=0.0, momentum=0.1)
  variables = norm.init(jax.random.key(0), x, train=True)
  y, moved = norm.apply(variables, x, train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(y[:, 0], np.array([-2, -1, 3]) / np.sqrt(14 / 3), rtol=1e-6)
  np.testing.assert_allclose(moved["batch_stats"]["mean"], [0.3], rtol=1e-6)
  np.testing.assert_allclose(moved["batch_stats"]["var"], [0.9 + 0.7], rtol=1e-6)


def test_batch_norm_outside_training_reads_the_running_statistics():
  norm = layers.BatchNorm(epsilon=0.0)
  variables = {
    "params": {"scale": jnp.asarray([2.0]), "bias": jnp.asarray([1.0])},
    "batch_stats": {"mean": jnp.asarray([3.0]), "var": jnp.asarray([4.0])},
  }
  np.testing.assert_allclose(norm.apply(variables, jnp.asarray([[5.0]]), train=False), [[3.0]], rtol=1e-6)


def test_layer_norm_by_hand():
  variables = {"params": {"scale": jnp.asarray([1.0, 2.0]), "bias": jnp.asarray([0.0, 1.0])}}
  y = layers.LayerNorm(epsilon=3.0).apply(variables, jnp.asarray([[4.0, 2.0]]))  # mean 3, variance 1
  np.testing.assert_allclose(y, [[0.5, 0.0]], rtol=1e-6)


def test_layer_norm_is_exact_far_from_zero():
  x = draw(4, 64) + 1000
  variables = {"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}
  wide = np.asarray(x, np.float64)
  expected = (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True)
  np.testing.assert_allclose(layers.LayerNorm().apply(variables, x), expected, atol=2e-3)


def test_the_gradient_of_a_layer_norm_is_that_of_its_formula():
  x, slope = draw(2, 3, 5), draw(2, 3, 5, seed=1)
  params = {"scale": draw(5, seed=2), "bias": draw(5, seed=3)}

  def formula(params, x):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return unit * params["scale"].reshape(1, 1, -1) + params["bias"].reshape(1, 1, -1)

  theirs, to_theirs = jax.vjp(formula, params, x)
  ours, to_ours = jax.vjp(lambda params, x: layers.LayerNorm().apply({"params": params}, x), params, x)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  tree_close(to_ours(slope), to_theirs(slope), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  "layer", [layers.LayerNorm(dtype=jnp.bfloat16), layers.Conv(4, 1, dtype=jnp.bfloat16)]
)
def test_compute_in_bfloat16_keeps_float32_parameters(layer):
  x = draw(2, 3, 3, 4)
  variables = layer.init(jax.random.key(0), x)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
  assert layer.apply(variables, x).dtype == jnp.bfloat16


def test_attention_equals_a_loop_over_heads():
  query, key, value = draw(2, 5, 3, 4), draw(2, 7, 3, 4, seed=1), draw(2, 7, 3, 4, seed=2)
  out = layers.attend(query, key, value)
  for n in range(2):
    for m in range(3):
      logits = np.asarray(query[n, :, m] @ key[n, :, m].T) / 2
      weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
      np.testing.assert_allclose(out[n, :, m], weights @ value[n, :, m], rtol=1e-4, atol=1e-5)


def test_attention_does_not_know_the_order_of_the_keys():
  query, key, value = draw(1, 5, 2, 4), draw(1, 6, 2, 4, seed=1), draw(1, 6, 2, 4, seed=2)
  turned = layers.attend(query, key[:, ::-1], value[:, ::-1])
  np.testing.assert_allclose(layers.attend(query, key, value), turned, rtol=1e-5, atol=1e-6)


def test_drop_path_drops_whole_examples_and_scales_the_rest():
  y = layers.drop_path(jnp.ones((2000, 3)), 0.25, jax.random.key(0))
  kept = np.asarray(y[:, 0] > 0)
  np.testing.assert_array_equal(
    y, np.where(kept[:, None], np.float32(1 / 0.75), 0) * np.ones((1, 3), np.float32)
  )
  assert abs(kept.mean() - 0.75) < 0.03


def test_gelu_is_the_exact_form():
  np.testing.assert_allclose(layers.gelu(jnp.asarray([-1.0, 1.0])), [-0.158655, 0.841345], atol=1e-6)


def test_bilinear_resize_by_hand():
  x = jnp.asarray([0.0, 3.0]).reshape(1, 1, 2, 1)
  wide = layers.resize_bilinear(x, (1, 4), align_corners=False)
  np.testing.assert_allclose(wide[0, 0, :, 0], [0.0, 0.75, 2.25, 3.0])
  wide = layers.resize_bilinear(x, (1, 4), align_corners=True)
  np.testing.assert_allclose(wide[0, 0, :, 0], [0.0, 1.0, 2.0, 3.0], atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
def test_bilinear_resize_keeps_a_constant_and_its_own_size(align_corners):
  x = draw(2, 3, 5, 2)
  np.testing.assert_array_equal(layers.resize_bilinear(x, (3, 5), align_corners=align_corners), x)
  flat = layers.resize_bilinear(jnp.full((1, 3, 5, 1), 2.0), (8, 4), align_corners=align_corners)
  np.testing.assert_allclose(flat, 2.0, rtol=1e-6)


class Layer(nn.Module):
  traces = 0

  @nn.compact
  def __call__(self, x, flip):
    Layer.traces += 1
    return jnp.tanh(nn.Dense(3)(-x if flip else x))


class Doubled(nn.Module):
  repeat: str

  @nn.compact
  def __call__(self, x):
    plain = self.repeat == "plain" or self.is_initializing()
    layer = layers.repeated(Layer, plain=plain, remat=self.repeat == "remat", static=(2,))
    return layer(name="second")(layer(name="first")(x, True), True)


def test_repeated_blocks_give_the_same_values_and_gradients():
  x = draw(2, 3)
  variables = Doubled("plain").init(jax.random.key(0), x)

  def loss(variables, repeat):
    return Doubled(repeat).apply(variables, x).sum()

  results = [jax.value_and_grad(loss)(variables, repeat) for repeat in ("plain", "jit", "remat")]
  tree_close(results[0], results[1], rtol=1e-5, atol=1e-6)
  tree_close(results[0], results[2], rtol=1e-5, atol=1e-6)
  traced = [
    str(jax.make_jaxpr(jax.grad(functools.partial(loss, repeat=each)))(variables))
    for each in ("jit", "remat")
  ]
  assert ["remat" in each for each in traced] == [False, True]


def test_repeated_blocks_are_traced_once_for_all_calls():
  x = draw(5, 3)
  variables = Doubled("plain").init(jax.random.key(0), x)
  before = Layer.traces
  for _ in range(3):
    Doubled("jit").apply(variables, x)
  assert Layer.traces == before + 1
