"""Initial values: widths by hand, and the same distribution whether jax or numpy draws it."""

import jax
import numpy as np
import pytest

from avs_jax import initial

KERNEL = (3, 3, 8, 16)


@pytest.mark.parametrize(
  ("description", "shape", "width"),
  [
    (initial.normal(0.5), KERNEL, 0.5),
    (initial.trunc_normal, KERNEL, 0.02),
    (initial.he_fan_out, KERNEL, np.sqrt(2 / (9 * 16))),
    (initial.he_fan_in, KERNEL, np.sqrt(2 / (9 * 8))),
    (initial.he_fan_out_depthwise, (3, 3, 1, 16), np.sqrt(2 / 9)),
    (initial.torch_default, (8, 16), 1 / np.sqrt(8)),
    (initial.xavier_uniform, (8, 16), np.sqrt(6 / 24)),
  ],
)
def test_widths_follow_the_inputs_or_outputs_of_a_unit(description, shape, width):
  assert description.width(shape) == pytest.approx(width)


@pytest.mark.parametrize(
  ("description", "deviation", "most"),
  [
    (initial.normal(0.5), 0.5, np.inf),
    (initial.Initial("truncated", 0.5), 0.5 * 0.8796, 1.0),  # of a normal cut at two: .8796
    (initial.Initial("uniform", 0.5), 0.5 / np.sqrt(3), 0.5),
  ],
)
def test_jax_and_numpy_draw_the_same_distribution(description, deviation, most):
  for drawn in (
    np.asarray(description(jax.random.key(0), (200, 200))),
    description.sample(np.random.default_rng(0), (200, 200)),
  ):
    assert drawn.dtype == np.float32
    assert drawn.std() == pytest.approx(deviation, rel=0.02)
    assert abs(drawn.mean()) < 0.02 * deviation
    assert np.abs(drawn).max() <= most


def test_constants_are_the_same_whoever_makes_them():
  for description, value in ((initial.zeros, 0), (initial.ones, 1), (initial.constant(0.3), 0.3)):
    for drawn in (
      description(jax.random.key(0), (2, 3)),
      description.sample(np.random.default_rng(0), (2, 3)),
    ):
      np.testing.assert_array_equal(drawn, np.full((2, 3), value, np.float32))
