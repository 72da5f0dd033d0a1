"""Every config of the folder can be trained: two steps of each, shrunk, with its structure kept."""

import importlib
import json
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from avs_jax import losses
from avs_jax.errors import InputError
from configs import common

FOLDER = Path(common.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))
# A visual encoder's settings that make it small and leave its kind.
SMALL_ENCODERS = {
  "pvt_v2": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)},
  "mit": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)},
  "efficientnet": {"width": 1 / 8},
  "conv_pyramid": {"width": 4},
}


def load(name: str, argument: str | None = None) -> ConfigDict:
  module = importlib.import_module(f"configs.{name}")
  return module.get_config(argument) if argument else module.get_config()


def shrink(config: ConfigDict) -> ConfigDict:
  """The config with small pictures, few clips, narrow networks, and of its variants the last."""
  if config.variants:
    from avs_jax.variants import variant

    config = variant(config, list(config.variants)[-1])
  kind = next(kind for kind in SMALL_ENCODERS if config.model.visual.startswith(kind))
  with config.unlocked():
    config.model.visual_args.update(SMALL_ENCODERS[kind])
    config.model.audio_args.width = 1 / 64
  if "width" in config.model:
    config.model.width = 8
  config.init.visual = config.init.audio = ""  # weight files, which a test has not
  config.data.stand_in = "generated"
  config.data.size = 64
  config.data.seconds = min(config.data.seconds, 5)
  config.data.clips = ConfigDict({"train": 4, "val": 2, "test": 2})
  config.schedule.batch = config.eval.batch = 2
  config.eval.pictures = 0
  config.eval.conditions = ("positive",)
  config.warmup.steps = min(config.warmup.steps, 2)
  config.warmup.batch = 2
  config.log.every_steps = 1
  config.steps = 2
  return config


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_config_runs_two_steps(name, tmp_path, monkeypatch):
  from avs_jax import mesh as meshes
  from avs_jax.train import train

  make_mesh = meshes.make_mesh
  monkeypatch.setattr(
    meshes, "make_mesh", lambda batch, model=1, **_: make_mesh(batch, model, jax.devices()[:1])
  )
  state = train(shrink(load(name)), str(tmp_path))
  assert int(state.step) == 2
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if "loss" in row] == [1, 2]
  assert (tmp_path / "scoreboard.json").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_locked_says_its_title_and_how_to_run_it(name):
  config = load(name)
  assert config.is_locked
  assert config.title
  assert f"--config=configs/{name}.py" in importlib.import_module(f"configs.{name}").__doc__
  with pytest.raises(AttributeError):
    config.optimizer.learning_rate = 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("system", sorted(common.SYSTEMS))
def test_every_config_takes_every_system(name, system):
  config = load(name, system)
  assert config.model.system == system
  assert set(common.SYSTEMS[system]) <= set(config.model)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_survives_being_written_and_read(name):
  config = load(name)
  again = common.from_json(json.loads(config.to_json_best_effort()), "config.json")
  assert again.to_dict() == config.to_dict()
  assert again.is_locked


def test_reading_keeps_names_of_others_and_turns_lists_into_tuples():
  config = common.get_config()
  with config.unlocked():
    config.model.visual_args.depths = (1, 2, 3, 4)
    config.optimizer.multipliers["visual_encoder/block1_0"] = 0.1
    config.variants = ConfigDict({"a": {"model": {"tpavi_stages": (4,)}}})
  again = common.from_json(json.loads(config.to_json_best_effort()), "config.json")
  assert again.model.visual_args.depths == (1, 2, 3, 4)
  assert again.optimizer.multipliers["visual_encoder/block1_0"] == 0.1
  assert again.variants.a.model.tpavi_stages == (4,)
  assert isinstance(again.optimizer.betas, tuple)


def test_a_config_of_an_earlier_run_may_name_its_loss(tmp_path):
  config = load("ms3")
  saved = json.loads(config.to_json_best_effort())
  saved["loss"]["name"] = "ms3"
  (tmp_path / "config.json").write_text(json.dumps(saved))
  assert common.from_workdir(str(tmp_path)).to_dict() == config.to_dict()
  with pytest.raises(AttributeError):
    config.loss.name = "ms3"  # a name chose nothing: --config.loss.name is refused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("system", sorted(common.SYSTEMS))
def test_every_config_gives_all_weights_of_its_loss_itself(name, system):
  weights = load(name, system).loss.to_dict()
  chosen = losses.settings(weights)
  assert chosen.keys() == weights.keys()
  assert {name: chosen[name] for name, value in weights.items() if value is not None} == {
    name: value for name, value in weights.items() if value is not None
  }


def test_a_saved_data_set_that_is_not_here_is_looked_for_where_the_surroundings_say(tmp_path, monkeypatch):
  saved = json.loads(common.get_config().to_json_best_effort())
  saved["data"]["root"] = "/another/machine"
  assert common.from_json(saved, "file").data.root == "/another/machine"
  monkeypatch.setenv("AVS_DATA_ROOT", "/mine")
  assert common.from_json(saved, "file").data.root == "/mine"
  saved["data"]["root"] = str(tmp_path)  # it is here
  assert common.from_json(saved, "file").data.root == str(tmp_path)
  saved["data"]["root"] = ""  # a stand-in stays one
  assert common.from_json(saved, "file").data.root == ""


def test_a_data_set_of_the_surroundings_does_not_take_the_stand_ins_place(monkeypatch):
  monkeypatch.setenv("AVS_DATA_ROOT", "/data/avsbench")
  made_for_a_stand_in = {name for name in NAMES if not load(name).data.root}
  assert made_for_a_stand_in == {"quickstart", "real_media", "tiny"}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c["model"].update(colour=1), "here: model: the setting 'colour' is unknown to this version"),
    (lambda c: c.update(steps="many"), "here: steps='many' does not fit"),
    (lambda c: c.update(eval=3), "here: eval=3 does not fit"),
    (lambda c: c["model"].update(system="oracle"), "there is no system 'oracle'"),
    (lambda c: c.pop("model"), "here: not the config of a run"),
  ],
)
def test_a_config_of_another_version_is_refused_by_key(change, message):
  saved = json.loads(common.get_config().to_json_best_effort())
  change(saved)
  with pytest.raises(InputError, match=message) as told:
    common.from_json(saved, "here")
  assert "\n" not in str(told.value)


def test_a_run_folder_without_or_with_a_broken_config_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="config.json is not there; give --config"):
    common.from_workdir(str(tmp_path))
  (tmp_path / "config.json").write_text('{"model": ')
  with pytest.raises(InputError, match="cannot be read as JSON"):
    common.from_workdir(str(tmp_path))


def test_selecting_a_system_takes_the_old_ones_settings_away():
  config = common.get_config()
  common.select_system(config, "avsbench")
  assert config.model.tpavi_stages == (1, 2, 3, 4)
  with pytest.raises(InputError, match="there is no system 'tpavi'; choose one of .*avsbench"):
    common.select_system(config, "tpavi")
