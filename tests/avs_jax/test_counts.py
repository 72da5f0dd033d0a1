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


def test_activity_is_above_one_half_where_the_likeliest_class_is_not_the_background():
  one = np.array([[0.0], [2.0]], np.float32)
  np.testing.assert_allclose(counts.activity(one), [0.5, 0.880797], rtol=1e-5)
  logits = np.random.default_rng(0).standard_normal((500, 9)).astype(np.float32)
  np.testing.assert_array_equal(counts.activity(logits) > 0.5, counts.likeliest(logits) > 0)
  assert {True, False} == set((counts.likeliest(logits) > 0).tolist())


def test_the_likeliest_class_of_what_is_not_a_number_is_none():
  logits = np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, -np.inf]], np.float32)
  assert counts.likeliest(logits).tolist() == [1, -1, 0]
