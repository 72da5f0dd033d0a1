"""An exported model gives the model's numbers for any batch, and its card says what it is."""

import json

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import bundle, export, report
from avs_jax.checkpoint import Checkpoints, combined, digest
from avs_jax.errors import InputError
from avs_jax.initialise import abstract_variables, initialise
from avs_jax.logbook import TRAINING_DATA, training_data
from avs_jax.model import build_model, example_inputs
from avs_jax.types import Outputs
from configs import common, tiny


def figures(iou: float) -> dict:
  keys = ("iou_frame", "f_max_batch20", "iou_dataset", "f_max_dataset", "f_at_half", "fpr", "iou_frame_empty")
  floors = {f"{name}_floor": 0.1 for name in ("iou_frame", "f_max_batch20", "f_max_dataset")}
  return {**dict.fromkeys(keys, iou), **floors, "quiet_frames": 0.5, "frames": 6, "clips": 3}


def make_run(config, folder) -> dict:
  """A run's folder with a best checkpoint of fresh weights, and a scoreboard."""
  model = build_model(config)
  variables = initialise(model, *example_inputs(config), seed=3)
  variables.setdefault("batch_stats", {})
  best = Checkpoints(str(folder / "best"), 1)
  best.save(1, variables, {})
  best.wait()
  best.close()
  (folder / "config.json").write_text(config.to_json_best_effort())
  record = {
    "data_set": "generated single-source clips (stand-in)",
    "is_stand_in": True,
    "split": "test",
    "clips": 3,
    "config": {},
    "weights_digest": combined(digest(variables)),
  }
  results = {name: figures(0.625) for name in ("positive", "silence", "noise", "offscreen")}
  report.write(str(folder), results, record, show=False)
  return variables


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
  """(config, variables, run's folder, folder of the export)."""
  folder = tmp_path_factory.mktemp("run")
  config = small()
  variables = make_run(config, folder)
  output = folder / "exported" / "model"
  export.export(common.from_workdir(str(folder)), str(folder), str(output))
  return config, variables, folder, output


def test_the_reloaded_program_gives_the_models_numbers_for_any_batch(exported):
  config, variables, _, output = exported
  program = export.load(str(output / export.PROGRAM))
  assert program.platforms == ("cpu", "cuda", "tpu")
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (3, 2, 32, 32, 3), np.uint8)
  log_mel = rng.normal(size=(3, 2, 96, 64)).astype(np.float32)
  model = jax.jit(export.make_function(build_model(config), variables))
  wanted = model(frames=frames, log_mel=log_mel)["probability"]
  assert np.ptp(wanted) > 0
  for clips in (1, 3):
    found = program.call(frames=frames[:clips], log_mel=log_mel[:clips])
    assert found.keys() == {"probability"}
    np.testing.assert_allclose(found["probability"], wanted[:clips], atol=1e-6)


def test_the_bundle_holds_weights_config_and_card(exported):
  config, variables, _, output = exported
  weights, settings, card = bundle.load(output / export.WEIGHTS)
  assert digest(weights) == digest(variables)
  assert common.from_json(settings, "bundle").to_dict() == config.to_dict()
  assert card["batching"] == export.TOGETHER
  assert card["is_stand_in"] and card["figures"]["positive"]["iou_frame"] == 0.625


def test_the_card_names_the_stand_in_the_figures_and_the_licence(exported):
  *_, output = exported
  text = (output / export.CARD).read_text()
  assert "**Trained on a stand-in, not on a published data set" in text
  assert "On generated single-source clips (stand-in), test, 3 clips" in text
  assert "| own sound | 0.6250 |" in text
  assert "uint8[b, 2, 32, 32, 3]" in text
  assert "program.call(frames=frames, log_mel=log_mel)" in text
  assert text.startswith("---\nlicense: apache-2.0\n")
  assert "other weights than these" not in text


def test_a_file_for_others_names_no_folder_of_this_machine():
  config = tiny.get_config()
  config.data.media_cache, config.warmup.folder = "/somebody/media", "/somebody/warm"
  config.init.system, config.init.visual = "/somebody/MS3.pth", "imagenet"
  config.data.root = "/somebody/AVSBench"
  config.debias.contrast_run = "/somebody/runs/deaf"
  config.marks.weights, config.marks.folder = "/somebody/BEATs.pt", "/somebody/marks"
  config.eval.unseen, config.eval.noise_mix.kind = ("/somebody/fork.wav", "rooster"), ("/somebody/rain.wav",)
  assert "/somebody" not in json.dumps(export.portable(json.loads(config.to_json_best_effort())))
  settings = export.portable(json.loads(config.to_json_best_effort()))
  assert (settings["init"]["system"], settings["data"]["root"]) == ("MS3.pth", "$AVS_DATA_ROOT")
  assert (settings["debias"]["contrast_run"], settings["eval"]["unseen"]) == ("deaf", ["fork.wav", "rooster"])
  assert "(imagenet, MS3.pth)" in export.licence(config, "AVSBench-MS3")


