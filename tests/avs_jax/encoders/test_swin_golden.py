"""Swin-Base against the outputs of Mask2Former, Hugging Face, Microsoft's classifier and bias_in_AVS."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights

pytestmark = pytest.mark.golden

ADAPTED = "model_v.model.pixel_level_module.encoder."


def filled(name, path, rule, prefix="", **overrides):
  listed = json.loads(path.read_text())
  names = [key for key in listed if key.startswith(prefix) and not key.startswith(("head.", "classifier."))]
  return weights.from_torch(name, {key: rule.weight(key, listed[key]) for key in names}, **overrides)


def picture(rule, rows, cols):
  return jnp.asarray(rule.array("pixel_values", (1, 3, rows, cols)).transpose(0, 2, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, origin, sizes",
  [
    ("swin_base_w7", "swin_base_w7_mask2former.orig", ((224, 224),)),
    ("swin_base_w12", "swin_base_w12_backbone.hf", ((198, 266),)),
  ],
)
def test_maps_equal_the_dense_backbones(golden, rule, name, origin, sizes):
  variables = filled(name, golden(f"backbones/{origin}.json"), rule)
  kept = np.load(golden(f"backbones/{origin}.npz"))
  module = encoders.build(name)
  for rows, cols in sizes:
    for i, y in enumerate(module.apply(variables, picture(rule, rows, cols))):
      key = f"res{i + 2}" if origin.endswith("orig") else f"stage{i + 1}"
      rule.check(y.transpose(0, 3, 1, 2), kept[f"in{rows}x{cols}_{key}"])


@pytest.mark.slow
def test_the_classic_window_rule_equals_the_imagenet_classifier(golden, rule):
  variables = filled("swin_base_w7", golden("backbones/swin_base_w7_224.orig.json"), rule)
  kept = np.load(golden("backbones/swin_base_w7_224.orig.npz"))
  module = encoders.build("swin_base_w7", window_rule="classic")

  def merged(module, x, i):
    return getattr(module, f"layers_{i}").merge(x)

  x = picture(rule, 224, 224)
  for i in range(4):
    x = module.apply(variables, x, i, method="stage")
    after = module.apply(variables, x, i, method=merged) if i < 3 else x
    rule.check(after.reshape(1, -1, after.shape[-1]), kept[f"after_layer{i}"])


@pytest.mark.slow
def test_adapted_maps_equal_bias_in_avs(golden, rule):
  variables = filled("swin_base_w12", golden("bias_avs/binary_state_dict.json"), rule, ADAPTED, adapters=True)
  kept = np.load(golden("bias_avs/adapted_backbone_pixel_decoder.npz"))
  module = encoders.build("swin_base_w12", adapters=True)
  x = jnp.asarray(rule.array("pixel_values", (5, 3, 224, 224))[:1].transpose(0, 2, 3, 1))
  for i, y in enumerate(module.apply(variables, x)):
    rule.check(y.transpose(0, 3, 1, 2), kept[f"backbone.map{i}"])
