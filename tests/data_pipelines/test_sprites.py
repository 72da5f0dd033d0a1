"""Drawn objects: mattes that are exact, whatever the resolution, and parts that cover what they should."""

import numpy as np
import pytest

from data_pipelines.sprites import CATEGORIES, Look, Points, area, draw, rgb


def drawn(category, size=96, scale=0.3, turn=0.0, flip=False):
  frames = np.full((1, size, size, 3), 128, np.float32)
  owner = np.zeros((1, size, size), np.int32)
  at = {"centre": np.array([[0.5, 0.5]]), "scale": np.array([scale]), "turn": np.array([turn])}
  draw(frames, owner, 1, category, Look(), aspect=1.0, flip=flip, **at)
  return frames, owner


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_matte_covers_the_area_that_was_asked_for(category):
  _, owner = drawn(category)
  assert owner.mean() == pytest.approx(area(category) * 0.3**2, rel=0.03)


@pytest.mark.parametrize("category", CATEGORIES)
def test_colours_stay_printable_and_the_object_stands_out(category):
  frames, owner = drawn(category)
  assert np.isfinite(frames).all() and frames.min() > -1 and frames.max() < 400
  assert np.abs(frames[owner == 1] - 128).mean() > 30


def test_a_flipped_object_is_the_mirror_image():
  np.testing.assert_array_equal(drawn("bird", flip=True)[1], drawn("bird")[1][:, :, ::-1])


def test_a_quarter_turn_turns_the_matte_clockwise():
  turned = drawn("car", turn=np.pi / 2)[1]
  assert (turned != np.rot90(drawn("car")[1], -1, axes=(1, 2))).mean() < 1e-3


def test_the_distance_to_a_box_is_exact_along_a_side():
  points = Points(np.array([0.0, 2.0]), np.array([0.0, 0.0]), 10.0)
  np.testing.assert_allclose(points.box(0, 0, 1, 1, 0.1), [-1, 1])
  np.testing.assert_allclose(points.ellipse(0, 0, 1, 1)[1], 1, atol=1e-5)


def test_a_polygon_contains_its_middle_and_not_the_outside():
  points = Points(np.array([0.0, 2.0]), np.array([0.0, 0.0]), 10.0)
  inside, outside = points.polygon((-1, -1), (1, -1), (1, 1), (-1, 1))
  assert (inside, outside) == (-1, 1)


def test_hues_are_what_they_say():
  np.testing.assert_allclose([rgb(0, 1, 1), rgb(1 / 3, 1, 1), rgb(2 / 3, 1, 1)], np.eye(3) * 255, atol=1e-3)
