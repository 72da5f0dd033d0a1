"""The command that observes a run: scenes of the run's kind of data, figures printed, errors in a sentence."""

import numpy as np
import pytest

from avs_jax.errors import InputError
from configs import tiny
from experiments import observe


def test_a_run_on_generated_clips_is_observed_on_generated_scenes():
  config = tiny.get_config()
  found, title = observe.scenes(config, 2, 1)
  scene = next(found)
  assert "stand-in" in title
  assert scene.frames.shape == (5, 32, 32, 3) and len(scene.categories) == 2


def test_published_data_without_labels_are_refused(tmp_path):
  config = tiny.get_config()
  with config.unlocked():
    config.data.root = str(tmp_path)
  with pytest.raises(InputError, match=str(tmp_path)):
    observe.scenes(config, 2, 1)


def test_the_command_prints_its_figures(monkeypatch, capsys):
  asked = []

  def observe_run(workdir, output, clips, root):
    asked.append((workdir, output, clips, root))
    return {
      "guiding": {"1": 0.25, "2": 0.5},
      "category": {"dog": 0.4},
      "spread": np.float64(0.1),
      "dominance": None,
    }

  monkeypatch.setattr(observe, "observe_run", observe_run)
  observe.main(["--workdir=runs/x", "--clips=3"])
  assert asked == [("runs/x", "runs/x/observe", 3, "")]
  shown = capsys.readouterr().out
  assert "1 0.250  2 0.500" in shown and "dominance      -" in shown


def test_what_is_no_run_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="--clips=0 must be at least 1"):
    observe.main([f"--workdir={tmp_path}", "--clips=0"])
  with pytest.raises(InputError, match="config.json is not there"):
    observe.main([f"--workdir={tmp_path}"])
