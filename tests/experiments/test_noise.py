"""Finished runs are judged under noise once, and tables and figure are made from what was kept."""

import json
import re
from pathlib import Path

import pytest

from avs_jax.errors import InputError
from configs import common, real_media, tiny
from experiments import noise, records

KINDS, LEVELS = ["brown", "made_train"], [10.0, 0.0]


def finished(folder, name: str, digest: str = "ab") -> str:
  """The folder of a run that has been judged."""
  home = Path(folder) / name
  home.mkdir(parents=True)
  (home / "config.json").write_text(tiny.get_config("sdavs").to_json_best_effort())
  (home / "scoreboard.json").write_text(json.dumps({"record": {"weights_digest": digest}}))
  return str(home)


@pytest.fixture
def judged(monkeypatch):
  """Judging that takes no time; the list holds the sounds asked for."""
  asked = []

  def judge_run(workdir, config, kinds, levels, record):
    record |= {"data_set": "generated clips (stand-in)", "is_stand_in": True, "clips": 3}
    for way in ((), tuple(levels)):
      own = noise.with_noise(config, kinds, way)
      from data_pipelines import sounds

      for name in sounds.names(own):
        if name not in record["figures"]:
          worse = 0.2 * ("0db" in name) + 0.01 * ("x0.1" in name) + 0.1 * ("without" in workdir)
          record["figures"][name] = {
            "iou_frame": 0.8 - worse,
            "f_max_batch20": 0.9,
            "f_at_half": 0.9,
            "fpr": 0.1,
          }
          asked.append(name)
          yield name

  monkeypatch.setattr(noise, "judge_run", judge_run)
  return asked


def test_runs_are_found_by_row_and_seed(tmp_path):
  for name in ("whole-0", "whole-1", "without_snrp-0"):
    finished(tmp_path, name)
  found = noise.find_runs([f"{tmp_path}/*"])
  assert found["whole"] == {0: f"{tmp_path}/whole-0", 1: f"{tmp_path}/whole-1"}
  assert set(found) == {"whole", "without_snrp"}


def test_the_train_is_a_recording_where_the_clips_are_of_recordings():
  assert noise.default_kinds(tiny.get_config())[-2:] == ("made_babble", "made_train")
  assert noise.default_kinds(real_media.get_config())[-2:] == ("made_babble", "train")


def test_two_runs_of_one_row_and_seed_are_refused_and_one_found_twice_is_not(tmp_path):
  one, other = finished(tmp_path / "a", "whole-0"), finished(tmp_path / "b", "whole-0")
  assert noise.find_runs([f"{tmp_path}/a/*", one, f"{one}/"]) == {"whole": {0: one}}
  with pytest.raises(InputError, match=f"{one} and {other} are both whole of seed 0; judge them apart"):
    noise.find_runs([f"{tmp_path}/*/whole-0"])


def test_what_is_no_run_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="--runs=.*nothing: no run is there"):
    noise.find_runs([f"{tmp_path}/nothing"])
  finished(tmp_path, "plain")
  with pytest.raises(InputError, match="plain: its name should end in a seed"):
    noise.find_runs([f"{tmp_path}/plain"])
  with pytest.raises(InputError, match="--snr-db=loud is not a list of numbers"):
    noise.main([f"--runs={tmp_path}", "--snr-db=loud"])
  home = finished(tmp_path, "open-0")
  Path(home, "scoreboard.json").unlink()
  with pytest.raises(InputError, match="open-0: the run is not finished"):
    noise.sweep({"open": {0: home}}, str(tmp_path), KINDS, LEVELS, 0)


def test_only_own_sounds_are_judged_by_the_papers_factor_or_by_decibels():
  config = common.get_config()
  with config.unlocked():
    config.eval.unseen = ("thunder",)
    config.eval.noise_mix.factor = 0.5
  own = noise.with_noise(config, KINDS, ())
  assert own.eval.conditions == ("positive",) and own.eval.unseen == () and own.eval.noise_mix.factor == 0.1
  assert noise.with_noise(config, KINDS, LEVELS).eval.noise_mix.snr_db == (10.0, 0.0)


def test_the_command_goes_on_where_it_stopped_and_judges_anew_what_was_trained_anew(tmp_path, judged):
  runs = {"whole": {0: finished(tmp_path, "whole-0")}}
  folder = str(tmp_path / "records")
  noise.sweep(runs, folder, ["brown"], LEVELS, 0)
  assert judged == ["positive", "mixed_brown_x0.1", "mixed_brown_10db", "mixed_brown_0db"]
  judged.clear()
  found = noise.sweep(runs, folder, KINDS, LEVELS, 0)
  assert judged == ["mixed_made_train_x0.1", "mixed_made_train_10db", "mixed_made_train_0db"]
  assert len(found["whole"][0]["figures"]) == 7
  judged.clear()
  Path(runs["whole"][0], "scoreboard.json").write_text(json.dumps({"record": {"weights_digest": "other"}}))
  noise.sweep(runs, folder, ["brown"], LEVELS, 0)
  assert len(judged) == 4


