"""A prediction's maps at the source's size and its figures."""

import numpy as np
import pytest

from avs_jax.own_video.prediction import Prediction, enlarged


def test_enlarging_is_bilinear_between_pixel_centres():
  found = enlarged(np.array([[0.0, 1.0]], np.float32), (2, 4))
  np.testing.assert_allclose(found, [[0, 0.25, 0.75, 1]] * 2, atol=1e-6)
  same = np.eye(3, dtype=np.float32)
  np.testing.assert_array_equal(enlarged(same, (3, 3)), same)


def test_area_and_score_follow_the_mask():
  coarse = np.array([[0.9, 0.1], [0.7, 0.1]], np.float32)
  each = Prediction("a", 0, 0.0, 1.0, 0.5, (2, 2), coarse)
  assert (each.area, each.score) == (0.5, pytest.approx(0.8))
  strict = Prediction("a", 0, 0.0, 1.0, 0.5, (2, 2), coarse, threshold=0.95)
  assert (strict.area, strict.score) == (0.0, pytest.approx(0.9))
  assert each.sounding == () and each.labels == () and each.uncertainty is None


def test_uncertainty_has_the_sources_size():
  half = np.full((2, 2), 0.5, np.float32)
  each = Prediction("a", 0, 0.0, 1.0, 0.5, (6, 4), half, coarse_uncertainty=half)
  assert each.uncertainty.shape == (6, 4) and (each.uncertainty == 0.5).all()
