"""AVSegFormer takes any encoder and any size, hears each second by itself, and learns where its losses let it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import losses, systems, weights
from avs_jax.debias.guide import Guided, guide_loss
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, starting_variables
from avs_jax.types import Batch, Condition
from configs import ms3, tiny

SMALL = {
  "visual": "conv_pyramid",
  "visual_args": {"width": 4},
  "audio_args": {"width": 1 / 64},
  "width": 16,
  "num_queries": 5,
  "generator_layers": 1,
  "encoder_layers": 1,
  "decoder_layers": 1,
  "heads": 4,
}
CLIPS, SECONDS, SIDE = 2, 3, 32


def build(**changes):
  return systems.build("avsegformer", **{**SMALL, **changes})


def frames(seed=0, clips=CLIPS, seconds=SECONDS, side=SIDE):
  draw = np.random.default_rng(seed)
  return draw.standard_normal((clips, seconds, side, side, 3)).astype(np.float32)


def sound(seed=0, clips=CLIPS, seconds=SECONDS):
  return np.random.default_rng(seed).standard_normal((clips, seconds, 128)).astype(np.float32)


def fresh(module):
  mel = np.zeros((CLIPS, SECONDS, 96, 64), np.float32)
  return initialise(module, frames(), mel, seed=0)


@pytest.fixture(scope="module")
def variables():
  return fresh(build())


def segment(module):
  return jax.jit(lambda v, f, a, p=None: module.apply(v, f, a, present=p, method="segment"))


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
    "mix_mask": (CLIPS, SECONDS, SIDE // 4, SIDE // 4),
    "visual_features": (CLIPS, SECONDS, 1, 1, 16),
    "audio_features": (CLIPS, SECONDS, 128),
    "projected_audio": (CLIPS, SECONDS, 16),
  }
  assert {name: getattr(outputs, name).shape for name in shapes} == shapes
  assert outputs.fused_maps[0].shape == (CLIPS, SECONDS, 8, 8, 16) and outputs.fused_maps[0].min() >= 0
  assert outputs.fused_audio[0].shape == (CLIPS, SECONDS, 16)
  np.testing.assert_allclose(outputs.mix_mask, outputs.fused_maps[0].mean(-1), rtol=1e-5)
  assert all(x.dtype == jnp.float32 for x in (outputs.logits, outputs.mix_mask))


@pytest.mark.parametrize("visual", ["pvt_v2_b0", "mit_b1", "resnet50", "efficientnet_lite0", "conv_pyramid"])
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (50, 75)])
def test_any_encoder_and_any_size_gives_logits_of_the_frames_size(visual, size):
  module = build(visual=visual, visual_args={}, num_classes=3, dtype="bfloat16")
  pictures = jax.ShapeDtypeStruct((1, 2, *size, 3), jnp.uint8)
  mel = jax.ShapeDtypeStruct((1, 2, 96, 64), jnp.float32)

  def start(pictures, mel):
    out, _ = module.init_with_output(jax.random.key(0), pictures, mel)
    return out.logits, out.visual_features

  logits, seen = jax.eval_shape(start, pictures, mel)
  assert logits.shape == (1, 2, *size, 3) and logits.dtype == jnp.float32
  assert seen.shape[-1] == module.bind({}).visual_encoder.channels[-1]


def test_bytes_are_normalised_with_the_encoders_statistics(variables, run):
  pictures = np.random.default_rng(1).integers(0, 256, (CLIPS, SECONDS, SIDE, SIDE, 3), np.uint8)
  encoder = build().bind({}).visual_encoder
  normalised = ((pictures - np.asarray(encoder.MEAN)) / np.asarray(encoder.STD)).astype(np.float32)
  np.testing.assert_allclose(
    run(variables, pictures, sound()).logits, run(variables, normalised, sound()).logits, rtol=1e-3, atol=1e-4
  )


def test_every_frame_stands_alone(variables, run, outputs):
  """Frames in any order, gathered into other clips: each keeps its own logits."""
  order = np.random.default_rng(0).permutation(CLIPS * SECONDS)

  def shuffled(x):
    return x.reshape(-1, *x.shape[2:])[order].reshape(x.shape)

  moved = run(variables, shuffled(frames()), shuffled(sound()))
  np.testing.assert_allclose(moved.logits, shuffled(np.asarray(outputs.logits)), rtol=1e-4, atol=1e-5)


def test_the_sound_of_a_second_changes_the_masks_of_that_second_alone(variables, run, outputs):
  other = sound()
  other[0, 1] += 3
  change = np.abs(np.asarray(run(variables, frames(), other).logits - outputs.logits)).max((2, 3, 4))
  assert change[0, 1] > 1e-3
  assert np.delete(change.reshape(-1), 1).max() < 1e-5


def test_the_papers_mixer_shares_the_weights_and_not_the_result(variables, outputs):
  paper = segment(build(mixer="paper"))(variables, frames(), sound())
  assert np.abs(paper.logits - outputs.logits).max() > 1e-3


def test_absent_seconds_of_a_semantic_clip_give_zero_and_leave_the_others_alone():
  module = build(num_classes=4)
  run, variables = segment(module), fresh(module)
  present = np.array([[True, True, False], [True, True, True]])
  whole = run(variables, frames(), sound(), np.ones_like(present))
  out = run(variables, frames(), sound(), present)
  assert not out.logits[0, 2].any() and not out.mix_mask[0, 2].any()
  keep = np.nonzero(present)
  np.testing.assert_allclose(out.logits[keep], whole.logits[keep], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out.visual_features, whole.visual_features, rtol=1e-5, atol=1e-6)


def batch_of(masks, condition):
  full = np.ones((CLIPS, SECONDS), bool)
  return Batch(
    frames=frames(),
    log_mel=np.zeros((CLIPS, SECONDS, 96, 64), np.float32),
    masks=np.broadcast_to(np.asarray(masks, np.int32), (CLIPS, SECONDS, SIDE, SIDE)),
    annotated=full,
    present=full,
    condition=np.full(CLIPS, condition, np.int32),
    index=np.arange(CLIPS, dtype=np.int32),
  )


@pytest.fixture(scope="module")
def slopes():
  """slopes(masks, condition) -> gradients of the segmentation loss and of the guide's, with random values."""
  module = Guided(build(), form="cosine_released")
  start = fresh(module)
  draw = np.random.default_rng(5)
  start = jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)
  published = losses.objective(ms3.get_config("avsegformer").loss.to_dict())

  @jax.jit
  def compute(batch):
    def parts(variables):
      out = module.apply(variables, batch.frames, sound(), method="segment")
      return jnp.stack([published(out, batch)[0], guide_loss(out, batch)])

    values, back = jax.vjp(parts, {"params": start["params"]})
    (both,) = jax.vmap(back)(jnp.eye(2))
    return values, [jax.tree.map(lambda x, i=i: x[i], both["params"]) for i in range(2)]

  return lambda masks, condition: compute(batch_of(masks, condition))


