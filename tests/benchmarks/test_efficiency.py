"""Costs are counted without computing anything, kept with their conditions, and set beside the paper's claims."""

import json

import pytest

from avs_jax import systems
from benchmarks import cost_speed, efficiency
from benchmarks.cost_rows import OWN, VISUAL, Subject


def test_the_command_asks_for_every_system_and_backbone_the_papers_own_and_table_ten():
  names = [subject.name for subject in efficiency.asked(efficiency.parse([]))]
  assert len(names) == len(set(names))
  assert len([name for name in names if name.endswith(":224")]) == len(systems.NAMES) * len(VISUAL)
  assert set(OWN) <= set(names)
  assert sum(name.count("=") for name in names) == 4
  few = efficiency.asked(efficiency.parse(["--systems=ravs", "--visual=resnet50"]))
  assert [subject.name for subject in few] == ["ravs:resnet50:224", "ravs:mit_b5:224"]


def test_parameters_are_counted_and_those_that_learn_apart():
  found = efficiency.inspect(Subject("avsbench", "conv_pyramid", 32))
  assert found["parameters"] == 82966977
  assert found["trainable"] == found["parameters"] - found["audio_encoder"]
  assert 1 < found["gflop"] < 100 and found["open_loops"] == 0


def test_exceptions_of_another_backbone_are_left_out():
  params = {"visual_encoder": {"swin_adapt_1_0": {}}, "head": {}}
  frozen = ("visual_encoder", "!swin_adapt_1_0", "!swin_adapt_9_9")
  assert efficiency.known_prefixes(params, frozen) == ("visual_encoder", "!swin_adapt_1_0")


def test_what_is_kept_is_not_counted_again(tmp_path, monkeypatch, capsys):
  asked = []

  def inspect(subject):
    asked.append(subject.name)
    return {"parameters": 2e8, "trainable": 1e8, "audio_encoder": 7e7, "gflop": 100.0, "open_loops": 0}

  monkeypatch.setattr(efficiency, "inspect", inspect)
  output = tmp_path / "costs.md"
  arguments = ["--systems=ravs", "--visual=resnet50", f"--output={output}"]
  efficiency.main(arguments)
  assert asked == ["ravs:resnet50:224", "ravs:mit_b5:224"]
  efficiency.main([*arguments, "--visual=resnet50,mit_b5"])
  assert len(asked) == 2
  efficiency.main([*arguments, "--again"])
  assert len(asked) == 4
  kept = json.loads((tmp_path / "costs.json").read_text())
  assert set(kept["counted"]) == set(asked)
  for row in kept["counted"].values():
    assert row["commit"] == efficiency.commit() and set(row["versions"]) == {"jax", "jaxlib", "flax"}
  assert "ravs" in output.read_text() and "ravs" in capsys.readouterr().out
  kept["counted"]["ravs:mit_b5:224"]["settings"] = "other"
  (tmp_path / "costs.json").write_text(json.dumps(kept))
  efficiency.main(arguments)
  assert asked[4:] == ["ravs:mit_b5:224"]
  (tmp_path / "costs.json").write_text(json.dumps({**kept, "format": 1}))
  efficiency.main(arguments)
  assert len(asked) == 7 and "everything is counted anew" in capsys.readouterr().out


def test_the_page_is_of_the_asked_rows_and_gives_the_whole_command(tmp_path, monkeypatch):
  one = {"parameters": 2e8, "trainable": 1e8, "audio_encoder": 7e7, "gflop": 100.0, "open_loops": 0}
  monkeypatch.setattr(efficiency, "inspect", lambda subject: one)
  output = tmp_path / "costs.md"
  efficiency.main(["--systems=avsbench", "--visual=resnet50", f"--output={output}"])
  efficiency.main(
    ["--systems=ravs", "--visual=resnet50,mit_b5", "--size=96", "--dtype=bfloat16", f"--output={output}"]
  )
  text = output.read_text()
  assert "| avsbench |" not in text and "| ravs | resnet50 | 96 |" in text
  command = "--systems=ravs --visual=resnet50,mit_b5 --size=96 --dtype=bfloat16 --repeats=5 --output="
  assert f"    python -m benchmarks.efficiency {command}{output}\n" in text


def test_the_digest_of_settings_differs_with_model_size_and_conditions():
  subject = Subject("sdavs", "conv_pyramid", 32)
  others = (Subject("sdavs", "conv_pyramid", 64), Subject("sdavs", "conv_pyramid", 32, "stc=False"))
  digests = [efficiency.settings_digest(each) for each in (subject, *others)]
  digests += [
    efficiency.settings_digest(subject, dtype=dtype, repeats=5) for dtype in ("float32", "bfloat16")
  ]
  assert len(set(digests)) == 5 and efficiency.settings_digest(subject) == digests[0]


ROWS = ("sdavs:pvt_v2_b5:32", "ravs:resnet50:32", "ravs:mit_b5:32")


@pytest.fixture
def fill(monkeypatch):
  """Asks for rows, keeps them in `fill.kept`; what was measured together stands in `fill.runs`."""

  def measure(subjects, dtype, repeats, reference=""):
    names = [subject.name for subject in subjects]
    runs.append(names)
    one = {
      "device": "a device",
      "dtype": dtype,
      "together": ", ".join(names),
      "date": str(len(runs)),
      "fps": 1.0,
    }
    beside = {"reference": {"name": reference}} if reference else {}
    return {name: {**one, "name": name, **beside} for name in names}

  monkeypatch.setattr(cost_speed, "measure", measure)
  monkeypatch.setattr(cost_speed, "hardware", lambda: "a device")
  kept, runs = {"measured": {}}, []

  def ask(names, *flags, measure=""):
    options = efficiency.parse(["--size=32", f"--measure={measure or ','.join(names)}", *flags])
    efficiency.fill(kept, [efficiency.read_subject(name) for name in names], options, lambda: None)

  ask.kept, ask.runs = kept["measured"], runs
  return ask


def test_named_rows_are_measured_side_by_side_unless_kept_so_under_the_same_conditions(fill):
  fill(ROWS[:2])
  fill(ROWS[:2])
  assert fill.runs == [list(ROWS[:2])]
  fill(ROWS[:2], "--repeats=7")
  fill(ROWS[:2], "--dtype=bfloat16")
  fill(ROWS[:2], "--repeats=7")
  assert (
    len(fill.runs) == 3 and len(fill.kept) == 4
  )  # the other precision stands beside, other repeats replace
  fill(ROWS[1:], "--repeats=7")  # one of them is kept, of another run
  assert fill.runs[3:] == [list(ROWS[1:])]
  fill(ROWS[:2], "--repeats=7", "--again")
  assert len(fill.runs) == 5
  for row in fill.kept.values():
    assert row["commit"] == efficiency.commit() and row["versions"]["jax"] and len(row["settings"]) == 12


def test_all_rows_are_measured_beside_the_reference_and_the_command_goes_on_where_it_stopped(fill):
  fill(ROWS[:2], "--together=1", measure="all")
  assert fill.runs == [[ROWS[0], ROWS[1]]]
  fill(ROWS, "--together=1", measure="all")
  assert fill.runs[1:] == [[ROWS[0], ROWS[2]]]
  dates = {row["name"]: row["date"] for row in fill.kept.values()}
  assert dates == {ROWS[0]: "1", ROWS[1]: "1", ROWS[2]: "2"}  # the reference's line is of its first run
  fill(ROWS, measure="all")
  assert len(fill.runs) == 2
  fill(ROWS[1:], "--repeats=2", "--together=2", measure="all")
  assert fill.runs[2:] == [list(ROWS)]
