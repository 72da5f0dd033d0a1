"""Tables say whose figures they show, and show the records' own."""

import copy
import statistics
from pathlib import Path

import pytest

from avs_jax.errors import InputError
from experiments import tables
from experiments.paper_rows import PaperRow, printed
from experiments.study import Line, Table


def table_of(found, name):
  return next(table for table in found.tables if table.name == name)


def test_ours_are_mean_and_deviation_over_the_seeds_beside_the_printed_lines(made):
  found, kept = made
  header, rows, notes = tables.build(table_of(found, "table_2"), kept)
  assert [row[0].split(",")[0] for row in rows].count("AVSBench-S4") == 8
  ours = {row[1]: dict(zip(header, row, strict=True)) for row in rows if row[0].endswith("ours")}
  assert set(ours) == {"prior", "guide"}
  for column, values in {
    "own iou_frame": [100 * r["figures"]["positive"]["iou_frame"] for r in kept["guide"]],
    "noise f_max_batch20": [100 * r["figures"]["noise"]["f_max_batch20"] for r in kept["guide"]],
    "g_iou": [100 * r["global"]["g_iou"] for r in kept["guide"]],
  }.items():
    assert ours["guide"][column] == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
  g_fpr = [r["global"]["g_fpr"] for r in kept["prior"]]
  assert ours["prior"]["g_fpr"] == f"{statistics.mean(g_fpr):.3f} ± {statistics.stdev(g_fpr):.3f}"
  assert ours["prior"]["seeds"] == "0, 1, 2"
  assert ours["prior"]["data"] == "generated single-source clips (stand-in), ours"
  assert "Not run: wrong." in notes


def test_printed_lines_have_the_papers_digits_and_wrong_ones_a_footnote(made):
  found, kept = made
  header, rows, notes = tables.build(table_of(found, "table_2"), kept)
  lines = {row[1]: dict(zip(header, row, strict=True)) for row in rows if "printed" in row[0]}
  assert lines["SAMA-AVS"]["own f_max_batch20"] == "90.0"
  assert lines["AVSegFormer + Ours"]["off-screen fpr"] == "0.00"
  assert lines["AVSBench"]["g_iou"] == "35.032" and lines["AVSBench"]["g_fpr"] == "0.186"
  marked = [name for name, line in lines.items() if "†" in line["data"]]
  assert marked == ["Stepping-Stones"]
  assert notes[0] == "†1 G-mIoU 28.980 is printed, the columns give 29.190."


def test_unseen_sounds_have_a_line_each_and_printed_fractions_become_per_cents(made):
  found, kept = made
  header, rows, _ = tables.build(table_of(found, "table_5"), kept)
  assert header[:4] == ["data", "sound", "model", "x"]
  ours = [row for row in rows if row[0].endswith("ours")]
  assert [row[1:3] for row in ours] == [["thunder", "prior"], ["thunder", "guide"]]
  fork = [row for row in rows if row[1] == "Tuning Fork"]
  assert fork[0][4:7] == ["78.14", "88.16", "0.187"] and fork[1][4:7] == ["0.3", "24.8", "0.0001"]


def test_the_frontier_shows_the_operating_point_and_what_thresholds_could_do(made):
  found, kept = made
  header, rows, _ = tables.build(table_of(found, "frontier"), kept)
  shown = dict(zip(header, rows[0], strict=True))
  values = [100 * r["figures"]["positive"]["iou_frame"] for r in kept["prior"]]
  assert shown["own iou_frame"].startswith(f"{statistics.mean(values):.1f} ± ")
  assert "mask and gate, g_fpr <= 0.05" in header


def test_the_files_name_the_stand_in_and_the_command(made, tmp_path):
  found, kept = made
  paths = tables.write(
    str(tmp_path), found, table_of(found, "table_4"), kept, "python -m experiments.run --x"
  )
  text, latex = (Path(paths[kind]).read_text() for kind in ("md", "tex"))
  assert (
    "STAND-IN DATA: generated single-source clips" in text and "    python -m experiments.run --x" in text
  )
  assert "STAND-IN DATA" in latex and latex.count("\\begin{") == latex.count("\\end{")
  assert "G of another run" not in text  # that is MS3's


def test_records_of_different_data_cannot_share_a_table(made):
  found, kept = made
  other = copy.deepcopy(kept)
  other["guide"][0]["data_set"] = "S4"
  with pytest.raises(InputError, match="table_2: its records are of different data"):
    tables.build(table_of(found, "table_2"), other)


def test_a_table_of_ms3_marks_the_lines_of_another_run(made):
  found, kept = made
  table = Table("t", "T", "conditions", ("a", "b"), (Line(("x", "y"), "prior"),), printed(9, "MS3"))
  _, rows, notes = tables.build(table, kept)
  assert [row[0] for row in rows[:3]] == [f"AVSBench-MS3, printed†{k}" for k in (1, 2, 3)]
  assert notes[2].startswith("†3 G of another run")


