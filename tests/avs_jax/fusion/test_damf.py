"""Two maps attend to each other in clips of any length, and no more weights exist than are allowed to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.progressive import Stage
from avs_jax.errors import InputError
from avs_jax.fusion.damf import CAR, DAMF, LIMIT, STC, Guidance, attend_in_pieces, shrink
from avs_jax.initialise import initialise
from avs_jax.layers import attend
from benchmarks import memory

WIDTH = 4


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


VIS, AUD = normal((2, 3, 4, 6, WIDTH)), normal((2, 3, 4, 6, WIDTH), 1)


def start(module, *inputs, scatter=0.0):
  variables = initialise(module, *inputs, seed=0)
  random = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + scatter * random.standard_normal(x.shape).astype(np.float32), variables)


def test_recalibration_of_one_second_by_hand():
  x = jnp.asarray([[1.0, 3.0], [-2.0, 6.0]]).reshape(1, 1, 2, 1, 2)  # means -1/2 and 9/2
  first, second = np.zeros((2, 8)), np.zeros((8, 2))
  first[:, 3], second[3] = [2.0, 1.0], [1.0, -1.0]  # one hidden unit of eight
  params = {"w1": {"kernel": first}, "w2": {"kernel": second}}
  out = CAR().apply({"params": jax.tree.map(np.float32, params)}, x)
  hidden = 2 * -0.5 + 4.5
  gates = 1 / (1 + np.exp([-hidden, hidden]))
  np.testing.assert_allclose(out, np.asarray(x) * gates, rtol=1e-5)
  negative = CAR().apply({"params": jax.tree.map(np.float32, params)}, -x)
  np.testing.assert_allclose(negative, -x / 2, rtol=1e-6)  # relu closes the hidden unit


@pytest.mark.parametrize("seconds", [1, 3])
def test_the_enhancers_convolution_is_the_depthwise_three_dimensional_one(seconds):
  module = STC(seconds)
  variables = start(module, VIS)
  params = variables["params"]
  kernel = jnp.stack([params[f"conv_{tap}"]["kernel"] for tap in range(seconds)])  # [s, 3, 3, 1, D]
  convolved = jax.lax.conv_general_dilated(
    VIS, kernel, (1, 1, 1), [(seconds // 2,) * 2, (1, 1), (1, 1)],
    dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), feature_group_count=WIDTH,
  )  # fmt: skip
  gated = CAR().apply({"params": params["car"]}, convolved)
  centred = gated - gated.mean(-1, keepdims=True)
  expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(module.apply(variables, VIS), expected, rtol=1e-4, atol=1e-5)


def test_keys_are_means_of_blocks_and_odd_sizes_count_only_real_cells():
  module = STC(1, stride=4)
  variables = start(module, VIS)
  assert module.apply(variables, VIS).shape == (2, 3, 1, 2, WIDTH)
  ragged, means = (jnp.asarray(np.tile(np.float32([0, 1, 2, 3]), (1, 1, side, side, 1))) for side in (5, 2))
  whole = STC(1).apply(variables, means)
  np.testing.assert_allclose(module.apply(variables, ragged), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [1, 2 * 2 * 9 * 4, 2 * 2 * 9 * 7])
def test_attention_in_pieces_is_attention_forwards_and_backwards(limit):
  query, key, value = normal((2, 10, 2, 3)), normal((2, 9, 2, 3), 1), normal((2, 9, 2, 3), 2)
  allowed = jnp.asarray(np.random.default_rng(3).uniform(size=(2, 1, 9)) < 0.7)

  def total(pieces):
    def of(query, key, value):
      out = attend_in_pieces(query, key, value, allowed, limit) if pieces else attend(
        query, key, value, allowed=allowed
      )  # fmt: skip
      return jnp.square(out).sum(), out

    return jax.grad(of, argnums=(0, 1, 2), has_aux=True)(query, key, value)

  for ours, plain in zip(jax.tree.leaves(total(True)), jax.tree.leaves(total(False)), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_one_direction_by_hand_without_the_enhancer():
  """Two cells a map, one channel, linear maps of one: each cell gathers by exp(q k) and multiplies."""
  vis = jnp.asarray([1.0, -2.0]).reshape(1, 1, 1, 2, 1)
  aud = jnp.asarray([0.5, 3.0]).reshape(1, 1, 1, 2, 1)
  module = DAMF(heads=1, stc=False)
  variables = jax.tree.map(lambda x: np.ones_like(x) if x.ndim > 1 else x, start(module, vis, aud))
  gathered = [
    sum(a * np.exp(v * a) for a in (0.5, 3.0)) / sum(np.exp(v * a) for a in (0.5, 3.0)) for v in (1.0, -2.0)
  ]
  for interaction, expected in {
    "multiply": np.multiply(gathered, [0.5, 3.0]),
    "add": np.add(gathered, [0.5, 3.0]),
    "straight": gathered,
  }.items():
    heard, seen = DAMF(heads=1, stc=False, interaction=interaction).apply(variables, vis, aud)
    np.testing.assert_allclose(heard.reshape(-1), expected, rtol=1e-5)
    assert np.isfinite(seen).all()


def test_a_direction_left_out_hands_its_modality_on_and_has_no_weights():
  module = DAMF(heads=2)
  variables = start(module, VIS, AUD, scatter=0.3)
  both = module.apply(variables, VIS, AUD)
  for direction, place, other in (("audio_to_visual", 0, VIS), ("visual_to_audio", 1, AUD)):
    only = DAMF(heads=2, directions=direction)
    assert set(start(only, VIS, AUD)["params"]) == {direction}
    streams = only.apply({"params": {direction: variables["params"][direction]}}, VIS, AUD)
    np.testing.assert_allclose(streams[place], both[place], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(streams[1 - place], other)
  heard, seen = DAMF(heads=2, directions="none").apply({}, VIS, AUD)
  assert heard is AUD and seen is VIS


def test_silence_leaves_nothing_of_the_stream_that_is_multiplied_by_it():
  module = DAMF(heads=2, stride=2)
  variables = start(module, VIS, AUD, scatter=0.3)
  heard, seen = module.apply(variables, VIS, jnp.zeros_like(AUD))
  assert not heard.any() and np.abs(seen).max() > 0


def test_padding_at_a_clips_end_changes_nothing():
  module = DAMF(heads=2, stride=2)
  variables = start(module, VIS, AUD, scatter=0.3)
  short = module.apply(variables, VIS[:, :2], AUD[:, :2], jnp.ones((2, 2), bool))
  end = jnp.asarray([1.0, 1.0, 0.0]).reshape(1, 3, 1, 1, 1)
  present = jnp.broadcast_to(jnp.asarray([True, True, False]), (2, 3))
  padded = module.apply(variables, VIS * end, AUD * end, present)
  for ours, plain in zip(padded, short, strict=True):
    np.testing.assert_allclose(ours[:, :2], plain, rtol=1e-4, atol=1e-5)


def test_seconds_hear_each_other_and_clips_do_not():
  module = DAMF(heads=2, stride=2)
  variables = start(module, VIS, AUD, scatter=0.3)
  before = module.apply(variables, VIS, AUD)[1]
  change = np.abs(module.apply(variables, VIS.at[0, 0].add(2.0), AUD)[1] - before).max((2, 3, 4))
  assert (change[0] > 1e-4).all() and change[1].max() < 1e-6


@pytest.mark.parametrize("stc", [True, False])
def test_shapes_types_and_a_gradient_for_every_parameter(stc):
  module = DAMF(heads=2, stc=stc, stride=2)
  variables = start(module, VIS, AUD, scatter=0.3)
  half = DAMF(heads=2, stc=stc, stride=2, dtype=jnp.bfloat16)
  for stream in jax.eval_shape(half.apply, variables, VIS.astype(jnp.bfloat16), AUD.astype(jnp.bfloat16)):
    assert stream.shape == VIS.shape and stream.dtype == jnp.bfloat16
  slopes = jax.jit(jax.grad(lambda v: sum(jnp.square(x).sum() for x in module.apply(v, VIS, AUD))))(variables)
  for path, slope in traverse_util.flatten_dict(slopes["params"]).items():
    assert np.isfinite(slope).all(), path
    if path[1:] == ("stc_k", "norm", "bias"):  # adds one vector to all keys
      assert np.abs(slope).max() < 1e-3, path
    else:
      assert np.abs(slope).max() > 0, path


def test_memory_does_not_grow_with_the_square_of_the_cells():
  """Full-size keys, 2 x 40 x 40 cells, two heads: all weights at once would be 82 MB, a piece is 4 MB."""
  module = Guidance(heads=2, stc=False, limit=2**20)
  x = jax.ShapeDtypeStruct((1, 2, 40, 40, 8), jnp.float32)
  params = jax.eval_shape(lambda a, b: module.init(jax.random.key(0), a, b), x, x)
  slope = jax.jit(jax.grad(lambda v, a, b: jnp.square(module.apply(v, a, b)).sum()))
  used = slope.lower(params, x, x).compile().memory_analysis().temp_size_in_bytes
  assert used < 24e6


def largest_array(module, side: int) -> int:
  """Numbers in the largest array of a step forwards and backwards, 4 clips of 5 seconds; traced, not compiled."""
  x = jax.ShapeDtypeStruct((4, 5, side, side, 256), jnp.float32)
  heard = jax.ShapeDtypeStruct((4, 5, 6, 4, 256), jnp.float32) if isinstance(module, Stage) else x
  params = jax.eval_shape(lambda a, b: module.init(jax.random.key(0), a, b), x, heard)

  def total(variables, vis, aud):
    return sum(jnp.square(stream).sum() for stream in module.apply(variables, vis, aud))

  return memory.largest(jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(params, x, heard).jaxpr.jaxpr)


@pytest.mark.parametrize("stc", [True, False])
@pytest.mark.parametrize(("side", "stride"), [(96, 8), (48, 4)])
@pytest.mark.parametrize("kind", [DAMF, Stage])
def test_no_array_of_the_two_finest_stages_at_384_pixels_exceeds_the_limit(kind, side, stride, stc):
  """Strides 4 and 8 at the default width, heads and limit: neither the maps nor any attention weights."""
  assert 4 * 5 * side * side * 256 <= LIMIT
  assert largest_array(kind(stc=stc, stride=stride), side) <= LIMIT


@pytest.mark.parametrize("stc", [True, False])
def test_all_weights_at_once_would_exceed_it(stc):
  keys = 5 * 12 * 12 if stc else 5 * 96 * 96
  assert largest_array(DAMF(stc=stc, stride=8, limit=2**60), 96) == 4 * 8 * 5 * 96 * 96 * keys


def test_unknown_words_are_refused_with_the_known_ones():
  with pytest.raises(InputError, match="model.damf='one' is not known; choose one of both, audio_to_visual"):
    start(DAMF(directions="one"), VIS, AUD)
  with pytest.raises(
    InputError, match="model.interaction='divide' is not known; choose one of multiply, add"
  ):
    start(DAMF(interaction="divide"), VIS, AUD)


def test_blocks_that_fill_the_map_are_pooled_alike():
  pooled = nn.avg_pool(VIS, (2, 2), (2, 2), "SAME", count_include_pad=False)
  np.testing.assert_allclose(shrink(VIS, 2), pooled, rtol=1e-5, atol=1e-6)
