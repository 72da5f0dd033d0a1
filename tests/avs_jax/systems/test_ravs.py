"""RAVS takes any encoder and any size, hears between the encoder's stages, and learns everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import losses, systems
from avs_jax.debias.contrast import Contrast
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.types import Batch
from configs import avss, ms3

SMALL = {
  "visual": "conv_pyramid",
  "visual_args": {"width": 4},
  "audio_args": {"width": 1 / 64},
  "width": 32,  # the heads' inner layer has an eighth of it
  "groups": (4, 3, 2),
  "neighbours": 3,
  "merge_layers": 1,
  "heads": 2,
}
CLIPS, SECONDS, SIDE = 2, 2, 32
RANDOM = np.random.default_rng(0)


def build(**changes):
  return systems.build("ravs", **{**SMALL, **changes})


def frames(seed=0, clips=CLIPS):
  draw = np.random.default_rng(seed)
  return draw.standard_normal((clips, SECONDS, SIDE, SIDE, 3)).astype(np.float32)


def sound(seed=0, clips=CLIPS):
  return np.random.default_rng(seed).standard_normal((clips, SECONDS, 128)).astype(np.float32)


def fresh(module):
  """Values that are random throughout, so that nothing hides behind a zero."""
  start = initialise(module, frames(), np.zeros((CLIPS, SECONDS, 96, 64), np.float32), seed=0)
  draw = np.random.default_rng(5)
  return jax.tree.map(lambda x: x + 0.05 * draw.standard_normal(x.shape).astype(np.float32), start)


def segment(module):
  return jax.jit(lambda v, f, a, p=None: module.apply(v, f, a, present=p, method="segment"))


@pytest.fixture(scope="module")
def variables():
  return fresh(build())


@pytest.fixture(scope="module")
def run():
  """One compiled program for all tests of the binary system."""
  return segment(build())


@pytest.fixture(scope="module")
def outputs(variables, run):
  return run(variables, frames(), sound())


def test_outputs_hold_what_losses_guides_and_pictures_read(outputs):
  shapes = {
    "logits": (CLIPS, SECONDS, SIDE, SIDE, 1),
    "uncertainty": (CLIPS, SECONDS, SIDE, SIDE, 1),
    "visual_features": (CLIPS, SECONDS, 1, 1, 16),
    "audio_features": (CLIPS, SECONDS, 128),
    "groups": (CLIPS, SECONDS, 2, 2),
    "group_agreement": (CLIPS, SECONDS, 2),
  }
  assert {name: getattr(outputs, name).shape for name in shapes} == shapes
  assert [x.shape[2:] for x in outputs.fused_maps] == [(8, 8, 4), (4, 4, 8), (2, 2, 12)]
  assert [x.shape[2:] for x in outputs.fused_audio] == [(4,), (8,), (12,)]
  assert outputs.logits.dtype == outputs.uncertainty.dtype == jnp.float32
  assert outputs.uncertainty.min() >= 0 and outputs.uncertainty.max() <= 1
  assert np.abs(outputs.group_agreement).max() <= 1 and outputs.groups.max() == 1


VISUAL = {
  "conv_pyramid": {},
  "mit_b1": {"depths": (1, 1, 1, 1)},
  "efficientnet_lite0": {},
  "resnet50": {"depths": (1, 1, 1, 1)},
  "swin_base_w7": {"depths": (2, 2, 2, 2)},
}


@pytest.mark.parametrize("visual", VISUAL)
def test_any_encoder_and_any_size_gives_logits_of_the_frames_size(visual):
  module = build(visual=visual, visual_args=VISUAL[visual], num_classes=3, dtype="bfloat16", heads=8)
  pictures = jax.ShapeDtypeStruct((1, 2, 50, 75, 3), jnp.uint8)
  mel = jax.ShapeDtypeStruct((1, 2, 96, 64), jnp.float32)

  def start(pictures, mel):
    out, _ = module.init_with_output(jax.random.key(0), pictures, mel)
    return out.logits, out.uncertainty, out.visual_features

  logits, doubt, seen = jax.eval_shape(start, pictures, mel)
  assert logits.shape == (1, 2, 50, 75, 3) and logits.dtype == jnp.float32 and doubt.shape[-1] == 1
  assert seen.shape[-1] == module.bind({}).visual_encoder.channels[-1]


def test_an_encoder_of_samples_is_heard_too():
  args = {"width": 4, "depths": (1,), "heads": (1,), "window": 4, "side": 64, "high_hz": 8000.0, "hop": 640}
  module = build(audio="htsat", audio_args={**args, "sample_rate_hz": 32_000})
  shapes = jax.eval_shape(
    lambda p, s: module.init_with_output(jax.random.key(0), p, s)[0].logits,
    jax.ShapeDtypeStruct((1, 2, SIDE, SIDE, 3), jnp.uint8),
    jax.ShapeDtypeStruct((1, 2, 16_000), jnp.float32),
  )
  assert shapes.shape == (1, 2, SIDE, SIDE, 1)


def test_permuting_clips_permutes_outputs(variables, run, outputs):
  turned = run(variables, frames()[::-1], sound()[::-1])
  np.testing.assert_allclose(turned.logits[::-1], outputs.logits, rtol=1e-3, atol=1e-3)
  np.testing.assert_array_equal(turned.groups[::-1], outputs.groups)


def test_the_sound_changes_the_masks_of_its_clip_and_what_was_seen_without_it_of_none(
  variables, run, outputs
):
  other = sound()
  other[0, 1] += 3
  changed = run(variables, frames(), other)
  change = np.abs(np.asarray(changed.logits - outputs.logits)).max((2, 3, 4))
  assert change[0].min() > 1e-4 and change[1].max() < 1e-5  # seconds of a clip remember one another
  np.testing.assert_allclose(changed.visual_features, outputs.visual_features, atol=1e-6)
  apart = np.abs(np.asarray(changed.fused_maps[2] - outputs.fused_maps[2])).max((2, 3, 4))
  assert apart[0, 1] > 1e-4 and apart[0, 0] < 1e-5  # the encoder's maps are a second's own


def test_what_the_encoder_sees_last_is_what_the_sound_has_made_of_the_stage_before(variables, outputs):
  """The encoder's own maps, put together by hand from its stages."""
  module = build()

  def by_hand(module, pictures, audio):
    x, maps = module.normalise(pictures), []
    for i in range(4):
      x = module.visual_encoder.stage(x, i)
      if i < 3:
        x = module.group_merge[str(i + 1)](x, audio.reshape(-1, 128)).map
      maps.append(x)
    return maps[:3]

  maps = jax.jit(lambda v, f, a: module.apply(v, f, a, method=by_hand))(variables, frames(), sound())
  for ours, fused in zip(maps, outputs.fused_maps, strict=True):
    np.testing.assert_allclose(jax.nn.relu(ours).reshape(fused.shape), fused, rtol=1e-4, atol=1e-4)


