"""Memory is counted from the program: by hand on small ones; a step is never less than its state and batch."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import memory
from configs import tiny

MANY = jax.ShapeDtypeStruct((1000,), jnp.float32)


def alive(function, *shapes):
  return memory.alive(jax.jit(function).trace(*shapes).jaxpr.jaxpr)


def test_an_array_counts_until_it_is_last_read():
  assert alive(lambda x: jnp.sin(jnp.cos(x)), MANY) == 8000  # the cosine and its sine, never three
  assert alive(lambda x: jnp.sin(jnp.sin(jnp.cos(x))), MANY) == 8000

  def kept(x):
    first = jnp.cos(x)
    return jnp.sin(jnp.sin(first)) + first

  assert alive(kept, MANY) == 12000


def test_a_loop_counts_its_results_and_one_round():
  def loop(x):
    return jax.lax.scan(lambda carry, _: (jnp.sin(carry), jnp.cos(carry)), x, None, length=5)

  assert (
    alive(loop, MANY) == 4000 + 5 * 4000 + 2 * 4000
  )  # the last state, five cosines; in a round a sine and a cosine


def test_remat_lowers_what_a_gradient_keeps():
  def layer(x):
    return jnp.sin(jnp.cos(x) * x)

  def six(layer):
    def deep(x):
      for _ in range(6):
        x = layer(x)
      return x.sum()

    return jax.grad(deep)

  assert alive(six(jax.checkpoint(layer)), MANY) < alive(six(layer), MANY) / 2


def test_the_largest_array_is_found_inside_loops_and_remat():
  @jax.checkpoint
  def pairs(x):
    return (x[:, None] * x[None]).sum()

  few = jax.ShapeDtypeStruct((7, 10), jnp.float32)
  assert (
    memory.largest(jax.jit(jax.grad(lambda x: jax.lax.map(pairs, x).sum())).trace(few).jaxpr.jaxpr) == 100
  )


def test_sixteen_bits_take_half():
  half = jax.ShapeDtypeStruct((1000,), jnp.bfloat16)
  assert alive(lambda x: jnp.sin(jnp.cos(x)), half) == 4000
  assert memory.nbytes(jax.eval_shape(lambda: jax.random.key(0))) == 8


@pytest.mark.slow
@pytest.mark.parametrize("compiles", [False, True])
def test_a_step_needs_its_state_and_batch_and_more(compiles):
  config = tiny.get_config()
  with config.unlocked():
    config.data.seconds = 2
    config.model.tpavi_stages = ()
  found = memory.count(config, 2, compiles=compiles)
  frames = 2 * 2 * 32 * 32 * 3
  assert found["arguments"] > frames and found["temporary"] > 0
  assert not compiles or found["compiled_total"] > found["arguments"]
