"""The command: a mistake is one sentence and status 2, a folder is enough to judge a run, SIGTERM ends it well."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from avs_jax import bundle
from avs_jax.model import build_model, starting_variables
from avs_jax.own_video.film import Film
from configs import tiny
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
TINY = [
  "--config=configs/tiny.py",
  "--config.data.seconds=2",
  "--config.data.clips.train=8",
  "--config.data.clips.val=2",
  "--config.data.clips.test=2",
  "--config.model.audio_args.width=0.015625",
  "--config.model.width=8",
  "--config.model.tpavi_stages=(4,)",
  "--config.schedule.batch=2",
  "--config.eval.batch=2",
  "--config.log.every_steps=1",
]


def command(*arguments: str) -> tuple[list[str], dict]:
  cache = {
    name.upper(): str(getattr(jax.config, name))
    for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
  }
  flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
  environment = {**os.environ, **cache, "XLA_FLAGS": flags}
  return [sys.executable, "run.py", *arguments], {"cwd": ROOT, "env": environment, "text": True}


def run(*arguments: str) -> subprocess.CompletedProcess:
  words, options = command(*arguments)
  return subprocess.run(words, **options, capture_output=True, timeout=PATIENCE_S)


def test_check_needs_no_config_and_no_jax_that_starts(tmp_path):
  (tmp_path / "jax").mkdir()
  (tmp_path / "jax" / "__init__.py").write_text("raise ImportError('libcudart.so.12 is not there')")
  words, options = command("--mode=check", f"--workdir={tmp_path}")
  options["env"] = {**options["env"], "PYTHONPATH": str(tmp_path)}
  done = subprocess.run(words, **options, capture_output=True, timeout=PATIENCE_S)
  assert done.returncode == 0, done.stderr
  assert "none (ImportError" in done.stdout and "libcudart.so.12 is not there" in done.stdout
  assert (tmp_path / "data_check.json").exists()


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--config=configs/tiny.py", "--config.stpes=2"], "no setting 'stpes'. Did you mean \"steps\""),
    (["--config=configs/tiny.py", "--config.model.widht=2"], "no setting 'widht'. Did you mean \"width\""),
    (["--config=configs/tiny.py", "--config.steps=many"], "--config.steps=many"),
    (["--config=configs/nothing.py"], "configs/nothing.py: no such file; the configs are in configs/."),
    (["--config", "configs/nothing.py"], "configs/nothing.py: no such file"),
    (["--config=configs"], "configs: no such file"),
    (["--config=configs/tiny.py:oracle"], "there is no system 'oracle'; choose one of"),
    (["--config.steps=2"], "give it too, as --config=configs/NAME.py"),
    (["--config=configs/tiny.py", "--mode=tarin"], "--mode=tarin: value should be one of"),
    (["--cnofig=configs/tiny.py"], "Unknown command line flag 'cnofig'"),
    (
      ["--config=configs/tiny.py", "steps=2"],
      "steps=2: not understood; settings are written --config.KEY=VALUE",
    ),
    ([], "--config is missing, e.g. --config=configs/quickstart.py"),
    (["--mode=eval", "--workdir=nowhere"], "nowhere/config.json is not there; give --config"),
    (["--mode=convert", "one.pth"], "--mode=convert takes IN OUT.safetensors"),
    (
      ["--config=configs/tiny.py", "--weights=nowhere"],
      "--mode=train does not read --weights; it reads --config",
    ),
    (["--mode=predict", "--input=a.mp4"], "--mode=predict needs --input=VIDEO"),
    (
      ["--mode=predict", "--input=nowhere.mp4", "--output=nowhere"],
      "nowhere.mp4: there is no such file or folder",
    ),
    (["--mode=predict", "--every=hour"], "--every=hour: value should be one of"),
    (
      ["--mode=listen", "--input=run.py", "--output=nowhere", "--weights=nowhere.safetensors"],
      "nowhere.safetensors: there is no such weight file",
    ),
    (
      ["--mode=listen", "--input=run.py", "--output=nowhere", "--workdir=nowhere", "--weights=a.safetensors"],
      "give either --workdir=RUN or --weights=FILE.",
    ),
  ],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, said):
  done = run(*arguments)
  assert done.returncode == 2, done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith("run.py: error: ")
  assert said in last
  assert "Traceback" not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not (ROOT / "nowhere").exists()


@pytest.mark.slow
def test_a_trained_folder_alone_is_judged_to_the_digit(tmp_path):
  done = run(*TINY, "--config.steps=3", f"--workdir={tmp_path}/run")
  assert done.returncode == 0, done.stderr[-2000:]
  assert "data.root is empty: train uses generated single-source clips (stand-in)" in done.stderr
  assert "STAND-IN DATA" in done.stdout
  folder = tmp_path / "run"
  first = json.loads((folder / "scoreboard.json").read_text())
  for name in ("scoreboard.json", "scoreboard.md", "scoreboard.tex"):
    (folder / name).unlink()
  done = run("--mode=eval", f"--workdir={folder}")
  assert done.returncode == 0, done.stderr[-2000:]
  again = json.loads((folder / "scoreboard.json").read_text())
  drop = ("date", "commit")
  assert {k: v for k, v in again.items() if k != "record"} == {
    k: v for k, v in first.items() if k != "record"
  }
  assert {k: v for k, v in again["record"].items() if k not in drop} == {
    k: v for k, v in first["record"].items() if k not in drop
  }


@pytest.mark.slow
def test_a_saved_run_is_judged_with_one_setting_changed_and_its_masks_are_scored_beside_it(tmp_path):
  folder = tmp_path / "run"
  done = run(*TINY, "--config.steps=2", "--config.eval.pictures=0", f"--workdir={folder}")
  assert done.returncode == 0, done.stderr[-2000:]
  changed = ("--config.eval.test_clips=1", "--config.eval.unseen=('thunder',)")
  done = run("--mode=eval", f"--workdir={folder}", "--config.eval.save_masks=True", *changed)
  assert done.returncode == 0, done.stderr[-2000:]
  ours = json.loads((folder / "scoreboard.json").read_text())
  assert ours["record"]["clips"] == 1 and ours["record"]["config"]["model"]["width"] == 8
  done = run("--mode=score", f"--input={folder}/masks", *changed)
  assert done.returncode == 0, done.stderr[-2000:]
  theirs = json.loads((folder / "scored" / "scoreboard.json").read_text())
  assert "unseen_thunder" in theirs
  assert {k: v for k, v in theirs.items() if k != "record"} == {
    k: v for k, v in ours.items() if k != "record"
  }
  assert json.loads((folder / "scoreboard.json").read_text()) == ours
  done = run(*TINY, "--config.steps=2", "--config.negatives.fraction=0.25", f"--workdir={folder}")
  assert done.returncode == 2 and "(negatives.fraction: 0.0, now 0.25)" in done.stderr, done.stderr[-2000:]
  assert json.loads((folder / "scoreboard.json").read_text()) == ours


@pytest.mark.slow
def test_videos_are_predicted_by_a_file_alone_and_failures_end_with_status_1(tmp_path):
  config = tiny.get_config()
  config.data.seconds, config.data.size = 2, 32
  weights = tmp_path / "model.safetensors"
  variables = starting_variables(config, build_model(config))
  bundle.save(weights, variables, json.loads(config.to_json_best_effort()), {"title": "untrained"})
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "b.mp4").write_bytes(b"nothing")
  with Film(tmp_path / "in" / "a.mp4", (36, 48), 5.0, [(8_000, 1)]) as film:
    for k in range(12):
      film.picture(np.full((36, 48, 3), 20 * k, np.uint8), k / 5)
      film.sound(np.full((1_600, 1), 0.1, np.float32))
  arguments = ("--mode=predict", f"--weights={weights}", f"--input={tmp_path}/in", f"--output={tmp_path}/out")
  done = run(*arguments, "--write=overlay,masks,rle,csv,npz")
  assert done.returncode == 1, done.stderr
  assert "1 of 2 inputs failed:" in done.stderr and "b.mp4 cannot be read as a video" in done.stderr
  assert "Traceback" not in done.stderr
  names = {path.name for path in (tmp_path / "out" / "a").iterdir()}
  assert names == {"overlay.mp4", "masks", "masks.json", "timeline.csv", "arrays.npz", "done.json"}
  (tmp_path / "in" / "b.mp4").unlink()
  done = run(*arguments, "--write=overlay,masks,rle,csv,npz")
  assert done.returncode == 0 and "done before" in done.stderr, done.stderr


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_0(tmp_path):
  words, options = command(
    *TINY, "--config.steps=100000", "--config.schedule.epochs=1", f"--workdir={tmp_path}"
  )
  process = subprocess.Popen(words, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  log = tmp_path / "log.txt"
  try:
    end = time.monotonic() + PATIENCE_S
    while not (log.exists() and "step 2/100000" in log.read_text()):
      assert process.poll() is None, process.communicate()[1][-2000:]
      assert time.monotonic() < end
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=PATIENCE_S)
  finally:
    process.kill()
  assert process.returncode == 0, told[-2000:]
  assert "stopped by a signal at step" in told
  assert "Traceback" not in told
  steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
  assert steps and all((tmp_path / "checkpoints" / str(step) / "state").is_dir() for step in steps)