def test_absent_seconds_of_a_semantic_clip_give_zero_and_leave_the_others_alone():
  module = build(num_classes=3)
  run, variables = segment(module), fresh(module)
  present = np.array([[True, False], [True, True]])
  out = run(variables, frames(), sound(), present)
  assert not out.logits[0, 1].any() and not out.uncertainty[0, 1].any()
  other, noise = frames(), sound()
  other[0, 1], noise[0, 1] = 3, 3
  again = run(variables, other, noise, present)
  keep = np.nonzero(present)
  np.testing.assert_allclose(out.logits[keep], again.logits[keep], rtol=1e-4, atol=1e-5)


def batch_of(classes):
  full = np.ones((CLIPS, SECONDS), bool)
  return Batch(
    frames=frames(),
    log_mel=RANDOM.standard_normal((CLIPS, SECONDS, 96, 64)).astype(np.float32),
    masks=RANDOM.integers(0, classes, (CLIPS, SECONDS, SIDE, SIDE)).astype(np.int32),
    annotated=full,
    present=full,
    condition=np.zeros(CLIPS, np.int32),
    index=np.arange(CLIPS, dtype=np.int32),
  )


@pytest.mark.parametrize(("classes", "benchmark"), [(1, ms3), pytest.param(3, avss, marks=pytest.mark.slow)])
def test_the_papers_objective_reaches_every_parameter_with_a_finite_gradient(classes, benchmark):
  module = build(num_classes=classes)
  start, batch = fresh(module), batch_of(max(classes, 2))
  # With two groups both may answer alike, and the alignment rests: what it reads must be reached all the same.
  objective = losses.objective(benchmark.get_config("ravs").loss.to_dict())

  @jax.jit
  def slopes(params, audio):
    def loss(params, audio):
      out = module.apply({"params": params}, batch.frames, audio, train=True, method="segment")
      total, parts = objective(out, batch)
      return total + jnp.square(out.group_agreement).sum(), parts

    return jax.grad(loss, (0, 1), has_aux=True)(params, audio)

  (params, audio), parts = slopes(start["params"], sound())
  assert all(np.isfinite(value) for value in parts.values())
  assert np.isfinite(audio).all() and np.abs(audio).max() > 0
  for path, leaf in traverse_util.flatten_dict(params).items():
    if path[0] != "audio_encoder":
      assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@pytest.mark.slow
