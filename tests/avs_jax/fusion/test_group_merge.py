"""Groups are those of a slow loop over single tokens; the sound decides what a group says, and no frame hears
another's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import mesh as meshes
from avs_jax.fusion.group_merge import (
  GroupMerge,
  GroupUpdate,
  agreement,
  group_tokens,
  log_density,
  membership,
  merge,
  spread,
)
from avs_jax.initialise import initialise

RANDOM = np.random.default_rng(0)
FRAMES, H, W, C, A, P = 2, 4, 5, 8, 6, 3


def draw(*shape):
  return RANDOM.standard_normal(shape).astype(np.float32)


grouped = jax.jit(group_tokens, static_argnums=(1, 2, 3))


def slow_densities(tokens, neighbours):
  """exp(-distance) of the nearest others, added up token by token in float64."""
  found = []
  for i, one in enumerate(tokens):
    apart = sorted(math.dist(one, other) for j, other in enumerate(tokens) if j != i)
    found.append(sum(math.exp(-each) for each in apart[:neighbours]))
  return found


def slow_groups(tokens, groups, neighbours):
  """DPC-KNN of one frame by loops over tokens; every tie goes to the earlier one."""
  tokens = [tuple(map(float, token)) for token in tokens]
  count = len(tokens)
  density = slow_densities(tokens, neighbours)
  order = sorted(range(count), key=lambda i: (-density[i], i))
  above, score = {}, {order[0]: math.inf}
  for rank, i in enumerate(order[1:], start=1):
    gaps = [(math.dist(tokens[i], tokens[j]), j) for j in order[:rank]]
    gap, above[i] = min(gaps)
    score[i] = density[i] * gap
  heads = sorted(range(count), key=lambda i: (-score[i], i))[:groups]
  label = {head: rank for rank, head in enumerate(heads)}
  for i in order:  # denser tokens have theirs already
    if i not in label:
      label[i] = label[above[i]]
  return [label[i] for i in range(count)]


def clustered(count, centres, width):
  """Tight heaps of points far from one another."""
  heaps = 6 * RANDOM.standard_normal((centres, width))
  return (heaps[np.arange(count) % centres] + 0.3 * RANDOM.standard_normal((count, width))).astype(np.float32)


# Clips of 2 frames; rows that divide the tokens, that do not, and more than there are.
INPUTS = {
  "random": (draw(2, 50, 8), 5, 5, 10),
  "random, wide": (draw(2, 33, 64), 7, 4, 8),
  "clustered": (np.stack([clustered(48, 4, 8), clustered(48, 7, 8)]), 6, 5, 64),
  "twins": (np.repeat(draw(2, 12, 4), 2, axis=1), 5, 3, 7),
  "fewer tokens than neighbours": (draw(2, 4, 3), 3, 9, 3),
  "fewer tokens than groups": (draw(2, 3, 4), 5, 5, 2),
  "one token": (draw(2, 1, 4), 5, 5, 64),
  "all equal": (np.full((2, 9, 5), 3.3, np.float32), 4, 3, 4),
  "all zero": (np.zeros((2, 9, 5), np.float32), 4, 3, 4),
}


@pytest.mark.parametrize("name", INPUTS)
def test_groups_are_those_of_a_loop_over_single_tokens(name):
  tokens, groups, neighbours, rows = INPUTS[name]
  ours = np.asarray(grouped(jnp.asarray(tokens), groups, neighbours, rows))
  for mine, frame in zip(ours, tokens, strict=True):
    assert mine.tolist() == slow_groups(frame, groups, neighbours)
    assert set(mine.tolist()) == set(range(min(groups, len(frame))))  # no group is empty


def test_densities_are_the_published_sum_even_where_it_vanishes():
  tokens = draw(2, 30, 8)
  for mine, frame in zip(log_density(jnp.asarray(tokens), 5, 7), tokens, strict=True):
    np.testing.assert_allclose(np.exp(mine), slow_densities(frame, 5), rtol=1e-4)
  far = np.asarray(log_density(jnp.asarray(1e4 * tokens), 5, 7))  # each term below the smallest float32
  assert np.isfinite(far).all() and len(np.unique(far)) > 20


def test_groups_do_not_depend_on_how_many_rows_are_held_on_other_frames_or_on_where_the_tokens_lie():
  tokens = jnp.asarray(INPUTS["random"][0])
  whole = grouped(tokens, 5, 5, 10)
  np.testing.assert_array_equal(grouped(tokens, 5, 5, 64), whole)
  np.testing.assert_array_equal(grouped(tokens[::-1], 5, 5, 10), whole[::-1])
  np.testing.assert_array_equal(grouped(tokens + 50, 5, 5, 10), whole)


def test_frames_may_lie_on_several_devices():
  tokens = np.repeat(INPUTS["random"][0], 2, axis=0)  # 4 frames
  mesh = meshes.make_mesh(4, devices=jax.devices()[:4])
  found = grouped(jax.device_put(tokens, meshes.by_clip(mesh)), 5, 5, 10)
  np.testing.assert_array_equal(found[::2], grouped(jnp.asarray(INPUTS["random"][0]), 5, 5, 10))


def test_no_matrix_of_all_pairs_is_ever_in_memory():
  """At 224 px and stride 4 there are 3,136 tokens; the matrix would hold 39 MB a frame."""
  count = 3136
  tokens = jax.ShapeDtypeStruct((1, count, 64), jnp.float32)
  compiled = jax.jit(lambda x: group_tokens(x, 14)).lower(tokens).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < count * count * 4 / 5


def test_merging_weighs_tokens_by_the_exponential_of_their_relevance():
  tokens = jnp.asarray([[[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]]])
  relevance = jnp.log(jnp.asarray([[1.0, 3.0, 7.0]]))
  member = membership(jnp.asarray([[0, 0, 1]]), 2)
  # Group 0: weights 1/4 and 3/4; group 1 is its only token, whatever its relevance.
  compact = merge(tokens, relevance, member)
  np.testing.assert_allclose(compact, [[[2.5, 3.0], [5.0, 6.0]]], rtol=1e-6)
  np.testing.assert_allclose(spread(compact, member), [[[2.5, 3.0], [2.5, 3.0], [5.0, 6.0]]], rtol=1e-6)


def test_agreement_is_a_cosine_and_zero_for_silence():
  compact = jnp.asarray([[[3.0, 4.0], [-4.0, 3.0], [0.0, 0.0]]])
  np.testing.assert_allclose(agreement(compact, jnp.asarray([[6.0, 8.0]])), [[1, 0, 0]], atol=1e-6)
  np.testing.assert_array_equal(agreement(compact, jnp.zeros((1, 2))), [[0, 0, 0]])


def test_an_update_is_equation_seven_on_normed_groups():
  compact, tokens, relevance = (jnp.asarray(draw(*shape)) for shape in ((1, P, C), (1, 7, C), (1, 7)))
  module = GroupUpdate()
  params = initialise(module, compact, tokens, relevance, seed=0)["params"]
  for name in ("q", "k", "v"):
    params[name] = {**jax.tree.map(np.zeros_like, params[name]), "kernel": np.eye(C, dtype=np.float32)}
  compact, tokens, relevance = (np.asarray(x) for x in (compact, tokens, relevance))
  params["fc2"] = jax.tree.map(np.zeros_like, params["fc2"])  # the second half adds nothing
  query = (compact - compact.mean(-1, keepdims=True)) / np.sqrt(compact.var(-1, keepdims=True) + 1e-5)
  logits = query[0] @ tokens[0].T / np.sqrt(C) + relevance
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  ours = module.apply({"params": params}, *(jnp.asarray(x) for x in (compact, tokens, relevance)))
  np.testing.assert_allclose(ours[0], compact[0] + weights @ tokens[0], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def block():
  return GroupMerge(P, neighbours=3, layers=1, heads=4)


@pytest.fixture(scope="module")
def inputs():
  return jnp.asarray(draw(FRAMES, H, W, C)), jnp.asarray(draw(FRAMES, A))


@pytest.fixture(scope="module")
def variables(block, inputs):
  start = initialise(block, *inputs, seed=0)
  return jax.tree.map(lambda x: x + 0.2 * draw(*x.shape), start)


@pytest.fixture(scope="module")
def run(block):
  return jax.jit(block.apply)


def test_a_map_gets_its_groups_features_added(run, variables, inputs):
  merged = run(variables, *inputs)
  assert merged.map.shape == (FRAMES, H, W, C) and merged.compact.shape == (FRAMES, P, C)
  assert merged.groups.shape == (FRAMES, H, W) and merged.audio.shape == (FRAMES, C)
  tokens = inputs[0].reshape(FRAMES, -1, C)
  np.testing.assert_array_equal(merged.groups.reshape(FRAMES, -1), grouped(tokens, P, 3, 64))
  for frame in range(FRAMES):
    added = np.asarray(merged.compact)[frame][np.asarray(merged.groups)[frame]]  # [h, w, C]
    np.testing.assert_allclose(merged.map[frame], inputs[0][frame] + added, rtol=1e-4, atol=1e-5)


def test_the_sound_changes_its_own_frame_and_not_the_groups(run, variables, inputs):
  vis, aud = inputs
  before, after = run(variables, vis, aud), run(variables, vis, aud.at[1].add(2.0))
  np.testing.assert_array_equal(before.groups, after.groups)
  change = np.abs(np.asarray(after.map - before.map)).max((1, 2, 3))
  assert change[0] == 0 and change[1] > 1e-3


@pytest.mark.parametrize("of", ["heard", "seen"])
def test_only_groups_of_what_is_heard_tell_sounds_that_all_tokens_answer_alike(of, variables, inputs):
  block = GroupMerge(P, neighbours=3, layers=1, heads=4, of=of)
  alike = jnp.ones((1, H, W, C)) * inputs[0][:1, :1, :1]
  one, other = (block.apply(variables, alike, aud).map for aud in (inputs[1][:1], jnp.zeros((1, A))))
  change = float(np.abs(np.asarray(one - other)).max())
  assert change > 0.1 if of == "heard" else change < 1e-5


def test_permuting_frames_permutes_outputs(run, variables, inputs):
  straight, turned = run(variables, *inputs), run(variables, *(x[::-1] for x in inputs))
  for x, y in zip(straight, turned, strict=True):
    np.testing.assert_allclose(np.asarray(y)[::-1], x, rtol=1e-5, atol=1e-5)


def test_gradients_are_finite_and_reach_every_parameter_the_map_and_the_sound(block, variables, inputs):
  weigh = draw(FRAMES, H, W, C)

  def loss(params, vis, aud):
    merged = block.apply({"params": params}, vis, aud)
    return (merged.map * weigh).sum()

  slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(variables["params"], *inputs)
  for path, leaf in traverse_util.flatten_dict(slopes[0]).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path
  assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in slopes[1:])


def test_which_group_a_token_is_in_has_no_gradient():
  slope = jax.grad(lambda x: (grouped(x, 3, 5, 64) * x[..., 0]).sum())(jnp.asarray(draw(1, 8, 3)))
  assert not slope[..., 1:].any()


def test_equal_tokens_and_silence_have_finite_gradients(block, variables):
  def loss(vis, aud):
    merged = block.apply(variables, vis, aud)
    return jnp.square(merged.map).sum() + agreement(merged.compact, merged.audio).sum()

  for slope in jax.jit(jax.grad(loss, (0, 1)))(jnp.zeros((1, H, W, C)), jnp.zeros((1, A))):
    assert np.isfinite(slope).all()


def test_half_precision_groups_in_float32(variables, inputs):
  half = GroupMerge(P, neighbours=3, layers=1, heads=4, dtype=jnp.bfloat16)
  merged = jax.jit(half.apply)(variables, *(x.astype(jnp.bfloat16) for x in inputs))
  assert merged.map.dtype == jnp.bfloat16
  rounded = inputs[0].astype(jnp.bfloat16).astype(jnp.float32).reshape(FRAMES, -1, C)
  np.testing.assert_array_equal(merged.groups.reshape(FRAMES, -1), grouped(rounded, P, 3, 64))


def test_heads_that_do_not_divide_the_width_become_fewer(inputs):
  shapes = jax.eval_shape(
    lambda vis, aud: GroupMerge(P, heads=8).init_with_output(jax.random.key(0), vis, aud)[0].map,
    inputs[0][..., :6],
    inputs[1],
  )
  assert shapes.shape == (FRAMES, H, W, 6)