def test_a_stand_in_in_a_data_sets_layout_is_named_as_one(exported, small, tmp_path):
  _, variables, *_ = exported
  config = small({"data.root": "/data", "data.name": "ms3"})
  for title, licence in (
    ("generated multi-source clips (stand-in), in the layout of MS3", "drawn by the program itself"),
    ("composed multi-source clips of real media, train (stand-in), in the layout of MS3", "under GPL-3.0"),
  ):
    source = type("Source", (), {"title": title, "is_stand_in": True, "__len__": lambda _: 3})()
    (tmp_path / TRAINING_DATA).write_text(training_data(source))
    card = export.describe(config, variables, None, workdir=str(tmp_path))
    assert (card["trained_on"], card["is_stand_in"]) == (title, True) and licence in card["licence"]
  (tmp_path / TRAINING_DATA).write_text(json.dumps({"title": "MS3", "is_stand_in": False}))
  assert export.training_data(config, str(tmp_path)) == ("AVSBench-MS3", False)


def test_the_card_names_the_classes(exported, small):
  _, variables, *_ = exported
  names = export.describe(small({"data.name": "avss", "model.num_classes": 9}), variables, None)["classes"]
  assert len(names) == 9 and names[0] == "background" and "guitar" in names


def test_a_scoreboard_of_other_weights_is_said_to_be_so(exported, small):
  config, variables, folder, _ = exported
  changed = jax.tree.map(lambda x: x + 1, variables)
  card = export.describe(config, changed, report.read(str(folder)))
  assert "measured with other weights" in export.judged(card)
  assert "Not yet" in export.judged(export.describe(config, changed, None))
  config = small({"data.root": "/data", "init.visual": "pvt.pth"})
  assert "they began from (pvt.pth)" in export.describe(config, variables, None)["licence"]
  assert export.describe(config, variables, None)["trained_on"] == "AVSBench-S4"


def test_published_weights_are_said_to_be_so_and_judged_by_a_board_of_their_own(exported):
  config, variables, folder, output = exported
  board = report.read(str(folder))
  card = export.describe(config, variables, board, published="/somebody/MS3.pth")
  assert card["trained_on"] == "published weights (MS3.pth), not trained here: what its authors say"
  assert not card["is_stand_in"] and card["figures"] == export.describe(config, variables, board)["figures"]
  changed = jax.tree.map(lambda x: x + 1, variables)
  card = export.describe(config, changed, board, published=str(output / export.WEIGHTS))
  assert "not trained here: generated clips (stand-in)" in card["trained_on"] and card["is_stand_in"]
  assert "figures" not in card


def test_sixteen_bits_halve_the_file_and_are_what_the_program_gets_too(exported, tmp_path, monkeypatch):
  _, variables, folder, output = exported
  lowered = []

  def lower(model, variables, specs):
    lowered.append(variables)
    return export.load(str(output / export.PROGRAM)), export.TOGETHER

  monkeypatch.setattr(export, "lower", lower)
  export.export(common.from_workdir(str(folder)), str(folder), str(tmp_path), half=True)
  stored, _, card = bundle.load(tmp_path / export.WEIGHTS)
  jax.tree.map(np.testing.assert_array_equal, stored["params"], lowered[0]["params"])
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), stored["params"], variables["params"]
  )
  assert not card["scoreboard_is_of_these_weights"]
  sizes = [(path / export.WEIGHTS).stat().st_size for path in (tmp_path, output)]
  weights = 4 * sum(x.size for x in jax.tree.leaves(variables))
  assert sizes[1] - sizes[0] == pytest.approx(weights / 2, rel=0.02)


def test_a_folder_that_is_no_run_is_a_sentence(exported, small, tmp_path):
  config, _, folder, _ = exported
  with pytest.raises(InputError, match="nowhere/config.json is not there; give --config"):
    common.from_workdir("nowhere")
  with pytest.raises(InputError, match="no checkpoint there; give the --workdir of a finished"):
    export.export(config, str(tmp_path), str(tmp_path / "out"))
  with pytest.raises(InputError, match="--mode=export needs --output=FOLDER"):
    export.export(config, str(folder), None)
  other = small({"model.width": 16})
  with pytest.raises(
    InputError, match=r"its weights are of another model \(\d+ arrays differ, first batch_stats/"
  ):
    export.export(other, str(folder), str(tmp_path / "out"))
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="file: the folder cannot be made"):
    export.export(config, str(folder), str(tmp_path / "file"))
  assert not (tmp_path / "out").exists()


