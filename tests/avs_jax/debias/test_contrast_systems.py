"""Contrasts around the real systems, from configs: shapes, cost, weights, and a whole small run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import report, systems
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, build_objective, frozen_parts, starting_variables
from avs_jax.types import Batch

RANDOM = np.random.default_rng(0)


TINY = {"model.visual_args.width": 2, "model.audio_args.width": 1 / 64, "data.seconds": 2}
SYSTEMS = {name: {} for name in systems.NAMES}


def config_of(small, name, changes):
  from configs import tiny

  config = tiny.get_config(name)
  with config.unlocked():
    for key, value in {**TINY, **SYSTEMS[name], **changes}.items():
      *sections, last = key.split(".")
      section = config
      for each in sections:
        section = section[each]
      section[last] = value
  return config


def a_batch(clips=2, seconds=2, side=32):
  random = np.random.default_rng(1)
  ones = np.ones((clips, seconds), bool)
  return Batch(
    frames=random.integers(0, 256, (clips, seconds, side, side, 3), np.uint8),
    log_mel=random.standard_normal((clips, seconds, 96, 64)).astype(np.float32),
    masks=random.integers(0, 2, (clips, seconds, side, side)).astype(np.int32),
    annotated=ones,
    present=ones,
    condition=np.zeros(clips, np.int32),
    index=np.arange(clips, dtype=np.int32),
  )


@pytest.mark.parametrize("name", systems.NAMES)
@pytest.mark.parametrize(
  ("strategy", "guide"),
  [("ensemble", "cosine"), ("bias_only", "cosine"), ("uncertainty", "cosine"), ("uncertainty", "none")],
)
def test_every_system_takes_every_guide_and_contrast(small, name, strategy, guide):
  """Shapes of training, inference and loss, without computing them."""
  config = config_of(
    small, name, {"debias.contrast": strategy, "debias.guide": guide, "debias.gate": guide != "none"}
  )
  model, batch = build_model(config), a_batch()
  rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

  def run(batch):
    variables = model.init(rngs, batch.frames, batch.log_mel)
    judged = model.apply(variables, batch.frames, batch.log_mel)
    trained, _ = model.apply(
      variables, batch.frames, batch.log_mel, train=True, rngs=rngs, mutable=["batch_stats"]
    )
    return variables, judged.logits, judged.similarity, build_objective(config)(trained, batch)

  variables, logits, similarity, (total, parts) = jax.eval_shape(run, batch)
  assert logits.shape == (2, 2, 32, 32, 1) and logits.dtype == jnp.float32
  assert total.shape == ()
  assert ("guide" in parts) == (guide == "cosine") and ("biased" in parts) == (strategy == "bias_only")
  assert (similarity is not None) == (guide == "cosine")
  inside = variables["params"]["system"] if guide == "cosine" else variables["params"]
  assert ("biased" in inside) == (strategy in ("ensemble", "bias_only"))
  assert ("visual_encoder" in inside.get("biased", {})) == (strategy == "ensemble")
  assert frozen_parts(config)[-1:] == (("biased",) if strategy == "ensemble" else ())


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_debiased_logits_are_twice_the_clean_less_the_noised_of_the_bare_system(small, dtype):
  changes = {"debias.contrast": "uncertainty", "model.dtype": dtype, "model.tpavi_stages": (4,)}
  config = config_of(small, "avsbench", changes)
  model, batch = build_model(config), a_batch()
  variables = initialise(model, batch.frames, batch.log_mel, seed=0)
  out = jax.jit(model.apply)(variables, batch.frames, batch.log_mel)
  own = {name: tree["system"] for name, tree in variables.items()}
  bare = jax.jit(functools.partial(model.system.apply, method="segment"))
  audio = out.audio_features
  noise = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, *audio.shape[1:])), audio.shape)
  clean, biased = (bare(own, batch.frames, sound.astype(audio.dtype)).logits for sound in (audio, noise))
  tolerance = 1e-4 if dtype == "float32" else 0.05
  np.testing.assert_allclose(out.logits, 2 * clean - biased, rtol=tolerance, atol=tolerance)


def test_a_contrast_costs_less_than_1_6_of_a_system_whose_eyes_dominate(small):
  wide = {"model.visual": "pvt_v2_b1", "model.visual_args": {}, "model.width": 16}

  def flops(strategy):
    config = config_of(small, "avsbench", {"debias.contrast": strategy})
    with config.unlocked():
      config.model.visual_args = type(config)()
      for key, value in wide.items():
        if key != "model.visual_args":
          config.model[key.split(".")[1]] = value
    model, batch = build_model(config), a_batch(clips=1, seconds=1, side=64)
    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), batch.frames, batch.log_mel)
    lowered = jax.jit(lambda v, f, a: model.apply(v, f, a).logits).lower(shapes, batch.frames, batch.log_mel)
    return lowered.cost_analysis()["flops"]

  assert flops("uncertainty") < 1.6 * flops("none")


def test_an_ensemble_takes_the_weights_of_its_visual_only_run(small, tmp_path):
  from avs_jax.checkpoint import Checkpoints

  deaf = config_of(small, "avsbench", {"debias.contrast": "visual_only", "seed": 5})
  trained = starting_variables(deaf, build_model(deaf))
  kept = Checkpoints(str(tmp_path / "deaf" / "best"), 1)
  kept.save(1, trained, {})
  kept.wait()
  kept.close()
  changes = {"debias.contrast": "ensemble", "debias.guide": "cosine"}
  config = config_of(small, "avsbench", {**changes, "debias.contrast_run": str(tmp_path / "deaf")})
  variables = starting_variables(config, build_model(config))
  for collection in ("params", "batch_stats"):
    ours, theirs = variables[collection]["system"]["biased"], trained[collection]["system"]
    # What the sound alone reaches is never asked and so not there.
    jax.tree.map(np.testing.assert_array_equal, ours, {name: theirs[name] for name in ours})
  with pytest.raises(InputError, match="debias.contrast=ensemble needs debias.contrast_run"):
    bare = config_of(small, "avsbench", changes)
    starting_variables(bare, build_model(bare))
  with pytest.raises(InputError, match="contrast_run=.*; give debias.contrast_model the settings"):
    other = config_of(
      small,
      "avsbench",
      {**changes, "debias.contrast_run": str(tmp_path / "deaf"), "model.tpavi_stages": (4,)},
    )
    starting_variables(other, build_model(other))


@pytest.mark.slow
def test_a_guided_gated_contrast_is_trained_stopped_and_judged_under_four_sounds(small, tmp_path, devices):
  from avs_jax.evaluate import evaluate
  from avs_jax.train import train

  changes = {"debias.contrast": "bias_only", "debias.guide": "cosine", "debias.gate": True, "steps": 2}
  config = small({**changes, "eval.conditions": ("positive", "silence")})
  train(config, str(tmp_path))
  first = report.read(str(tmp_path))["silence"]
  assert evaluate(config, str(tmp_path))["silence"]["fpr"] == first["fpr"]
