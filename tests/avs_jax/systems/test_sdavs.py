"""SDAVS takes any encoder and any size, every ablation by one word, and learns in every part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import analysis, systems
from avs_jax.debias.contrast import Contrast
from avs_jax.debias.guide import Guided
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.types import Batch
from data_pipelines.audio import log_mel

SMALL = {
  "visual": "conv_pyramid",
  "visual_args": {"width": 4},
  "audio_args": {"width": 1 / 64},
  "width": 8,
  "heads": 2,
  "sound_map": "features",
}
CLIPS, SECONDS, SIDE = 2, 2, 32
# One word each: tables III, IV, V, VI, VIII.
ABLATIONS = (
  {"snrp": "none"}, {"damf": "none"}, {"selectors": "spatial"}, {"selectors": "channel"}, {"snrp": "after"},
  {"damf": "audio_to_visual"}, {"damf": "visual_to_audio"}, {"stc": False}, {"interaction": "straight"},
  {"interaction": "add"},
)  # fmt: skip


def build(**changes):
  return systems.build("sdavs", **{**SMALL, **changes})


def frames(seed=0, shape=(CLIPS, SECONDS, SIDE, SIDE, 3)):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mel(seed=0):
  return np.random.default_rng(seed).standard_normal((CLIPS, SECONDS, 96, 64)).astype(np.float32)


def fresh(module):
  return initialise(module, frames(), mel(), seed=0)


def shapes(module, size=(SIDE, SIDE), seconds=2, sound=(96, 64)):
  pictures = jax.ShapeDtypeStruct((1, seconds, *size, 3), jnp.uint8)
  heard = jax.ShapeDtypeStruct((1, seconds, *sound), jnp.float32)

  def start(pictures, sound):
    out, variables = module.init_with_output(jax.random.key(0), pictures, sound)
    names = ("logits", "similarity", "projected_audio")
    return {name: getattr(out, name) for name in names}, variables["params"]

  return jax.eval_shape(start, pictures, heard)


@pytest.fixture(scope="module")
def variables():
  return fresh(build())


@pytest.fixture(scope="module")
def whole_program(variables):
  return str(jax.make_jaxpr(build().apply)(variables, frames(), mel()))


@pytest.fixture(scope="module")
def run():
  """One compiled program: outputs and gradients of their mean square, reading what the module is given."""
  module = build()

  def slope(variables, pictures, sound):
    def of(params):
      out = module.apply({**variables, "params": params}, pictures, sound)
      return jnp.square(out.logits).mean(), out

    return jax.value_and_grad(of, has_aux=True)(variables["params"])

  return jax.jit(slope)


def test_outputs_hold_what_losses_guides_and_pictures_read(variables, run):
  (_, out), _ = run(variables, frames(), mel())
  assert out.logits.shape == (CLIPS, SECONDS, SIDE, SIDE, 1) and out.logits.dtype == jnp.float32
  assert out.audio_features.shape == (CLIPS, SECONDS, 128)
  assert out.projected_audio.shape == (CLIPS, SECONDS, 6 * 4 * 8)
  assert out.visual_features.shape == (CLIPS, SECONDS, 1, 1, 16)
  assert [x.shape[2] for x in out.fused_maps] == [8, 4, 2, 1] and min(x.min() for x in out.fused_maps) >= 0
  assert [x.shape for x in out.fused_audio] == [(CLIPS, SECONDS, 8)] * 4


def test_a_gradient_reaches_every_parameter_but_the_embeddings(variables, run):
  """The stages hear VGGish's map, so its three linear layers serve guides alone."""
  draw = np.random.default_rng(5)
  moved = jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), variables)
  _, slopes = run(moved, frames(), np.abs(mel()))
  for path, slope in traverse_util.flatten_dict(slopes).items():
    assert np.isfinite(slope).all(), path
    if path[1].startswith("embeddings"):
      assert not np.abs(slope).any(), path
    elif path[-3:] != ("stc_k", "norm", "bias"):  # adds one vector to all keys
      assert np.abs(slope).max() > 0, path


