"""A contrast takes the visual prior out of any system's logits, at the cost of a second decoding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.debias.contrast import (
  Contrast,
  amplify,
  mask_out,
  noised_at_inference,
  noised_in_training,
  pair,
  recombine,
)
from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError
from avs_jax.fusion.semantic_queries import released_marks
from avs_jax.initialise import initialise
from avs_jax.systems.system import System
from avs_jax.types import Outputs

RANDOM = np.random.default_rng(0)
B, T, SIDE, A = 2, 3, 4, 3
FRAMES = RANDOM.standard_normal((B, T, SIDE, SIDE, 3)).astype(np.float32)
LOG_MEL = RANDOM.standard_normal((B, T, 96, 64)).astype(np.float32)
AUDIO = RANDOM.standard_normal((B, T, A)).astype(np.float32)
MARKS = np.array([[1, 0, 1, 0]] * T + [[0, 1, 0, 0]] * T, np.float32).reshape(B, T, 4)
LOOKS = []  # one entry for each time the toy's visual encoder is traced


class Toy(System):
  """Logit of a pixel: its red value times `see`, plus the second's sound times `hear`; three layers' worth."""

  def setup(self):
    self.seen = self.param("seen", nn.initializers.constant(2.0), ())
    self.heard = self.param("heard", nn.initializers.constant(1.5), ())
    self.linear = nn.Dense(A, name="linear", kernel_init=nn.initializers.constant(0.5))

  def see(self, frames, *, train=False):
    LOOKS.append(1)
    return (jnp.asarray(frames).reshape(-1, *frames.shape[2:]),)

  def listen(self, log_mel, *, train=False):
    return jnp.asarray(log_mel)[:, :, 0, :A]

  def project(self, audio):
    return self.linear(audio)

  def decode(self, scene, audio, projected, *, train=False, marks=None):
    red = scene.unfold(scene.pyramid[0])[..., :1] * self.seen
    logits = red + self.heard * projected.sum(-1)[:, :, None, None, None]
    if marks is not None:
      logits = logits + 10 * marks.sum(-1)[:, :, None, None, None]
    return Outputs(logits=logits, audio_features=audio, aux_logits=(logits - 1, 2 * logits))


def by_hand(audio, projected=None, marks=None):
  """What the toy says of a sound, computed without it."""
  if projected is None:
    projected = 0.5 * audio.sum(-1, keepdims=True).repeat(A, -1)
  return 2 * FRAMES[..., :1] + 1.5 * projected.sum(-1)[:, :, None, None, None]


@pytest.fixture(scope="module")
def toy():
  return initialise(Contrast(Toy()), FRAMES, LOG_MEL, seed=0)


def segment(module, variables, audio=AUDIO, **options):
  return module.apply(variables, FRAMES, audio, method="segment", **options)


# Noise.


def test_the_released_last_step_keeps_sixty_percent_of_the_amplitude_and_the_papers_nothing():
  x = 1e6 * np.ones((2, 3, 5), np.float32)
  released = Contrast(Toy(), variant="released")
  kept = released.diffusion().shares()
  assert len(kept) == 101 and kept[-1] ** 0.5 == pytest.approx(0.60, abs=0.005)
  np.testing.assert_allclose(released.noised(x, train=False) / x, kept[-1] ** 0.5, rtol=1e-4)
  assert np.abs(Contrast(Toy()).noised(x, train=False)).max() < 10


def test_noise_equals_the_reference_implementations(golden, rule):
  """x_t of the published code's diffusion, its own noise given."""
  stored = np.load(golden("bias_avs/e_noise_and_debias.npz"))
  names = [name for name in stored.files if name.endswith("alpha_bars")]
  assert names
  for name in names:
    steps = 1000 if "1000" in name else 100
    np.testing.assert_allclose(
      rule.sample(Diffusion("linear", steps).shares()[1:].astype(np.float32)),
      stored[name],
      rtol=2e-5,
      err_msg=name,
    )


@pytest.mark.parametrize("step", [1, 3])
def test_closed_form_noise_has_the_mean_and_variance_of_the_steps_one_by_one(step):
  """The same moments, to sampling error, as `step` single steps of equation 12."""
  beta, x = 0.3, np.full((1, 40_000), 2.0, np.float32)
  rng, slow = np.random.default_rng(0), x.copy()
  for _ in range(step):
    slow = np.sqrt(1 - beta) * slow + np.sqrt(beta) * rng.standard_normal(x.shape)
  fast = noised_at_inference(Diffusion("constant", step, beta_end=beta).kept(step), x, jax.random.key(1))
  assert float(fast.mean()) == pytest.approx(slow.mean(), abs=0.02)
  assert float(fast.std()) == pytest.approx(slow.std(), abs=0.01)


