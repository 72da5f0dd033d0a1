"""Starting values depend on the seed and a parameter's own name and shape, and follow their distribution."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from avs_jax import initial
from avs_jax.initialise import abstract_variables, initialise


class Plain(nn.Module):
  extra: bool = False

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(32, kernel_init=initial.torch_default, name="first")(x)
    if self.extra:
      x = nn.Dense(32, kernel_init=initial.normal(0.5), name="between")(x)
    x = nn.BatchNorm(use_running_average=False, name="norm")(x)
    return nn.Dense(3, name="last")(x)


X = np.zeros((2, 8), np.float32)


def test_shapes_and_statistics_are_those_of_a_plain_init():
  ours, flax = initialise(Plain(), X, seed=0), Plain().init(jax.random.key(0), X)
  assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, flax)
  assert (ours["batch_stats"]["norm"]["var"] == 1).all()
  assert not ours["batch_stats"]["norm"]["mean"].any()
  assert not ours["params"]["last"]["bias"].any()
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(ours))


def test_one_seed_gives_the_same_values_and_another_gives_others(same):
  same(initialise(Plain(), X, seed=1), initialise(Plain(), X, seed=1))
  one, two = (initialise(Plain(), X, seed=seed)["params"]["first"]["kernel"] for seed in (1, 2))
  assert (one != two).all()


def test_a_new_layer_changes_no_other_layers_start(same):
  less, more = (initialise(Plain(extra), X, seed=0)["params"] for extra in (False, True))
  assert set(more) - set(less) == {"between"}
  same({name: more[name] for name in less}, less)


def test_scanned_layers_start_differently_from_each_other():
  class Body(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return nn.Dense(8, kernel_init=initial.normal(1.0), name="dense")(x), None

  class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(name="all")(
        x, None
      )[0]

  kernel = initialise(Scanned(), X, seed=0)["params"]["all"]["dense"]["kernel"]
  assert kernel.shape == (3, 8, 8)
  assert (kernel[0] != kernel[1]).all()
  assert 0.8 < kernel.std() < 1.2


def test_nothing_is_computed_for_the_shapes():
  shapes, recorded = abstract_variables(Plain(), X)
  assert isinstance(shapes["params"]["last"]["kernel"], jax.ShapeDtypeStruct)
  assert ("first", "kernel") in recorded


@pytest.mark.parametrize(
  ("rule", "shape", "deviation"),
  [
    (initial.normal(0.5), (100, 100), 0.5),
    (initial.he_fan_in, (3, 3, 16, 64), (2 / (9 * 16)) ** 0.5),
    (initial.he_fan_out, (3, 3, 16, 64), (2 / (9 * 64)) ** 0.5),
    (initial.he_fan_out_depthwise, (3, 3, 1, 640), (2 / 9) ** 0.5),
    (initial.torch_default, (3, 3, 16, 64), (1 / (9 * 16)) ** 0.5 / 3**0.5),
    (initial.trunc_normal, (100, 100), 0.02 * 0.8796),  # of a normal cut at two deviations
    (initial.constant(3.0), (10,), 0.0),
  ],
)
def test_numpy_and_jax_draw_the_same_distribution(rule, shape, deviation):
  ours, theirs = rule.sample(np.random.default_rng(0), shape), np.asarray(rule(jax.random.key(0), shape))
  assert ours.dtype == theirs.dtype == np.float32
  assert ours.std() == pytest.approx(deviation, rel=0.06)
  assert theirs.std() == pytest.approx(deviation, rel=0.06)
  if rule.form == "truncated":
    assert max(abs(ours).max(), abs(theirs).max()) <= 0.04 + 1e-6
  if rule.form == "constant":
    assert (ours == 3).all() and (theirs == 3).all()