CORNER = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % SIDE < 12


@pytest.mark.slow
def test_gradients_of_a_positive_reach_every_parameter_that_acts(slopes):
  _, (segmentation, guide) = slopes(CORNER, Condition.POSITIVE)
  for path, slope in traverse_util.flatten_dict(segmentation).items():
    assert np.isfinite(slope).all(), path
    if path[0] == "guide" or path[1] == "audio_encoder":  # the embedding was given
      assert not np.abs(slope).any(), path
    elif path[-2:] == ("cross_attn", "in_proj_weight") and path[1] == "query_generator":
      assert not np.abs(slope[:32]).any() and np.abs(slope[32:]).max() > 0, path
    else:
      assert np.abs(slope).max() > 0, path
  moved = {path[:2] for path, slope in traverse_util.flatten_dict(guide).items() if np.abs(slope).max() > 0}
  assert moved == {("guide", "audio_proj"), ("system", "audio_proj"), ("system", "visual_encoder")}


@pytest.mark.slow
def test_the_published_loss_teaches_the_masks_of_a_negative_nothing(slopes):
  (segmentation_loss, guide), (segmentation, guided) = slopes(np.zeros((SIDE, SIDE)), Condition.SILENCE)
  assert float(segmentation_loss) == pytest.approx(1.1, abs=1e-6)
  assert 0.31 < float(guide) < 1.32
  assert all(not np.abs(slope).any() for slope in jax.tree.leaves(segmentation))
  moved = {path[:2] for path, slope in traverse_util.flatten_dict(guided).items() if np.abs(slope).max() > 0}
  assert moved == {("guide", "audio_proj"), ("system", "audio_proj"), ("system", "visual_encoder")}


