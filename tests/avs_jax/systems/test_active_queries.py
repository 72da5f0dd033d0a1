"""Active queries: dormant ones neither act nor learn; everything that acts learns; any encoder, size and sound."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import losses, systems, weights
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.types import Batch
from configs import ms3

SMALL = {
  "visual": "conv_pyramid",
  "visual_args": {"width": 4},
  "audio_args": {"width": 1 / 64},
  "width": 16,
  "num_queries": 6,
  "perception_layers": 1,
  "encoder_layers": 1,
  "decoder_layers": 2,
  "heads": 4,
}
CLIPS, SECONDS, SIDE, QUERIES = 2, 2, 32, 6
# Dilated by 2, marks 0, 1 and 2 open queries 0, 1-2 and 3-4.
MARKS = np.array([[[1, 0, 1, 0, 0, 0]] * 2, [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]], np.float32)
OPEN = np.array([[[1, 0, 0, 1, 1, 0]] * 2, [[1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0]]], bool)


def build(**changes):
  return systems.build("active_queries", **{**SMALL, **changes})


def frames(seed=0):
  shape = (CLIPS, SECONDS, SIDE, SIDE, 3)
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sound(seed=0):
  return np.random.default_rng(seed).standard_normal((CLIPS, SECONDS, 128)).astype(np.float32)


def fresh(module):
  start = initialise(module, frames(), np.zeros((CLIPS, SECONDS, 96, 64), np.float32), seed=0)
  draw = np.random.default_rng(5)  # away from the zeros that some layers start with
  return jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), start)


def compiled(module):
  return jax.jit(lambda v, f, a, m=None: module.apply(v, f, a, marks=m, method="segment"))


@pytest.fixture(scope="module")
def variables():
  return fresh(build())


def test_padding_of_a_network_of_classes_has_no_logits():
  module = build(num_classes=5)
  present = np.array([[True, False], [True, True]])
  outputs = module.apply(fresh(module), frames(), sound(), present=present, method="segment")
  assert not outputs.logits[0, 1].any() and np.abs(outputs.logits[present]).min(axis=(1, 2)).any()
  again = module.paint(outputs.replace(query_masks=tuple(x + 1 for x in outputs.query_masks)))
  assert not again.logits[0, 1].any() and again.logits[0, 0].any()


@pytest.fixture(scope="module")
def run():
  return compiled(build())


@pytest.fixture(scope="module")
def outputs(variables, run):
  return run(variables, frames(), sound(), MARKS)


def batch_of():
  masks = np.zeros((CLIPS, SECONDS, SIDE, SIDE), np.int32)
  masks[..., : SIDE // 2] = 1
  full = np.ones((CLIPS, SECONDS), bool)
  return Batch(
    frames=frames(),
    log_mel=np.zeros((CLIPS, SECONDS, 96, 64), np.float32),
    masks=masks,
    annotated=full,
    present=full,
    condition=np.zeros(CLIPS, np.int32),
    index=np.arange(CLIPS, dtype=np.int32),
  )


def changed(variables, rows):
  """Other content and position of the given queries."""
  params = dict(variables["params"])
  decoder = dict(params["query_decoder"])
  for name in ("queries_features", "queries_embedder"):
    decoder[name] = np.array(decoder[name])
    decoder[name][rows] += 3
  return {**variables, "params": {**params, "query_decoder": decoder}}


def test_outputs_hold_what_losses_debias_strategies_and_pictures_read(outputs):
  assert outputs.logits.shape == (CLIPS, SECONDS, SIDE, SIDE, 1) and outputs.logits.dtype == jnp.float32
  assert [x.shape for x in outputs.query_masks] == [(CLIPS, SECONDS, 8, 8, QUERIES)] * 3
  assert [x.shape for x in outputs.query_classes] == [(CLIPS, SECONDS, QUERIES, 2)] * 3
  np.testing.assert_array_equal(outputs.marks, OPEN)
  assert outputs.projected_audio.shape == (CLIPS, SECONDS, 16) and outputs.draw is None


@pytest.mark.parametrize(
  ("visual", "size", "mode"),
  [
    ("swin_base_w12", (50, 75), "paper"),
    ("pvt_v2_b0", (64, 96), "paper"),
    ("resnet50", (64, 96), "released"),
    ("conv_pyramid", (50, 75), "released"),
  ],
)
def test_any_encoder_and_any_size_gives_logits_of_the_frames_size(visual, size, mode):
  module = build(visual=visual, visual_args={}, num_classes=3, dtype="bfloat16", mode=mode)
  pictures = jax.ShapeDtypeStruct((1, 1, *size, 3), jnp.uint8)
  mel = jax.ShapeDtypeStruct((1, 1, 96, 64), jnp.float32)
  logits = jax.eval_shape(lambda *x: module.init_with_output(jax.random.key(0), *x)[0].logits, pictures, mel)
  assert logits.shape == (1, 1, *size, 3) and logits.dtype == jnp.float32


def test_dormant_queries_influence_no_output(variables, run, outputs):
  """Queries 1, 2 and 5 are dormant in every frame; 3 and 4 in one."""
  other = run(changed(variables, [1, 2, 5]), frames(), sound(), MARKS)
  for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(outputs), strict=True):
    np.testing.assert_array_equal(a, b)
  for masks, classes in zip(outputs.query_masks, outputs.query_classes, strict=True):
    hidden = ~OPEN
    assert not np.moveaxis(masks, -1, 2)[hidden].any() and not np.asarray(classes)[hidden].any()
  one = run(changed(variables, [3, 4]), frames(), sound(), MARKS)
  same = np.abs(one.logits - outputs.logits).max((2, 3, 4)) == 0
  np.testing.assert_array_equal(same, [[False, False], [True, False]])


@pytest.fixture(scope="module")
def slopes(variables):
  """Gradients of the paper's loss in training, of every parameter."""
  module, batch = build(), batch_of()
  objective = losses.objective({**ms3.get_config("active_queries").loss.to_dict(), "queries_drop": 0.0})

  def value(params, marks):
    apply = {"params": params}, batch.frames, sound()
    out = module.apply(*apply, train=True, marks=marks, method="segment", rngs={"dropout": jax.random.key(0)})
    return objective(out, batch)[0]

  return jax.jit(jax.grad(value))(variables["params"], MARKS)


