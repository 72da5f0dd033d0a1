"""Costs are counted without computing anything, kept, and set beside the paper's claims."""

import json

import pytest

from avs_jax import systems
from benchmarks import efficiency
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
  assert set(json.loads((tmp_path / "costs.json").read_text())["counted"]) == set(asked)
  assert "ravs" in output.read_text() and "ravs" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_are_timed_in_turn_in_processes_of_their_own():
  rows = [Subject("avsbench", "conv_pyramid", 32), Subject("avsbench", "efficientnet_lite0", 32)]
  found = efficiency.measure(rows, "float32", 2)
  assert set(found) == {row.name for row in rows}
  for each in found.values():
    assert each["fps"] > 0 and each["peak_bytes"] > 1e8 and each["together"].count(",") == 1
