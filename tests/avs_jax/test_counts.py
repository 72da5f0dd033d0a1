"""The counts of pixels that the metrics are computed from are exact."""

import numpy as np

from avs_jax import counts


def test_areas_at_the_thresholds_are_exact_even_on_the_thresholds_themselves():
  steps = counts.THRESHOLDS
  assert len(steps) == 255 and steps[0] == 0 and steps[-1] == 1 and (np.diff(steps) > 0).all()
  below, above = (
    np.nextafter(steps, np.float32(-1), dtype=np.float32),
    np.nextafter(steps, np.float32(2), dtype=np.float32),
  )
  values = np.clip(np.concatenate([steps, below, above]), 0, 1)  # 765 = 15 * 51
  p = values.reshape(1, 15, 51)
  masks = np.random.default_rng(0).random((1, 15, 51)) > 0.5
  found = counts.probability_counts(p, masks)
  for i, threshold in enumerate(steps):
    assert found.accepted[0, i] == (p >= threshold).sum()
    assert found.hits[0, i] == ((p >= threshold) & masks).sum()


def test_counts_stay_exact_at_512_pixels():
  rng = np.random.default_rng(0)
  p = rng.random((1, 512, 512), np.float32)
  masks = rng.random((1, 512, 512)) > 0.01
  found = counts.probability_counts(p, masks)
  assert found.truth[0] == masks.sum() and found.accepted[0, 0] == 512 * 512
  for i in (1, 100, 253):
    assert found.hits[0, i] == ((p >= counts.THRESHOLDS[i]) & masks).sum()
