import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.encoders import beats
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

TINY = {
  "width": 8, "depth": 2, "heads": 2, "patch_width": 4, "num_buckets": 8, "max_distance": 16, "pos_kernel": 4,
  "pos_groups": 2, "num_classes": 3,
}  # fmt: skip


def tiny(time=48, **overrides):
  module = encoders.build("beats", **{**TINY, **overrides})
  x = jnp.asarray(
    np.random.default_rng(0).standard_normal((2, time, 32)), jnp.float32
  )  # two bands of patches
  return module, initialise(module, x, seed=0), x


def run(module, variables, x, **kwargs):
  """One program for all operations."""
  return jax.jit(lambda variables, x: module.apply(variables, x, **kwargs))(variables, x)


def published(path, rule=None):
  """Name and shape, or value, of each tensor; the table that files repeat in every layer is one."""
  table = "self_attn.relative_attention_bias.weight"
  listed = json.loads(path.read_text())
  if rule is None:
    return {k: tuple(v) for k, v in listed.items() if not k.endswith(table) or ".layers.0." in k}
  return {k: rule.weight(f"encoder.layers.0.{table}" if k.endswith(table) else k, listed[k]) for k in listed}


@pytest.mark.golden
def test_tokens_and_classes_equal_the_original(golden, rule):
  state = published(golden("backbones/beats_finetuned.orig.json"), rule)
  variables = weights.from_torch("beats", state, with_classes=True)
  kept = np.load(golden("backbones/beats_finetuned.orig.npz"))
  module = encoders.build("beats", with_classes=True)
  x = jnp.asarray(rule.array("fbank", (1, 98, 128)))
  tokens = module.apply(variables, x, method="tokens")
  rule.check(tokens, kept["T98_features"])
  embedding, whole = module.apply(variables, x, method="recognise")
  rule.check(whole, kept["T98_probs"])
  np.testing.assert_allclose(embedding, tokens.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.golden
def test_ten_seconds_of_the_pre_trained_model_equal_the_original(golden, rule):
  state = published(golden("backbones/beats_finetuned.orig.json"), rule)
  variables = weights.from_torch("beats", state)  # the classifier is left out
  kept = np.load(golden("backbones/beats_finetuned.orig.npz"))
  x = jnp.asarray(rule.array("fbank", (1, 998, 128)))
  rule.check(encoders.build("beats").apply(variables, x, method="tokens"), kept["T998_features"])


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_the_published_names_and_shapes_are_expected(golden, kind):
  path = golden(f"backbones/beats_{kind}.orig.json")
  assert weights.to_torch_names("beats", with_classes=kind == "finetuned") == published(path)


@pytest.mark.golden
def test_the_front_end_equals_that_of_kaldi(golden, rule):
  kept = np.load(golden("backbones/audio_frontends.npz"))
  np.testing.assert_allclose(
    beats.povey(), np.load(golden("backbones/audio_filters.npz"))["povey"], atol=1e-6
  )
  for seconds in (1, 10):
    waveform = jnp.asarray(0.1 * rule.array("wave16k", (16_000 * seconds,)))[None]
    normed = encoders.build("beats").apply({}, waveform, method="front_end")
    rule.check(normed, kept[f"beats_normalised_{seconds}s"])
    log_energy = np.asarray(normed) * 2 * beats.STD + beats.MEAN
    rule.check(log_energy, kept[f"beats_fbank_{seconds}s"])


@pytest.mark.golden
def test_buckets_equal_the_original(golden):
  kept = np.load(golden("backbones/beats_buckets.npz"))
  ours = beats.buckets(1001, 320, 800)
  np.testing.assert_array_equal(kept["relative_position"], np.arange(-1000, 1001))
  np.testing.assert_array_equal(np.concatenate([ours[1000, :1000], ours[0]]), kept["bucket"])


def test_near_positions_have_a_bucket_each_and_later_keys_their_own():
  ours = beats.buckets(5, 8, 16)
  assert ours[0].tolist() == [0, 5, 6, 6, 6]  # exact: 0 and 1; positive distances begin at 4
  assert ours[:, 0].tolist() == [0, 1, 2, 2, 2]


def test_a_waveform_and_its_filterbank_give_the_same_embedding():
  module = encoders.build("beats", **TINY)
  waveform = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 4000)), jnp.float32)
  variables = initialise(module, waveform, seed=0)
  normed = module.apply(variables, waveform, method="front_end")
  assert normed.shape == (1, 23, 128)
  y = run(module, variables, normed)
  np.testing.assert_allclose(run(module, variables, waveform), y, rtol=1e-3, atol=1e-4)