def test_dormant_queries_get_no_gradient_and_everything_that_acts_does(slopes):
  for path, slope in traverse_util.flatten_dict(slopes).items():
    assert np.isfinite(slope).all(), path
    if path[0] == "audio_encoder":  # the embedding was given
      assert not np.abs(slope).any(), path
    elif path[-1] in ("queries_features", "queries_embedder"):
      np.testing.assert_array_equal(np.abs(slope).max(-1) > 0, OPEN.any((0, 1)), err_msg=path[-1])
    elif path[-2:] in (("k_proj", "bias"), ("t2a_key_embedding", "bias")):
      assert np.abs(slope).max() < 1e-4, path  # the same for all keys: softmax does not see it
    else:
      assert np.abs(slope).max() > 0, path


def test_without_marks_all_queries_are_active_and_the_first_always_is(variables, run, outputs):
  every = run(variables, frames(), sound(), np.ones_like(MARKS))
  np.testing.assert_allclose(run(variables, frames(), sound()).logits, every.logits, rtol=1e-4, atol=1e-5)
  assert not np.allclose(every.logits, outputs.logits)
  none = run(variables, frames(), sound(), np.zeros_like(MARKS))
  np.testing.assert_array_equal(none.marks[..., 0], 1)
  assert not np.asarray(none.marks)[..., 1:].any() and np.isfinite(none.logits).all()


