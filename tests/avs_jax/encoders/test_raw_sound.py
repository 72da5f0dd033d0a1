"""Windows of samples and rates of sounds, for encoders with a front end of their own."""

import jax.numpy as jnp
import numpy as np

from avs_jax.encoders import raw_sound


def test_windows_overlap_and_a_rest_is_left_out():
  x = jnp.arange(8.0)[None]
  assert raw_sound.windows(x, 4, 3).tolist() == [[[0, 1, 2, 3], [3, 4, 5, 6]]]


def test_an_upsampled_tone_is_the_tone_at_the_higher_rate():
  def tone(rate_hz):
    return np.sin(2 * np.pi * 2500 * np.arange(rate_hz) / rate_hz + 0.3).astype(np.float32)

  for factor in (2, 3):
    y = raw_sound.upsample(jnp.asarray(tone(16_000))[None], factor)
    assert y.shape == (1, 16_000 * factor)
    inner = slice(100 * factor, -100 * factor)
    np.testing.assert_allclose(y[0, inner], tone(16_000 * factor)[inner], atol=2e-4)
  np.testing.assert_allclose(y[0, ::3], tone(16_000), atol=1e-6)


def test_a_rate_that_is_right_is_left_alone():
  x = jnp.ones((2, 5))
  assert raw_sound.upsample(x, 1) is x