def test_clips_stand_alone_and_the_seconds_of_one_do_not(variables, run):
  (_, out), _ = run(variables, frames(), mel())
  other = mel()
  other[0, 1] += 3
  change = np.abs(run(variables, frames(), other)[0][1].logits - out.logits).max((2, 3, 4))
  assert (change[0] > 1e-6).all() and change[1].max() < 1e-6


@pytest.mark.parametrize(
  ("visual", "size"),
  [
    ("pvt_v2_b0", (64, 96)),
    ("pvt_v2_b0", (50, 75)),
    ("swin_base_w7", (64, 96)),
    ("resnet50", (50, 75)),
    ("efficientnet_lite0", (96, 32)),
  ],
)
def test_any_encoder_and_any_size_gives_logits_of_the_frames_size(visual, size):
  out, _ = shapes(build(visual=visual, visual_args={}, num_classes=3, dtype="bfloat16"), size)
  assert out["logits"].shape == (1, 2, *size, 3) and out["logits"].dtype == jnp.float32


@pytest.mark.parametrize("change", ABLATIONS, ids=lambda change: "-".join(map(str, *change.items())))
def test_every_ablation_is_one_word(change, variables):
  out, tree = shapes(build(**change))
  assert out["logits"].shape == (1, 2, SIDE, SIDE, 1)
  full = {path for path, _ in traverse_util.flatten_dict(variables["params"]).items()}
  left = set(traverse_util.flatten_dict(tree))
  assert left <= full
  changed = {"snrp": "gates", "damf": "fusion", "selectors": "gates", "stc": "stc"}
  key = next(iter(change))
  if key != "interaction" and change != {"snrp": "after"}:
    assert all(any(changed[key] in part for part in path) for path in full - left) and left < full
  else:
    assert left == full


@pytest.mark.parametrize(
  "change", [*ABLATIONS, {"channel_gate": "linear"}], ids=lambda change: "-".join(map(str, *change.items()))
)
def test_every_word_reaches_the_program(change, variables, whole_program):
  """Also those that have no weights of their own."""
  assert str(jax.make_jaxpr(build(**change).apply)(variables, frames(), mel())) != whole_program


@pytest.mark.parametrize(
  ("settings", "sound", "width"),
  [
    ({"sound_map": "embedding"}, (96, 64), 8),
    ({"sound_map": "log_mel"}, (96, 64), 96 * 64 * 8),
    ({"audio": "htsat", "audio_args": {}}, (16_000,), 8),
  ],
)
def test_what_the_stages_hear_is_a_word_and_encoders_without_maps_give_embeddings(settings, sound, width):
  out, _ = shapes(build(**settings), sound=sound)
  assert out["logits"].shape == (1, 2, SIDE, SIDE, 1) and out["projected_audio"].shape[-1] == width


def test_listening_runs_the_convolutions_of_vggish_once_and_keeps_embedding_and_map(variables):
  module = build()
  hear = jax.jit(lambda variables, sound: module.apply(variables, sound, method="listen"))
  lowered = hear.lower(variables, mel())
  assert lowered.as_text().count("stablehlo.convolution") == 6  # VGGish has no more
  encoder = module.bind(variables).audio_encoder.clone(parent=None, name=None)
  own = {name: tree["audio_encoder"] for name, tree in variables.items() if "audio_encoder" in tree}
  flat = jnp.asarray(mel()).reshape(-1, 96, 64)
  both = np.split(np.asarray(lowered.compile()(variables, mel())), [encoder.dim], axis=-1)
  for ours, theirs in zip(
    both, (encoder.apply(own, flat), encoder.apply(own, flat, method="features")), strict=True
  ):
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("settings", "wanted"),
  [
    ({}, 128 + 6 * 4 * 8),
    ({"sound_map": "log_mel"}, 128 + 96 * 64),
    ({"sound_map": "embedding"}, 128),
    ({"sound_map": "embedding", "stereo": True}, 128 + 64),
    ({"audio": "htsat", "audio_args": {}}, 768),
  ],
)
def test_an_embedding_of_another_width_is_refused_with_the_width_wanted(settings, wanted):
  module = build(**settings)

  def start(width):
    pictures = jax.ShapeDtypeStruct((1, 2, SIDE, SIDE, 3), jnp.float32)
    heard = jax.ShapeDtypeStruct((1, 2, width), jnp.float32)

    def run(pictures, heard):
      return module.init_with_output(jax.random.key(0), pictures, heard, method="segment")[0].logits

    return jax.eval_shape(run, pictures, heard).shape

  assert start(wanted) == (1, 2, SIDE, SIDE, 1)
  for width in (wanted - 1, wanted + 24):
    with pytest.raises(
      InputError, match=f"hears {wanted} numbers a second, .* it was given {width}: give what"
    ):
      start(width)