def test_padded_tokens_are_as_if_they_were_not_there():
  module, variables, x = tiny(with_classes=True)
  short = x[:, :32]
  padded = jnp.arange(6)[None] >= jnp.full((2, 1), 4)  # the last third: two tokens of one stretch
  tokens = run(module, variables, x, method="tokens", padded=padded)
  np.testing.assert_allclose(
    tokens[:, :4], run(module, variables, short, method="tokens"), rtol=1e-4, atol=1e-5
  )
  for whole, cut in zip(
    run(module, variables, x, method="recognise", padded=padded),
    run(module, variables, short, method="recognise"),
    strict=True,
  ):
    np.testing.assert_allclose(whole, cut, rtol=1e-4, atol=1e-5)


def test_the_kernel_of_the_positional_convolution_has_the_length_of_its_tap():
  conv = beats.PositionalConv(2, 1, jnp.float32)
  x = jnp.array([[[1.0], [10.0], [100.0]]])
  params = {
    "weight_v": jnp.full((1, 1, 2), -3.0),
    "weight_g": jnp.array([[[2.0, 5.0]]]),
    "bias": jnp.zeros(1),
  }
  # One zero before; each output sees the token before it (tap 0) and itself (tap 1), times minus their lengths.
  seen = np.array([0 * 2 + 1 * 5, 1 * 2 + 10 * 5, 10 * 2 + 100 * 5])
  y = conv.apply({"params": params}, -x)
  np.testing.assert_allclose(y[0, :, 0], seen, rtol=1e-5)


def test_gradients_are_finite_and_reach_every_parameter():
  module, variables, x = tiny(remat=True)

  def loss(params):
    y = module.apply({"params": params}, x, train=True)
    return (y * jnp.arange(1.0, module.dim + 1)[None] ** 2).mean()

  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])):
    name = jax.tree_util.keystr(path)
    # A key's bias moves all logits of a query alike.
    assert np.isfinite(leaf).all() and (np.any(leaf) or "k_proj']['bias" in name), name


def test_bfloat16_comes_near():
  module, variables, x = tiny()
  low = run(encoders.build("beats", **TINY, dtype="bfloat16"), variables, x)
  full = run(module, variables, x)
  assert low.dtype == jnp.float32 and np.abs(low - full).mean() < 0.1 * np.abs(full).mean()


@pytest.mark.parametrize(
  "wrong, shape, words",
  [
    ({}, (1, 2799), "a sound of 2799 samples is too short; give 2800 or more at 16 kHz"),
    ({}, (1, 15, 128), "a filterbank of 15 frames and 128 bands holds no patch"),
    ({"heads": 3}, (1, 48, 128), "width a multiple of heads and pos_groups"),
    ({"depth": 0}, (1, 48, 128), "depth must be 1 or more"),
  ],
)
def test_what_cannot_be_heard_or_built_is_refused(wrong, shape, words):
  module = encoders.build("beats", **{**TINY, **wrong})
  with pytest.raises(InputError, match=words):
    jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def test_an_encoder_without_classes_says_how_to_have_them():
  module, variables, x = tiny()
  with pytest.raises(InputError, match="with_classes=True"):
    module.apply(variables, x, method="recognise")
