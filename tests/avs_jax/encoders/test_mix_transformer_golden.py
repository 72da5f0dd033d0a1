"""PVT-v2 and MiT against the outputs of the original repositories and of Hugging Face's classes."""

import functools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights

pytestmark = pytest.mark.golden

SIZES = ((224, 224), (192, 256), (200, 252))
SCALED = re.compile(r"(patch_embed\d\.(proj|norm)|attn\.(sr|proj)|mlp\.fc2)\.(weight|bias)$")


@functools.lru_cache(maxsize=1)  # a B5 fills 330 MB
def filled(name, path, rule, scaled=False):
  state = {}
  for key, shape in json.loads(path.read_text()).items():
    state[key] = rule.weight(key, shape)
    if scaled and SCALED.search(key):
      state[key] = state[key] * np.float32(0.01)
  return weights.from_torch(name, state)


def check_maps(rule, module, variables, kept, sizes):
  for rows, cols in sizes:
    x = jnp.asarray(rule.array("pixel_values", (1, 3, rows, cols)).transpose(0, 2, 3, 1))
    maps = module.apply(variables, x)
    for i, y in enumerate(maps, start=1):
      rule.check(y.transpose(0, 3, 1, 2), kept[f"in{rows}x{cols}_stage{i}"])


@pytest.mark.parametrize("name", ["pvt_v2_b0", "mit_b0", "pvt_v2_b2", "pvt_v2_b5"])
def test_maps_equal_the_original(golden, rule, name):
  variables = filled(name, golden(f"backbones/{name}.orig.json"), rule)
  kept = np.load(golden(f"backbones/{name}.orig.npz"))
  check_maps(
    rule, encoders.build(name), variables, kept, SIZES[2:] if name.endswith("b5") else SIZES
  )  # a B5 at 224: below


def test_mit_b5_is_pvt_v2_b5(golden, rule):
  variables = filled("pvt_v2_b5", golden("backbones/pvt_v2_b5.orig.json"), rule)
  kept = np.load(golden("backbones/mit_b5.orig.npz"))
  check_maps(rule, encoders.build("mit_b5"), variables, kept, SIZES[2:])


def test_the_eye_of_avsbench_is_pvt_v2_b5(golden, rule):
  variables = filled("pvt_v2_b5", golden("backbones/pvt_v2_b5.orig.json"), rule)
  kept = np.load(golden("avsbench/pvt_v2_b5.npz"))
  module = encoders.build("pvt_v2_b5")
  x = jnp.asarray(rule.array("image_64x96", (1, 3, 64, 96)).transpose(0, 2, 3, 1))
  for i, y in enumerate(module.apply(variables, x), start=1):
    rule.check(y, kept[f"small_64x96_stage_{i}__channel_last"])
  x = jnp.asarray(rule.array("image", (1, 3, 224, 224)).transpose(0, 2, 3, 1))
  for i, y in enumerate(module.apply(variables, x), start=1):
    rule.check(y, kept[f"stage_{i}__channel_last"])


@pytest.mark.parametrize("name", ["pvt_v2_b0", "mit_b0", "pvt_v2_b2", "pvt_v2_b5", "mit_b5"])
def test_maps_equal_hugging_face(golden, rule, name):
  variables = filled(name, golden(f"backbones/{name}.hf.json"), rule)
  kept = np.load(golden(f"backbones/{name}.hf.npz"))
  module = encoders.build(name, epsilons="hf_pvt" if name.startswith("pvt") else "hf_mit")
  check_maps(rule, module, variables, kept, SIZES if name.endswith("b0") else SIZES[2:])


@pytest.mark.parametrize("name", ["pvt_v2_b0", "mit_b0"])
def test_each_norm_has_the_epsilon_of_the_original(golden, rule, name):
  """These weights are so small that a wrong epsilon anywhere shows."""
  variables = filled(name, golden(f"backbones/{name}.orig.json"), rule, scaled=True)
  kept = np.load(golden(f"backbones/{name}.orig_small.npz"))
  check_maps(rule, encoders.build(name), variables, kept, [(96, 96)])
  with pytest.raises(AssertionError):
    check_maps(rule, encoders.build(name, epsilons="hf_pvt"), variables, kept, [(96, 96)])
