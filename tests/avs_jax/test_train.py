"""Training is the same however often it is interrupted, and stops with a sentence when it must."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import jax
import numpy as np
import pytest

from avs_jax import train as training
from avs_jax.checkpoint import Checkpoints
from avs_jax.errors import InputError
from avs_jax.logbook import Logbook
from avs_jax.train import train
from data_pipelines.negatives import read_manifest
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def figures(folder: Path) -> list[dict]:
  """The rows of metrics.jsonl without what depends on the clock."""
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  return [{k: v for k, v in row.items() if k not in ("clips_per_s", "data_wait")} for row in rows]


def scores(folder: Path) -> dict:
  return json.loads((folder / "scoreboard.json").read_text())


def test_two_runs_with_one_seed_are_equal_to_the_bit(finished, devices, tmp_path, same):
  config, folder, state = finished
  same(train(config, str(tmp_path)), state)
  assert figures(tmp_path) == figures(folder)
  assert (tmp_path / "manifest.csv").read_bytes() == (folder / "manifest.csv").read_bytes()


KILLED = """
import json, os, signal, sys
import jax
from avs_jax import checkpoint
from avs_jax import mesh as meshes
from avs_jax.train import train
from configs import common

folder, at, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
config = common.from_json(json.load(open(folder + ".json")), "the test")
make_mesh, save, rename = meshes.make_mesh, checkpoint.Checkpoints.save, os.rename
meshes.make_mesh = lambda batch, model=1, **_: make_mesh(batch, model, jax.devices()[:1])

def die():
  os.kill(os.getpid(), signal.SIGKILL)

def save_and_die(self, step, state, meta):
  save(self, step, state, meta)
  if step == at and self.folder.endswith("checkpoints"):
    self.wait()
    die()

def rename_or_die(source, target, **rest):
  if os.fspath(target) == os.path.join(folder, "checkpoints", str(at)):
    die()  # all is written, and has its temporary name still
  rename(source, target, **rest)

if how == "saved":
  checkpoint.Checkpoints.save = save_and_die
else:
  os.rename = rename_or_die