def test_the_sound_of_a_second_changes_that_second_alone_and_frames_stand_alone(variables, run, outputs):
  other = sound()
  other[0, 1] += 3
  change = np.abs(run(variables, frames(), other, MARKS).logits - outputs.logits).max((2, 3, 4))
  assert change[0, 1] > 1e-4 and np.delete(change.reshape(-1), 1).max() < 1e-5
  turned = run(variables, frames()[::-1], sound()[::-1], MARKS[::-1])
  np.testing.assert_allclose(turned.logits[::-1], outputs.logits, rtol=1e-4, atol=1e-5)


def test_the_released_mode_reads_marks_its_own_way_and_lets_dormant_queries_act():
  module = build(mode="released", head_classes=30)
  run, variables = compiled(module), fresh(module)
  outputs = run(variables, frames(), sound(), MARKS)
  assert "cross_a2t" not in variables["params"] and outputs.query_classes[0].shape[-1] == 31
  expected = np.clip(MARKS, 1e-6, 1 - 1e-6)
  expected[1, 1] = expected[1, 0]  # a lone mark means query 0, whatever it is
  np.testing.assert_allclose(outputs.marks, expected)
  other = run(changed(variables, [5]), frames(), sound(), MARKS)
  assert np.abs(other.logits - outputs.logits).max() > 1e-4


