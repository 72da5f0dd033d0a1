"""Maps made of queries: hand-computed values, and what dormant or undecided queries do to them."""

import jax.numpy as jnp
import numpy as np

from avs_jax.decoders import query_maps
from avs_jax.layers import resize_bilinear


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


MASKS, CLASSES = normal((2, 3, 5, 4)), normal((2, 4, 6), 1)
MARKS = jnp.asarray([[1.0, 0, 1, 0], [1, 1, 0, 0]])


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_chances_are_those_of_the_chosen_classes_and_nothing_among_themselves():
  found = query_maps.chances(CLASSES, 2)
  raised = np.exp(np.asarray(CLASSES)[..., [0, 1, 5]])
  np.testing.assert_allclose(found, (raised / raised.sum(-1, keepdims=True))[..., :2], rtol=1e-5)


def test_a_cell_is_covered_unless_every_active_query_leaves_it_free():
  chance = np.asarray(query_maps.chances(CLASSES, 1))[..., 0] * np.asarray(MARKS)
  free = np.prod(1 - chance[:, None, None] * sigmoid(MASKS), -1, keepdims=True)
  np.testing.assert_allclose(sigmoid(query_maps.covered(MASKS, CLASSES, MARKS)), 1 - free, rtol=1e-4)
  dormant = query_maps.covered(MASKS.at[0, ..., 1].add(50), CLASSES, MARKS)
  np.testing.assert_array_equal(dormant, query_maps.covered(MASKS, CLASSES, MARKS))


def test_queries_that_found_nothing_leave_the_map_empty_and_sure_ones_fill_it():
  nothing = jnp.zeros((1, 2, 2)).at[..., 1].set(30)
  wide = jnp.full((1, 1, 1, 2), 40.0)
  ones = jnp.ones((1, 2))
  assert query_maps.covered(wide, nothing, ones)[0, 0, 0, 0] < -13
  assert query_maps.covered(wide, -nothing, ones)[0, 0, 0, 0] > 13


def test_semantic_maps_add_up_active_queries_by_the_chance_of_each_class():
  chance = np.asarray(query_maps.chances(CLASSES, 3)) * np.asarray(MARKS)[..., None]
  expected = np.einsum("nhwq,nqk->nhwk", sigmoid(MASKS), chance)
  np.testing.assert_allclose(
    np.exp(query_maps.named(MASKS, CLASSES, MARKS, 3)), expected, rtol=1e-4, atol=2e-6
  )


def test_the_released_binary_map_adds_mask_logits_and_leaves_out_the_first_class():
  drawn = query_maps.released_binary(MASKS, CLASSES, MARKS, (6, 10), count=3)
  weight = np.asarray(query_maps.chances(CLASSES, 3))[..., 1:].sum(-1) * np.asarray(MARKS)
  wide = resize_bilinear(MASKS, (384, 384), align_corners=False)
  one = jnp.asarray(np.einsum("nhwq,nq->nhw", wide, weight))[..., None]
  np.testing.assert_allclose(drawn, resize_bilinear(one, (6, 10), align_corners=False), rtol=1e-4, atol=1e-4)


def test_the_released_semantic_scores_ignore_marks_and_keep_the_order_of_frames():
  scores = query_maps.released_semantic(MASKS, CLASSES, (6, 10), 3)
  assert scores.shape == (2, 6, 10, 3)
  turned = query_maps.released_semantic(MASKS[::-1], CLASSES[::-1], (6, 10), 3)
  np.testing.assert_allclose(turned[::-1], scores, rtol=1e-5)
  flat = query_maps.released_semantic(jnp.zeros((1, 2, 2, 4)), CLASSES[:1], (4, 4), 3)
  np.testing.assert_allclose(flat[0, 0, 0], 0.5 * query_maps.chances(CLASSES[:1], 3)[0].sum(0), rtol=1e-5)
