import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.initialise import initialise

SMALL = {"depths": (1, 1, 1, 1), "width": 2}


@functools.lru_cache(maxsize=2)
def filled(path, rule):
  names = json.loads(path.read_text())
  shapes = {key: value["shape"] if isinstance(value, dict) else value for key, value in names.items()}
  return weights.from_torch("resnet50", {key: rule.weight(key, shape) for key, shape in shapes.items()})


def small(**overrides):
  module = encoders.build("resnet50", **SMALL, **overrides)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64, 64, 3)), jnp.float32)
  return module, initialise(module, x, seed=0), x


@pytest.mark.golden
@pytest.mark.parametrize(("source", "key"), [("torchvision", "layer"), ("hf", "stage")])
def test_maps_equal_the_reference(golden, rule, source, key):
  """The four maps; the pooled vector and the classifier behind them, which are kept too, no system has."""
  variables = filled(golden(f"backbones/resnet50.{source}.json"), rule)
  kept = np.load(golden(f"backbones/resnet50.{source}.npz"))
  for rows, cols in ((224, 224), (192, 250)):
    x = jnp.asarray(rule.array("pixel_values", (1, 3, rows, cols)).transpose(0, 2, 3, 1))
    for i, y in enumerate(encoders.build("resnet50").apply(variables, x), start=1):
      rule.check(y.transpose(0, 3, 1, 2), kept[f"in{rows}x{cols}_{key}{i}"])


def test_training_moves_the_running_statistics():
  module, variables, x = small()
  _, moved = module.apply(variables, x, train=True, mutable=["batch_stats"])
  before, after = (jax.tree.leaves(tree["batch_stats"]) for tree in (variables, moved))
  assert all(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_frozen_norms_train_as_they_test():
  module, variables, x = small(frozen_norm=True)
  maps, moved = module.apply(variables, x, train=True, mutable=["batch_stats"])
  for a, b in zip(maps, module.apply(variables, x), strict=True):
    np.testing.assert_array_equal(a, b)
  jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


def test_the_stem_by_hand():
  """A picture of ones under a kernel of ones: the first map counts the pixels that the stem sees."""
  module = encoders.build("resnet50", depths=(0,), width=1)
  x = jnp.ones((1, 16, 16, 3))
  variables = initialise(module, x, seed=0)
  variables["params"]["conv1"]["kernel"] = np.ones((7, 7, 3, 1), np.float32)
  y = module.apply(variables, x)[0]
  # Columns of the stem see 4, 6, 7 ... of 7 pixels; its largest neighbour is what the pooling keeps.
  seen = np.array([4, 6, 7, 7, 7, 7, 7, 5])
  pooled = np.array([seen[max(0, 2 * i - 1) : 2 * i + 2].max() for i in range(4)])
  np.testing.assert_allclose(y[0, :, :, 0], 3 * np.outer(pooled, pooled) / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_the_stride_sits_on_the_middle_convolution():
  module, variables, _ = small()
  assert variables["params"]["layer2_0"]["conv2"]["kernel"].shape == (3, 3, 4, 4)
  assert module.channels == (8, 16, 32, 64)
  # A picture that differs in odd pixels only still reaches the next stage: a strided 1 x 1 would miss it.
  x = jnp.zeros((1, 8, 8, 8)).at[:, 1::2, 1::2].set(1.0)
  params = jax.tree.map(np.array, variables)
  params["params"]["layer2_0"]["downsample_0"]["kernel"][:] = 0
  still = module.apply(params, jnp.zeros_like(x), 1, method="stage")
  assert np.abs(module.apply(params, x, 1, method="stage") - still).max() > 0
