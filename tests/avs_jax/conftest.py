"""A config smaller than configs/tiny.py, and runs of it that several tests look at."""

import importlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import tiny

SMALLEST = {
  "data.seconds": 2,
  "data.clips": {"train": 8, "val": 2, "test": 3},
  "model.audio_args.width": 1 / 64,
  "model.width": 8,
  "model.tpavi_stages": (4,),
  "schedule.batch": 2,
  "eval.batch": 2,
  "eval.conditions": ("positive",),
  "eval.every_epochs": 100.0,
  "eval.pictures": 0,
  "log.every_steps": 1,
  "log.checkpoint_steps": 1000,
  "steps": 4,
}


@pytest.fixture(scope="session")
def small():
  """small(**{"section.key": value}) -> the smallest config with these settings: 8 clips, 4 steps an epoch."""

  def make(changes: dict | None = None) -> ConfigDict:
    config = tiny.get_config()
    for name, value in {**SMALLEST, **(changes or {})}.items():
      *sections, key = name.split(".")
      section = config
      for each in sections:
        section = section[each]
      with section.unlocked():
        section[key] = ConfigDict(value) if isinstance(value, dict) else value
    return config

  return make


@pytest.fixture
def devices(monkeypatch):
  """devices(n) lets meshes use only the first n of the 8 virtual devices."""
  meshes = importlib.import_module("avs_jax.mesh")
  make_mesh = meshes.make_mesh

  def use(count: int) -> None:
    monkeypatch.setattr(
      meshes, "make_mesh", lambda batch, model=1, **_: make_mesh(batch, model, jax.devices()[:count])
    )

  use(1)
  return use


@pytest.fixture(scope="session")
def same():
  """same(a, b) asserts that two trees are equal to the bit, and says where they are not."""

  def check(a, b) -> None:
    left, right = (jax.tree_util.tree_leaves_with_path(jax.device_get(tree)) for tree in (a, b))
    assert [path for path, _ in left] == [path for path, _ in right]
    differ = [
      jax.tree_util.keystr(path)
      for (path, x), (_, y) in zip(left, right, strict=True)
      if np.asarray(x).tobytes() != np.asarray(y).tobytes()
    ]
    assert not differ, f"{len(differ)} arrays differ, first {differ[0]}"

  return check


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
  """(config, folder, final state) of ten steps on one device, judged under four sounds, with checkpoints 4 8 10."""
  from avs_jax import mesh as meshes
  from avs_jax.train import train

  config = small(
    {
      "steps": 10,
      "log.checkpoint_steps": 4,
      "log.keep": 10,
      "eval.every_epochs": 1.0,
      "eval.pictures": 1,
      "eval.conditions": ("positive", "silence", "noise", "offscreen"),
    }
  )
  folder = tmp_path_factory.mktemp("finished")
  make_mesh = meshes.make_mesh
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(meshes, "make_mesh", lambda batch, model=1, **_: make_mesh(batch, model, jax.devices()[:1]))
    state = jax.device_get(train(config, str(folder)))
  return config, Path(folder), state


@pytest.fixture(scope="session")
def with_cache():
  """The environment of a process that shares this one's compiled programs."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  return {**os.environ, **{name.upper(): str(getattr(jax.config, name)) for name in names}}
