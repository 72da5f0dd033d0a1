"""What all systems share: eyes, ears, and `segment(frames, listen(log_mel))`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import systems
from avs_jax.encoders.raw_sound import upsample
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
LOG_MEL = RANDOM.standard_normal((2, 3, 96, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  return systems.build(
    "avsbench", visual="conv_pyramid", visual_args={"width": 4}, audio_args={"width": 1 / 32}, width=16
  )


@pytest.fixture(scope="module")
def variables(model):
  return initialise(model, FRAMES, LOG_MEL, seed=0)


@pytest.fixture(scope="module")
def call(model):
  return jax.jit(model.apply)


@pytest.fixture(scope="module")
def listen(model):
  return jax.jit(functools.partial(model.apply, method="listen"))


def test_calling_is_segmenting_what_was_heard(model, variables, call, listen):
  audio = listen(variables, LOG_MEL)
  assert audio.shape == (2, 3, 128) and audio.dtype == jnp.float32
  called = call(variables, FRAMES, LOG_MEL)
  segmented = jax.jit(functools.partial(model.apply, method="segment"))(variables, FRAMES, audio)
  np.testing.assert_allclose(called.logits, segmented.logits, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(called.audio_features, audio, rtol=1e-5, atol=1e-6)


def test_each_second_is_heard_by_itself(variables, listen):
  audio, backwards = listen(variables, LOG_MEL), listen(variables, LOG_MEL[::-1, ::-1])
  np.testing.assert_allclose(backwards, audio[::-1, ::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("visual", ["conv_pyramid", "efficientnet_lite0"])
def test_bytes_are_normalised_with_the_encoders_own_statistics(visual):
  args = {"width": 4} if visual == "conv_pyramid" else {"width": 0.25}
  model = systems.build("avsbench", visual=visual, visual_args=args, tpavi_stages=(), width=16)
  encoder = model.bind({}).visual_encoder
  mean, std = (np.array(values, np.float32).reshape(1, 1, 1, 1, 3) for values in (encoder.MEAN, encoder.STD))
  normalised = (FRAMES.astype(np.float32) - mean) / std
  see = jax.jit(lambda variables, frames: model.apply(variables, frames, method="see"))
  variables = initialise(model, FRAMES, seed=0, method="see")
  for ours, theirs in zip(see(variables, FRAMES), see(variables, normalised), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  assert ours.shape[0] == 6  # clips and seconds folded


def test_arrays_of_numpy_and_of_jax_are_taken_alike(model, variables):
  """Not jitted, where every array is one of jax."""
  seen = model.apply(variables, FRAMES[:, :1], method="see")[0]
  np.testing.assert_array_equal(seen, model.apply(variables, jnp.asarray(FRAMES[:, :1]), method="see")[0])
  audio = model.apply(variables, LOG_MEL[:, :1], method="listen")
  np.testing.assert_array_equal(audio, model.apply(variables, jnp.asarray(LOG_MEL[:, :1]), method="listen"))


# HTS-AT at the rate of the clips: one stage of one block.
EAR = {"width": 4, "depths": (1,), "heads": (1,), "window": 4, "side": 64, "high_hz": 8000.0, "hop": 640}


def with_ear(**settings):
  args = {**EAR, "sample_rate_hz": 32_000, **settings}
  return systems.build(
    "avsbench",
    visual="conv_pyramid",
    visual_args={"width": 4},
    audio="htsat",
    audio_args=args,
    tpavi_stages=(),
  )


def test_an_encoder_of_samples_hears_each_second_at_its_own_rate():
  model = with_ear()
  waveform = jnp.asarray(RANDOM.uniform(-1, 1, (2, 3, 16_000)), jnp.float32)
  variables = initialise(model, waveform, seed=0, method="listen")
  heard = jax.jit(functools.partial(model.apply, method="listen"))(variables, waveform)
  assert model.takes_waveform and heard.shape == (2, 3, 4)
  clip = upsample(waveform[:1].reshape(1, -1), 2).reshape(3, 32_000)
  encoder = model.bind(variables).audio_encoder.clone(parent=None, name=None)
  own = {name: tree["audio_encoder"] for name, tree in variables.items()}
  np.testing.assert_allclose(heard[0], jax.jit(encoder.apply)(own, clip), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "build, shape, words",
  [
    (with_ear, (1, 2, 96, 64), r"'htsat' hears samples \[B, T, S\]; it was given \[1, 2, 96, 64\]"),
    (
      lambda: systems.build("avsbench", visual="conv_pyramid"),
      (1, 2, 16_000),
      r"'vggish' hears VGGish examples \[B, T, 96, 64\]; it was given \[1, 2, 16000\]",
    ),
    (lambda: with_ear(sample_rate_hz=44_100), (1, 2, 16_000), "sample_rate_hz=44100 is no multiple of 16000"),
  ],
)
def test_the_wrong_kind_of_sound_is_refused(build, shape, words):
  with pytest.raises(InputError, match=words):
    initialise(build(), np.zeros(shape, np.float32), seed=0, method="listen")
