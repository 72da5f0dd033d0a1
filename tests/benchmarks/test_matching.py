"""The matching benchmark times every form on the same problems, and a step beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import matching
from configs import tiny


def test_all_forms_find_the_same_pairs():
  cost = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4)), jnp.float32)
  used, callback = (
    jax.jit(matching.FORMS[name])(cost) for name in ("shortest paths (used)", "scipy, one callback")
  )
  np.testing.assert_array_equal(used, callback)
  rows, cols = jax.jit(matching.FORMS["optax"])(cost)
  np.testing.assert_array_equal(np.asarray(rows)[np.arange(3)[:, None], np.argsort(cols, -1)], used)


@pytest.mark.slow
def test_every_form_and_a_step_are_measured():
  config = tiny.get_config("active_queries")
  with config.unlocked():
    config.data.seconds = 2
  sizes = {2: matching.measure(2, 2, 1, queries=4)}
  share = matching.measure_share(config, 1, 1)
  text = matching.page(sizes, share, 2, 1, "tiny")
  assert all(f"| {name} |" in text for name in matching.FORMS) and share["layers"] == 2
  assert share["matching"] > 0 and share["step"] > 0