def test_a_record_says_what_each_sitting_judged_with_what_and_makes_nothing_up(tmp_path, judged):
  runs, folder = {"whole": {0: finished(tmp_path, "whole-0")}}, tmp_path / "records"
  (record,) = noise.sweep(runs, str(folder), ["brown"], LEVELS, 0)["whole"]
  (sitting,) = record["sittings"]
  assert sitting["sounds"] == judged == list(record["figures"]) and record["split"] == "test"
  assert {name for name in sitting if not sitting[name]} <= {"wall_s"}  # next to no time is 0.0
  assert set(sitting) == {"config_digest", "hardware", "commit", "date", "versions", "wall_s", "sounds"}
  kept = json.loads((folder / "whole-0.json").read_text())
  assert kept == json.loads(json.dumps(record))
  unsaid = {name: value for name, value in kept.items() if name != "sittings"}  # as records once were
  (folder / "whole-0.json").write_text(json.dumps(unsaid))
  assert noise.sweep(runs, str(folder), ["brown"], LEVELS, 0)["whole"] == [unsaid]
  found = noise.sweep(runs, str(folder), KINDS, LEVELS, 0)
  first, second = found["whole"][0]["sittings"]
  assert first == {"sounds": sitting["sounds"]}
  assert second["sounds"] == ["mixed_made_train_x0.1", "mixed_made_train_10db", "mixed_made_train_0db"]
  assert records.find(str(tmp_path), common.from_workdir(runs["whole"][0])) is None  # it is no run's record


def test_the_page_has_the_sweep_table_nine_and_a_figure(tmp_path, judged):
  for name in ("whole-0", "whole-1", "without_snrp-0"):
    finished(tmp_path / "runs", name)
  page = tmp_path / "results.md"
  page.write_text("# Results\n")
  noise.main([
    f"--runs={tmp_path}/runs/*", "--name=study", "--snr-db=10,0", f"--records={tmp_path}/records",
    f"--output={tmp_path}/out", f"--into={page}",
  ])  # fmt: skip
  text = (tmp_path / "out" / "noise.md").read_text()
  assert "| whole | brown | 80.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 0.0 | 0, 1 |" in text
  assert "| without_snrp | brown | 70.0 | 50.0 | 50.0 | 0 |" in text
  assert "| AVSBench-MS3, printed | own + Brownian noise x0.1 | without_snrp | 68.8 | 76.5 |" in text
  assert "| own + brown x0.1 | whole | 79.0 ± 0.0 | 90.0 ± 0.0 | 1.0 ± 0.0 | 0, 1 |" in text
  assert "| row | seeds | minutes a run | hardware | commit | versions |" in text
  assert re.search(r"\| without_snrp \| 0 \| 0\.0 \| \d+ x [^|]* CPU cores \| \w+\+? \| jax [\d.]+ \|", text)
  assert "What it was judged with (float32; minutes: all sounds of a run; –: not on record):" in text
  assert (
    "Swept: whole, without_snrp, seeds 0, 1, under brown, pink, white, made babble, made train at 10, 0 dB"
    in text
  )
  assert "dB; not swept: 20 dB, -10 dB.\n" in text
  assert "--kinds=brown,pink,white,made_babble,made_train --snr-db=10,0\n" in text
  assert "STAND-IN DATA" in text and (tmp_path / "out" / "noise.png").stat().st_size > 5000
  assert "out/noise.png" in page.read_text()


def test_runs_of_different_data_share_no_table(tmp_path):
  found = {
    name: [{"figures": {}, "seed": 0, "data_set": name, "clips": 3, "is_stand_in": True}]
    for name in ("a", "b")
  }
  with pytest.raises(InputError, match="these are of different data"):
    noise.write(str(tmp_path), "T", found, KINDS, LEVELS, "command")


@pytest.mark.slow
def test_a_run_gets_its_own_scoreboards_figures_under_the_clean_sound(tmp_path, monkeypatch):
  import jax
  import numpy as np

  from avs_jax import evaluate
  from avs_jax.initialise import initialise
  from avs_jax.model import build_model, example_inputs

  config = tiny.get_config()
  with config.unlocked():
    config.data.seconds, config.data.clips.test, config.model.width, config.eval.batch = 2, 3, 8, 2
  rng = np.random.default_rng(0)
  variables = initialise(build_model(config), *example_inputs(config), seed=0)
  # Far from where training begins: there every pixel is off, whatever is heard.
  variables = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), variables)
  monkeypatch.setattr(evaluate, "weights_to_judge", lambda config, model, workdir: variables)
  workdir = str(tmp_path / "prior-0")
  evaluate.evaluate(config, workdir)
  Path(workdir, "config.json").write_text(config.to_json_best_effort())
  board = json.loads(Path(workdir, "scoreboard.json").read_text())
  (record,) = noise.sweep({"prior": {0: workdir}}, str(tmp_path / "records"), ["white"], [0.0], 0)["prior"]
  assert list(record["figures"]) == ["positive", "mixed_white_x0.1", "mixed_white_0db"]
  assert record["figures"]["positive"] == {name: board["positive"][name] for name in noise.FIGURES}
  assert 0.05 < board["positive"]["iou_frame"] < 0.95
  assert record["figures"]["mixed_white_0db"] != record["figures"]["positive"]
  for name in ("data_set", "is_stand_in", "split", "clips"):
    assert record[name] == board["record"][name], name


def test_masks_of_classes_are_refused_before_they_are_judged(tmp_path, judged):
  home = tmp_path / "whole-0"
  home.mkdir()
  config = tiny.get_config("sdavs")
  with config.unlocked():
    config.model.num_classes = 71
  (home / "config.json").write_text(config.to_json_best_effort())
  with pytest.raises(InputError, match="whole-0: its masks hold classes"):
    noise.sweep({"whole": {0: str(home)}}, str(tmp_path / "kept"), ("brown",), (0.0,), 0)
  assert not judged