def test_padding_of_a_semantic_clip_gives_zero_and_painting_again_changes_nothing():
  module = build(num_classes=4)
  variables = fresh(module)
  present = np.array([[True, False], [True, True]])
  apply = jax.jit(lambda v, p: module.apply(v, frames(), sound(), present=p, method="segment"))
  whole, out = apply(variables, np.ones_like(present)), apply(variables, present)
  np.testing.assert_allclose(out.logits[present], whole.logits[present], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(module.paint(whole).logits, whole.logits, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_comes_back_as_it_was_and_a_name_too_many_is_listed(variables):
  names = weights.to_torch_names("active_queries", **SMALL)
  root = "model_v.model.pixel_level_module.decoder"
  assert {f"{root}.encoder.layers.0.self_attn.avs_adapt.2.weight", f"{root}.adapter_1.0.weight"} <= set(names)
  draw = np.random.default_rng(0)
  state = {key: draw.standard_normal(shape).astype(np.float32) for key, shape in names.items()}
  placed = weights.from_torch("active_queries", state, **SMALL)
  assert jax.tree.map(np.shape, placed["params"]) == jax.tree.map(np.shape, variables["params"])
  np.testing.assert_array_equal(placed["params"]["audio_proj_2"]["kernel"], state["audio_proj.2.weight"].T)
  state["model_v.extra"] = state.pop("audio_proj.2.bias")
  with pytest.raises(InputError, match=r"missing 1: audio_proj.2.bias; unexpected 1: model_v.extra"):
    weights.from_torch("active_queries", state, **SMALL)


def test_a_segmenter_without_adapters_and_sound_starts_what_it_has(variables):
  names = weights.to_torch_names("active_queries", **SMALL)
  state = {
    key.replace("model_v.model.", "model."): np.ones(shape, np.float32)
    for key, shape in names.items()
    if key.startswith(("model_v.model.", "visual_encoder.")) and "avs_adapt" not in key
  }
  state |= {"class_predictor.weight": np.ones((151, 16)), "criterion.empty_weight": np.ones(151)}
  placed = traverse_util.flatten_dict(weights.from_torch("active_queries", state, **SMALL)["params"])
  absent = {path[:2] for path in traverse_util.flatten_dict(variables["params"]) if path not in placed}
  assert {path[0] for path in absent} >= {"audio_encoder", "audio_proj_0", "cross_a2t"}
  assert ("query_decoder", "class_predictor") in absent and ("query_decoder", "layernorm") not in absent


# From the names that bias_in_AVS and Hugging Face use to those in the files of Mask2Former's authors.
ORIGINAL = (
  (r"^model_v\.class_predictor", "sem_seg_head.predictor.class_embed"),
  (r"^model_v\.model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
  (r"^model_v\.model\.transformer_module\.decoder\.", "sem_seg_head.predictor."),
  (r"^model_v\.model\.transformer_module\.", "sem_seg_head.predictor."),
  (r"pixel_decoder\.(encoder\.|level_embed)", r"pixel_decoder.transformer.\1"),
  (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
  (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
  (r"(encoder\.layers\.\d+)\.fc", r"\1.linear"),
  (r"input_projections", "input_proj"),
  (r"mask_projection", "mask_features"),
  (r"\.(adapter_1|layer_1)\.0", r".\1"),
  (r"\.(adapter_1|layer_1)\.1", r".\1.norm"),
  (
    r"predictor\.layers\.(\d+)\.(self|cross)_attn_layer_norm",
    r"predictor.transformer_\2_attention_layers.\1.norm",
  ),
  (r"predictor\.layers\.(\d+)\.self_attn", r"predictor.transformer_self_attention_layers.\1.self_attn"),
  (
    r"predictor\.layers\.(\d+)\.cross_attn",
    r"predictor.transformer_cross_attention_layers.\1.multihead_attn",
  ),
  (r"predictor\.layers\.(\d+)\.fc", r"predictor.transformer_ffn_layers.\1.linear"),
  (r"predictor\.layers\.(\d+)\.final_layer_norm", r"predictor.transformer_ffn_layers.\1.norm"),
  (r"predictor\.layernorm", "predictor.decoder_norm"),
  (r"mask_predictor\.mask_embedder\.(\d)\.0", r"mask_embed.layers.\1"),
  (r"queries_embedder", "query_embed"),
  (r"queries_features", "query_feat"),
)


def test_the_files_of_mask2formers_authors_load_under_their_own_names():
  small = {**SMALL, "mode": "released", "adapters": False, "head_classes": 3}
  names = weights.to_torch_names("active_queries", **small)
  draw = np.random.default_rng(0)
  drawn = {key: draw.standard_normal(shape).astype(np.float32) for key, shape in names.items()}
  theirs = {"criterion.empty_weight": np.ones(4, np.float32)}
  for key, value in drawn.items():
    for pattern, replacement in ORIGINAL:
      key = re.sub(pattern, replacement, key)
    theirs[key] = value
  for name in [name for name in theirs if ".q_proj." in name]:
    parts = [theirs.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
    theirs[name.replace("q_proj.", "in_proj_")] = np.concatenate(parts)
  assert "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.in_proj_weight" in theirs
  one, other = (weights.from_torch("active_queries", state, **small) for state in (drawn, theirs))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


def test_settings_that_cannot_be_are_refused(variables):
  with pytest.raises(InputError, match="model.mode='new' is not known; choose one of paper, released"):
    compiled(build(mode="new")).lower({}, frames(), sound())
  with pytest.raises(
    InputError, match="model.width=20: active_queries needs a multiple of 8 and of its 4 heads"
  ):
    compiled(build(width=20)).lower({}, frames(), sound())
  with pytest.raises(InputError, match=r"marks are \[2, 2, 5\]; give one a query and second, \[2, 2, 6\]"):
    compiled(build()).lower(variables, frames(), sound(), MARKS[..., :5])


def test_without_active_only_interaction_dormant_queries_have_a_say(variables):
  def both(variables, frames, audio):
    return [
      build(interaction=kind).apply(variables, frames, audio, marks=MARKS, method="segment").query_masks[-1]
      for kind in ("active", "all")
    ]

  active, every = jax.jit(both)(variables, frames(), sound())
  moved = np.abs(active - every).max((2, 3))  # [B, T, Q]
  assert moved[OPEN].min() > 1e-5
  assert np.abs(active).max((2, 3))[~OPEN].max() == 0 < np.abs(every).max((2, 3))[~OPEN].min()
  with pytest.raises(InputError, match="model.interaction='none' is not known; choose one of active, all"):
    jax.eval_shape(
      lambda: build(interaction="none").init(jax.random.key(0), frames(), np.zeros((2, 2, 96, 64)))
    )
