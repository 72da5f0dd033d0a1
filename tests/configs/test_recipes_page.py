"""The system that docs/recipes.md builds in one file."""

import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from avs_jax import model, systems
from configs import common

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.fixture
def page(monkeypatch):
  """The page's Python block as an imported module; its names are forgotten afterwards."""
  monkeypatch.setattr(systems, "SYSTEMS", dict(systems.SYSTEMS))
  monkeypatch.setattr(common, "SYSTEMS", dict(common.SYSTEMS))
  module = types.ModuleType("product")
  monkeypatch.setitem(sys.modules, "product", module)
  block = PAGE.read_text().split("```python\n")[1].split("```")[0]
  exec(compile(block, "product.py", "exec"), vars(module))
  assert len(block.splitlines()) < 100
  return module


@pytest.mark.parametrize("contrast", ["none", "uncertainty"])
def test_the_system_of_the_page_is_built_and_wrapped_by_its_name_alone(page, contrast):
  config = page.get_config()
  with config.unlocked():
    config.debias.guide = "cosine"
    config.debias.contrast = contrast
  built = model.build_model(config)
  frames, sound = jnp.zeros((2, 3, 32, 32, 3), jnp.uint8), jnp.zeros((2, 3, 96, 64))

  def shown(key):
    outputs, _ = built.init_with_output({"params": key, "dropout": key}, frames, sound)
    return outputs.logits, outputs.similarity

  logits, similarity = jax.eval_shape(shown, jax.random.key(0))
  assert logits.shape == (2, 3, 32, 32, 1)
  assert similarity.shape == (2, 3)
