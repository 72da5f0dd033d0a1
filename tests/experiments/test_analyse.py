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


def test_figures_of_a_stage_hold_agreement_and_gates():
  gates = {"stage1/spatial": np.asarray([0.8, 0.2], np.float32).reshape(1, 1, 1, 2, 1)}
  agreement = {"stage1/cka_before": np.asarray([0.2, 0.4]), "stage2/cka_before": np.asarray([1.0, 0.0])}
  truth = np.asarray([1.0, 0.0], np.float32).reshape(1, 1, 1, 2)
  found = analyse.figures_of(gates, agreement, truth, np.ones((1, 1), bool))
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
  present = np.asarray([[True], [False]])
  rows = {"frames": np.zeros((2, 1, 16, 16, 3), np.uint8), "masks": truth, "present": np.ones((2, 1), bool)}
  logits = rng.standard_normal((2, 1, 16, 16, 1))
  made = [
    analyse.draw_consistency(str(tmp_path / "a.png"), figures(), "c"),
    analyse.draw_gates(str(tmp_path / "b.png"), gates, truth, present, "c"),
    analyse.draw_gates(str(tmp_path / "d.png"), {sound: {} for sound in gates}, truth, present, "c"),
    analyse.draw_cams(str(tmp_path / "e.png"), rows, {"x": rng.random((2, 1, 4, 4))}, logits, "c"),
  ]
  assert all(Path(path).stat().st_size > 3000 for path in made)


def test_what_is_no_run_of_sdavs_is_one_sentence(tmp_path, monkeypatch):
  with pytest.raises(InputError, match="--clips=1 must be at least 2"):
    analyse.main([f"--workdir={tmp_path}", "--clips=1"])
  with pytest.raises(InputError, match="--into: .* give --name too"):
    analyse.main([f"--workdir={tmp_path}", "--into=page.md"])
  with pytest.raises(InputError, match="config.json is not there"):
    analyse.main([f"--workdir={tmp_path}"])
  (tmp_path / "config.json").write_text(tiny.get_config().to_json_best_effort())
  monkeypatch.setattr("avs_jax.evaluate.weights_to_judge", lambda config, model, workdir: {"params": {}})
  with pytest.raises(InputError, match="the run is of AVSBench, which has no SNRP and DAMF"):
    analyse.main([f"--workdir={tmp_path}"])


def test_runs_are_found_by_patterns_once_each(tmp_path):
  for name in ("whole-1", "whole-0", "other-0"):
    (tmp_path / name).mkdir()
  found = analyse.find_runs([f"{tmp_path}/whole-?", f"{tmp_path}/whole-0", f"{tmp_path}/none"])
  assert [Path(path).name for path in found] == ["whole-0", "whole-1", "none"]


def test_the_middle_of_the_present_seconds_is_drawn(tmp_path, monkeypatch):
  shown = []
  monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda self, x, **_: shown.append(np.asarray(x)))
  frames = np.arange(10, dtype=np.uint8).reshape(1, 10, 1, 1, 1) * np.ones((1, 10, 4, 4, 3), np.uint8)
  rows = {"frames": frames, "masks": np.zeros((1, 10, 4, 4)), "present": np.arange(10)[None] < 5}
  analyse.draw_cams(str(tmp_path / "a.png"), rows, {}, np.zeros((1, 10, 4, 4, 1)), "c")
  assert (shown[0] == 2).all()


def test_each_run_has_a_folder_a_record_and_its_part_of_the_page(tmp_path, monkeypatch):
  asked = []

  def analyse_run(workdir, output, clips, pictures, name):
    asked.append((Path(workdir).name, Path(output).relative_to(tmp_path).as_posix(), clips))
    stages = figures()["positive"]
    return {
      "study": name, "row": "whole", "seed": int(workdir[-1]), "data_set": "d", "is_stand_in": True, "clips": clips,
      "hardware": "h", "commit": "c", "versions": {"jax": "1"}, "figures": dict.fromkeys(analyse.SOUNDS, stages),
    }  # fmt: skip

  monkeypatch.setattr(analyse, "analyse_run", analyse_run)
  for name in ("whole-0", "whole-1"):
    (tmp_path / name).mkdir()
  common = [f"--workdir={tmp_path}/whole-?", "--clips=5"]
  analyse.main(common)
  assert asked == [("whole-0", "whole-0/analysis", 5), ("whole-1", "whole-1/analysis", 5)]
  asked.clear()
  page = tmp_path / "page.md"
  analyse.main(
    [*common, f"--output={tmp_path}/out", "--name=n", f"--records={tmp_path}/records", f"--into={page}"]
  )
  assert [folder for _, folder, _ in asked] == ["out/whole-0", "out/whole-1"]
  assert sorted(path.name for path in (tmp_path / "records" / "n").iterdir()) == [
    "whole-0.json",
    "whole-1.json",
  ]
  assert (
    "| whole | 0, 1 | h | c | jax 1 |" in page.read_text()
    and "--clips=5 --name=n --into=" in page.read_text()
  )


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
  record = json.loads((tmp_path / "analysis" / "analysis.json").read_text())
  assert record["clips"] == 3 and record["weights_digest"] and record["seed"] == config.seed
  found = record["figures"]
  assert set(found["positive"]) == {"stage1", "stage2", "stage3", "stage4"}
  for sound in analyse.SOUNDS:
    for stage in found[sound].values():
      assert 0 <= stage["cka_before"] <= 1.0001 and 0 <= stage["js_after"] <= np.log(2)
      assert 0 < stage["channel_mean"] < 1 and 0 < stage["others_inside"] < 1
  for name in ("consistency", "gates", "selectors", "fusion"):
    assert (tmp_path / "analysis" / f"{name}.png").stat().st_size > 5000
