"""The notebooks' helper leaves the runtime's jax alone and says what is wrong in a sentence."""

import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from avs_jax import notebook
from avs_jax.errors import InputError


def test_only_what_is_missing_is_installed_and_jax_is_held(tmp_path):
  file = tmp_path / "requirements.txt"
  file.write_text(
    f"# a comment\n-r other.txt\njax>={jax.__version__}\nnumpy>=1  # here\nabsent-thing>=2\nflax>=999\n"
  )
  asked = []

  def pip(command):
    asked.append((command, Path(command[-1]).read_text()))
    return 0

  assert notebook.install_missing(file, pip) == ["absent-thing>=2", "flax>=999"]
  command, constraints = asked[0]
  assert command[:5] == [sys.executable, "-m", "pip", "install", "--quiet"]
  assert command[5:8] == ["absent-thing>=2", "flax>=999", "-c"]
  assert f"jax=={jax.__version__}\n" in constraints and "jaxlib==" in constraints
  with pytest.raises(InputError, match="pip could not install absent-thing>=2, flax>=999 beside jax"):
    notebook.install_missing(file, lambda _: 1)


def test_the_projects_own_requirements_are_met_here():
  assert notebook.install_missing("requirements.txt", lambda _: pytest.fail("pip was called")) == []


def test_another_jax_is_refused_and_nothing_changed(tmp_path):
  file = tmp_path / "requirements.txt"
  file.write_text("jax>=999\nabsent-thing\n")
  with pytest.raises(
    InputError, match="this runtime's jax is .* and the program needs jax>=999: choose a newer"
  ):
    notebook.install_missing(file, lambda _: pytest.fail("pip was called"))
  with pytest.raises(
    InputError, match="nothing.txt is not there; run the notebook in the repository's folder"
  ):
    notebook.install_missing(tmp_path / "nothing.txt")


def test_a_package_replaced_under_a_running_session_asks_for_a_restart(tmp_path, monkeypatch):
  file = tmp_path / "requirements.txt"
  file.write_text("absent-thing\n")
  assert notebook.loaded_versions()["numpy"] == np.__version__
  found = notebook.installed_version

  def pip(command):
    monkeypatch.setattr(notebook, "installed_version", lambda name: "999" if name == "numpy" else found(name))
    return 0

  with pytest.raises(InputError, match="numpy was loaded in another version before: restart the session"):
    notebook.install_missing(file, pip)


def test_colab_s_drive_is_mounted_once_and_used(tmp_path, monkeypatch):
  mounted = []
  drive = types.SimpleNamespace(mount=mounted.append)
  colab = types.ModuleType("google.colab")
  colab.drive = drive
  colab.files = types.SimpleNamespace(upload=dict)
  monkeypatch.setitem(sys.modules, "google.colab", colab)
  monkeypatch.setattr(notebook, "DRIVE", tmp_path / "drive")
  monkeypatch.setattr(notebook, "is_colab", lambda: True)
  assert notebook.storage("runs") == tmp_path / "drive" / "MyDrive" / "runs"
  assert mounted == [str(tmp_path / "drive")]
  assert (
    notebook.storage(str(tmp_path / "own")) == tmp_path / "own"
  )  # an absolute folder is the visitor's wish
  assert len(mounted) == 1
  with pytest.raises(InputError, match="no video was uploaded; run the cell again, or set VIDEO"):
    notebook.choose_video("", tmp_path)
  assert notebook.choose_video("a.mp4", tmp_path) == "a.mp4"


def test_a_wrong_config_or_setting_is_a_sentence():
  assert notebook.make_config("tiny", "ravs", {"steps": 3}).steps == 3
  with pytest.raises(InputError, match="configs/nothing.py is not there; give the name"):
    notebook.make_config("nothing")
  with pytest.raises(InputError, match="configs/tiny.py: a setting does not fit: .*widht"):
    notebook.make_config("tiny", "", {"model.widht": 3})
  with pytest.raises(InputError, match="configs/tiny.py: a setting does not fit"):
    notebook.make_config("tiny", "", {"steps": "many"})


def test_a_config_with_variants_leaves_a_run_for_each(tmp_path, monkeypatch, capsys):
  asked = []

  def train_all(config, workdir):
    asked.append((config.title, workdir))
    (Path(workdir) / "comparison.md").write_text("| run |")

  monkeypatch.setattr("avs_jax.variants.train_all", train_all)
  monkeypatch.setitem(sys.modules, "IPython", None)
  plain = notebook.train(notebook.make_config("tiny"), tmp_path)
  assert plain == {tmp_path.name: tmp_path}
  runs = notebook.train(notebook.make_config("quickstart"), tmp_path)
  assert runs == {"prior": tmp_path / "prior", "robust": tmp_path / "robust"}
  assert asked == [("tiny", str(tmp_path)), ("quick start", str(tmp_path))]
  assert "| run |" in capsys.readouterr().out


def test_a_file_is_shown_with_or_without_a_notebook(tmp_path, capsys, monkeypatch):
  (tmp_path / "a.md").write_text("# Title")
  monkeypatch.setitem(sys.modules, "IPython", None)
  assert notebook.show(tmp_path / "a.md").endswith("a.md")
  assert "# Title" in capsys.readouterr().out
  shown = []
  display = types.SimpleNamespace(
    display=shown.append,
    Video=lambda path, embed: ("video", embed),
    Image=lambda path: "image",
    Markdown=lambda text: text,
  )
  monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
  (tmp_path / "a.mp4").write_bytes(b"")
  for name in ("a.md", "a.mp4", "a.png"):
    notebook.show(tmp_path / name)
  assert shown == ["# Title", ("video", True), "image"]


def test_the_runtime_is_named(monkeypatch):
  monkeypatch.setattr(notebook, "install_missing", lambda _: [])
  assert notebook.start().startswith(f"jax {jax.__version__}, 8 x cpu, Python 3.")
