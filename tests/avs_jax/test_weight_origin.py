"""No part of a model is judged, or frozen, with random weights unsaid; our own files are put in strictly."""

import logging

import numpy as np
import pytest

from avs_jax import bundle, weight_origin, weights
from avs_jax.errors import InputError
from avs_jax.evaluate import weights_to_judge
from avs_jax.model import build_model, starting_variables, system_settings


@pytest.fixture(scope="module")
def trained(small):
  """(variables of a guided model, all of them other than fresh ones)."""
  config = small({"debias.guide": "cosine", "seed": 5})
  return starting_variables(config, build_model(config))


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
  path = tmp_path_factory.mktemp("own") / "model.safetensors"
  bundle.save(path, trained, {}, {})
  return str(path)


@pytest.fixture(scope="module")
def deaf(small, tmp_path_factory):
  """A checkpoint with published names and, as TPAVI's, without the audio encoder."""
  settings = system_settings(small())
  names = weights.to_torch_names(settings.pop("name"), **settings)
  draw = np.random.default_rng(0)
  state = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in names.items()}
  path = str(tmp_path_factory.mktemp("published") / "deaf.npz")
  np.savez(path, **{name: x for name, x in state.items() if not name.startswith("audio_encoder")})
  return path


def test_an_exported_file_is_a_start_for_the_same_system(small, trained, file, same):
  alike = small({"debias.guide": "cosine", "init.system": file})
  same(starting_variables(alike, build_model(alike)), trained)
  plain = small({"init.system": file})
  same(starting_variables(plain, build_model(plain), to_judge=True)["params"], trained["params"]["system"])
  other = small({"debias.guide": "concat", "init.system": file})
  found = starting_variables(other, build_model(other), to_judge=True)  # its own guide starts fresh
  same(found["params"]["system"], trained["params"]["system"])


def test_a_checkpoint_without_an_ear_is_judged_with_one_alone(small, trained, deaf, tmp_path, same):
  config = small({"init.system": deaf})
  with pytest.raises(InputError, match=r"deaf.npz holds no audio encoder; give --config.init.audio=FILE"):
    weights_to_judge(config, build_model(config), str(tmp_path))
  starting_variables(config, build_model(config))  # the ear of this config learns
  ear, converted = str(tmp_path / "ear.safetensors"), str(tmp_path / "converted.safetensors")
  weights.save(ear, {"params": trained["params"]["system"]["audio_encoder"]})
  weights.convert(deaf, converted, **system_settings(config))
  found = []
  for system in (deaf, converted):  # by published names, and by ours
    config = small({"init.system": system, "init.audio": ear})
    found.append(starting_variables(config, build_model(config), to_judge=True))
  same(*found)
  same(found[0]["params"]["audio_encoder"], trained["params"]["system"]["audio_encoder"])


def test_a_file_of_another_model_is_refused_and_changes_nothing(small, trained, file, tmp_path):
  found = weight_origin.read_own(file) or {}
  missing = {path: x for path, x in found.items() if "tpavi_4" not in path or path[0] != "params"}
  params = {"params": trained["params"]["system"], "batch_stats": trained["batch_stats"]["system"]}
  before = {**params}
  for arrays, said in (
    (missing, r"its arrays are not this model's: \d+ missing \(params/tpavi_4/"),
    (
      {**found, ("params", "system", "x", "bias"): np.zeros(1)},
      r"1 left over \(params/x/bias\); give the settings",
    ),
    ({path: np.zeros((9, *x.shape)) for path, x in found.items()}, "of another shape"),
  ):
    with pytest.raises(InputError, match=said):
      weight_origin.fit(params, arrays, (), "model.safetensors")
  assert all(params[name] is tree for name, tree in before.items())
  config = small({"init.system": str(tmp_path / "absent.safetensors")})
  with pytest.raises(InputError, match="absent.safetensors is not there"):
    starting_variables(config, build_model(config))


def test_a_gate_or_a_layer_that_no_file_gave_is_not_judged_either(small, trained, file):
  config = small({"debias.guide": "concat", "debias.gate": True, "init.system": file})
  with pytest.raises(InputError, match="holds nothing for guide of this model .* judged with random weights"):
    starting_variables(config, build_model(config), to_judge=True)
  params = trained["params"]["system"]
  given = {path for path in weight_origin._flatten(params) if path[0] not in ("head", "visual_encoder")}
  with pytest.raises(InputError, match="holds no visual encoder; give --config.init.visual=FILE"):
    weight_origin.refuse_random(config, params, given)
  given |= {path for path in weight_origin._flatten(params) if path[0] == "visual_encoder"}
  with pytest.raises(InputError, match="holds nothing for head of this model"):
    weight_origin.refuse_random(config, params, given)


def test_an_encoder_that_stays_random_is_told_of_in_training(small, trained, caplog):
  params = trained["params"]["system"]
  caplog.set_level(logging.WARNING)

  def warned(changes, given=(), frozen=("audio_encoder",)):
    caplog.clear()
    found = weight_origin.warn_of_random(small(changes), params, given, frozen)
    assert len(caplog.records) == len(found)
    return found

  assert warned({}) == ["audio_encoder"]
  assert "RANDOM AND FROZEN: the audio encoder (vggish) was given no weights" in caplog.text
  assert "give --config.init.audio=FILE" in caplog.text
  assert warned({"warmup.steps": 3}) == warned({}, frozen=()) == []
  ear = {path for path in weight_origin._flatten(params) if path[0] == "audio_encoder"}
  assert warned({}, given=ear) == []
  assert warned({}, frozen=("audio_encoder", "!audio_encoder")) == []
  assert warned({}, ear, ("visual_encoder", "!stem_norm")) == ["visual_encoder"]  # a little of it learns


def test_a_scoreboard_says_that_an_encoder_was_random():
  from avs_jax import report
  from configs import ms3

  config = ms3.get_config().to_dict()
  (said,) = report.warnings({"config": config})
  assert said.startswith("RANDOM ENCODER: the audio encoder was frozen and given no weights (init.audio)")
  for section, key, value in (
    ("init", "audio", "vggish.pth"),
    ("init", "system", "MS3.pth"),
    ("warmup", "steps", 9),
    ("debias", "contrast", "visual_only"),
    ("optimizer", "frozen", ()),
  ):
    assert weight_origin.untaught({**config, section: {**config[section], key: value}}) == []
  assert weight_origin.untaught({}) == []
