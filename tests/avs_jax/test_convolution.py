"""The convolution by shifts equals the plain one, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import convolution


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize(
  "size, padding, dilation, channels, features",
  [(3, 1, 1, 2, 5), (3, 1, 1, 5, 2), (3, 6, 6, 3, 4), (3, 6, 6, 4, 3), (3, 0, 1, 4, 3), (1, 0, 1, 3, 1)],
)
def test_large_maps_have_the_plain_convolution_and_its_gradient(
  size, padding, dilation, channels, features, monkeypatch
):
  x, kernel = draw(2, 9, 7, channels), draw(size, size, channels, features, seed=1)

  def called(x, kernel):
    return convolution.convolve(x, kernel, stride=1, padding=padding, dilation=dilation, groups=1)

  plain, to_plain = jax.vjp(called, x, kernel)
  monkeypatch.setattr(convolution, "MANY_CELLS", 1)
  ours, to_ours = jax.vjp(called, x, kernel)
  np.testing.assert_array_equal(ours, plain)
  slope = draw(*plain.shape, seed=2)
  for a, b in zip(to_ours(slope), to_plain(slope), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
