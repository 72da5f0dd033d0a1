import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.encoders import htsat
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

# Two stages of one block on a square of 64 x 64: 64 frames fill it.
TINY = {"width": 4, "depths": (1, 1), "heads": (1, 2), "window": 4, "side": 64, "num_classes": 3}


def tiny(time=40, **overrides):
  module = encoders.build("htsat", **{**TINY, **overrides})
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, time, 64)), jnp.float32)
  return module, initialise(module, x, seed=0), x


def run(module, variables, x, **kwargs):
  """One program for all operations."""
  return jax.jit(lambda variables, x: module.apply(variables, x, **kwargs))(variables, x)


def sound(rule, frames):
  return jnp.asarray(rule.array("input_features", (1, 1, frames, 64))[:, 0])


def filled(rule, path, **overrides):
  listed = json.loads(path.read_text())
  return weights.from_torch("htsat", {key: rule.weight(key, listed[key]) for key in listed}, **overrides)


@pytest.mark.golden
def test_classes_and_embeddings_equal_the_original(golden, rule):
  variables = filled(rule, golden("backbones/htsat.orig.json"), with_classes=True)
  kept = np.load(golden("backbones/htsat.orig.npz"))
  for key, frames in (("T1001", 1001), ("T101", 101), ("T101_repeat", 101)):
    module = encoders.build("htsat", with_classes=True, repeat=key.endswith("repeat"))
    embedding, whole, steps = module.apply(variables, sound(rule, frames), method="recognise")
    rule.check(embedding, kept[f"{key}_latent_output"])
    rule.check(whole, kept[f"{key}_clipwise_output"])
    rule.check(np.repeat(steps, 32, axis=1), kept[f"{key}_framewise_output"])


@pytest.mark.golden
def test_a_sound_of_twenty_seconds_equals_the_original(golden, rule):
  variables = filled(rule, golden("backbones/htsat.orig.json"), with_classes=True)
  kept = np.load(golden("backbones/htsat.orig.npz"))
  module = encoders.build("htsat", with_classes=True)
  _, whole, _ = module.apply(variables, sound(rule, 2001), method="recognise")
  rule.check(whole, kept["T2001_clipwise_output"])


@pytest.mark.golden
def test_the_ear_of_clap_equals_hugging_face(golden, rule):
  variables = filled(rule, golden("backbones/htsat_clap_audio.hf.json"))
  kept = np.load(golden("backbones/htsat_clap_audio.hf.npz"))
  module, x = encoders.build("htsat"), sound(rule, 64)
  folded = module.apply(variables, x, method=lambda m, x: m.fold(m.bn0(x, train=False)))
  rule.check(folded[..., 0], kept["T64_folded_image"])
  tokens = module.apply(variables, x, method="tokens")
  rule.check(tokens.transpose(0, 3, 1, 2), kept["T64_last_hidden_state"])
  rule.check(module.apply(variables, x), kept["T64_pooler_output"])


@pytest.mark.golden
def test_the_front_end_equals_librosa_and_that_of_clap(golden, rule):
  kept = np.load(golden("backbones/audio_frontends.npz"))
  clap = {"sample_rate_hz": 48_000, "hop": 480}
  for key, name, rate, seconds, settings in (
    ("htsat_1s", "wave32k", 32_000, 1, {}),
    ("htsat_10s", "wave32k", 32_000, 10, {}),
    ("clap_unfused_10s", "wave48k", 48_000, 10, clap),
  ):
    waveform = jnp.asarray(0.1 * rule.array(name, (rate * seconds,)))[None]
    mel = encoders.build("htsat", **settings).apply({}, waveform, method="front_end")
    rule.check(mel, kept[key])


@pytest.mark.golden
def test_the_published_names_and_shapes_are_expected(golden):
  listed = json.loads(golden("backbones/htsat.orig.json").read_text())
  never = ("relative_position_index", "attn_mask", "num_batches_tracked")
  published = {k: tuple(v) for k, v in listed.items() if not k.endswith(never) and not k.startswith("head.")}
  assert weights.to_torch_names("htsat", with_classes=True) == published


def test_digital_silence_is_the_floor_of_minus_100_decibels():
  mel = encoders.build("htsat").apply({}, jnp.zeros((1, 32_000)), method="front_end")
  assert mel.shape == (1, 101, 64)
  np.testing.assert_allclose(mel, -100.0, rtol=1e-6)


