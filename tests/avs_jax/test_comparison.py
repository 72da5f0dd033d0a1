"""Scoreboards side by side: every row, means over seeds, and what may not share a table."""

import json
import statistics
from pathlib import Path

import pytest

from avs_jax import comparison, report
from avs_jax.errors import InputError
from tests.avs_jax.scoreboards import RECORD, four


def test_runs_stand_side_by_side(tmp_path, capsys):
  boards = {}
  for name in ("positives_only", "robust"):
    report.write(str(tmp_path / name), four(), {**RECORD, "title": name}, show=False)
    boards[name] = report.read(str(tmp_path / name))
  paths = comparison.write(str(tmp_path), boards)
  text = Path(paths["md"]).read_text()
  assert text in capsys.readouterr().out
  assert "| positives only |" in text and "| robust |" in text and "STAND-IN" in text
  assert "own iou_frame" in text and "fpr silence" in text and "g_iou" in text
  assert "STAND-IN" in Path(paths["tex"]).read_text()
  assert set(json.loads(Path(paths["json"]).read_text())) == set(boards)


def test_several_seeds_of_a_run_become_mean_and_deviation(tmp_path):
  boards = []
  for seed in range(3):
    report.write(str(tmp_path / str(seed)), four(seed), {**RECORD, "seed": seed}, show=False)
    boards.append(report.read(str(tmp_path / str(seed))))
  paths = comparison.write(str(tmp_path), {"robust": boards, "one": boards[0]}, show=False)
  text = Path(paths["md"]).read_text()
  header = [cell.strip() for cell in text.split("| run |")[1].splitlines()[0].split("|")]
  row = [cell.strip() for cell in text.split("| robust |")[1].splitlines()[0].split("|")]
  shown = dict(zip(header, row, strict=True))
  for name, values in {
    "own iou_frame": comparison.over_seeds(boards, "positive", "iou_frame"),
    "fpr noise": comparison.over_seeds(boards, "noise", "fpr"),
    "g_iou": comparison.over_seeds(boards, "global", "g_iou"),
  }.items():
    assert shown[name] == f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
  assert shown["seed"] == "0, 1, 2" and "Mean ± standard deviation" in text
  assert text.split("| one |")[1].splitlines()[0].count("±") == 0
  assert r"$\pm$" in Path(paths["tex"]).read_text()
  with pytest.raises(InputError, match="no scoreboard to compare"):
    comparison.write(str(tmp_path), {"robust": []})


def test_runs_on_different_data_cannot_share_a_table(tmp_path):
  other = {"record": {**RECORD, "data_set": "S4"}, **four()}
  with pytest.raises(InputError, match="different data"):
    comparison.write(str(tmp_path), {"a": {"record": RECORD, **four()}, "b": other})
  with pytest.raises(InputError, match="no scoreboard to compare"):
    comparison.write(str(tmp_path), {})


def test_runs_judged_at_other_sizes_or_under_other_sounds_are_told_apart(tmp_path):
  def text(*records):
    boards = {str(k): {"record": {**RECORD, **record}, **four()} for k, record in enumerate(records)}
    return Path(comparison.write(str(tmp_path), boards, show=False)["md"]).read_text()

  drawn, published = ({"negatives": said, "size": 224} for said in ("drawn here", "published files"))
  assert "SEVERAL" not in text(drawn, drawn, {})
  assert "SEVERAL SOUNDS: negative sounds are drawn here and published files" in text(drawn, published)
  before = {"config": {"data": {"size": 512}}}  # as scoreboards were that did not name the size
  assert "SEVERAL SIZES: masks are judged at 224, 512 px" in text(drawn, before)
