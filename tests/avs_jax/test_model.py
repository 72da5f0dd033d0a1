"""From a config to a model: encoders, whole systems and other runs give the weights that were asked for."""

import numpy as np
import pytest

from avs_jax import model
from avs_jax.debias.guide import Guided
from avs_jax.errors import InputError
from avs_jax.model import adopt, build_model, build_objective, example_inputs, place, starting_variables
from avs_jax.systems.avsbench import AVSBench


def test_the_config_names_the_system_and_the_guide_wraps_it(small):
  assert isinstance(build_model(small()), AVSBench)
  guided = build_model(small({"debias.guide": "cosine"}))
  assert isinstance(guided, Guided)
  assert guided.system.width == 8


def test_example_inputs_are_small_whatever_the_config(small):
  frames, log_mel = example_inputs(small({"data.size": 224, "data.seconds": 5}))
  assert frames.shape == (1, 5, 64, 64, 3)
  assert log_mel.shape == (1, 5, 96, 64)
  _, waveform = example_inputs(small({"model.audio": "beats"}))
  assert waveform.shape == (1, 2, 16_000)


def test_another_runs_weights_are_taken_where_name_and_shape_fit(finished, small, same):
  _, folder, _ = finished
  from avs_jax.checkpoint import load_variables

  kept = load_variables(str(folder))
  config = small({"init.run": str(folder), "debias.guide": "cosine", "model.tpavi_stages": (3, 4)})
  variables = starting_variables(config, build_model(config))
  system = variables["params"]["system"]
  same(system["visual_encoder"], kept["params"]["visual_encoder"])
  same(system["tpavi_4"], kept["params"]["tpavi_4"])
  fresh = small({"debias.guide": "cosine", "model.tpavi_stages": (3, 4)})
  same(system["tpavi_3"], starting_variables(fresh, build_model(fresh))["params"]["system"]["tpavi_3"])


def test_a_run_with_nothing_in_common_is_refused():
  variables = {"params": {"head": {"kernel": np.zeros((2, 2))}}}
  with pytest.raises(
    InputError, match="init.run=there: no parameter there has a name and shape of this model"
  ):
    adopt(variables, {"params": {"head": {"kernel": np.zeros((3, 3))}}}, "there")


def test_an_init_run_without_checkpoints_is_refused(small, tmp_path):
  config = small({"init.run": str(tmp_path)})
  with pytest.raises(InputError, match="no checkpoint there"):
    starting_variables(config, build_model(config))


def test_placing_names_what_the_model_has_not():
  variables = {"params": {"visual_encoder": {"a": np.zeros(2)}}}
  place(variables, {"params": {"a": np.ones(2)}}, ("visual_encoder",), "x.pth")
  assert variables["params"]["visual_encoder"]["a"].tolist() == [1, 1]
  with pytest.raises(InputError, match="x.pth: holds b, which the model has not under visual_encoder"):
    place(variables, {"params": {"b": np.ones(2)}}, ("visual_encoder",), "x.pth")


def test_a_missing_weight_file_is_one_sentence(small, tmp_path):
  config = small({"init.audio": str(tmp_path / "vggish.pth")})
  with pytest.raises(InputError, match="vggish.pth"):
    starting_variables(config, build_model(config))


def test_the_guides_loss_is_added_with_its_weight(small):
  import jax.numpy as jnp

  from avs_jax.types import Batch, Outputs

  outputs = Outputs(logits=jnp.zeros((2, 1, 4, 4, 1)), similarity=jnp.zeros((2, 1)))
  batch = Batch(
    frames=jnp.zeros((2, 1, 4, 4, 3)), log_mel=jnp.zeros((2, 1, 96, 64)), masks=jnp.zeros((2, 1, 4, 4), jnp.int32),
    annotated=jnp.ones((2, 1), bool), present=jnp.ones((2, 1), bool),
    condition=jnp.asarray([0, 1]), index=jnp.asarray([0, 1]),
  )  # fmt: skip
  alone, _ = build_objective(small())(outputs, batch)
  total, parts = build_objective(small({"debias.guide": "cosine", "debias.guide_weight": 2.0}))(
    outputs, batch
  )
  assert float(parts["guide"]) == pytest.approx(np.log(2), rel=1e-6)
  assert float(total) == pytest.approx(float(alone) + 2 * np.log(2), rel=1e-6)


def test_a_gate_that_would_refuse_every_sound_is_refused_itself(small):
  with pytest.raises(InputError, match="minus a distance is never above 0"):
    build_model(small({"debias.guide": "euclidean", "debias.gate": True}))


def test_a_deaf_branch_is_neither_matched_nor_aligned_with_a_sound(small, monkeypatch):
  asked = []
  monkeypatch.setattr(model.losses, "objective", asked.append)
  model.segmentation_objective(
    small({"debias.contrast": "bias_only", "loss.alignment": 0.1, "loss.matching": "kl"})
  )
  hears, deaf = ({name: loss[name] for name in ("alignment", "matching")} for loss in asked)
  assert hears == {"alignment": 0.1, "matching": "kl"} and deaf == {"alignment": 0.0, "matching": "none"}


def test_a_mistyped_guide_is_told_all_choices_none_among_them(small):
  with pytest.raises(InputError, match="debias.guide='cosin' is not known; choose one of none, cosine, "):
    build_model(small({"debias.guide": "cosin"}))
