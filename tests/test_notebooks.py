"""Both notebooks run from the first cell to the last, and again after a disconnect."""

import json
import logging
import os
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAIN, PREDICT = (ROOT / "notebooks" / f"{name}.ipynb" for name in ("train_tpu", "predict"))
# As tests/avs_jax/conftest.py: a few clips, a few steps.
SMALLEST = {
  "data.seconds": 2,
  "data.clips.train": 8,
  "data.clips.val": 2,
  "data.clips.test": 3,
  "model.audio_args.width": 1 / 64,
  "model.width": 8,
  "model.tpavi_stages": (4,),
  "schedule.batch": 2,
  "eval.batch": 2,
  "eval.every_epochs": 100.0,
  "log.every_steps": 1,
  "log.checkpoint_steps": 1000,
  "steps": 2,
}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
  """Where the process stands, what it imports from, and what it logs is put back."""
  monkeypatch.chdir(ROOT / "notebooks")
  monkeypatch.setattr(sys, "path", list(sys.path))
  for name in ("avs_jax", "data_pipelines"):
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    monkeypatch.setattr(logger, "level", logger.level)


@pytest.fixture
def one_device(monkeypatch):
  """Meshes use one of the 8 virtual devices: fewer programs to compile."""
  from avs_jax import mesh

  make_mesh = mesh.make_mesh
  monkeypatch.setattr(
    mesh, "make_mesh", lambda batch, model=1, **_: make_mesh(batch, model, jax.devices()[:1])
  )


def run(path: Path, settings: dict) -> dict:
  """Runs the code cells in a fresh namespace, with other settings; gives the namespace."""
  os.chdir(ROOT / "notebooks")
  space: dict = {"__name__": "__main__"}
  for cell in json.loads(path.read_text())["cells"]:
    if cell["cell_type"] == "code":
      exec(compile("".join(cell["source"]), path.name, "exec"), space)
      if "parameters" in cell["metadata"].get("tags", ()):
        assert settings.keys() <= space.keys()
        space.update(settings)
  return space


@pytest.mark.slow
def test_training_survives_a_disconnect_and_its_model_marks_a_video(tmp_path, one_device, capsys):
  settings = {"CONFIG": "tiny", "SETTINGS": SMALLEST, "STORAGE": str(tmp_path / "runs")}
  space = run(TRAIN, settings)
  folder = tmp_path / "runs" / "tiny"
  assert space["runs"] == {"tiny": folder} and (folder / "checkpoints" / "2").is_dir()
  steps = (folder / "metrics.jsonl").read_text()
  assert {path.name for path in (folder / "exported").iterdir()} >= {"model.jaxexport", "model.safetensors"}
  said = capsys.readouterr().out
  assert "STAND-IN DATA" in said and "jax " in said
  # The machine was taken away: the same cells in a new process's namespace train no step again.
  assert run(TRAIN, settings)["runs"] == {"tiny": folder}
  assert (folder / "metrics.jsonl").read_text().count('"lr"') == steps.count('"lr"') == 2

  seen = run(
    PREDICT, {"MODEL": str(folder / "exported" / "model.safetensors"), "STORAGE": str(tmp_path / "out")}
  )
  assert Path(seen["video"]).name == "multi.mp4"
  for name in ("predict/multi/overlay.mp4", "predict/multi/timeline.csv", "listen/multi/listen.png"):
    assert (tmp_path / "out" / name).stat().st_size > 0
  assert "% of the picture" in capsys.readouterr().out


@pytest.mark.parametrize("path", [TRAIN, PREDICT], ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_installs_no_jax(path):
  book = json.loads(path.read_text())
  assert book["nbformat"] == 4
  code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
  assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
  text = "\n".join("".join(cell["source"]) for cell in code)
  assert "pip install" not in text and "%pip" not in text and "!pip" not in text
  assert max(map(len, text.splitlines())) <= 120
