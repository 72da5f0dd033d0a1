"""Rows are timed in processes of their own, in groups, and compared only where one run measured both."""

import os

import pytest

from avs_jax.errors import InputError
from benchmarks import cost_speed
from benchmarks.cost_rows import Subject

REFERENCE = Subject("sdavs", "pvt_v2_b5", 32)
ROWS = [Subject("ravs", name, 32) for name in ("resnet50", "pvt_v2_b0", "mit_b5")]


def row(name, fps=2.0, **changes):
  kept = {"dtype": "float32", "device": "cpu", "together": "a, b", "date": "today", **changes}
  return {"name": name, "fps": fps, "cpu_seconds_per_frame": 1 / fps, **kept}


def beside(name, fps):
  return {"name": name, "fps": fps, "cpu_seconds_per_frame": 1 / fps}


@pytest.mark.slow
def test_rows_are_timed_in_turn_in_processes_of_their_own():
  rows = [Subject("avsbench", "conv_pyramid", 32), Subject("avsbench", "efficientnet_lite0", 32)]
  found = cost_speed.measure(rows, "float32", 2, rows[0].name)
  assert set(found) == {row.name for row in rows}
  for each in found.values():
    assert each["fps"] > 0 and each["peak_bytes"] > 1e8 and each["together"].count(",") == 1
    assert each["reference"]["fps"] == found[rows[0].name]["fps"] and each["device"] == cost_speed.hardware()
  assert cost_speed.side_by_side(*found.values()) is not None


@pytest.mark.parametrize("change", [
  {"together": "a, c"}, {"date": "yesterday"}, {"dtype": "bfloat16"}, {"device": "gpu"},
])  # fmt: skip
def test_rows_of_different_runs_devices_or_precisions_are_not_compared(change):
  first, second = row("a"), row("b", 3.0)
  assert cost_speed.side_by_side(first, second) == (first, second)
  assert cost_speed.side_by_side(first, row("b", **change)) is None
  assert cost_speed.share(first, row("b", **change)) is None
  assert cost_speed.side_by_side(first, None) is None


def test_a_row_is_compared_with_the_reference_of_its_own_run_only():
  reference = row("r", 4.0, together="r, a", date="today")
  other = row("b", 3.0, together="r, b", date="tomorrow", reference=beside("r", 2.0))
  assert cost_speed.side_by_side(other, reference) == (other, other["reference"])
  assert cost_speed.side_by_side(reference, other) == (other["reference"], other)
  assert cost_speed.share(other, reference) == 1.5  # of its own run, not 3 / 4
  assert cost_speed.side_by_side(other, {**reference, "dtype": "bfloat16"}) is None


def test_shares_of_two_runs_go_through_their_common_reference():
  first = row("a", 1.0, date="today", reference=beside("r", 2.0))
  second = row("b", 3.0, date="tomorrow", reference=beside("r", 3.0))
  assert cost_speed.share(first, second) == 0.5
  assert cost_speed.share(first, {**second, "reference": beside("s", 3.0)}) is None
  assert cost_speed.share(first, {**second, "device": "gpu"}) is None


def test_groups_are_as_large_as_memory_or_as_asked(monkeypatch):
  monkeypatch.setattr(cost_speed, "room", lambda: 3.2 * cost_speed.ROOM_BYTES)
  assert [len(group) for group in cost_speed.groups(ROWS, 0)] == [2, 1]
  assert [len(group) for group in cost_speed.groups(ROWS, 1)] == [1, 1, 1]
  monkeypatch.setattr(cost_speed, "room", lambda: 0.0)
  assert [len(group) for group in cost_speed.groups(ROWS, 0)] == [1, 1, 1]


def fail_on(monkeypatch, bad):
  """Lets runs with the row `bad` end early; returns the names of every run."""
  tried = []

  def measure(subjects, dtype, repeats, reference=""):
    names = [subject.name for subject in subjects]
    tried.append(names)
    if bad in names:
      raise cost_speed.EndedEarly(bad)
    return {name: {} for name in names}

  monkeypatch.setattr(cost_speed, "measure", measure)
  return tried


def test_a_row_that_ends_early_is_tried_alone_and_left_out(monkeypatch, capsys):
  tried = fail_on(monkeypatch, ROWS[1].name)
  runs = list(cost_speed.measure_in_groups(ROWS, REFERENCE, "float32", 1, 2))
  first, second, third = (each.name for each in ROWS)
  found = [[name for name in run if name != REFERENCE.name] for run in tried]
  assert found == [[first, second], [first], [second], [third]]
  assert [list(run) for run in runs] == [[REFERENCE.name, first], [REFERENCE.name, third]]
  assert f"{second} is not measured: the process that measures" in capsys.readouterr().out


def test_nothing_is_measured_without_the_reference(monkeypatch):
  fail_on(monkeypatch, REFERENCE.name)
  with pytest.raises(InputError, match=f"the process that measures {REFERENCE.name} ended early"):
    list(cost_speed.measure_in_groups(ROWS[:1], REFERENCE, "float32", 1, 0))
  with pytest.raises(InputError, match="ended early"):
    list(cost_speed.measure_in_groups([], REFERENCE, "float32", 1, 0))


def test_a_process_that_ends_is_named_and_the_others_are_ended(monkeypatch, tmp_path):
  script = tmp_path / "worker"
  script.write_text(
    '#!/bin/sh\necho $$ >> "$0.pids"\ncase "$5" in *mit*) exit 1;; esac\necho "{}"\nexec sleep 60\n'
  )
  script.chmod(0o755)
  monkeypatch.setattr(cost_speed.sys, "executable", str(script))
  with pytest.raises(cost_speed.EndedEarly, match="ravs:mit_b5:32 ended early"):
    cost_speed.measure(ROWS, "float32", 1)
  for pid in (tmp_path / "worker.pids").read_text().split():
    with pytest.raises(ProcessLookupError):
      os.kill(int(pid), 0)


def test_the_device_is_named_with_its_processor_where_known(monkeypatch):
  monkeypatch.setattr(cost_speed, "cpu_model", lambda: "A Chip 9000")
  assert "cpu, A Chip 9000, " in cost_speed.hardware()
  monkeypatch.setattr(cost_speed, "cpu_model", lambda: "")
  assert ", ," not in cost_speed.hardware() and cost_speed.hardware().endswith("CPU cores")
  assert cost_speed.room() > 1e8
