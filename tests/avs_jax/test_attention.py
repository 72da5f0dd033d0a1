"""The packed attention of the query-based systems equals attention written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.attention import MultiHeadAttention
from avs_jax.initialise import initialise


def inputs(queries=3, keys=5, width=8):
  draw = np.random.default_rng(0)
  return tuple(jnp.asarray(draw.standard_normal((2, n, width)), jnp.float32) for n in (queries, keys))


def by_hand(params, query, source, heads):
  """The same, one head and one query at a time."""
  width = query.shape[-1]
  weight, bias = np.asarray(params["in_proj_weight"]), np.asarray(params["in_proj_bias"])
  q, k, v = (
    np.asarray(x) @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width]
    for i, x in enumerate((query, source, source))
  )
  out, size = np.zeros(query.shape), width // heads
  for n, m, i in np.ndindex(query.shape[0], heads, query.shape[1]):
    part = slice(m * size, (m + 1) * size)
    score = np.exp(k[n, :, part] @ q[n, i, part] / np.sqrt(size))
    out[n, i, part] = (score / score.sum()) @ v[n, :, part]
  return out @ np.asarray(params["out_proj"]["kernel"]) + np.asarray(params["out_proj"]["bias"])


@pytest.mark.parametrize("own", [True, False])
def test_attention_equals_a_slow_loop_over_heads_and_queries(own):
  query, source = inputs()
  module = MultiHeadAttention(heads=4)
  variables = initialise(module, query, seed=0)
  variables["params"]["in_proj_bias"] = np.linspace(-1, 1, 24, dtype=np.float32)
  out = module.apply(variables, query, None if own else source)
  expected = by_hand(variables["params"], query, query if own else source, 4)
  assert out.shape == query.shape and out.dtype == jnp.float32
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_a_single_key_is_passed_on_whatever_the_query():
  query, source = inputs(keys=1)
  module = MultiHeadAttention(heads=2, use_bias=False)
  variables = initialise(module, query, seed=0)
  assert set(traverse_util.flatten_dict(variables["params"])) == {("in_proj_weight",), ("out_proj", "kernel")}
  out = module.apply(variables, query, source)
  value = source @ variables["params"]["in_proj_weight"][16:].T @ variables["params"]["out_proj"]["kernel"]
  np.testing.assert_allclose(out, jnp.broadcast_to(value, out.shape), rtol=1e-5, atol=1e-6)


def test_permuting_keys_changes_nothing_and_permuting_queries_permutes_the_outputs():
  query, source = inputs()
  module = MultiHeadAttention(heads=2)
  variables = initialise(module, query, seed=1)
  out = module.apply(variables, query, source)
  np.testing.assert_allclose(module.apply(variables, query, source[:, ::-1]), out, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    module.apply(variables, query[:, ::-1], source), out[:, ::-1], rtol=1e-5, atol=1e-6
  )


def test_attention_weights_are_dropped_in_training_alone():
  query, source = inputs()
  module = MultiHeadAttention(heads=2, dropout=0.5)
  variables = initialise(module, query, seed=0)
  plain = module.apply(variables, query, source)
  first, second = (
    module.apply(variables, query, source, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 1)
  )
  assert not np.allclose(first, plain) and not np.allclose(first, second)
  np.testing.assert_array_equal(module.apply(variables, query, source), plain)


def test_gradient_is_finite_and_reaches_every_parameter():
  query, source = inputs()
  module = MultiHeadAttention(heads=2)
  variables = initialise(module, query, seed=0)
  slopes = jax.grad(lambda v: jnp.square(module.apply(v, query, source)).sum())(variables)
  flat = traverse_util.flatten_dict(slopes)
  assert all(np.isfinite(slope).all() and np.abs(slope).max() > 0 for slope in flat.values())
