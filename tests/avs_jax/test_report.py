"""The scoreboard: what it shows, that it is whole, that a stand-in's name cannot be missed."""

import json
from pathlib import Path

import numpy as np
import pytest

from avs_jax import comparison, metrics, report, tables
from avs_jax.errors import InputError
from tests.avs_jax.scoreboards import RECORD, figures, four


def test_the_scoreboard_is_written_three_ways_and_read_back(tmp_path, capsys):
  results = four()
  paths = report.write(str(tmp_path), results, RECORD)
  assert sorted(path.split("scoreboard.")[1] for path in paths.values()) == ["json", "md", "tex"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["scoreboard.json", "scoreboard.md", "scoreboard.tex"]
  board = report.read(str(tmp_path))
  for name, row in results.items():
    assert board[name] == row
  expected = metrics.global_scores(
    {"iou": results["positive"]["iou_frame"], "f": results["positive"]["f_max_batch20"]},
    {
      name: {"iou": row["iou_frame"], "f": row["f_max_batch20"], "fpr": row["fpr"]}
      for name, row in results.items()
      if name != "positive"
    },
  )
  for name, value in expected.items():
    assert board["global"][name] == pytest.approx(value)
  record = board["record"]
  assert len(record["config_digest"]) == 16 and record["seed"] == 7
  for key in ("versions", "hardware", "commit", "date"):
    assert record[key]
  printed = capsys.readouterr().out
  for text in (printed, (tmp_path / "scoreboard.md").read_text()):
    for words in (
      "own sound",
      "off-screen sound",
      "mean of the three",
      "all-empty",
      "iou_frame",
      "G-FPR",
      "15 / 3",
    ):
      assert words in text
  assert "miou" not in printed.lower().replace("g-miou", "")


def test_a_stand_in_is_named_loudly_in_every_form_and_a_real_set_is_not(tmp_path, capsys):
  for record, is_loud in ((RECORD, True), ({**RECORD, "data_set": "MS3", "is_stand_in": False}, False)):
    paths = report.write(str(tmp_path), four(), record)
    texts = [capsys.readouterr().out, *(Path(paths[kind]).read_text() for kind in ("md", "tex"))]
    for text in texts:
      assert ("STAND-IN" in text) == is_loud
      assert record["data_set"] in text
    assert json.loads(Path(paths["json"]).read_text())["record"]["is_stand_in"] is is_loud


def test_without_all_negatives_there_are_no_global_scores_and_the_table_says_why(tmp_path, capsys):
  results = four()
  del results["noise"]
  report.write(str(tmp_path), results, RECORD)
  assert set(report.read(str(tmp_path))["global"].values()) == {None}
  printed = capsys.readouterr().out
  assert "Global scores need" in printed and "mean of the three" not in printed


def test_unseen_sounds_get_rows_but_no_part_in_the_global_scores():
  results = four()
  with_unseen = {**results, "unseen_rooster": figures(9)}
  assert report.with_global(with_unseen)["global"] == report.with_global(results)["global"]
  assert [row[0] for row in report.table(with_unseen)[1]] == [
    "own sound", "silence", "noise", "off-screen sound", "mean of the three", "(all-empty prediction)",
    "unseen rooster", "G, all sounds", "(G of a perfect model)",
  ]  # fmt: skip


@pytest.mark.parametrize(("clips", "empty"), [(4, 1), (8, 4), (5, 1)])  # 20 frames are scored at once
def test_the_bounds_are_what_a_perfect_model_gets(clips, empty):
  perfect = np.random.default_rng(0).random((clips, 5, 8, 8)) > 0.7
  perfect[clips - empty :] = False

  def summary(logits):
    tally = metrics.Tally()
    tally.add(
      metrics.frame_counts(logits.reshape(-1, 8, 8), perfect.reshape(-1, 8, 8)),
      np.arange(clips),
      np.ones((clips, 5), bool),
    )
    return metrics.summarise(tally)

  right = summary(np.where(perfect, 30, -30).astype(np.float32))
  quiet = summary(np.full(perfect.shape, -30, np.float32))
  sounds = {"positive": right, "silence": quiet, "noise": quiet, "offscreen": quiet}
  scores = report.with_global(sounds)["global"]
  assert scores["g_iou"] == pytest.approx(scores["g_iou_bound"])
  assert scores["g_f"] == pytest.approx(scores["g_f_bound"])
  header, rows = report.table(sounds)
  shown = dict(zip(header, rows[-2], strict=True))
  for figure, value in {"iou_frame": "g_iou", "f_max_batch20": "g_f", "fpr": "g_fpr"}.items():
    assert shown[figure] == f"{scores[value]:.4f}"
  assert shown == dict(zip(header, ["G, all sounds", *rows[-1][1:]], strict=True))
  assert scores["g_f"] < 1 and scores["g_f_at_half"] == pytest.approx(1) and scores["g_fpr"] == 0


def test_figures_that_are_undefined_become_a_dash_and_null(tmp_path):
  results = {"positive": {**figures(0), "f_max_dataset": None, "f_at_half": float("nan")}}
  paths = report.write(str(tmp_path), results, RECORD, show=False)
  assert "NaN" not in Path(paths["json"]).read_text()
  row = Path(paths["md"]).read_text().split("| own sound |")[1].splitlines()[0]
  assert row.count("–") == 4  # those two, and the two against the empty mask


def test_class_figures_fill_the_same_table(tmp_path):
  rng = np.random.default_rng(0)
  results = {}
  for name in ("positive", "silence", "noise", "offscreen"):
    tally = metrics.Tally()
    counts = metrics.class_counts(
      rng.standard_normal((4, 6, 6, 5)).astype(np.float32), rng.integers(0, 5, (4, 6, 6))
    )
    tally.add(counts, np.arange(2), np.ones((2, 2), bool))
    results[name] = metrics.summarise_classes(tally)
  header, rows = report.table(results)
  assert "iou_class_frame" in header and "iou_frame" not in header and len(rows) == 6
  report.write(str(tmp_path), results, RECORD, show=False)
  assert report.read(str(tmp_path))["global"]["g_iou"] > 0


def test_latex_escapes_what_would_break_it():
  text = report.latex(report.with_global(four()), {**RECORD, "title": "50% of a_b & {c}"})
  assert r"50\% of a\_b \& \{c\}" in text and r"iou\_frame" in text
  assert text.count("\\begin{") == text.count("\\end{") == 2


def test_a_missing_scoreboard_is_none_and_a_broken_one_is_named(tmp_path):
  assert report.read(str(tmp_path)) is None
  (tmp_path / "scoreboard.json").write_text('{"positive": ')
  with pytest.raises(InputError, match="scoreboard.json is not whole"):
    report.read(str(tmp_path))


def test_a_table_without_sounds_is_refused():
  with pytest.raises(InputError, match="no sound to show"):
    report.table({})


def test_the_same_config_has_the_same_digest_whatever_its_order():
  one = report.complete_record({"config": {"a": 1, "b": {"c": 2}}})["config_digest"]
  assert one == report.complete_record({"config": {"b": {"c": 2}, "a": 1}})["config_digest"]
  assert one != report.complete_record({"config": {"a": 2, "b": {"c": 2}}})["config_digest"]


def test_the_own_sound_under_noise_is_a_row_that_is_not_held_against_the_empty_mask():
  results = {"positive": figures(0), "silence": figures(1), "mixed_brown_10db": figures(9)}
  header, rows = report.table(results)
  column = header.index("quiet_frames")
  assert [row[column] for row in rows if row[0] == "mixed brown 10db"] == [tables.number(None)]


def test_negatives_that_their_format_gives_away_are_said_in_every_form(tmp_path, capsys):
  config = {"negatives": {"front_end": "as_published"}, "eval": {"negative_audio": "any"}}
  record = {**RECORD, "data_set": "MS3", "is_stand_in": False, "config": config}
  paths = report.write(str(tmp_path), four(), record)
  for text in (capsys.readouterr().out, *(Path(paths[kind]).read_text() for kind in ("md", "tex", "json"))):
    assert "TELL-TALE FORMAT" in text and "by their format alone" in text
    assert "UNKNOWN OBJECTS" in text and "STAND-IN" not in text
  kept = report.read(str(tmp_path))
  assert [sentence.split(":")[0] for sentence in kept["record"]["warnings"]] == [
    "TELL-TALE FORMAT",
    "UNKNOWN OBJECTS",
  ]
  table = comparison.write(str(tmp_path), {"a": kept}, show=False)
  assert Path(table["md"]).read_text().count("TELL-TALE FORMAT") == 1
  (gated,) = report.warnings({"config": {"debias": {"gate": True}}})
  assert gated.startswith("GATED: ") and "debias.gate=True" in gated
  (told,) = report.warnings({"config": {"marks": {"kind": "file"}}})
  assert told.startswith("TELL-TALE MARKS: ") and "marks.kind=file" in told
  (few,) = report.warnings({"missing_clips": "only the first 3 of 64 clips"})
  assert few.startswith("NOT THE WHOLE SPLIT: only the first 3 of 64 clips; not comparable")
  same = {"negatives": {"front_end": "same"}, "eval": {"negative_audio": "drawn"}}
  assert report.warnings({**record, "config": same}) == [] == report.warnings({})
