"""Stages hand on what they fuse, to the next one and to the result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.progressive import FullyConnectedHead, ProgressiveDecoder, Stage
from avs_jax.errors import InputError
from avs_jax.fusion.snrp import SNRP
from avs_jax.initialise import initialise
from avs_jax.layers import resize_bilinear

WIDTH = 4


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def start(module, *inputs, scatter=0.0):
  variables = initialise(module, *inputs, seed=0)
  random = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + scatter * random.standard_normal(x.shape).astype(np.float32), variables)


MAPS = tuple(normal((1, 2, 8 // 2**i, 12 // 2**i, WIDTH), i) for i in range(2))  # two sizes do, as four
VIS, AUD = MAPS[1], normal((1, 2, 3, 2, WIDTH), 9)
DECODER = ProgressiveDecoder(WIDTH, (("heads", 2),))


@pytest.fixture(scope="module")
def variables():
  return start(DECODER, MAPS, AUD, scatter=0.1)


@pytest.fixture(scope="module")
def run():
  return jax.jit(DECODER.apply)


def test_the_result_is_as_fine_as_the_finest_map_and_stages_come_finest_first(variables, run):
  total, fused, heard = run(variables, MAPS, AUD)
  assert total.shape == MAPS[0].shape
  assert [x.shape for x in fused] == [x.shape for x in MAPS]
  assert [x.shape for x in heard] == [(1, 2, WIDTH)] * 2
  half = ProgressiveDecoder(WIDTH, (("heads", 2),), jnp.bfloat16)
  small = tuple(x.astype(jnp.bfloat16) for x in MAPS)
  assert total.dtype == jnp.float32
  assert jax.eval_shape(half.apply, variables, small, AUD.astype(jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_skip_connections_add_up_to_the_result(variables, run):
  """Equation 8's sum: without the skip of one stage that of the other is left, convolved and enlarged."""
  total, fused, _ = run(variables, MAPS, AUD)
  parts = []
  for stage in (1, 2):
    flat = traverse_util.flatten_dict(variables)
    for path in flat:
      if path[1].startswith("skip") and path[1] != f"skip{stage}":
        flat[path] = np.zeros_like(flat[path])
    parts.append(run(traverse_util.unflatten_dict(flat), MAPS, AUD)[0])
  np.testing.assert_allclose(sum(parts), total, rtol=1e-4, atol=1e-5)
  skip = variables["params"]["skip1"]
  finest = jax.lax.conv_general_dilated(
    fused[0][0], skip["kernel"], (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(parts[0][0], finest + skip["bias"].reshape(1, 1, 1, -1), rtol=1e-4, atol=1e-5)


def convolved(x, conv):
  flat = x.reshape(-1, *x.shape[2:])
  y = jax.lax.conv_general_dilated(
    flat, conv["kernel"], (1, 1), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return (y + conv["bias"].reshape(1, 1, 1, -1)).reshape(*x.shape[:-1], -1)


def test_direct_connections_by_hand(variables, run):
  """Equation 8: the finer stage gets relu(conv[fused, enlarged; its map]) and F'_a, and blocks twice as wide."""
  params = variables["params"]
  stage = functools.partial(Stage, width=WIDTH, heads=2)
  coarse, heard = stage(stride=1).apply({"params": params["stage2"]}, MAPS[1], AUD)
  wide = resize_bilinear(coarse, MAPS[0].shape[2:4], align_corners=False)
  vis = jnp.maximum(convolved(jnp.concatenate([wide, MAPS[0]], -1), params["direct2"]), 0)
  fine, _ = stage(stride=2).apply({"params": params["stage1"]}, vis, heard)
  fused = run(variables, MAPS, AUD)[1]
  np.testing.assert_allclose(fused[1], coarse, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(fused[0], fine, rtol=1e-4, atol=1e-5)
  other, _ = stage(stride=1).apply({"params": params["stage1"]}, vis, heard)
  assert np.abs(other - fine).max() > 1e-4


def test_sound_and_coarse_maps_reach_the_finest_stage_through_direct_connections(variables, run):
  fused = run(variables, MAPS, AUD)[1]
  louder = run(variables, MAPS, 2 * AUD)[1]
  other = run(variables, (MAPS[0], MAPS[1] + 1), AUD)[1]
  finer = run(variables, (MAPS[0] + 1, MAPS[1]), AUD)[1]
  assert np.abs(louder[0] - fused[0]).max() > 1e-4 and np.abs(other[0] - fused[0]).max() > 1e-5
  assert np.abs(finer[0] - fused[0]).max() > 1e-4
  np.testing.assert_array_equal(finer[1], fused[1])  # and none leads back


def test_a_gradient_reaches_every_parameter(variables):
  slopes = jax.jit(jax.grad(lambda v: jnp.square(DECODER.apply(v, MAPS, AUD)[0]).sum()))(variables)
  for path, slope in traverse_util.flatten_dict(slopes["params"]).items():
    assert np.isfinite(slope).all(), path
    if path[-3:] != ("stc_k", "norm", "bias"):  # adds one vector to all keys
      assert np.abs(slope).max() > 0, path


def test_before_the_fusion_the_picture_is_gated_and_after_it_what_was_fused():
  """Without DAMF a stage adds picture and sound, so its gates can be read off."""
  plain = {"width": WIDTH, "damf": "none"}
  variables = start(Stage(**plain), VIS, AUD, scatter=0.3)
  gates = {"params": variables["params"]["gates"]}
  gated, heard = SNRP(WIDTH).apply(gates, VIS, AUD)
  fused, given = Stage(**plain).apply(variables, VIS, AUD)
  np.testing.assert_allclose(fused, gated + heard, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(given, heard, rtol=1e-6)
  after, _ = Stage(**plain, snrp="after").apply(variables, VIS, AUD)
  expected = SNRP(WIDTH).apply(gates, VIS + heard, heard, method="gate")
  np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)
  without, given = Stage(**plain, snrp="none").apply({}, VIS, AUD)
  np.testing.assert_allclose(without, VIS + given, rtol=1e-6)
  with pytest.raises(InputError, match="model.snrp='within' is not known; choose one of before, after, none"):
    Stage(**plain, snrp="within").apply({}, VIS, AUD)


def test_absent_seconds_are_zero_and_leave_the_others_alone(variables, run):
  end = jnp.asarray([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
  short = run(variables, tuple(x[:, :1] for x in MAPS), AUD[:, :1], jnp.ones((1, 1), bool))
  padded = run(variables, tuple(x * end for x in MAPS), AUD, jnp.asarray([[True, False]]))
  np.testing.assert_allclose(padded[0][:, :1], short[0], rtol=1e-4, atol=1e-5)
  assert not any(x[:, 1].any() for x in (*padded[1], *padded[2]))


def test_the_head_by_hand():
  x = jnp.asarray([1.0, -1.0]).reshape(1, 1, 1, 2)
  params = {
    "mlp": {"kernel": np.array([[1.0, 0.0], [0.0, 1.0]]), "bias": np.array([0.5, 0.5])},
    "fc": {"kernel": np.array([[2.0], [5.0]]), "bias": np.array([-1.0])},
  }
  out = FullyConnectedHead().apply({"params": jax.tree.map(np.float32, params)}, x)
  assert float(out.squeeze()) == pytest.approx(2.0)  # relu(1.5), relu(-0.5): 2 * 1.5 - 1