def noisy(records):
  """Records that also hold the own sound under noise, three points worse in IoU and one in F."""
  some = copy.deepcopy(records)
  for each in some.values():
    for record in each:
      own = record["figures"]["positive"]
      record["figures"]["mixed_brown_0db"] = {
        **own, "iou_frame": own["iou_frame"] - 0.03, "f_max_batch20": own["f_max_batch20"] - 0.01,
      }  # fmt: skip
  return some


def test_own_sounds_under_noise_have_a_line_each_and_what_is_lost(made):
  found, kept = made
  table = Table("t", "T", "mixed", ("model",), (Line(("x",), "prior"),), printed(2, "S4")[:1])
  header, rows, _ = tables.build(table, noisy(kept))
  assert header[1:] == [
    "sound",
    "model",
    "iou_frame",
    "f_max_batch20",
    "lost iou_frame",
    "lost f_max_batch20",
    "seeds",
  ]
  assert rows[0][3:7] == ["78.7", "87.9", "–", "–"]
  assert rows[1][1] == "own" and rows[1][5:7] == ["–", "–"]
  assert rows[2][1] == "own + brown 0db" and rows[2][5:7] == ["3.0 ± 0.0", "1.0 ± 0.0"]


def test_noise_stands_beside_the_four_sounds(made):
  found, kept = made
  table = Table("t", "T", "conditions_mixed", ("model",), (Line(("x",), "prior"),), printed(2, "S4")[:1])
  header, rows, _ = tables.build(table, noisy(kept))
  plain, _, _ = tables.build(Table("t", "T", "conditions", ("model",), (Line(("x",), "prior"),)), kept)
  assert header[4:6] == ["own + brown 0db iou_frame", "own + brown 0db f_max_batch20"]
  assert [*header[:4], *header[6:]] == plain
  line = dict(zip(header, rows[1], strict=True))
  own = statistics.mean(100 * r["figures"]["positive"]["iou_frame"] for r in kept["prior"])
  assert float(line["own + brown 0db iou_frame"].split()[0]) == pytest.approx(own - 3, abs=0.06)
  assert rows[0][4:6] == ["–", "–"] and rows[0][6:8] == ["76.6", "87.1"]
  assert any("under noise" in note for note in tables.notes_of(table, noisy(kept)))


def test_losses_against_a_row_are_taken_seed_by_seed_beside_the_printed_ones(made):
  found, kept = made
  some = {name: copy.deepcopy(kept["prior"]) for name in ("whole", "worse", "mixed")}
  for place, record in enumerate(some["worse"]):
    record["figures"]["positive"]["iou_frame"] -= 0.01 * (place + 1)
  some["mixed"][0]["figures"]["positive"]["iou_frame"] += 0.01
  some["mixed"][1]["figures"]["positive"]["iou_frame"] -= 0.01
  lines = tuple(Line((name,), name) for name in some)
  paper = (PaperRow(0, "S4", ("whole",), (85.5, 92.0)), PaperRow(0, "S4", ("worse",), (84.1, 90.8)))
  table = Table("t", "T", "against", ("model",), lines, paper, against="whole")
  header, rows, _ = tables.build(table, some)
  found = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
  assert set(found) == {"whole", "worse", "mixed"} and found["whole"]["holds"] == "–"
  assert found["worse"]["lost iou_frame"] == "2.0 ± 1.0" and found["worse"]["holds"] == "yes"
  assert (found["worse"]["printed: lost J"], found["worse"]["printed: lost F"]) == ("1.4", "1.2")
  assert found["mixed"]["seeds that lose"] == "1 of 3" and found["mixed"]["holds"] == "undecided"
  assert found["mixed"]["printed: lost J"] == "–"


def test_refused_seconds_are_told_from_bad_outlines(made):
  _, kept = made
  records = copy.deepcopy(kept["prior"][:2])
  for record, quiet in zip(records, (0.1, 0.3), strict=True):
    record["figures"]["positive"] |= {"iou_frame": 0.63, "iou_frame_nonempty": 0.63, "quiet_frames": quiet}
  table = Table("t", "T", "refused", ("model",), (Line(("gated",), "prior"),))
  header, rows, _ = tables.build(table, {"prior": records})
  found = dict(zip(header, rows[0], strict=True))
  assert found["own seconds without a mask"] == "20.0 ± 14.1"
  assert found["iou_frame of the others"] == "80.0 ± 14.1"  # 63 / .9 and 63 / .7
  records[0]["figures"]["positive"]["iou_frame"] = 0.7  # some of its seconds show nothing that sounds
  found = dict(zip(header, tables.build(table, {"prior": records[:1]})[1][0], strict=True))
  assert found["iou_frame of the others"] == "–"
