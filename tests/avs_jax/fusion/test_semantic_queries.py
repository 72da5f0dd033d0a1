"""Marks open queries, one mark several of them; the marked sounds of a frame attend to one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.fusion.semantic_queries import Perception, dilate, place_codes, released_marks
from avs_jax.initialise import initialise

MODULE = Perception(heads=2, layers=2)


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


HEARD = normal((2, 5, 8))


@pytest.fixture(scope="module")
def variables():
  return initialise(MODULE, HEARD, seed=0)


@pytest.fixture(scope="module")
def run(variables):
  return jax.jit(lambda x: MODULE.apply(variables, x))


def test_each_mark_opens_its_neighbouring_queries_and_query_0_is_always_open():
  marks = jnp.asarray([[0.0, 1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1, 1]])
  assert dilate(marks, 2).tolist() == [[1, 1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0]]
  assert dilate(marks, 1, first=False).tolist() == [[0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]]
  assert dilate(jnp.zeros((1, 3)), 1, first=False).tolist() == [[1, 0, 0]]  # no second is without a query
  assert dilate(marks, 1).tolist() == [[1, 1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1, 1]]


def test_the_released_reading_ignores_a_lone_mark_and_never_has_exact_zeros():
  low, high = np.float32(1e-6), np.float32(1 - 1e-6)
  found = released_marks(jnp.asarray([[0.0, 0, 1], [0, 1, 1], [1, 0, 0]]))
  np.testing.assert_array_equal(found, [[high, low, low], [low, high, high], [high, low, low]])


def test_places_are_told_by_sines_and_cosines():
  codes = place_codes(3, 4)
  np.testing.assert_allclose(codes[0], [0, 1, 0, 1])
  np.testing.assert_allclose(codes[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)], rtol=1e-6)


def test_shape_type_and_the_order_of_frames(variables, run):
  out = run(HEARD)
  assert out.shape == HEARD.shape and out.dtype == jnp.float32
  half = jax.eval_shape(Perception(2, 2, dtype=jnp.bfloat16).apply, variables, HEARD.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(run(HEARD[::-1])[::-1], out, rtol=1e-4, atol=1e-5)


def test_every_query_hears_every_other_of_its_frame_and_none_of_another(run):
  change = np.abs(run(HEARD.at[0, 3].add(2)) - run(HEARD)).max(-1)
  assert (change[0] > 1e-4).all() and not change[1].any()


def test_dropout_acts_in_training_alone_and_gradients_reach_every_parameter(variables, run):
  dropped = MODULE.apply(variables, HEARD, train=True, rngs={"dropout": jax.random.key(0)})
  assert not np.allclose(dropped, run(HEARD))
  slopes = jax.jit(jax.grad(lambda v: jnp.sin(MODULE.apply(v, HEARD)).sum()))(variables)
  for path, leaf in traverse_util.flatten_dict(slopes["params"]).items():
    assert np.isfinite(leaf).all(), path
    if path[-2:] != ("t2a_key_embedding", "bias"):  # the same for all keys: softmax does not see it
      assert np.abs(leaf).max() > 0, path
