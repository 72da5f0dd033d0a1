"""AVSBench with a small visual encoder: sizes, who hears what, groups, padding, switches with equal results."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import systems
from avs_jax.initialise import abstract_variables, initialise

RANDOM = np.random.default_rng(0)
B, T, SIDE = 2, 5, 32
TINY = {"visual": "conv_pyramid", "visual_args": {"width": 4}, "width": 16}
FRAMES = RANDOM.standard_normal((B, T, SIDE, SIDE, 3)).astype(np.float32)
AUDIO = RANDOM.standard_normal((B, T, 128)).astype(np.float32)


def build(**overrides):
  return systems.build("avsbench", **{**TINY, **overrides})


def vary(fresh):
  """Random values everywhere, of a size that lets every branch count; fresh necks and norms are near zero."""

  def draw(path, leaf):
    z = RANDOM.standard_normal(leaf.shape)
    if path[-1] == "kernel":
      z = z / np.sqrt(np.prod(leaf.shape[:-1]))
    else:
      z = 0.3 * (np.abs(z) if path[-1] == "var" else z) + (path[-1] in ("scale", "var"))
    return z.astype(np.float32)

  flat = traverse_util.flatten_dict(fresh)
  return traverse_util.unflatten_dict({path: draw(path, leaf) for path, leaf in flat.items()})


@functools.lru_cache
def prepared(**overrides):
  """A system, its varied variables, and its jitted `segment`."""
  model = build(**overrides)
  variables = vary(initialise(model, FRAMES, AUDIO, seed=0, method="segment"))
  return model, variables, jax.jit(functools.partial(model.apply, train=False, method="segment"))


def shapes(model, clips, seconds, height, width, channels=128):
  """Abstract outputs for frames of a size; nothing is computed."""
  frames = jax.ShapeDtypeStruct((clips, seconds, height, width, 3), jnp.uint8)
  audio = jax.ShapeDtypeStruct((clips, seconds, channels), jnp.float32)
  variables, _ = abstract_variables(
    model, jnp.zeros((1, 2, 64, 64, 3)), jnp.zeros((1, 2, channels)), method="segment"
  )

  def segment(variables, frames, audio):  # no Outputs: the checked fields of one cannot be abstract
    return vars(model.apply(variables, frames, audio, method="segment"))

  return SimpleNamespace(**jax.eval_shape(segment, variables, frames, audio))


@pytest.mark.parametrize(
  ("seconds", "size"), [(5, (224, 224)), (3, (200, 252)), (10, (64, 96)), (10, (33, 47)), (1, (32, 31))]
)
def test_logits_have_the_frames_size_whatever_it_is(seconds, size):
  out = shapes(build(num_classes=3), 2, seconds, *size)
  assert out.logits.shape == (2, seconds, *size, 3) and out.logits.dtype == jnp.float32
  sides = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)]
  assert [x.shape for x in out.fused_maps] == [(2, seconds, *side, 16) for side in sides]
  assert [x.shape for x in out.fused_audio] == [(2, seconds, 16)] * 4
  assert out.visual_features.shape == (2, seconds, *sides[-1], 16)


@pytest.mark.parametrize(
  ("visual", "args"),
  [
    ("conv_pyramid", {"width": 4}),
    ("mit_b0", {"dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}),
    ("pvt_v2_b0", {"dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}),
    ("resnet50", {"width": 8, "depths": (1, 1, 1, 1)}),
    ("efficientnet_lite0", {"width": 0.25}),
  ],
)
def test_any_visual_encoder_can_be_named(visual, args):
  model = build(visual=visual, visual_args=args)
  out = shapes(model, 1, 2, 70, 100)
  assert out.logits.shape == (1, 2, 70, 100, 1)
  assert out.visual_features.shape[-1] == model.bind({}).visual_encoder.channels[-1]


def test_a_size_that_no_stride_divides_gives_finite_logits():
  _, variables, segment = prepared()
  logits = segment(variables, FRAMES[:1, :2, :30, :27], AUDIO[:1, :2]).logits
  assert logits.shape == (1, 2, 30, 27, 1) and np.isfinite(logits).all() and logits.std() > 0.01


def test_outputs_are_what_losses_and_guides_expect():
  model, variables, segment = prepared()
  out = segment(variables, FRAMES, AUDIO)
  last = jax.jit(lambda variables: model.apply(variables, FRAMES, method="see")[-1])(variables)
  np.testing.assert_allclose(out.visual_features.reshape(last.shape), last, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(out.audio_features, AUDIO)
  for seen, heard in zip(out.fused_maps, out.fused_audio, strict=True):
    assert seen.min() == 0 and seen.max() > 0.1  # rectified
    assert heard.min() < 0  # signed
  assert out.similarity is None and out.mix_mask is None


def test_permuting_clips_permutes_outputs():
  _, variables, segment = prepared()
  out, swapped = segment(variables, FRAMES, AUDIO), segment(variables, FRAMES[::-1], AUDIO[::-1])
  for ours, theirs in zip(jax.tree.leaves(out), jax.tree.leaves(swapped), strict=True):
    np.testing.assert_allclose(theirs, ours[::-1], rtol=1e-4, atol=1e-5)


def test_the_sound_of_one_second_reaches_its_whole_clip_and_no_other():
  _, variables, segment = prepared()
  louder = AUDIO.copy()
  louder[1, 3] += 1
  change = np.abs(segment(variables, FRAMES, louder).logits - segment(variables, FRAMES, AUDIO).logits)
  reached = np.asarray(change).max((2, 3, 4))  # [B, T]
  assert not reached[0].any() and (reached[1] > 1e-4).all()


@pytest.mark.parametrize(
  "overrides", [{"tpavi_stages": ()}, {"tpavi_modes": ("vv",)}], ids=["no stage", "no sound"]
)
def test_a_visual_network_is_deaf(overrides):
  _, variables, segment = prepared(**overrides)
  out, other = segment(variables, FRAMES, AUDIO), segment(variables, FRAMES, 3 * AUDIO + 1)
  np.testing.assert_array_equal(out.logits, other.logits)
  assert out.fused_audio == (None,) * 4
  names = "/".join(map("/".join, traverse_util.flatten_dict(variables["params"])))
  assert "align_channel" not in names and ("tpavi" in names) == ("tpavi_modes" in overrides)


def test_only_the_named_stages_hear():
  _, variables, segment = prepared(tpavi_stages=(4, 2))
  assert {name for name in variables["params"] if name.startswith("tpavi")} == {"tpavi_2", "tpavi_4"}
  out, other = segment(variables, FRAMES, AUDIO), segment(variables, FRAMES, -AUDIO)
  assert [x is not None for x in out.fused_audio] == [False, True, False, True]
  moved = [np.abs(a - b).max() > 1e-4 for a, b in zip(out.fused_maps, other.fused_maps, strict=True)]
  assert moved == [False, True, False, True]


def test_semantic_clips_of_ten_seconds_are_two_groups_of_five():
  _, variables, segment = prepared(num_classes=3)
  long = {"frames": FRAMES.reshape(1, 10, SIDE, SIDE, 3), "audio": AUDIO.reshape(1, 10, 128)}
  short = segment(variables, FRAMES, AUDIO).logits
  np.testing.assert_allclose(
    segment(variables, **long).logits.reshape(short.shape), short, rtol=1e-4, atol=1e-5
  )
  whole = prepared(num_classes=3, group_seconds=0)[2](variables, **long).logits
  assert np.abs(whole.reshape(short.shape) - short).max() > 1e-2


def test_binary_clips_are_heard_whole_unless_groups_are_asked_for():
  _, variables, segment = prepared()
  long = {"frames": FRAMES.reshape(1, 10, SIDE, SIDE, 3), "audio": AUDIO.reshape(1, 10, 128)}
  short = segment(variables, FRAMES, AUDIO).logits
  grouped = prepared(group_seconds=5)[2](variables, **long).logits
  np.testing.assert_allclose(grouped.reshape(short.shape), short, rtol=1e-4, atol=1e-5)
  assert np.abs(segment(variables, **long).logits.reshape(short.shape) - short).max() > 1e-2


def test_padding_of_a_semantic_clip_has_zero_logits_and_leaks_nowhere():
  _, variables, segment = prepared(num_classes=3)
  present = np.array([[True] * 3 + [False] * 2, [True] * 5])
  out = segment(variables, FRAMES, AUDIO, present=present)
  assert not out.logits[0, 3:].any() and not any(x[0, 3:].any() for x in out.fused_maps)
  noisy, loud = FRAMES.copy(), AUDIO.copy()
  noisy[0, 3:], loud[0, 3:] = 9, 9
  other = segment(variables, noisy, loud, present=present)
  np.testing.assert_array_equal(out.logits[1], other.logits[1])
  np.testing.assert_array_equal(out.logits[0, 3:], other.logits[0, 3:])
  np.testing.assert_allclose(out.logits[0, :3], other.logits[0, :3], rtol=1e-4, atol=1e-5)
  unpadded = segment(variables, FRAMES, AUDIO, present=np.ones((B, T), bool)).logits
  np.testing.assert_allclose(unpadded, segment(variables, FRAMES, AUDIO).logits, rtol=1e-4, atol=1e-5)


def test_a_binary_network_sees_all_frames_as_real():
  _, variables, segment = prepared()
  present = np.zeros((B, T), bool)
  np.testing.assert_allclose(
    segment(variables, FRAMES, AUDIO, present=present).logits,
    segment(variables, FRAMES, AUDIO).logits,
    rtol=1e-5,
    atol=1e-6,
  )


def slopes(model, variables, frames=FRAMES[:1, :2], audio=AUDIO[:1, :2]):
  weigh = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, SIDE, SIDE, 1)), jnp.float32)

  def loss(params):
    out = model.apply({**variables, "params": params}, frames, audio, train=False, method="segment")
    return (out.logits * weigh).mean()

  return jax.jit(jax.value_and_grad(loss))(variables["params"])


@pytest.fixture(scope="module")
def plain_slopes():
  model, variables, _ = prepared()
  return slopes(model, variables)


def test_gradients_are_finite_and_reach_every_parameter(plain_slopes):
  for path, leaf in traverse_util.flatten_dict(plain_slopes[1]).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_recomputing_activations_changes_nothing(plain_slopes):
  _, variables, _ = prepared()
  recomputed = slopes(build(remat=True), variables)
  for ours, theirs in zip(jax.tree.leaves(recomputed), jax.tree.leaves(plain_slopes), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_half_precision_stays_near_and_keeps_float32_where_it_must():
  _, variables, segment = prepared()
  half = build(dtype="bfloat16")
  shapes_of = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
  fresh, _ = abstract_variables(half, FRAMES, AUDIO, method="segment")
  assert shapes_of(fresh) == shapes_of(variables)
  exact = segment(variables, FRAMES, AUDIO).logits
  rough = jax.jit(functools.partial(half.apply, method="segment"))(variables, FRAMES, AUDIO)
  assert rough.logits.dtype == jnp.float32 and rough.fused_maps[0].dtype == jnp.bfloat16
  # About thirty roundings of relative size 2^-9 on the way.
  assert np.abs(rough.logits - exact).mean() < 0.05 * np.abs(exact).mean()


def test_training_moves_the_running_statistics_of_every_stage_that_hears():
  model, variables, _ = prepared()
  train = jax.jit(functools.partial(model.apply, train=True, method="segment", mutable=["batch_stats"]))
  _, moved = train(variables, FRAMES, AUDIO)
  for path, leaf in traverse_util.flatten_dict(moved["batch_stats"]).items():
    assert (leaf != traverse_util.flatten_dict(variables["batch_stats"])[path]).all(), path
  assert set(moved["batch_stats"]) == {f"tpavi_{stage}" for stage in (1, 2, 3, 4)}