def test_a_waveform_and_its_decibels_give_the_same_embedding():
  module, variables, _ = tiny(sample_rate_hz=4000, hop=80, high_hz=2000.0)
  waveform = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4000)), jnp.float32)
  mel = module.apply(variables, waveform, method="front_end")
  assert mel.shape == (2, 51, 64)
  np.testing.assert_allclose(
    run(module, variables, waveform), run(module, variables, mel), rtol=1e-4, atol=1e-5
  )


def test_time_is_cut_into_pieces_that_lie_below_one_another():
  module = encoders.build("htsat")
  frame, band = 700, 5
  x = jnp.zeros((1, 1024, 64)).at[0, frame, band].set(1.0)
  picture = module.apply({}, x, method="fold")
  assert picture.shape == (1, 256, 256, 1) and picture.sum() == 1
  assert picture[0, 64 * (frame // 256) + band, frame % 256, 0] == 1


def test_a_repeated_sound_comes_back_before_it_is_stretched():
  module = encoders.build("htsat", **TINY, repeat=True)
  x = jnp.arange(32.0)[None, :, None] * jnp.ones((1, 1, 64))
  picture = module.apply({}, x, method="fold")
  np.testing.assert_array_equal(picture[0, 0, :, 0], np.tile(np.arange(32.0), 2))


def test_bicubic_interpolation_keeps_ends_and_straight_lines():
  matrix = htsat.bicubic(11, 64)
  np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
  line = matrix @ np.arange(11.0)
  np.testing.assert_allclose(line[[0, -1]], [0, 10])
  assert (np.diff(line) > 0).all()
  np.testing.assert_allclose(htsat.bicubic(9, 9), np.eye(9), atol=1e-7)


def test_a_sound_too_long_for_the_square_is_the_mean_of_its_crops():
  module, variables, x = tiny(time=101)
  crops = [x[:, first : first + 50] for first in (0, 25)]  # half its length, every quarter
  expected = sum(run(module, variables, crop) for crop in crops) / 2
  np.testing.assert_allclose(run(module, variables, x), expected, rtol=1e-4, atol=1e-5)


def test_probabilities_of_steps_and_of_the_whole_are_between_zero_and_one():
  module, variables, x = tiny(with_classes=True)
  embedding, whole, steps = run(module, variables, x, method="recognise")
  assert embedding.shape == (2, module.dim) and whole.shape == (2, 3) and steps.shape == (2, 8, 3)
  for probability in (whole, steps):
    assert (probability > 0).all() and (probability < 1).all()
  np.testing.assert_allclose(embedding, run(module, variables, x), rtol=1e-5, atol=1e-6)


def test_gradients_are_finite_and_reach_every_parameter():
  module, variables, x = tiny(drop_path=0.1, remat=True)
  rest = {"batch_stats": variables["batch_stats"]}

  def loss(params):
    y, _ = module.apply(
      {"params": params, **rest}, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)}
    )
    return (y * jnp.arange(1.0, module.dim + 1)[None] ** 2).mean()

  gradients = jax.jit(jax.grad(loss))(variables["params"])
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


def test_bfloat16_comes_near():
  module, variables, x = tiny()
  low = run(encoders.build("htsat", **TINY, dtype="bfloat16"), variables, x)
  full = run(module, variables, x)
  assert low.dtype == jnp.float32 and np.abs(low - full).mean() < 0.1 * np.abs(full).mean()


@pytest.mark.parametrize(
  "wrong, shape, words",
  [
    ({}, (1, 100), "a sound of 100 samples is too short; give more than 512 at 32000 Hz"),
    ({}, (1, 140, 64), "a sound of 140 frames is too long; give at most 130"),
    ({"side": 100}, (1, 40, 64), "side is 100"),
    ({"depths": (1,) * 6, "heads": (1,) * 6}, (1, 40, 64), "cells are 128 pixels wide"),
    ({"heads": (3, 2)}, (1, 40, 64), "htsat: depths and heads must have one number a stage"),
  ],
)
def test_what_cannot_be_heard_or_built_is_refused(wrong, shape, words):
  module = encoders.build("htsat", **{**TINY, **wrong})
  with pytest.raises(InputError, match=words):
    jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_an_encoder_without_classes_says_how_to_have_them():
  module, variables, x = tiny()
  with pytest.raises(InputError, match="with_classes=True"):
    module.apply(variables, x, method="recognise")
