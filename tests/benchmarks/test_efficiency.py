"""Costs are counted without computing anything, kept, and set beside the paper's claims."""

import json

import pytest

from avs_jax import systems
from avs_jax.errors import InputError
from benchmarks import efficiency
from benchmarks.efficiency import Subject


def test_a_row_is_a_system_a_backbone_and_a_size():
  assert efficiency.read_subject("sdavs:pvt_v2_b5:224") == Subject("sdavs", "pvt_v2_b5", 224)
  changed = efficiency.read_subject("sdavs:swin_base_w12:384:stc=False")
  assert changed.settings() == {"name": "sdavs", "visual": "swin_base_w12", "stc": False}
  assert efficiency.read_subject(changed.name) == changed
  for text, wrong in (
    ("sdavs:pvt_v2_b5", "'sdavs:pvt_v2_b5' names no row"),
    ("sdavs:pvt_v2_b5:big", "names no row"),
    ("sdavs:pvt:224", "there is no 'pvt'; choose one of pvt_v2_b0"),
    ("sda:pvt_v2_b5:224", "there is no 'sda'; choose one of avsbench"),
  ):
    with pytest.raises(InputError, match=wrong):
      efficiency.read_subject(text)


def test_the_command_asks_for_every_system_and_backbone_the_papers_own_and_table_ten():
  names = [subject.name for subject in efficiency.asked(efficiency.parse([]))]
  assert len(names) == len(set(names))
  assert len([name for name in names if name.endswith(":224")]) == len(systems.NAMES) * len(efficiency.VISUAL)
  assert set(efficiency.OWN) <= set(names)
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


def counted() -> dict:
  """Figures of made-up sizes for every row of the page."""
  names = [subject.name for subject in efficiency.asked(efficiency.parse([]))]
  one = {"parameters": 2e8, "trainable": 1e8, "audio_encoder": 7e7, "gflop": 100.0, "open_loops": 0}
  found = {name: dict(one) for name in names}
  found["sdavs:pvt_v2_b5:224"] |= {"trainable": 9e7, "gflop": 40.0}
  found["ravs:pvt_v2_b5:224"]["open_loops"] = 1
  return found


def test_the_page_sets_every_claim_beside_what_was_found():
  one = {
    "device": "cpu", "temporary_bytes": None, "fps": 2.0, "cpu_seconds_per_frame": 1.0, "peak_bytes": 3e9,
    "dtype": "float32", "repeats": 5, "together": "a, b", "load": 1.0,
  }  # fmt: skip
  measured = {
    "avsegformer:pvt_v2_b5:224": one,
    "sdavs:pvt_v2_b5:224": {**one, "fps": 3.0, "cpu_seconds_per_frame": 0.5},
  }
  text = efficiency.page(
    {"counted": counted(), "measured": measured, "versions": {"jax": "1"}}, "the command"
  )
  assert "| trainable parameters, both without VGGish | 48 % fewer | 10 % fewer |" in text
  assert "| FLOPs at 224 px | 60 % fewer | 60 % fewer |" in text
  assert (
    "| frames a second at 224 px | 2.19 times (32.25 against 14.71) | 1.50 times (3 against 2) |"
    in text
  )
  assert "| CPU seconds a frame at 224 px | – | 1 / 2.00 |" in text
  assert "| ravs | pvt_v2_b5 | 224 | 200.00 | 100.00 | 100.0* | 20.0 |" in text
  assert "| w/o STC | 426.7 | 50.0 | 100.0 | 103 | 100.00 |" in text
  assert "## Speed" not in efficiency.page({"counted": counted()}, "the command")


def test_what_is_kept_is_not_counted_again(tmp_path, monkeypatch, capsys):
  asked = []

  def inspect(subject):
    asked.append(subject.name)
    return counted()["avsbench:pvt_v2_b5:224"]

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
