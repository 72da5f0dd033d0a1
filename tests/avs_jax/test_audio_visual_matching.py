"""Matching losses by hand; the published program's values are in test_losses.py, through `losses.objective`."""

import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import audio_visual_matching
from avs_jax.errors import InputError
from avs_jax.types import Outputs


def one_stage(logits, maps, audio) -> Outputs:
  """Outputs of one clip with one fused stage: logits [T, H, W], maps [T, h, w, C], audio [T, C]."""
  logits, maps, audio = (jnp.asarray(x, jnp.float32)[None] for x in (logits, maps, audio))
  return Outputs(logits=logits[..., None], fused_maps=(maps,), fused_audio=(audio,))


def test_distance_by_hand():
  # Half the pixels are on, so v is half of the map's value 2: |1 - 4| in each of two channels. The second second
  # is padding.
  outputs = one_stage(
    np.stack([[[40, 40], [-40, -40]], [[0, 0], [0, 0]]]), np.full((2, 2, 2, 2), 2), [[4, 4], [9, 9]]
  )
  got = audio_visual_matching.matching(
    outputs, jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]]), form="euclidean"
  )
  np.testing.assert_allclose(got, np.sqrt(18), rtol=1e-5)


def test_divergence_is_a_sum_over_the_frames_that_are_real():
  logits, maps = np.full((2, 1, 1), 40), np.array([[[[0.0, 0.0]]], [[[0.0, 0.0]]]])
  outputs = one_stage(logits, maps, [[np.log(3), 0], [np.log(3), 0]])
  one = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)  # of (3/4, 1/4) from (1/2, 1/2)
  both, first = jnp.ones((1, 2)), jnp.array([[1.0, 0.0]])
  np.testing.assert_allclose(audio_visual_matching.matching(outputs, both, both), 2 * one, rtol=1e-5)
  np.testing.assert_allclose(audio_visual_matching.matching(outputs, first, first), one, rtol=1e-5)


def test_an_empty_mask_makes_the_cosine_a_constant():
  outputs = one_stage(np.full((1, 2, 2), -40), np.ones((1, 2, 2, 3)), np.ones((1, 3)))
  got = audio_visual_matching.masked_cosine(outputs, jnp.ones((1, 1)))
  np.testing.assert_allclose(got, -np.log(1e-6), rtol=1e-5)


def test_a_system_that_fuses_nothing_is_told_what_to_set():
  outputs = Outputs(logits=jnp.zeros((1, 1, 2, 2, 1)))
  with pytest.raises(InputError, match="loss.matching to 'none'"):
    audio_visual_matching.matching(outputs, jnp.ones((1, 1)), jnp.ones((1, 1)))


@pytest.mark.parametrize("size", [(7, 5), (3, 4)])
def test_pooling_to_a_stage_that_does_not_divide_the_frame_covers_every_pixel(size):
  x = np.random.default_rng(6).standard_normal((1, 1, 16, 18)).astype(np.float32)
  got = audio_visual_matching._pool(jnp.asarray(x), size, "avg")
  for i in range(size[0]):
    for j in range(size[1]):
      rows = slice(i * 16 // size[0], -(-(i + 1) * 16 // size[0]))
      columns = slice(j * 18 // size[1], -(-(j + 1) * 18 // size[1]))
      block = x[0, 0, rows, columns]
      np.testing.assert_allclose(got[0, 0, i, j], block.mean(), rtol=1e-5, atol=1e-6)
