"""Assignment costs exactly what scipy's optimum costs, whatever is masked out, tied or short of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from avs_jax.matching import assign

run = jax.jit(assign)


def problems(seed, count, queries, targets):
  """Half of real costs, half of whole numbers that tie; some queries dormant, some targets absent."""
  draw = np.random.default_rng(seed)
  real = 3 * draw.standard_normal((count // 2, queries, targets))
  tied = draw.integers(-2, 3, (count - count // 2, queries, targets))
  active = draw.random((count, queries)) < draw.choice([0.03, 0.3, 1.0], (count, 1))
  active[:, 0] = True
  valid = draw.random((count, targets)) < draw.choice([0.3, 1.0], (count, 1))
  return np.concatenate([real, tied]).astype(np.float32), active, valid


@pytest.mark.parametrize(("queries", "targets", "count"), [(100, 1, 1000), (100, 8, 1000), (100, 71, 100)])
def test_random_problems_of_the_sizes_used_reach_scipys_optimum(queries, targets, count):
  cost, active, valid = problems(targets, count, queries, targets)
  query, matched = jax.device_get(run(cost, active, valid))
  assert not (matched & ~valid).any()
  for i in range(len(cost)):
    mine, wanted = query[i][matched[i]], np.flatnonzero(matched[i])
    assert len(set(mine)) == len(mine) and active[i][mine].all()
    part = cost[i][np.ix_(active[i], valid[i])]
    rows, cols = linear_sum_assignment(part)
    assert len(rows) == len(mine)  # as many pairs as there can be
    # 71 float32 costs of size 10, added up
    np.testing.assert_allclose(cost[i][mine, wanted].sum(), part[rows, cols].sum(), rtol=1e-5, atol=3e-4)


def test_optax_finds_the_same_pairs_where_nothing_is_masked_out():
  cost, _, _ = problems(5, 20, 12, 8)
  query, matched = run(cost[:10], None, None)
  theirs = jax.jit(jax.vmap(optax.assignment.hungarian_algorithm))(cost[:10])
  assert matched.all()
  for i in range(10):
    pairs = dict(zip(*(np.asarray(x[i]).tolist() for x in reversed(theirs)), strict=True))
    assert [pairs[m] for m in range(8)] == query[i].tolist()


def test_a_matching_by_hand():
  """Greedy would give query 1 to target 0 for 1, and pay 9 for target 1; together 4 + 2 is less."""
  cost = jnp.asarray([[[4.0, 9.0], [1.0, 2.0], [8.0, 9.0]]])
  query, matched = assign(cost)
  assert query.tolist() == [[0, 1]] and matched.tolist() == [[True, True]]
  query, matched = assign(cost, jnp.asarray([[False, True, True]]))
  assert query.tolist() == [[1, 2]] or query.tolist() == [[2, 1]]
  assert float(cost[0, query[0, 0], 0] + cost[0, query[0, 1], 1]) == 10.0


def test_more_targets_than_active_queries_leave_the_dearest_out_and_no_target_is_no_match():
  cost = jnp.asarray([[[5.0, 1.0, 3.0], [0.0, 0.0, 0.0]]])
  query, matched = assign(cost, jnp.asarray([[True, False]]))
  assert matched.tolist() == [[False, True, False]] and query[0, 1] == 0
  query, matched = assign(cost, None, jnp.zeros((1, 3), bool))
  assert not matched.any() and not query.any()
  _, matched = assign(cost, jnp.zeros((1, 2), bool))
  assert not matched.any()


def test_renaming_queries_renames_the_pairs_and_no_gradient_passes():
  cost, active, valid = problems(9, 6, 12, 8)
  order = np.random.default_rng(0).permutation(12)
  query, matched = run(cost[:3], active[:3], valid[:3])  # real costs: one optimum
  other, same = run(cost[:3, order], active[:3, order], valid[:3])
  np.testing.assert_array_equal(matched, same)
  np.testing.assert_array_equal(np.where(same, order[other], 0), query)

  def chosen(cost):
    query, matched = assign(cost)
    return (query * matched).sum().astype(jnp.float32) + 0 * cost.sum()

  assert not jax.grad(chosen)(jnp.asarray(cost[:1])).any()
