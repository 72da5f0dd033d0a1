"""What all systems share: eyes, ears, and `segment(frames, listen(log_mel))`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import systems
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