def test_in_training_each_clip_draws_its_own_step_uniformly():
  x = np.full((4000, 1), 1e4, np.float32)
  diffusion = Diffusion("constant", 3, beta_end=0.5)
  kept = np.square(np.asarray(noised_in_training(diffusion, x, jax.random.key(0)))[:, 0] / 1e4)
  counts = [int((np.abs(kept - each) < 0.01).sum()) for each in (0.5, 0.25, 0.125)]
  assert sum(counts) == 4000 and min(counts) > 1200


def test_noise_is_a_function_of_its_key():
  diffusion = Diffusion()
  one, two, other = (noised_in_training(diffusion, AUDIO, jax.random.key(k)) for k in (3, 3, 4))
  np.testing.assert_array_equal(one, two)
  assert np.abs(one - other).max() > 0.1
  pure = noised_at_inference(0.0, AUDIO, jax.random.key(3))
  np.testing.assert_array_equal(pure[0], pure[1])  # every clip hears the same noise
  assert np.unique(pure[0]).size == T * A


def test_half_precision_sound_stays_half_precision():
  x = jnp.asarray(AUDIO, jnp.bfloat16)
  assert noised_in_training(Diffusion(), x, jax.random.key(0)).dtype == x.dtype
  assert noised_at_inference(0.5, x, jax.random.key(0)).dtype == x.dtype


# Logits.


def test_logits_are_recombined_as_computed_by_hand():
  a, b = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
  np.testing.assert_allclose(amplify(a, b, 1.0), [1.5, -7])
  np.testing.assert_allclose(amplify(a, b, 0.5), [1.25, -4.5])
  np.testing.assert_array_equal(amplify(a, b, 0.0), a)
  np.testing.assert_allclose(mask_out(a, b), [0.6224593, -2 * 0.9525741], rtol=1e-6)


def test_recombined_logits_equal_the_reference_implementations(golden, rule):
  stored = np.load(golden("bias_avs/e_noise_and_debias.npz"))
  found = 0
  for kind, shape in (("mask", (5, 100, 24, 24)), ("class", (5, 100, 151))):
    a, b = (jnp.asarray(rule.array(f"e.{kind}_logits{end}", shape)) for end in ("", "_biased"))
    for name in stored.files:
      if kind not in name:
        continue
      if "alpha" in name:
        value = amplify(a, b, 0.5 if "0.5" in name else 1.0)
      elif "bias_only" in name:
        value = mask_out(a, b)
      else:
        continue
      np.testing.assert_allclose(rule.sample(np.asarray(value)), stored[name], rtol=1e-5, atol=1e-5)
      found += 1
  assert found >= 4


def test_masks_and_classes_of_every_layer_are_recombined_each_for_itself():
  def outputs(start):
    draw = [np.full((1, 1, 2, 2, 2), start + i, np.float32) for i in range(4)]
    return Outputs(
      logits=draw[0][..., :1], aux_logits=(draw[0], draw[1]), query_masks=(draw[2],), query_classes=(draw[3],)
    )

  clean, biased = outputs(1.0), outputs(10.0)
  every = recombine(clean, biased, lambda a, b: 2 * a - b)
  assert sorted(float(x.max()) for x in jax.tree.leaves(every)) == [-8, -8, -7, -6, -5]
  alone = recombine(clean, biased, lambda a, b: 2 * a - b, every_layer=False)
  assert float(alone.logits.max()) == -8
  assert alone.query_masks is clean.query_masks and alone.aux_logits is clean.aux_logits


# The wrapper around a toy.


