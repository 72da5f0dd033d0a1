"""The command looks inside a run of SDAVS and says what it found in numbers and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest

from avs_jax.errors import InputError
from configs import tiny
from experiments import analyse


def figures() -> dict:
  stage = {
    f"{key}_{when}": 0.1 + 0.2 * (when == "after") for key in analyse.MEASURES for when in analyse.PRINTED
  }
  return {"positive": {"stage1": stage, "stage2": {name: 3 * value for name, value in stage.items()}}}


def test_the_table_has_the_printed_lines_every_stage_and_their_mean():
  found = figures()
  found["mean"] = analyse.mean_of(found["positive"])
  assert found["mean"]["cka_before"] == pytest.approx(0.2) and found["mean"]["js_after"] == pytest.approx(0.6)
  lines = analyse.consistency_table(found)
  assert "| printed | after | 0.79 | 15.3 | 0.32 |" in lines
  assert (
    "| stage2 | before | 0.300 | 0.300 | 0.300 |" in lines
    and "| mean | after | 0.600 | 0.600 | 0.600 |" in lines
  )


def test_figures_of_a_stage_hold_agreement_and_gates():
  gates = {"stage1/spatial": np.asarray([0.8, 0.2], np.float32).reshape(1, 1, 1, 2, 1)}
  agreement = {"stage1/cka_before": np.asarray([0.2, 0.4]), "stage2/cka_before": np.asarray([1.0, 0.0])}
  truth = np.asarray([1.0, 0.0], np.float32).reshape(1, 1, 1, 2)
  found = analyse.figures_of(gates, agreement, truth)
  assert found["stage1"]["cka_before"] == pytest.approx(0.3) and found["stage2"] == {"cka_before": 0.5}
  assert found["stage1"]["spatial_inside"] == pytest.approx(0.8)
  assert found["stage1"]["spatial_outside"] == pytest.approx(0.2)


def test_figures_are_drawn_with_and_without_gates(tmp_path):
  rng = np.random.default_rng(0)
  gates = {
    sound: {
      "stage1/channel": rng.random((2, 1, 1, 1, 6)).astype(np.float32),
      "stage1/spatial": rng.random((2, 1, 4, 4, 1)).astype(np.float32),
    }
    for sound in analyse.SOUNDS
  }
  truth = (rng.random((2, 1, 16, 16)) > 0.5).astype(np.float32)
  rows = {"frames": np.zeros((2, 1, 16, 16, 3), np.uint8), "masks": truth}
  logits = rng.standard_normal((2, 1, 16, 16, 1))
  made = [
    analyse.draw_consistency(str(tmp_path / "a.png"), figures(), "c"),
    analyse.draw_gates(str(tmp_path / "b.png"), gates, truth, "c"),
    analyse.draw_gates(str(tmp_path / "d.png"), {sound: {} for sound in gates}, truth, "c"),
    analyse.draw_cams(str(tmp_path / "e.png"), rows, {"x": rng.random((2, 1, 4, 4))}, logits, "c"),
  ]
  assert all(Path(path).stat().st_size > 3000 for path in made)


def test_what_is_no_run_of_sdavs_is_one_sentence(tmp_path, monkeypatch):
  with pytest.raises(InputError, match="--clips=0 must be at least 1"):
    analyse.main([f"--workdir={tmp_path}", "--clips=0"])
  with pytest.raises(InputError, match="config.json is not there"):
    analyse.main([f"--workdir={tmp_path}"])
  (tmp_path / "config.json").write_text(tiny.get_config().to_json_best_effort())
  monkeypatch.setattr("avs_jax.evaluate.weights_to_judge", lambda config, model, workdir: {"params": {}})
  with pytest.raises(InputError, match="the run is of AVSBench, which has no SNRP and DAMF"):
    analyse.main([f"--workdir={tmp_path}"])


@pytest.mark.slow
def test_a_run_is_analysed_under_three_sounds(tmp_path, monkeypatch):
  from avs_jax.initialise import initialise
  from avs_jax.model import build_model, example_inputs

  config = tiny.get_config("sdavs")
  with config.unlocked():
    config.model.width, config.model.heads, config.data.seconds = 8, 2, 2
  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  variables = initialise(build_model(config), *example_inputs(config), seed=0)
  monkeypatch.setattr("avs_jax.evaluate.weights_to_judge", lambda config, model, workdir: variables)
  analyse.main([f"--workdir={tmp_path}", "--clips=3", "--pictures=2"])
  found = json.loads((tmp_path / "analysis" / "analysis.json").read_text())
  assert set(found["positive"]) == {"stage1", "stage2", "stage3", "stage4"}
  for sound in analyse.SOUNDS:
    for stage in found[sound].values():
      assert 0 <= stage["cka_before"] <= 1.0001 and 0 <= stage["js_after"] <= np.log(2)
      assert 0 < stage["channel_mean"] < 1 and 0 < stage["spatial_inside"] < 1
  for name in ("consistency", "gates", "selectors", "fusion"):
    assert (tmp_path / "analysis" / f"{name}.png").stat().st_size > 5000
