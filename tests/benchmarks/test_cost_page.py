"""The page sets every claim beside what was counted and measured."""

import pytest

from benchmarks import efficiency
from benchmarks.cost_page import page


def counted() -> dict:
  """Figures of made-up sizes for every row of the page."""
  names = [subject.name for subject in efficiency.asked(efficiency.parse([]))]
  one = {"parameters": 2e8, "trainable": 1e8, "audio_encoder": 7e7, "gflop": 100.0, "open_loops": 0}
  one |= {"commit": "abc", "versions": {"jax": "1"}}
  found = {name: dict(one) for name in names}
  found["sdavs:pvt_v2_b5:224"] |= {"trainable": 9e7, "gflop": 40.0}
  found["ravs:pvt_v2_b5:224"]["open_loops"] = 1
  return found


ONE = {
  "device": "cpu", "temporary_bytes": None, "fps": 2.0, "cpu_seconds_per_frame": 1.0, "peak_bytes": 3e9,
  "dtype": "float32", "repeats": 5, "together": "a, b", "load": 1.0, "date": "today", "commit": "def",
  "asked": "a,b",
}  # fmt: skip


def made(measured: dict, found: dict | None = None) -> str:
  """The page of these measured rows."""
  rows = {str(place): {**ONE, "name": name, **row} for place, (name, row) in enumerate(measured.items())}
  found = counted() if found is None else found
  return page({"counted": found, "measured": rows}, "the command", list(found))


def test_the_page_sets_every_claim_beside_what_was_found():
  faster = {"fps": 3.0, "cpu_seconds_per_frame": 0.5}
  text = made({"avsegformer:pvt_v2_b5:224": {}, "sdavs:pvt_v2_b5:224": faster})
  assert "| trainable parameters, both without VGGish | 48 % fewer | 10 % fewer |" in text
  assert "| FLOPs at 224 px | 60 % fewer | 60 % fewer |" in text
  assert "| frames a second at 224 px | 2.19 times (32.25 against 14.71) | 1.50 times (3 against 2) |" in text
  assert "| CPU seconds a frame at 224 px | – | 1 / 2.00 |" in text
  assert "| ravs | pvt_v2_b5 | 224 | 200.00 | 100.00 | 100.0* | 20.0 |" in text
  assert "| w/o STC | 426.7 | 50.0 | 100.0 | 103 | 100.00 | 22 | 0.71 | – | – |" in text
  assert "Counted at commit abc with jax 1." in text
  assert "- Run 1: commit def, today, load 1.0, `--measure=a,b`; in turn: a, b." in text


@pytest.mark.parametrize("change", [
  {"together": "c"}, {"date": "later"}, {"dtype": "bfloat16"}, {"device": "gpu"},
])  # fmt: skip
def test_rows_of_different_runs_precisions_or_devices_are_not_set_against_each_other(change):
  text = made({"avsegformer:pvt_v2_b5:224": {}, "sdavs:pvt_v2_b5:224": change})
  assert "times (" not in text.replace("2.19 times (32.25", "") and "1 / " not in text
  one_place = set(change) <= {"together", "date"}
  assert text.count("not compared: measured in different runs") == one_place


def test_every_row_has_its_speed_beside_the_reference_of_its_run_and_what_is_missing_is_said():
  slow = {"reference": {"name": "sdavs:pvt_v2_b5:224", "fps": 4.0, "cpu_seconds_per_frame": 0.5}}
  found = counted()
  text = made({"avsegformer:pvt_v2_b5:224": slow})
  assert "| avsegformer:pvt_v2_b5:224 | 2.5 | 2 | 1.000 | 0.50 | 2.00 | 3.00 | – | 5 | 1 |" in text
  assert "; in turn: a, b; reference sdavs:pvt_v2_b5:224." in text
  assert f"Not measured: {len(found) - 1} of this page's {len(found)} rows, every one that no table" in text
  whole = made(dict.fromkeys(list(found)[1:], {}))
  assert f"Not measured: 1 of this page's {len(found)} rows, {next(iter(found))} " in whole
  nothing = made({})
  assert f"Not measured: {len(found)} of this page's" in nothing and "Median of the calls" not in nothing


def test_table_ten_gives_the_printed_frames_a_second_and_ours_as_shares_of_the_whole_model():
  name = "sdavs:swin_base_w12:384"
  reference = {"name": "r", "fps": 4.0, "cpu_seconds_per_frame": 0.5}
  rows = {
    name: {"reference": reference},
    f"{name}:stc=False": {"fps": 0.5, "date": "later", "reference": {**reference, "fps": 2.0}},
    f"{name}:snrp=none": {"date": "later"},
  }
  text = made(rows)
  assert "| w/o STC | 426.7 | 50.0 | 100.0 | 103 | 100.00 | 22 | 0.71 | 0.5 | 0.50 |" in text
  assert "| SDAVS | 300.9 | 50.0 | 100.0 | 103.2 | 100.00 | 31.2 | 1.00 | 2 | 1.00 |" in text
  assert "| 31.1 | 1.00 | 2 | – |" in text  # of another run, and without its reference
  assert "Our frames a second: cpu, float32;" in text
  assert "Frames a second not measured here: w/o DAMF, w/o RM." in text


def test_commits_of_the_counted_rows_are_told_apart():
  found = counted()
  found["sdavs:pvt_v2_b5:224"]["commit"] = "xyz"
  text = made({}, found)
  assert f"at commit abc with jax 1: {len(found) - 1} rows; at commit xyz with jax 1: 1 row." in text
