"""TPAVI: every pixel hears all seconds of its clip, and nothing of another clip."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.fusion.tpavi import TPAVI
from avs_jax.initialise import initialise
from avs_jax.weights import placement

RANDOM = np.random.default_rng(0)
B, T, H, W, C, A = 3, 4, 3, 5, 8, 6


def draw(*shape):
  return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module")
def block():
  return TPAVI(C)


@pytest.fixture(scope="module")
def inputs():
  return draw(B, T, H, W, C), draw(B, T, A)


@pytest.fixture(scope="module")
def fresh(block, inputs):
  return initialise(block, *inputs, seed=0)


@pytest.fixture(scope="module")
def variables(fresh):
  """Every value random, so that nothing hides behind a zero."""
  flat = traverse_util.flatten_dict(fresh)
  varied = {
    path: np.asarray(0.3 * RANDOM.standard_normal(leaf.shape) + (path[-1] in ("scale", "var")), np.float32)
    for path, leaf in flat.items()
  }
  return traverse_util.unflatten_dict(varied)


def linear(parameters, x):
  return x @ parameters["kernel"] + parameters["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def tpavi_quadratic(theta, phi, g):
  """[B, N, I] each: the published order of operations, with its N x N matrix (N = T*h*w)."""
  affinity = jnp.einsum("bni,bmi->bnm", theta, phi, precision=jax.lax.Precision.HIGHEST)
  return jnp.einsum("bnm,bmi->bni", affinity / theta.shape[1], g, precision=jax.lax.Precision.HIGHEST)


def published_order(variables, vis, aud):
  """Projections, the N x N product, normalisations: one step after another, in numpy but for the product."""
  params, statistics = variables["params"], variables["batch_stats"]["W_z_1"]
  clips, channels = vis.shape[0], vis.shape[-1]
  key = vis
  if aud is not None:
    heard = linear(params["align_channel"], aud)
    key = np.broadcast_to(np.asarray(heard)[:, :, None, None], vis.shape)
  projected = (linear(params[name], np.asarray(x)) for name, x in (("theta", vis), ("phi", key), ("g", vis)))
  mixed = tpavi_quadratic(*(jnp.asarray(x).reshape(clips, -1, channels // 2) for x in projected))
  z = np.asarray(linear(params["W_z_0"], np.asarray(mixed))).reshape(vis.shape)
  z = (z - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
  z = z * params["W_z_1"]["scale"] + params["W_z_1"]["bias"] + np.asarray(vis)
  z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
  return z * params["norm_layer"]["scale"] + params["norm_layer"]["bias"]


@pytest.mark.parametrize("hears", [True, False], ids=["sound", "no sound"])
def test_the_reassociated_product_equals_the_quadratic_one(block, variables, inputs, hears):
  vis, aud = inputs[0], inputs[1] if hears else None
  fused, heard = block.apply(variables, vis, aud)
  with jax.numpy_rank_promotion("allow"):
    np.testing.assert_allclose(fused, published_order(variables, vis, aud), rtol=1e-4, atol=1e-5)
  assert (heard is None) != hears


def test_the_quadratic_product_is_right_on_two_positions():
  theta, phi, g = (jnp.asarray(x, jnp.float32)[None, :, None] for x in ([1, 2], [3, 4], [5, 6]))
  # Affinity [[3, 4], [6, 8]] / 2, times (5, 6): (15 + 24) / 2 and (30 + 48) / 2.
  np.testing.assert_allclose(tpavi_quadratic(theta, phi, g)[0, :, 0], [19.5, 39.0], rtol=1e-6)


def test_one_second_of_two_pixels_comes_out_as_computed_by_hand():
  four, two = np.zeros(4, np.float32), np.zeros(2, np.float32)
  first = np.zeros((4, 2), np.float32)
  first[0, 0] = 1  # theta, phi and g see channel 0 alone, and W_z writes it alone
  params = {
    "align_channel": {"kernel": np.eye(4, dtype=np.float32), "bias": four},
    **{name: {"kernel": first, "bias": two} for name in ("theta", "phi", "g")},
    "W_z_0": {"kernel": first.T, "bias": four},
    "W_z_1": {"scale": four + 1, "bias": four},
    "norm_layer": {"scale": four + 1, "bias": four},
  }
  statistics = {"W_z_1": {"mean": four, "var": four + np.float32(1 - 1e-5)}}
  vis = jnp.array([[2.0, 10.0, 0.0, 10.0], [4.0, 20.0, 0.0, 20.0]]).reshape(1, 1, 1, 2, 4)
  aud = jnp.array([3.0, 7.0, 7.0, 7.0]).reshape(1, 1, 4)
  # The mean value (2 + 4) / 2 times the key 3 is 9. Queries 2 and 4 give 18 and 36, added to channel 0:
  # (20, 10, 0, 10) has mean 10 and variance 50, (40, 20, 0, 20) has mean 20 and variance 200.
  fused, heard = TPAVI(4).apply({"params": params, "batch_stats": statistics}, vis, aud)
  np.testing.assert_allclose(fused.reshape(2, 4), [[2**0.5, 0, -(2**0.5), 0]] * 2, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(heard, aud)


def test_a_fresh_block_is_a_layer_norm_of_its_input(block, fresh, inputs):
  vis, aud = inputs
  fused, heard = block.apply(fresh, vis, aud)
  centred = vis - vis.mean(-1, keepdims=True)
  normed = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(fused, normed, rtol=1e-4, atol=1e-5)
  assert fused.shape == vis.shape and heard.shape == (B, T, C)


def test_shapes_are_checked_while_tests_run(block, variables, inputs):
  """Of the whole package, by the hook that pyproject.toml names; here a sound that is a second too long."""
  vis, aud = inputs
  with pytest.raises(jaxtyping.TypeCheckError):
    block.apply(variables, vis, np.concatenate([aud, aud[:, :1]], axis=1), train=False)


def test_permuting_clips_permutes_outputs(block, variables, inputs):
  order = np.array([2, 0, 1])
  fused, heard = block.apply(variables, *inputs)
  permuted = block.apply(variables, *(x[order] for x in inputs))
  np.testing.assert_allclose(permuted[0], fused[order], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(permuted[1], heard[order], rtol=1e-5, atol=1e-6)


def test_permuting_pixels_permutes_outputs(block, variables, inputs):
  vis, aud = inputs
  fused, _ = block.apply(variables, vis, aud)
  mirrored, _ = block.apply(variables, vis[:, :, ::-1, ::-1], aud)
  np.testing.assert_allclose(mirrored, fused[:, :, ::-1, ::-1], rtol=1e-4, atol=1e-5)


def test_the_sound_of_one_clip_reaches_every_second_of_it_and_no_other_clip(block, variables, inputs):
  vis, aud = inputs
  fused, _ = block.apply(variables, vis, aud)
  changed, _ = block.apply(variables, vis, aud.at[1, 2].add(1.0))
  difference = np.abs(np.asarray(changed - fused)).max((2, 3, 4))  # [B, T]
  assert not difference[[0, 2]].any() and (difference[1] > 1e-4).all()


def test_gradients_are_finite_and_reach_every_parameter(block, variables, inputs):
  weigh = draw(B, T, H, W, C)

  def loss(params):
    fused, heard = block.apply({**variables, "params": params}, *inputs)
    return (fused * weigh).sum() + jnp.square(heard).sum()

  for path, leaf in traverse_util.flatten_dict(jax.grad(loss)(variables["params"])).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_a_batch_in_training_moves_the_running_statistics_and_ignores_them(block, variables, inputs):
  train = {"train": True, "mutable": ["batch_stats"]}
  (fused, _), moved = block.apply(variables, *inputs, **train)
  statistics = jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])
  (same, _), _ = block.apply({**variables, "batch_stats": statistics}, *inputs, **train)
  np.testing.assert_array_equal(fused, same)
  for name, leaf in moved["batch_stats"]["W_z_1"].items():
    assert (leaf != variables["batch_stats"]["W_z_1"][name]).all()


def test_half_precision_stays_near_and_keeps_float32_parameters(block, variables, inputs):
  fused, _ = block.apply(variables, *inputs)
  half = TPAVI(C, dtype=jnp.bfloat16)
  rough, _ = half.apply(variables, inputs[0].astype(jnp.bfloat16), inputs[1].astype(jnp.bfloat16))
  assert rough.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(initialise(half, *inputs, seed=0))} == {np.dtype("float32")}
  # Layer-normed values of size about 1 to 3 after six roundings of relative size 2^-9 each.
  np.testing.assert_allclose(rough.astype(jnp.float32), fused, atol=0.06)


def test_the_semantic_form_has_no_bias_in_its_audio_projection(inputs):
  params = initialise(TPAVI(C, align_bias=False), *inputs, seed=0)["params"]
  assert set(params["align_channel"]) == {"kernel"} and set(params["phi"]) == {"kernel", "bias"}


def test_a_block_that_never_hears_has_no_audio_projection(block, inputs):
  assert "align_channel" not in initialise(block, inputs[0], None, seed=0)["params"]


@pytest.fixture(scope="module")
def published(golden, rule):
  """The rule's weights in a block of published size, its inputs, and the reference's outputs."""
  vis = jnp.asarray(np.moveaxis(rule.array("visual", (2, 256, 5, 7, 7)), 1, -1))
  aud = jnp.asarray(rule.array("audio", (2, 5, 128)))
  block = TPAVI()
  flat = {}
  for path, leaf in traverse_util.flatten_dict(initialise(block, vis, aud, seed=0)).items():
    shape = placement.to_torch_layout(path[-1], leaf.shape)
    tensor = rule.weight(placement.torch_name(path), shape)
    flat[path] = placement.to_flax_layout(path[-1], tensor, leaf.shape)
  return block, traverse_util.unflatten_dict(flat), vis, aud, np.load(golden("avsbench/tpavi.npz"))


def check_map(rule, kept, name, ours):
  rule.check(np.moveaxis(np.asarray(ours), -1, 1), kept[name])
  rule.check(ours, kept[f"{name}__channel_last"])


@pytest.mark.golden
def test_with_sound_the_published_outputs_come_out(rule, published):
  block, variables, vis, aud, kept = published
  fused, heard = block.apply(variables, vis, aud)
  check_map(rule, kept, "va_z", fused)
  rule.check(heard, kept["va_audio"])


@pytest.mark.golden
def test_without_sound_the_published_outputs_come_out(rule, published):
  block, variables, vis, _, kept = published
  check_map(rule, kept, "vv_z", block.apply(variables, vis, None)[0])


@pytest.mark.golden
def test_a_training_step_uses_and_moves_the_published_statistics(rule, published):
  block, variables, vis, aud, kept = published
  (fused, _), moved = block.apply(variables, vis, aud, train=True, mutable=["batch_stats"])
  check_map(rule, kept, "va_z_train_mode_batch_stats", fused)
  statistics = moved["batch_stats"]["W_z_1"]
  rule.check(statistics["mean"], kept["running_mean_after_one_train_step"])
  rule.check(statistics["var"], kept["running_var_after_one_train_step"])
