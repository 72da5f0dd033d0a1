"""Sound opens and closes channels and cells of the picture, each second by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.errors import InputError
from avs_jax.fusion.snrp import SNRP
from avs_jax.initialise import initialise

WIDTH = 4


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def start(vis, aud, scatter=0.0, **settings):
  module = SNRP(WIDTH, **settings)
  variables = initialise(module, vis, aud, seed=0)
  random = np.random.default_rng(1)
  moved = jax.tree.map(lambda x: x + scatter * random.standard_normal(x.shape).astype(np.float32), variables)
  return module, moved


VIS, AUD = normal((2, 3, 5, 6, WIDTH)), normal((2, 3, 3, 2, WIDTH), 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_sound_takes_the_pictures_size_and_both_their_type(dtype):
  module, variables = start(VIS, AUD, dtype=dtype)
  vis, aud = jax.eval_shape(module.apply, variables, VIS.astype(dtype), AUD.astype(dtype))
  assert vis.shape == aud.shape == VIS.shape and vis.dtype == aud.dtype == dtype


def test_one_cell_by_hand():
  vis, aud = jnp.full((1, 1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1, 1), 2.0)
  module = SNRP(1)
  variables = initialise(module, vis, aud, seed=0)
  kernel = np.zeros((3, 3, 1, 1), np.float32)
  kernel[1, 1] = 1.0
  wide, narrow = np.zeros((1, 8), np.float32), np.zeros((8, 1), np.float32)
  wide[0, 2], narrow[2, 0] = 2, 1  # one hidden unit of eight
  variables["params"] = {
    "spread_conv": {"kernel": 0.5 * kernel, "bias": np.zeros(1, np.float32)},  # F'_a = 1
    "channel_hidden": {"kernel": wide, "bias": np.zeros(8, np.float32)},
    "channel_out": {"kernel": narrow, "bias": np.full(1, -1, np.float32)},  # sigmoid(2 - 1)
    "spatial": {"kernel": -kernel, "bias": np.full(1, 3, np.float32)},  # sigmoid(3 - 1)
  }
  gated, heard = module.apply(variables, vis, aud)
  assert float(heard.squeeze()) == pytest.approx(1.0)
  expected = 3 / (1 + np.exp(-1.0)) / (1 + np.exp(-2.0))
  assert float(gated.squeeze()) == pytest.approx(expected, rel=1e-6)
  linear, _ = SNRP(1, channel_gate="linear").apply(variables, vis, aud)
  assert float(linear.squeeze()) == pytest.approx(3 / (1 + np.exp(-2.0)), rel=1e-6)


def test_either_selector_alone_does_its_half():
  module, variables = start(VIS, AUD, scatter=0.3)
  heard = module.apply(variables, AUD, (5, 6), method="spread")
  channel = module.apply(variables, heard, method="channel_weights")
  spatial = module.apply(variables, heard, method="spatial_weights")
  assert channel.shape == (2, 3, 1, 1, WIDTH) and spatial.shape == (2, 3, 5, 6, 1)
  halves = {"both": channel * spatial, "channel": channel, "spatial": spatial}
  for selectors, weights in halves.items():
    gated, _ = SNRP(WIDTH, selectors).apply(variables, VIS, AUD)
    np.testing.assert_allclose(gated, VIS * weights, rtol=1e-5, atol=1e-6)


def test_no_second_hears_another():
  module, variables = start(VIS, AUD, scatter=0.3)
  whole, _ = module.apply(variables, VIS, AUD)
  alone, _ = module.apply(variables, VIS[:, 1:2], AUD[:, 1:2])
  np.testing.assert_allclose(alone, whole[:, 1:2], rtol=1e-5, atol=1e-6)


def test_silence_opens_every_gate_by_half_at_the_start_and_can_close_them_all():
  """A map of zeros and biases of zero; then biases alone decide, whatever is seen."""
  vis, silence = normal((1, 2, 5, 6, WIDTH)), jnp.zeros((1, 2, 3, 2, WIDTH))
  module, variables = start(vis, silence)
  gated, heard = module.apply(variables, vis, silence)
  assert not heard.any()
  np.testing.assert_allclose(gated, vis / 4, rtol=1e-6)
  closed = traverse_util.flatten_dict(variables)
  closed[("params", "channel_out", "bias")] = np.full(WIDTH, -100.0, np.float32)
  gated, _ = module.apply(traverse_util.unflatten_dict(closed), vis, silence)
  assert np.abs(gated).max() < 1e-30


@pytest.mark.parametrize("seconds", [1, 4])
def test_silence_has_one_gate_for_every_picture_and_second_constant_but_for_the_padding_at_the_border(
  seconds,
):
  """A map of zeros under any weights."""
  silence = jnp.zeros((1, seconds, 3, 2, WIDTH))
  pictures = [1 + normal((1, seconds, 5, 6, WIDTH), seed) ** 2 for seed in (0, 1)]
  module, variables = start(pictures[0], silence, scatter=0.5)
  first, second = (np.asarray(module.apply(variables, vis, silence)[0] / vis) for vis in pictures)
  np.testing.assert_allclose(second, first, rtol=1e-5)
  np.testing.assert_allclose(first, np.broadcast_to(first[:, :1], first.shape), rtol=1e-5)
  inside = first[:, :, 1:-1, 1:-1]
  np.testing.assert_allclose(inside, np.broadcast_to(inside[:, :, :1, :1], inside.shape), rtol=1e-5)
  border = np.ones((5, 6), bool)
  border[1:-1, 1:-1] = False
  assert np.abs(first[:, :, border] / inside[:, :, :1, 0] - 1).min() > 0.01


@pytest.mark.parametrize("selectors", ["both", "channel", "spatial"])
def test_gradients_reach_every_parameter_of_the_selectors_that_are_there(selectors):
  module, variables = start(VIS, AUD, scatter=0.3, selectors=selectors)
  slopes = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, VIS, AUD)[0]).sum()))(variables)
  flat = traverse_util.flatten_dict(slopes["params"])
  assert all(np.isfinite(slope).all() and np.abs(slope).max() > 0 for slope in flat.values())
  wanted = {"both": {"channel_hidden", "channel_out", "spatial"}, "spatial": {"spatial"}}
  wanted["channel"] = wanted["both"] - wanted["spatial"]
  assert {path[0] for path in flat} == {"spread_conv", *wanted[selectors]}


def test_unknown_words_are_refused_with_the_known_ones():
  with pytest.raises(InputError, match="model.selectors='pixel' is not known; choose one of both, channel"):
    start(VIS, AUD, selectors="pixel")
  with pytest.raises(InputError, match="model.channel_gate='relu' is not known; choose one of sigmoid"):
    start(VIS, AUD, channel_gate="relu")