def test_uncertainty_at_inference_is_the_equation_with_the_noise_of_the_seed(toy):
  out = segment(Contrast(Toy(), alpha=0.5, seed=7), toy)
  noise = jnp.broadcast_to(jax.random.normal(jax.random.key(7), (1, T, A)), AUDIO.shape)
  expected = 1.5 * by_hand(AUDIO) - 0.5 * by_hand(np.asarray(noise))
  np.testing.assert_allclose(out.logits, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.aux_logits[1], 2 * expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(out.audio_features, AUDIO)


def test_one_seed_gives_the_same_bits_and_another_others(toy):
  one, two, other = (segment(Contrast(Toy(), seed=seed), toy).logits for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, two)
  assert np.abs(one - other).max() > 1e-2


def test_a_clips_prediction_does_not_depend_on_its_neighbours(toy):
  module = Contrast(Toy())
  both = segment(module, toy).logits
  alone = module.apply(toy, FRAMES[1:], AUDIO[1:], method="segment").logits
  np.testing.assert_allclose(alone, both[1:], rtol=1e-5, atol=1e-6)


def test_no_weight_leaves_the_system_as_it_is(toy):
  own = {"params": toy["params"]["system"]}
  bare = segment(Toy(), own)
  for module in (Contrast(Toy(), alpha=0.0), Contrast(Toy(), alpha=0.0, variant="released")):
    np.testing.assert_allclose(segment(module, toy).logits, bare.logits, rtol=1e-5, atol=1e-6)


def test_the_picture_is_looked_at_once(toy):
  for strategy in ("uncertainty", "bias_only"):
    module = Contrast(Toy(), strategy, biased=Toy())
    variables = initialise(module, FRAMES, LOG_MEL, seed=0)
    LOOKS.clear()
    segment(module, variables)
    assert len(LOOKS) == 1, strategy
    LOOKS.clear()
    segment(module, variables, train=True, rngs={"dropout": jax.random.key(0)})
    assert len(LOOKS) == 1, strategy


def test_released_noise_is_added_to_the_projected_sound_and_touches_the_final_map_alone(toy):
  module = Contrast(Toy(), variant="released", seed=3)
  out = segment(module, toy)
  kept = Diffusion("linear", 100).kept(100)
  noise = np.asarray(jax.random.normal(jax.random.key(3), (1, T, A)))
  projected = 0.5 * AUDIO.sum(-1, keepdims=True).repeat(A, -1)
  noised = np.sqrt(kept) * projected + np.sqrt(1 - kept) * noise
  clean, biased = by_hand(AUDIO), by_hand(None, noised)
  np.testing.assert_allclose(out.logits, 2 * clean - biased, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.aux_logits[0], clean - 1, rtol=1e-4, atol=1e-5)


def test_the_released_noise_hears_what_the_systems_reading_of_the_marks_gives_query_0(toy):
  """A lone mark means query 0 to the released code, so a second that lists one class alone is heard, too."""

  class Released(Toy):
    def opened(self, marks):
      return released_marks(jnp.asarray(marks).reshape(-1, marks.shape[-1])).reshape(marks.shape)

  loud = 1e6 * np.ones_like(AUDIO)
  noised = []
  for system in (Toy(), Released()):
    module = Contrast(system, variant="released", seed=3)
    out = segment(module, toy, loud, marks=MARKS)  # the second clip's seconds list query 1 alone
    clean = by_hand(loud) + 10 * MARKS.sum(-1)[:, :, None, None, None]
    noised.append(np.asarray(2 * clean - out.logits)[1].mean() / by_hand(loud)[1].mean())
  assert noised == [pytest.approx(0, abs=1e-2), pytest.approx(0.6, abs=1e-2)]


def test_samples_cannot_be_noised_as_a_log_mel():
  class Ear(Toy):
    def setup(self):
      """Without variables."""

    def listen(self, sound, *, train=False):
      return jnp.asarray(sound)[:, :, :A]

  with pytest.raises(InputError, match="debias.contrast_where='log_mel' noises log-mels, and this system's"):
    Contrast(Ear(), where="log_mel").apply({}, np.zeros((B, T, 8), np.float32), method="listen")


def test_a_noised_log_mel_is_heard_too_and_leaves_the_clean_embedding_to_others(toy):
  module = Contrast(Toy(), where="log_mel", seed=5)
  heard = module.apply(toy, LOG_MEL, method="listen")
  assert heard.shape == (B, T, 2 * A)
  out = module.apply(toy, FRAMES, LOG_MEL)
  np.testing.assert_array_equal(out.audio_features, LOG_MEL[:, :, 0, :A])
  noise = -1.6 + 2 * np.asarray(jax.random.normal(jax.random.key(5), (1, T, 96, 64)))[:, :, 0, :A]
  expected = 2 * by_hand(LOG_MEL[:, :, 0, :A]) - by_hand(np.broadcast_to(noise, AUDIO.shape))
  np.testing.assert_allclose(out.logits, expected, rtol=1e-4, atol=1e-4)


def test_the_noised_pass_opens_all_queries(toy):
  out = segment(Contrast(Toy(), alpha=1.0, seed=7), toy, marks=MARKS)
  bare = segment(Contrast(Toy(), alpha=1.0, seed=7), toy)
  expected = 2 * 10 * MARKS.sum(-1) - 10 * 4
  np.testing.assert_allclose((out.logits - bare.logits)[:, :, 0, 0, 0], expected, atol=1e-4)


def test_the_bias_only_branch_hears_nothing_and_keeps_outputs_for_its_loss():
  module = Contrast(Toy(), "bias_only", biased=Toy())
  variables = initialise(module, FRAMES, LOG_MEL, seed=0)
  out = segment(module, variables, train=True)
  biased = by_hand(0 * AUDIO)
  np.testing.assert_allclose(out.biased.logits, biased, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(out.logits, by_hand(AUDIO) / (1 + np.exp(-biased)), rtol=1e-4, atol=1e-5)
  assert segment(module, variables).biased is None


@pytest.mark.parametrize(
  ("operation", "expected"),
  [("subtract", lambda a, b: 3 * a - 2 * b), ("product", lambda a, b: a / (1 + np.exp(-b)))],
)
def test_an_ensemble_merges_at_inference_only(operation, expected):
  module = Contrast(Toy(), "ensemble", Toy(), alpha=2.0, operation=operation)
  variables = initialise(module, FRAMES, LOG_MEL, seed=0)
  assert set(variables["params"]) == {"system", "biased"}
  variables["params"]["biased"]["seen"] = jnp.float32(3.0)
  clean, biased = by_hand(AUDIO), 3 * FRAMES[..., :1]
  np.testing.assert_allclose(segment(module, variables).logits, expected(clean, biased), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(segment(module, variables, train=True).logits, clean, rtol=1e-5, atol=1e-6)


def test_a_visual_only_model_says_the_same_of_every_sound(toy):
  module = Contrast(Toy(), "visual_only")
  one, other = (segment(module, toy, audio).logits for audio in (AUDIO, 5 * AUDIO))
  np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("strategy", ["uncertainty", "bias_only"])
def test_gradients_reach_what_they_should(strategy):
  module = Contrast(Toy(), strategy, biased=Toy(), steps=5)
  variables = initialise(module, FRAMES, LOG_MEL, seed=0)

  def loss(params, audio):
    out = module.apply(
      {"params": params}, FRAMES, audio, train=True, rngs={"dropout": jax.random.key(0)}, method="segment"
    )
    return jnp.square(out.logits).sum()

  params, audio = jax.grad(loss, (0, 1))(variables["params"], AUDIO)
  flat = traverse_util.flatten_dict(params)
  silent = {("biased", "linear", "kernel"), ("biased", "heard")}  # zeros go in
  for path, leaf in flat.items():
    assert np.isfinite(leaf).all(), path
    assert (np.abs(leaf).max() > 0) == (path not in silent), path
  assert np.isfinite(audio).all() and np.abs(audio).min() > 0


def test_settings_that_mean_nothing_are_refused_by_name():
  for settings, message in (
    (
      {"strategy": "uncertain"},
      "debias.contrast='uncertain' is not known; choose one of ensemble, bias_only",
    ),
    ({"variant": "ours"}, "debias.contrast_variant='ours' is not known; choose one of paper, released"),
    (
      {"where": "mel"},
      "debias.contrast_where='mel' is not known; choose one of embedding, projected, log_mel",
    ),
    ({"layers": "last"}, "debias.contrast_layers='last' is not known; choose one of every, map"),
    ({"operation": "add"}, "debias.contrast_operation='add' is not known; choose one of subtract, product"),
    ({"alpha": -1.0}, "debias.contrast_alpha=-1.0 is negative"),
    (
      {"schedule": "square"},
      "debias.contrast_schedule='square' is not known; choose one of linear, quadratic, cosine, constant",
    ),
    ({"steps": 0}, "debias.contrast_steps=0 must be at least 1"),
    ({"beta_end": 1.0}, "contrast_beta_end=1.0 must rise and lie between 0 and 1"),
  ):
    with pytest.raises(InputError, match=message):
      Contrast(Toy(), **settings)


def test_a_clip_and_its_double_lie_side_by_side():
  np.testing.assert_array_equal(pair(np.array([[1], [2]]), np.array([[3], [4]])), [[1], [3], [2], [4]])