def test_a_noised_twin_starts_from_the_first_map_and_is_the_bare_systems_own_output(variables, run):
  audio = sound()
  wrapped = Contrast(build(), "uncertainty", where="embedding")
  out = jax.jit(lambda v, f, a: wrapped.apply(v, f, a, method="segment"))(
    {"params": {"system": variables["params"]}}, frames(), audio
  )
  noised = np.asarray(wrapped.noised(jnp.asarray(audio), train=False))
  clean, biased = (run(variables, frames(), each).logits for each in (audio, noised))
  # A cell as near to one group as to another, but for rounding, may fall to either: with jax 0.12 4 pixels did.
  close = np.isclose(out.logits, 2 * clean - biased, rtol=1e-3, atol=1e-3)
  assert close.mean() > 0.995
  assert not np.isclose(out.logits, clean, rtol=1e-3, atol=1e-3).all()
  assert out.groups.shape[0] == CLIPS


def test_a_visual_only_branch_goes_on_with_the_encoder_whose_scene_it_is_given():
  wrapped = Contrast(build(), "bias_only", build())
  shapes = jax.eval_shape(
    lambda p, s: wrapped.init(jax.random.key(0), p, s),
    jax.ShapeDtypeStruct((1, 2, SIDE, SIDE, 3), jnp.uint8),
    jax.ShapeDtypeStruct((1, 2, 96, 64), jnp.float32),
  )["params"]
  assert "visual_encoder" in shapes["system"] and "visual_encoder" not in shapes["biased"]
  assert "group_merge_1" in shapes["biased"] and "uncertainty" in shapes["biased"]


def test_a_program_without_a_guide_does_not_look_twice(variables):
  """What a guide reads of the picture, seen without sound, costs nothing where nobody reads it."""

  def flops(read):
    def look(variables, pictures):
      return read(build().apply(variables, pictures, method="look"))

    return jax.jit(look).lower(variables, frames()).compile().cost_analysis()["flops"]

  assert flops(lambda scene: scene.pyramid[0]) < 0.7 * flops(
    lambda scene: (scene.pyramid[0], scene.features.last)
  )


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"groups": (14, 7)}, r"model.groups=\(14, 7\): give three numbers from 1"),
    ({"groups": [14, 7, 0]}, r"model.groups=\(14, 7, 0\): give three numbers from 1"),
    ({"neighbours": 0}, "model.neighbours=0 is too small; give at least 1"),
    ({"merge_layers": -1}, "model.merge_layers=-1 is too small; give at least 0"),
    ({"heads": 0}, "model.heads=0 is too small; give at least 1"),
  ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings, message):
  with pytest.raises(InputError, match=message):
    build(**settings)


def test_the_ablations_baseline_has_cells_for_groups_and_no_attention_in_time():
  module = build(merge="cells", temporal=False, uncertainty_form="none")
  sample = np.zeros((CLIPS, SECONDS, 96, 64), np.float32)
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), frames(), sample))["params"]
  assert set(shapes["group_merge_1"]) == {
    "audio_proj", "nothing", "norm_tokens", "cross_attn", "norm_mixed", "fc1", "fc2",
  }  # fmt: skip
  assert set(shapes["uncertainty"]) == {"mask_head", "uncertainty_head"}
  found = jax.eval_shape(
    lambda v: [
      (out.logits, out.groups, out.group_agreement)
      for out in (module.apply(v, frames(), sound(), method="segment"),)
    ][0],
    {"params": shapes},
  )
  assert [x.shape for x in found] == [(2, 2, 32, 32, 1), (2, 2, 2, 2), (2, 2, 4)]
  with pytest.raises(InputError, match="model.merge='rows' is not known; choose one of groups, cells"):
    build(merge="rows")
  with pytest.raises(InputError, match="model.merge_of='both' is not known; choose one of heard, seen"):
    build(merge_of="both")
