"""Records of analysed runs, their tables, and the section of the page that is made of them."""

import json
from pathlib import Path

import pytest

from avs_jax.errors import InputError
from configs import tiny
from experiments import analysis_page

ROOT = Path(__file__).parents[2]


def stage(scale: float = 1.0, **gates: float) -> dict[str, float]:
  agreement = {f"{key}_before": 0.1 * scale for key in analysis_page.MEASURES}
  return {**agreement, **{f"{key}_after": 0.3 * scale for key in analysis_page.MEASURES}, **gates}


def record(seed: int, **changes) -> dict:
  gates = {
    "spatial_inside": 0.9,
    "spatial_outside": 0.8,
    "others_inside": 0.85 - 0.02 * seed,
    "others_outside": 0.8,
  }
  figures = dict.fromkeys(analysis_page.SOUNDS, {"stage1": stage(**gates), "stage2": stage(3.0 + seed)})
  return {
    "study": "s", "row": "whole", "seed": seed, "data_set": "clips", "is_stand_in": True, "clips": 4,
    "hardware": "a cpu", "commit": f"c{seed}", "versions": {"jax": "1"}, "figures": figures, **changes,
  }  # fmt: skip


def test_the_table_has_the_printed_lines_every_stage_and_their_mean():
  lines = analysis_page.consistency_table([record(0)])
  assert "| printed | after | 0.79 | 15.3 | 0.32 |" in lines
  assert "| stage2 | before | 0.300 | 0.300 | 0.300 |" in lines
  assert "| mean | after | 0.600 | 0.600 | 0.600 |" in lines
  lines = analysis_page.consistency_table([record(0), record(2)])
  assert "| stage2 | before | 0.400 ± 0.141 | 0.400 ± 0.141 | 0.400 ± 0.141 |" in lines
  assert "| stage1 | after | 0.300 ± 0.000 | 0.300 ± 0.000 | 0.300 ± 0.000 |" in lines


def test_the_gates_contrast_is_compared_with_another_clips_and_what_is_missing_is_a_dash():
  lines = analysis_page.gate_table([record(0), record(1)])
  assert len(lines) == 2 + 2 * 3
  own = next(line for line in lines if line.startswith("| stage1 | own |"))
  assert "| 0.900 ± 0.000 | 0.800 ± 0.000 | 0.840 ± 0.014 | 0.800 ± 0.000 | – | 0.060 ± 0.014 |" in own
  assert lines[-1] == "| stage2 | noise |" + " – |" * 9


def test_a_section_is_renewed_and_is_of_seeds_of_one_row_on_the_same_data(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("# Results\n\nBy hand.\n")
  for found in ([record(0)], [record(0), record(1)]):
    analysis_page.insert(str(page), found, "python -m it")
  text = page.read_text()
  assert text.count("## Inside SDAVS: whole") == 1 and "By hand." in text
  assert "| whole | 0, 1 | a cpu | c0 / c1 | jax 1 |" in text
  assert "4 clips of clips (STAND-IN DATA)" in text and "    python -m it\n" in text
  for changes in ({"row": "other"}, {"data_set": "x"}, {"clips": 5}):
    with pytest.raises(InputError, match=f"seeds of one row on the same data; {next(iter(changes))} is"):
      analysis_page.section([record(0), record(1, **changes)], "")


def test_a_record_says_what_it_was_measured_on_and_with():
  config = tiny.get_config("sdavs")
  facts = {
    "data_set": "clips", "is_stand_in": True, "split": "test", "clips": 4, "weights_digest": "ab", "config": {"a": 1},
  }  # fmt: skip
  found = analysis_page.make("s", "whole", config, facts, {"positive": {}})
  assert {"hardware", "commit", "date", "versions", "settings_digest", "weights_digest"} <= found.keys()
  assert found["seed"] == config.seed and "config" not in found and found["figures"] == {"positive": {}}
  with config.unlocked():
    config.title, config.model.width = "another title", config.model.width
  again = analysis_page.make("s", "whole", config, facts, {})
  assert again["settings_digest"] == found["settings_digest"]
  with config.unlocked():
    config.model.width *= 2
  assert analysis_page.make("s", "whole", config, facts, {})["settings_digest"] != found["settings_digest"]


def test_the_page_holds_what_the_kept_records_say():
  kept = sorted((ROOT / "docs" / "records" / "analysis_sdavs").glob("*.json"))
  found = [json.loads(path.read_text()) for path in kept]
  text = (ROOT / "docs" / "results.md").read_text()
  assert len(found) == 3 and analysis_page.section(found, "").rstrip() in text