def test_widths_that_do_not_divide_are_refused():
  with pytest.raises(
    InputError, match="model.width=20: avsegformer needs a multiple of 8 and of its 4 heads"
  ):
    segment(build(width=20)).lower({}, frames(), sound())
  with pytest.raises(InputError, match="has no setting tpavi_stages"):
    build(tpavi_stages=(1,))


def test_the_released_guide_needs_a_system_that_projects_its_sound():
  small = {key: SMALL[key] for key in ("visual", "visual_args", "audio_args", "width")}
  module = Guided(systems.build("avsbench", **small, tpavi_stages=()), form="cosine_released")
  with pytest.raises(InputError, match="choose 'cosine', or model.system='avsegformer'"):
    fresh(module)


CHECKPOINTS = {
  "avsegformer/binary_res50": {"visual": "resnet50"},
  "avsegformer/avss_pvt2": {"num_classes": 71},
  "avsbench_robust/robust_pvt2": {},
}


def listed(path):
  shapes = {
    key: tuple(value["shape"] if isinstance(value, dict) else value)
    for key, value in json.loads(path.read_text()).items()
  }
  return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.golden
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_whole_published_checkpoints_fit_with_vggish_and_dead_tensors(golden, name):
  state = listed(golden(f"{name}.state_dict.json"))
  placed = weights.from_torch("avsegformer", state, **CHECKPOINTS[name])
  assert set(placed["params"]) >= {"visual_encoder", "audio_encoder", "pixel_decoder", "mask_head"}
  guide = weights.guide_from_torch("avsegformer", state)
  if "robust" in name:
    assert jax.tree.map(np.shape, guide) == {"params": {"audio_proj": {"kernel": (256, 512), "bias": (512,)}}}
  else:
    assert guide is None


def test_a_checkpoint_comes_back_as_it_was_and_a_name_too_many_is_listed(variables):
  names = weights.to_torch_names("avsegformer", **SMALL)
  assert {
    "head.learnable_query.weight",
    "head.transformer.encoder.layers.0.self_attn.value_proj.bias",
  } <= set(names)
  draw = np.random.default_rng(0)
  state = {key: draw.standard_normal(shape).astype(np.float32) for key, shape in names.items()}
  placed = weights.from_torch("avsegformer", state, **SMALL)
  assert jax.tree.map(np.shape, placed["params"]) == jax.tree.map(np.shape, variables["params"])
  np.testing.assert_array_equal(placed["params"]["audio_proj"]["kernel"], state["audio_proj.weight"].T)
  state["head.extra"] = state.pop("audio_proj.bias")
  with pytest.raises(InputError, match=r"missing 1: audio_proj.bias; unexpected 1: head.extra"):
    weights.from_torch("avsegformer", state, **SMALL)


def test_a_guide_that_is_no_linear_map_is_refused():
  state = {"cosine_sim.audio_proj.weight": np.zeros((4, 2)), "cosine_sim.scale": np.zeros(1)}
  with pytest.raises(InputError, match="under 'cosine_sim.' are not the guide of a published 'avsegformer'"):
    weights.guide_from_torch("avsegformer", state)
  assert weights.guide_from_torch("avsbench", state) is None


def test_a_robust_checkpoint_starts_the_system_and_its_guide(tmp_path):
  config = tiny.get_config("avsegformer")
  settings = {key: value for key, value in config.model.to_dict().items() if key != "system"}
  names = {**weights.to_torch_names("avsegformer", **settings), "cosine_sim.audio_proj.weight": (16, 16)}
  names["cosine_sim.audio_proj.bias"] = (16,)
  draw = np.random.default_rng(0)
  state = {key: draw.standard_normal(shape).astype(np.float32) for key, shape in names.items()}
  file = str(tmp_path / "robust.npz")
  np.savez(file, **state)
  with config.unlocked():
    config.debias.guide = "cosine_released"
    config.init.system = file
  params = starting_variables(config, build_model(config))["params"]
  np.testing.assert_array_equal(
    params["guide"]["audio_proj"]["kernel"], state["cosine_sim.audio_proj.weight"].T
  )
  np.testing.assert_array_equal(params["system"]["audio_proj"]["bias"], state["audio_proj.bias"])
