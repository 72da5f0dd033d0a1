"""Flags: each mode's own, settings of a saved run by its folder alone, and folders that tell configs apart."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from avs_jax import bundle, command_line
from avs_jax.errors import InputError
from avs_jax.logbook import write_config
from configs import tiny

ROOT = Path(__file__).resolve().parents[2]


def parsed(*arguments: str) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.parse(["run.py", *arguments], values)
  return values


def config_and_workdir(*arguments: str):
  return command_line.config_and_workdir(parsed(*arguments))


@pytest.fixture
def run(tmp_path) -> str:
  config = tiny.get_config()
  config.negatives.fraction = 0.25
  config.optimizer.betas = (0.5, 0.75)
  (tmp_path / "run").mkdir()
  write_config(config, str(tmp_path / "run"))
  return str(tmp_path / "run")


@pytest.mark.parametrize(
  ("config", "folder"),
  [
    ("configs/ms3.py", "runs/ms3"),
    ("configs/ms3.py:avsegformer", "runs/ms3_avsegformer"),
    ("configs/robust.py:avsbench-ms3-prior", "runs/robust_avsbench-ms3-prior"),
  ],
)
def test_the_folder_of_a_run_is_named_by_its_config_and_what_is_passed_to_it(config, folder):
  assert config_and_workdir(f"--config={config}")[1] == folder
  assert config_and_workdir(f"--config={config}", "--workdir", "mine")[1] == "mine"


@pytest.mark.parametrize("mode", ["train", "eval", "export", "prepare", "check"])
def test_settings_of_a_saved_run_are_changed_by_its_folder_alone_and_the_others_stay(run, mode):
  config, workdir = config_and_workdir(
    f"--mode={mode}", "--config.data.root=/new", f"--workdir={run}", "--config.eval.unseen=('thunder',)",
    "--config.optimizer.lr", "1",
  )  # fmt: skip
  assert workdir == run
  assert (config.data.root, config.eval.unseen, config.optimizer.lr) == ("/new", ("thunder",), 1.0)
  assert isinstance(config.optimizer.lr, float)
  assert (config.negatives.fraction, config.optimizer.betas) == (0.25, (0.5, 0.75))
  assert config_and_workdir(f"--mode={mode}", f"--workdir={run}")[0].data.root == tiny.get_config().data.root


@pytest.mark.parametrize(
  ("setting", "said"),
  [
    ("--config.eval.unsen=()", "the config has no setting 'unsen'"),
    ("--config.steps=many", "--config.steps=many"),
    ("--config.eval.pictures=1.5", "--config.eval.pictures=1.5"),
  ],
)
def test_a_mistyped_setting_of_a_saved_run_is_refused_as_with_a_config(run, setting, said):
  for origin in (f"--workdir={run}", "--config=configs/tiny.py"):
    with pytest.raises(InputError, match=re.escape(said)) as told:
      parsed("--mode=eval", origin, setting)
    assert "\n" not in str(told.value) and "Traceback" not in str(told.value)


def test_settings_of_an_encoder_that_stand_in_no_config_are_given_by_flag(run):
  config, _ = config_and_workdir(
    "--config=configs/ms3.py", "--config.model.visual_args.scan=True", "--config.model.visual_args.drop_path=0",
    "--config.model.visual_args.epsilons", "hf_pvt", "--config.model.visual=mit_b2",
  )  # fmt: skip
  assert dict(config.model.visual_args) == {"scan": True, "drop_path": 0.0, "epsilons": "hf_pvt"}
  assert config.model.visual == "mit_b2" and config.is_locked
  config, _ = config_and_workdir("--mode=eval", f"--workdir={run}", "--config.model.visual_args.width=8")
  assert config.model.visual_args.width == 8
  for setting, said in (
    ("visual_args.scam=True", "the encoder pvt_v2_b5 has no setting 'scam'; it has dims, depths"),
    ("visual_args.scan=perhaps", "config.model.visual_args.scan=perhaps is no bool, as False is"),
    ("audio_args.width=wide", "config.model.audio_args.width=wide is no float, as 1.0 is"),
  ):
    with pytest.raises(InputError, match=re.escape(said)):
      parsed("--config=configs/ms3.py", f"--config.model.{setting}")


def test_a_folder_without_a_run_and_a_setting_of_nothing_are_a_sentence(tmp_path):
  with pytest.raises(InputError, match="config.json is not there; give --config"):
    parsed("--mode=eval", f"--workdir={tmp_path}", "--config.steps=2")
  with pytest.raises(InputError, match=r"give it too, as --config=configs/NAME.py, or a run's --workdir"):
    parsed("--mode=eval", "--config.steps=2")
  with pytest.raises(InputError, match="--config is missing"):
    config_and_workdir("--mode=train")


def test_a_weight_file_brings_its_config_and_is_judged_beside_itself(tmp_path):
  config = tiny.get_config()
  config.negatives.fraction = 0.25
  path = tmp_path / "model.safetensors"
  saved = json.loads(config.to_json_best_effort())
  bundle.save(path, {"params": {"a": {"kernel": np.zeros(2, np.float32)}}}, saved, {})
  got, workdir = config_and_workdir("--mode=eval", f"--weights={path}", "--config.data.root=/new")
  assert (got.negatives.fraction, got.data.root) == (0.25, "/new")
  assert workdir == str(tmp_path / "model_judged")
  assert config_and_workdir("--mode=eval", f"--weights={path}", "--workdir=w")[1] == "w"
  with pytest.raises(InputError, match=r"a file with its config inside; leave out --config"):
    parsed("--mode=eval", f"--weights={path}", "--config=configs/tiny.py")
  with pytest.raises(InputError, match="nowhere.safetensors: there is no such weight file"):
    parsed("--mode=eval", "--weights=nowhere.safetensors")


def test_masks_are_scored_beside_themselves_by_the_config_of_the_run_they_lie_in(run, tmp_path):
  config, workdir = config_and_workdir("--mode=score", f"--input={run}/masks/", "--config.eval.test_clips=2")
  assert (config.negatives.fraction, config.eval.test_clips) == (0.25, 2)
  assert workdir == f"{run}/scored"
  _, workdir = config_and_workdir(
    "--mode=score", "--config=configs/tiny.py", f"--input={tmp_path}/predictions"
  )
  assert workdir == str(tmp_path / "scored")
  with pytest.raises(InputError, match="--config is missing"):
    config_and_workdir("--mode=score", f"--input={tmp_path}/predictions", f"--workdir={run}")


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--weights=x"], "--mode=train does not read --weights; it reads --config, --workdir."),
    (["--mode=eval", "--output", "x"], "--mode=eval does not read --output; it reads --config, --workdir"),
    (["--mode=score", "-weights=x"], "--mode=score does not read --weights"),
    (["--mode=predict", "--config=configs/tiny.py"], "--mode=predict does not read --config; it reads"),
    (["--mode=predict", "--workdir=x", "--config.steps=2"], "--mode=predict does not read --config.steps"),
    (["--mode=listen", "--every=frame"], "--mode=listen does not read --every"),
    (["--mode=serve", "--nohalf"], "--mode=serve does not read --nohalf"),
    (
      ["--mode=convert", "a", "b", "--workdir=x"],
      "does not read --workdir; it reads no flags, but IN OUT.safetensors",
    ),
  ],
)
def test_a_flag_that_the_mode_does_not_read_is_refused(arguments, said):
  with pytest.raises(InputError, match=re.escape(said)):
    parsed(*arguments)


def test_every_flag_is_read_by_some_mode_and_every_mode_has_a_row():
  values = parsed("--config=configs/tiny.py")
  ours = {flag.name for flag in values.key_flags_by_module_dict()["run.py"]}
  assert ours == {"mode", *(name for reads in command_line.READS.values() for name in reads)}
  assert values.find_module_defining_flag("mode") is not None


def documented() -> list[list[str]]:
  """The commands of README and docs, continued lines joined."""
  found = []
  for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
    text = re.sub(r"\\\n\s*|\n\s+(?=--)", " ", page.read_text())
    for line in re.findall(r"python run\.py ([^\n`#]*)", text):
      found.append(shlex.split(line.split("  ")[0].replace(" && ", " ; ").split(" ; ")[0]))
  return found


def test_documented_commands_give_each_mode_what_it_reads():
  commands = documented()
  assert len(commands) > 20
  for words in commands:
    said = dict(command_line.said_in(words))
    command_line.refuse_unread(said)
    assert said.get("mode", "train") in command_line.READS, words


def test_the_home_folder_may_be_meant_in_a_flag(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  said = (
    "--config=configs/tiny.py",
    "--workdir=~/run",
    "--config.data.root=~/AVSBench",
    "--config.title=a~b",
  )
  config, workdir = config_and_workdir(*said)
  assert (workdir, config.data.root, config.title) == (f"{tmp_path}/run", f"{tmp_path}/AVSBench", "a~b")