train(config, folder)
"""


@pytest.mark.slow
def test_ten_steps_equal_five_and_a_kill_and_a_kill_while_saving_and_the_rest(
  finished, devices, tmp_path, same, with_cache
):
  config, whole, state = finished
  folder = tmp_path / "run"
  killed = config.copy_and_resolve_references()
  killed.log.checkpoint_steps = 5
  (tmp_path / "run.json").write_text(killed.to_json_best_effort())
  for at, how in ((5, "saved"), (8, "while saving")):  # an epoch has four steps, and each ends with a save
    done = subprocess.run(
      [sys.executable, "-c", KILLED, str(folder), str(at), how],
      env=with_cache,
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=PATIENCE_S,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert "scoreboard.json" not in os.listdir(folder)
    found = sorted(os.listdir(folder / "checkpoints"))
    assert [name for name in found if name.isdecimal()] == ["4", "5"]
  assert found[2].startswith("8.orbax-checkpoint-tmp") and len(found) == 3
  same(train(killed, str(folder)), state)
  assert (folder / "log.txt").read_text().count("resumed from the checkpoint of step 5") == 2
  assert figures(folder) == figures(whole)
  ours, theirs = scores(folder), scores(whole)
  assert {k: v for k, v in ours.items() if k != "record"} == {
    k: v for k, v in theirs.items() if k != "record"
  }


def test_sigterm_saves_and_exits_with_0_and_the_run_goes_on(finished, devices, tmp_path, same, monkeypatch):
  config, _, state = finished
  log = Logbook.log

  def log_and_ask(self, step, *args, **kwargs):
    log(self, step, *args, **kwargs)
    if step == 6:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(Logbook, "log", log_and_ask)
  with pytest.raises(SystemExit) as stopped:
    train(config, str(tmp_path))
  assert stopped.value.code == 0
  monkeypatch.undo()
  assert Checkpoints(str(tmp_path / "checkpoints"), keep=0).steps() == [4, 7]  # found at the next step
  assert not (tmp_path / "scoreboard.json").exists()
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  devices(1)
  same(train(config, str(tmp_path)), state)


def test_a_truncated_newest_checkpoint_is_said_and_the_one_before_is_continued(
  finished, devices, tmp_path, same, caplog
):
  config, whole, state = finished
  folder = tmp_path / "copy"
  shutil.copytree(whole, folder)
  data = (folder / "checkpoints" / "10" / "state").rglob("*")
  path = max((path for path in data if path.is_file()), key=lambda path: path.stat().st_size)
  os.truncate(path, path.stat().st_size // 2)
  same(train(config, str(folder)), state)
  assert "checkpoint 10 is unreadable" in caplog.text
  assert "resumed from the checkpoint of step 8" in (folder / "log.txt").read_text()
  assert figures(folder) == figures(whole)


def test_best_weights_that_were_lost_are_found_anew(finished, devices, tmp_path):
  config, whole, _ = finished
  folder = tmp_path / "copy"
  shutil.copytree(whole, folder)
  # As a kill leaves them that came after the old best was deleted, before the new one was whole.
  shutil.rmtree(folder / "best")
  shutil.rmtree(folder / "checkpoints" / "10")
  train(config, str(folder))
  assert [path.name for path in (folder / "best").iterdir() if path.name.isdigit()] == ["10"]


def test_a_finished_run_is_judged_again_and_trains_no_step(finished, devices, tmp_path, same):
  config, whole, state = finished
  folder = tmp_path / "copy"
  shutil.copytree(whole, folder)
  same(train(config, str(folder)), state)
  assert figures(folder) == figures(whole)


def test_other_settings_than_the_checkpoints_are_refused_and_leave_the_folder_alone(
  finished, devices, tmp_path
):
  config, whole, _ = finished
  folder = tmp_path / "copy"
  shutil.copytree(whole, folder)
  for change, message in (
    (lambda c: setattr(c, "seed", 1), r"trained with other settings \(seed: 0, now 1\)"),
    (
      lambda c: setattr(c.negatives, "fraction", 0.5),
      r"\(negatives.fraction: 0.0, now 0.5\); give another --wo",
    ),
    (lambda c: setattr(c.model, "tpavi_stages", (3,)), r"model.tpavi_stages: \[4\], now \[3\]"),
  ):
    other = config.copy_and_resolve_references()
    change(other)
    with pytest.raises(InputError, match=message):
      train(other, str(folder))
    for name in (
      "config.json",
      "scoreboard.json",
      "log.txt",
      "README.txt",
      "metrics.jsonl",
      "training_data.json",
    ):
      assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_loss_that_is_no_number_stops_the_run_naming_steps_and_clips(small, devices, tmp_path, monkeypatch):
  make = training.make_train_step

  def make_diverging(*arguments, **settings):
    step = make(*arguments, **settings)

    def diverging(state, batch, key):
      scale = 1e30 if int(state.step) == 3 else 1.0  # in the fourth step
      return step(state.replace(params=jax.tree.map(lambda x: x * scale, state.params)), batch, key)

    return diverging

  monkeypatch.setattr(training, "make_train_step", make_diverging)
  changes = {"steps": 12, "log.every_steps": 12, "log.checkpoint_steps": 2}
  with pytest.raises(
    InputError, match=r"not finite at step 4 \(steps 3 to 4 were being checked\), clips "
  ) as told:
    train(small(changes), str(tmp_path))
  assert "train" in str(told.value).split("clips ")[1]
  end = time.monotonic() + PATIENCE_S
  while not (kept := Checkpoints(str(tmp_path / "checkpoints"), keep=0).steps()):  # written in the background
    assert time.monotonic() < end
    time.sleep(0.1)
  assert kept == [2]


def test_the_first_step_that_is_not_finite_is_named_with_its_clips():
  class Source:
    ids = ("bee", "car", "dog")

  def row(step, loss, index):
    value = {"loss": np.float32(loss), "gradient_norm": np.float32(1), "parameter_norm": np.float32(1)}
    return step, np.array(index), value

  recent = deque([row(7, 0.5, [0, 1]), row(8, math.nan, [2, -1]), row(9, math.nan, [0, 1])])
  with pytest.raises(
    InputError, match=r"loss not finite at step 8 \(steps 7 to 8 were being checked\), clips dog;"
  ):
    training.check_finite(recent, Source)
  recent = deque([row(7, 0.5, [0, 1]), row(8, 0.25, [0, 1])])
  assert training.check_finite(recent, Source)["loss"] == 0.25
  assert not recent


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"schedule.accumulate": 3}, "schedule.accumulate=3 must divide schedule.batch=2"),
    ({"schedule.accumulate": 0}, r"schedule.accumulate=0 must be at least 1"),
    ({"steps": 0, "schedule.epochs": 0}, "steps and schedule.epochs are both 0"),
    ({"debias.mismatch": 0.5, "schedule.batch": 1}, "schedule.batch=1 leaves none; make the batch"),
    ({"debias.gate": True}, "debias.gate=True needs a guide to open and close it"),
    ({"debias.guide": "cosine", "debias.gate_training": True}, "gate_training=True needs debias.gate=True"),
    ({"eval.metric": "fpr"}, "eval.metric='fpr' cannot choose the best checkpoint; use one of iou_frame"),
    ({"eval.conditions": ("positive", "thunder")}, "eval.conditions: 'thunder' is not a sound"),
    ({"optimizer.name": "lion"}, "optimizer.name='lion' is not known; choose one of adam"),
    ({"optimizer.frozen": ("audio",)}, "no parameter lies under 'audio'; the model has .*audio_encoder"),
    ({"optimizer.multipliers": {"hed": 0.1}}, "no parameter lies under 'hed'"),
    ({"optimizer.freeze_epochs": {"hed": 1}}, "no parameter lies under 'hed'"),
    ({"schedule.decay": "cosin"}, "schedule.decay='cosin' is not known"),
    ({"data.name": "s5"}, "data.name='s5' is not a data set"),
    ({"model.visual": "vit"}, "vit"),
    ({"model.tpavi_stage": (1,)}, "system avsbench has no setting tpavi_stage"),
  ],
)
def test_a_wrong_setting_is_refused_before_the_first_step(small, devices, tmp_path, changes, message):
  with pytest.raises(InputError, match=message) as told:
    train(small(changes), str(tmp_path))
  assert "\n" not in str(told.value)
  assert not (tmp_path / "config.json").exists()


def test_mismatches_may_be_held_against_pictures_of_other_pieces(small):
  training.check_settings(small({"debias.mismatch": 0.5, "schedule.accumulate": 2}))


def test_a_matching_without_weight_is_said(small, caplog):
  training.check_settings(small({"loss.matching": "kl", "loss.matching_weight": 0.0}))
  assert "loss.matching=kl does nothing: loss.matching_weight is 0" in caplog.text


def test_a_batch_at_which_matching_weighs_otherwise_is_said(small, caplog):
  changes = {"loss.matching": "kl", "loss.matching_weight": 0.5}
  training.check_settings(small({**changes, "schedule.batch": 4}))
  assert not caplog.text
  training.check_settings(small({**changes, "schedule.batch": 16}))
  assert "weighs 4 times" in caplog.text and "loss.matching_weight=0.125 weighs the same" in caplog.text


def test_validation_falls_on_epochs_and_on_the_last_step(small):
  config = small({"eval.every_epochs": 2.0, "eval.from_epoch": 2})
  assert training.validation_steps(config, 30, 4) == {8, 16, 24, 30}
  config = small({"eval.every_epochs": 0.5})
  assert training.validation_steps(config, 5, 4) == {2, 4, 5}


class Broken:
  """A source some of whose clips cannot be read."""

  def __init__(self, source, bad):
    self.source, self.bad = source, bad

  def __len__(self):
    return len(self.source)

  def __getattr__(self, name):
    return getattr(self.source, name)

  def clip(self, index):
    if index in self.bad:
      raise InputError(f"{self.ids[index]}: frame 1 is truncated; copy the file again.")
    return self.source.clip(index)


@pytest.fixture
def broken(monkeypatch):
  """broken(split, bad) breaks clips of a split."""
  from data_pipelines import sources

  build = sources.build

  def breaks(split, bad):
    def make(config, name, **kwargs):
      source = build(config, name, **kwargs)
      return Broken(source, bad) if name == split else source

    monkeypatch.setattr(sources, "build", make)

  return breaks


def test_a_broken_training_clip_is_replaced_and_named(finished, devices, broken, tmp_path, caplog):
  config = finished[0].copy_and_resolve_references()
  config.steps, config.eval.conditions = 4, ("positive",)
  broken("train", {3})
  state = train(config, str(tmp_path))
  assert int(state.step) == 4
  assert "cannot be read and is replaced by another" in caplog.text
  assert "frame 1 is truncated" in caplog.text


def test_the_sounds_that_training_replaces_are_listed_epoch_by_epoch(finished, devices, tmp_path):
  config = finished[0].copy_and_resolve_references()
  config.steps, config.eval.conditions, config.negatives.fraction = 5, ("positive",), 0.9
  train(config, str(tmp_path))
  rows = read_manifest(tmp_path / "train_manifest.csv")
  assert {row.epoch for row in rows} == {0, 1} and {row.split for row in rows} == {"train"}
  assert not (finished[1] / "train_manifest.csv").exists()  # nothing is replaced there


def test_many_broken_training_clips_end_the_run(small, devices, broken, tmp_path):
  broken("train", {1, 3, 5})
  with pytest.raises(InputError, match=r"of 8 clips cannot be read .* more than 1%"):
    train(small(), str(tmp_path))


def test_a_broken_test_clip_ends_the_evaluation(finished, devices, broken):
  from avs_jax.evaluate import evaluate

  config, folder, _ = finished
  broken("test", {1})
  before = (folder / "scoreboard.json").read_bytes()
  with pytest.raises(InputError, match="frame 1 is truncated; copy the file again"):
    evaluate(config, str(folder))
  assert (folder / "scoreboard.json").read_bytes() == before


def test_what_is_said_at_the_start_names_devices_steps_and_parameters(finished):
  config, folder, _ = finished
  text = (folder / "log.txt").read_text()
  for said in (
    "data: generated single-source clips (stand-in), 8 training clips",
    "devices: 1 cpu of 8; batch 2 clips (2 a device); 10 steps of 4 an epoch",
    "trainable: ",
    "frozen: 0 parameters (none)",
    "validation, own sound: iou_frame",
    "clips/s wait",
  ):
    assert said in text


def test_every_logged_step_has_loss_norms_rate_and_speed(finished):
  _, folder, _ = finished
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  steps = [row for row in rows if "loss" in row]
  assert [row["step"] for row in steps] == list(range(1, 11))
  wanted = {"loss", "bce", "gradient_norm", "update_norm", "parameter_norm", "lr", "clips_per_s", "data_wait"}
  assert all(wanted <= set(row) for row in steps)
  assert [row["step"] for row in rows if "val_iou_frame" in row] == [4, 8, 10]


def test_the_best_validation_score_is_what_is_kept(finished):
  _, folder, _ = finished
  rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  validated = {row["step"]: row["val_iou_frame"] for row in rows if "val_iou_frame" in row}
  best = max(validated.values())
  first = min(step for step, value in validated.items() if value == best)
  with contextlib.closing(Checkpoints(str(folder / "best"), keep=0)) as kept:
    assert kept.steps() == [first]
    assert kept.restore_as_saved()[1]["val"]["iou_frame"] == best


def test_a_checkpoint_holds_all_that_a_step_changes(finished):
  config, folder, state = finished
  with contextlib.closing(Checkpoints(str(folder / "checkpoints"), keep=0)) as kept:
    _, meta = kept.restore(jax.device_put(state))
  assert meta["data"]["next_index"] == 10
  assert meta["data"]["seed"] == config.seed
  assert meta["config"] == json.loads(config.to_json_best_effort())
