"""What is recognised, counted by hand from four frames; a folder that was not judged is a sentence."""

import numpy as np
import pytest

from avs_jax import frontier
from avs_jax.errors import InputError
from avs_jax.logbook import write_config
from configs import tiny
from data_pipelines import negatives
from data_pipelines.sources import Limited
from experiments import recognised


class Source:
  title, ids = "four clips", ("a", "b", "c")

  def __len__(self):
    return len(self.ids)

  def objects(self, index):
    return frozenset({"dog"} if index < 2 else {"car"})

  def recordings(self, index):
    return ("bark", "growl", "engine")[index : index + 1]


def statistics():
  keys = np.array([[0, 0], [1, 0], [2, 0], [2, 1]])
  positive = {
    "keys": keys, "counted": np.array([1, 1, 1, 1], bool), "truth": np.array([50.0, 50, 50, 0]),
    "active": np.array([40.0, 0, 60, 9]), "overlap": np.array([30.0, 0, 40, 0]), "union": np.array([60.0, 50, 80, 9]),
    "pixels": np.full(4, 100.0),
  }  # fmt: skip
  foreign = {**positive, "active": np.array([0.0, 10, 20, 0]), "counted": np.array([1, 1, 1, 0], bool)}
  return {"positive": positive, "offscreen": foreign}


def test_own_seconds_and_lent_ones_are_counted_for_whose_sound_it_is():
  found = recognised.figures(Source(), statistics(), {"a": "c", "b": "c", "c": "a"})
  # A second in which nothing sounds is not among the own ones.
  assert found["dog"] == {"seconds": 2, "masked": 0.5, "iou_frame": 0.25, "lent": 1, "fpr": 0.2}
  assert found["car"] == {"seconds": 1, "masked": 1.0, "iou_frame": 0.5, "lent": 2, "fpr": 0.05}
  each = recognised.figures(Source(), statistics(), {}, recognised.recording)
  assert list(each) == ["car: engine", "dog: bark", "dog: growl"]
  assert each["dog: growl"] == {"seconds": 1, "masked": 0.0, "iou_frame": 0.0, "lent": 0, "fpr": None}
  assert recognised.table("recording", each)[-1] == "| dog: growl | 1 | 0.000 | 0.000 | 0 | – |"


def test_clips_that_were_not_judged_lend_their_sounds_too():
  judged = {
    name: {key: column[:1] for key, column in columns.items()} for name, columns in statistics().items()
  }
  judged["offscreen"] = {**judged["positive"], "active": np.array([25.0])}
  found = recognised.figures(Limited(Source(), 1), judged, {"a": "c"})
  assert found["car"] == {"seconds": 0, "masked": None, "iou_frame": None, "lent": 1, "fpr": 0.25}


def test_the_command_reads_what_judging_left_and_keeps_its_page(tmp_path, monkeypatch, capsys):
  from data_pipelines import sources

  config = tiny.get_config()
  write_config(config, str(tmp_path))
  monkeypatch.setattr(sources, "build", lambda *args, **kwargs: Source())
  with pytest.raises(InputError, match="statistics.npz is not there; evaluate the run again"):
    recognised.main([f"--workdir={tmp_path}"])
  rows = [
    negatives.Row("test", -1, "a", "offscreen", "c", "", 0),
    negatives.Row("test", -1, "a", "positive", "", "", 0),
  ]
  negatives.write_manifest(tmp_path / "manifest.csv", rows)
  frontier.save(str(tmp_path / "statistics.npz"), {"silence": statistics()["offscreen"]})
  with pytest.raises(InputError, match="was not judged under the clips' own sound"):
    recognised.main([f"--workdir={tmp_path}"])
  frontier.save(str(tmp_path / "statistics.npz"), statistics())
  recognised.main([f"--workdir={tmp_path}"])
  text = capsys.readouterr().out
  assert "| dog | 2 | 0.500 | 0.250 | 0 | – |" in text and "| car | 1 | 1.000 | 0.500 | 1 | 0.0000 |" in text
  assert (tmp_path / "recognised.md").read_text() in text
