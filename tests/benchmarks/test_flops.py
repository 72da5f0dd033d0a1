"""Loops count as often as they run."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops

MATRIX = jax.ShapeDtypeStruct((4, 4), jnp.float32)
PRODUCT = 2 * 4**3


def test_a_product_of_matrices_is_two_operations_a_term():
  assert flops.count(lambda x: x @ x, MATRIX) == flops.Work(PRODUCT, 0)


def test_the_body_of_a_loop_counts_for_every_turn_nested_ones_too():
  def inner(x):
    return jax.lax.scan(lambda y, _: (y @ x, None), x, None, length=3)[0]

  many = jax.ShapeDtypeStruct((5, 4, 4), jnp.float32)
  assert flops.count(inner, MATRIX).flop == pytest.approx(3 * PRODUCT, abs=10)
  found = flops.count(lambda xs: jax.lax.map(inner, xs), many)
  assert found.flop == pytest.approx(15 * PRODUCT, abs=50)
  assert found.open_loops == 0


def test_a_loop_inside_a_jitted_or_recomputed_function_is_found():
  def loop(x):
    return jax.lax.scan(lambda y, _: (y @ x, None), x, None, length=7)[0]

  plain = flops.count(loop, MATRIX).flop
  assert flops.count(jax.jit(loop), MATRIX).flop == pytest.approx(plain, abs=10)
  assert flops.count(jax.checkpoint(loop), MATRIX).flop == pytest.approx(plain, abs=10)


def test_a_loop_of_unknown_length_counts_once_and_is_named():
  def loop(x):
    return jax.lax.while_loop(lambda y: y.sum() < 0, lambda y: y @ x, x)

  found = flops.count(loop, MATRIX)
  assert found.open_loops == 1 and PRODUCT <= found.flop < 2 * PRODUCT