def test_a_broken_program_is_a_sentence(tmp_path):
  path = tmp_path / "model.jaxexport"
  with pytest.raises(InputError, match="cannot be read .No such file"):
    export.load(str(path))
  path.write_bytes(b"something else")
  with pytest.raises(InputError, match="is no exported program that jax .* reads"):
    export.load(str(path))


class Counting(nn.Module):
  """Needs to know the number of clips."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, frames, sound, train=False, present=None, marks=None):
    assert present is not None
    grey = frames.astype(jnp.float32).mean(-1, keepdims=True) * (1 + marks.sum(-1)[..., None, None, None])
    logits = nn.Dense(self.num_classes)(grey + sound.mean((-1, -2))[..., None, None, None])
    return Outputs(logits=logits + jnp.zeros((len(frames), 1, 1, 1, 1)), similarity=sound[..., 0, 0])


def test_a_model_that_must_know_the_batch_runs_its_clips_in_turn():
  (b,) = jax.export.symbolic_shape("b")
  shapes = {"frames": (2, 4, 4, 3), "log_mel": (2, 96, 64), "marks": (2, 5)}
  rng = np.random.default_rng(0)
  inputs = {name: rng.normal(size=(3, *shape)).astype(np.float32) for name, shape in shapes.items()}
  inputs["frames"] = rng.integers(0, 256, (3, *shapes["frames"]), np.uint8)
  specs = {name: jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for name, x in inputs.items()}
  model = Counting()
  variables = model.init(jax.random.key(0), inputs["frames"], inputs["log_mel"], False, True, inputs["marks"])
  program, how = export.lower(model, variables, specs)
  assert how == export.IN_TURN
  found, wanted = program.call(**inputs), jax.jit(export.make_function(model, variables))(**inputs)
  assert found.keys() == wanted.keys() == {"probability", "logits", "similarity"}
  assert found["logits"].shape == (3, 2, 4, 4, 3)
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("system", "guide"),
  [
    ("avsbench", "localised"),
    ("avsegformer", "none"),
    ("active_queries", "none"),
    ("ravs", "none"),
    ("sdavs", "cosine"),
  ],
)
def test_every_system_is_exported_for_every_platform_and_any_number_of_clips_at_once(system, guide):
  config = tiny.get_config(system)
  if system == "active_queries":
    config.marks.kind = "kmeans"
  config.model.stereo = system == "avsegformer"
  config.data.seconds = 2
  config.debias.guide = guide
  model = build_model(config)
  shapes, _ = abstract_variables(model, *example_inputs(config))
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  specs = export.input_specs(config)
  assert ("marks" in specs) == (system == "active_queries")
  assert ("pan" in specs) == (system == "avsegformer")
  program, found = export.lower(model, variables, specs)
  assert program.platforms == export.PLATFORMS
  assert found == export.TOGETHER
  shapes = [[str(size) for size in aval.shape] for aval in program.out_avals]
  assert ["b", "2", "32", "32"] in shapes
  json.dumps(export.describe(config, variables, None))


def test_a_file_is_exported_again_and_keeps_what_its_card_says(exported, tmp_path):
  config, *_, output = exported
  file = str(output / export.WEIGHTS)
  export.export(config, str(tmp_path / "none"), str(tmp_path / "again"), weights=file)
  (weights, settings, card), (before, told, old) = (
    bundle.load(each) for each in (tmp_path / "again" / export.WEIGHTS, file)
  )
  assert digest(weights) == digest(before)
  assert settings["model"] == told["model"]
  assert card == old and card["figures"]["positive"]["iou_frame"] == 0.625
  assert "| own sound | 0.6250 |" in (tmp_path / "again" / export.CARD).read_text()


def test_rounded_weights_are_no_longer_those_that_were_judged(exported, tmp_path):
  config, *_, output = exported
  told = "The run's scoreboard was measured with other weights"
  card = export.export(config, "", str(tmp_path), weights=str(output / export.WEIGHTS), half=True)
  assert card["scoreboard_is_of_these_weights"] is False
  assert told not in (output / export.CARD).read_text() and told in (tmp_path / export.CARD).read_text()
