"""What the pages tell readers to type: settings that exist, weight files that fit, a digest that is right."""

import hashlib
import importlib
import re
import types
from pathlib import Path

import pytest

from avs_jax import encoders
from avs_jax.model import build_model, starting_variables
from avs_jax.weight_origin import read_own
from configs import common

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGED = "avs_jax/models/real_media_small.safetensors"


def has(config, key: str) -> bool:
  """Whether a config has this setting, or some encoder has it for itself."""
  section, args, own = key.rpartition("_args.")
  if args:
    kind = {"model.visual": encoders.VISUAL, "model.audio": encoders.AUDIO, "marks.encoder": encoders.AUDIO}
    return any(encoders.has_setting(name, own) for name in kind[section])
  for part in key.split("."):
    if not hasattr(config, "keys") or part not in config:
      return False
    config = config[part]
  return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_that_a_page_names_is_one(page):
  named = set(re.findall(r"--config\.([a-z_.]*[a-z_])", page.read_text()))
  configs = [importlib.import_module("configs.tiny").get_config(system) for system in common.SYSTEMS]
  assert not {key for key in named if not any(has(config, key) for config in configs)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_a_page_names_is_one(page):
  named = set(re.findall(r"`(test_\w+)`", page.read_text()))
  tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
  assert not {name for name in named if f"def {name}(" not in tests}


def test_every_row_of_the_zoo_is_a_config_with_its_settings():
  rows = (
    (ROOT / "docs" / "model_zoo.md").read_text().split("## Published checkpoints")[1].split("\n\nAdd ")[0]
  )
  found = 0
  for name, arg, rest in re.findall(r"`configs/(\w+)\.py:?([\w-]*)`(.*)", rows):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    for key in re.findall(r"--config\.([a-z_.]*[a-z_])", rest):
      assert has(config, key), (name, arg, key)
    found += 1
  assert found == 5


def test_the_packaged_model_goes_on_with_the_zoo_s_config_and_has_the_digest_that_is_told(monkeypatch):
  monkeypatch.chdir(ROOT)
  block = (ROOT / "docs" / "model_zoo.md").read_text().split("```python\n")[1].split("```")[0]
  tuned = types.ModuleType("tuned")
  exec(compile(block, "tuned.py", "exec"), vars(tuned))
  config = tuned.get_config()
  assert config.init.system == PACKAGED
  params = starting_variables(config, build_model(config), to_judge=True)["params"]
  found = read_own(PACKAGED) or {}
  scale = found["params", "guide", "scale"]
  assert params["guide"]["scale"] == pytest.approx(scale, rel=1e-6)
  digest = hashlib.sha256((ROOT / PACKAGED).read_bytes()).hexdigest()
  assert digest in (ROOT / "docs" / "encoders.md").read_text()


def test_every_picture_of_real_media_says_whose_it_is():
  told = (ROOT / "docs" / "pictures" / "CREDITS.md").read_text()
  pictures = sorted((ROOT / "docs" / "tables").glob("*real_media*/four_sounds*.png"))
  assert pictures
  for picture in pictures:
    assert f"`{picture.parent.relative_to(ROOT)}`" in told