@pytest.mark.parametrize("guide", ["cosine", "cosine_released", "localised"])
def test_a_guide_wraps_it(guide):
  out, _ = shapes(Guided(build(), form=guide))
  assert out["similarity"].shape == (1, 2) and out["logits"].shape == (1, 2, SIDE, SIDE, 1)


@pytest.mark.parametrize(
  ("strategy", "where"),
  [
    ("uncertainty", "embedding"),
    ("uncertainty", "projected"),
    ("uncertainty", "log_mel"),
    ("bias_only", None),
    ("ensemble", None),
    ("visual_only", None),
  ],
)
def test_contrast_wraps_it(strategy, where):
  biased = build() if strategy in ("bias_only", "ensemble") else None
  out, _ = shapes(Contrast(build(), strategy, biased, where=where))
  assert out["logits"].shape == (1, 2, SIDE, SIDE, 1)


def test_absent_seconds_of_a_semantic_clip_give_zero_and_leave_the_others_alone():
  module = build(num_classes=3)
  variables = fresh(module)
  run = jax.jit(lambda present: module.apply(variables, frames(), mel(), present=present).logits)
  whole, some = run(np.ones((2, 2), bool)), run(np.array([[True, False], [True, True]]))
  assert not some[0, 1].any()
  np.testing.assert_allclose(some[1], whole[1], rtol=1e-5, atol=1e-6)
  assert np.isfinite(some).all() and np.abs(some[0, 0] - whole[0, 0]).max() > 0


def test_digital_silence_has_gates_that_depend_on_neither_the_picture_nor_the_second(variables):
  """Through the whole system: the log-mel of zeros is no map of zeros, and still the gates hear it alone."""
  draw = np.random.default_rng(5)
  moved = jax.tree.map(lambda x: x + 0.1 * draw.standard_normal(x.shape).astype(np.float32), variables)
  every = np.ones((CLIPS, SECONDS), bool)
  batch = Batch(
    frames=frames(), log_mel=mel(), masks=np.zeros((CLIPS, SECONDS, SIDE, SIDE), np.int32), annotated=every,
    present=every, condition=np.zeros(CLIPS, np.int32), index=np.arange(CLIPS),
  )  # fmt: skip
  look = jax.jit(lambda batch: analysis.traced(build(stc=False), moved, batch)[1])
  second = log_mel(np.zeros(16_000, np.float32), 16_000)
  silent, heard = look(batch.replace(log_mel=np.tile(second[None], (CLIPS, SECONDS, 1, 1)))), look(batch)
  for stage in (1, 2, 3, 4):
    for gate in ("channel", "spatial"):
      weights = silent[f"stage{stage}/{gate}"]
      np.testing.assert_allclose(weights, np.broadcast_to(weights[:1, :1], weights.shape), rtol=1e-5)
      own = heard[f"stage{stage}/{gate}"]
      assert np.abs(own[0] - own[1]).max() > 1e-4 and np.abs(own[0, 0] - own[0, 1]).max() > 1e-4
    seen = silent[f"stage{stage}/unfiltered"]
    assert np.abs(seen[0] - seen[1]).max() > 1e-2


def test_wrong_settings_are_refused_by_name():
  with pytest.raises(InputError, match="model.width=9: sdavs needs a multiple of its 2 heads"):
    build(width=9)
  for key in ("sound_map", "snrp", "selectors", "channel_gate", "damf", "interaction"):
    with pytest.raises(InputError, match=f"model.{key}='x' is not known; choose one of"):
      build(**{key: "x"})
  with pytest.raises(InputError, match="model.sound_map='log_mel': model.audio='htsat' hears samples"):
    shapes(build(sound_map="log_mel", audio="htsat", audio_args={}), sound=(16_000,))
