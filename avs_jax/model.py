"""From a config to a module, its starting weights and its objective."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from avs_jax import encoders, losses, systems, weight_origin
from avs_jax.debias import contrast, guide
from avs_jax.encoders import efficientnet
from avs_jax.errors import InputError, check_choice
from avs_jax.initialise import abstract_variables, initialise
from avs_jax.step import Objective
from avs_jax.types import SAMPLE_RATE_HZ, Batch, Outputs, Stereo
from avs_jax.weight_origin import strip

log = logging.getLogger(__name__)


def build_model(config: Any) -> nn.Module:
  """The system that `config.model` names, wrapped as `config.debias` says: contrast first, the guide outside.

  Raises:
    InputError: an unknown system or setting, a gate without a guide or with "euclidean", or one in training alone.
  """
  check_choice("debias.guide", config.debias.guide, ("none", *guide.FORMS))
  if config.debias.gate and config.debias.guide == "none":
    raise InputError(
      "debias.gate=True needs a guide to open and close it; choose a debias.guide, or set debias.gate=False."
    )
  if config.debias.gate_training and not config.debias.gate:
    raise InputError(
      "debias.gate_training=True needs debias.gate=True: a gate that was trained with would be missing afterwards."
    )
  model = systems.build(**system_settings(config))
  if config.debias.contrast != "none":
    model = build_contrast(config, model)
  if config.debias.guide != "none":
    chosen = config.debias
    if chosen.gate and chosen.guide == "euclidean" and chosen.gate_level >= 0:
      raise InputError(
        "debias.gate=True: minus a distance is never above 0, so debias.guide='euclidean' would refuse every sound;"
        " choose cosine, cosine_calibrated or localised, a debias.gate_level below 0, or set debias.gate=False."
      )
    model = guide.Guided(
      model,
      form=chosen.guide,
      gate=chosen.gate,
      gate_training=chosen.gate_training,
      gate_level=chosen.gate_level,
    )
  return model


def system_settings(config: Any) -> dict[str, Any]:
  """Arguments of `systems.build`."""
  settings = config.model.to_dict()
  return {"name": settings.pop("system"), **settings}


def build_contrast(config: Any, model: nn.Module) -> nn.Module:
  """The system in its contrastive wrapper, beside its visual-only twin where the strategy has one."""
  prefix = "contrast_"
  settings = {
    key.removeprefix(prefix): value for key, value in config.debias.items() if key.startswith(prefix)
  }
  del settings["run"]
  other = settings.pop("model").to_dict()
  strategy, biased = config.debias.contrast, None
  if strategy in ("ensemble", "bias_only"):
    biased = systems.build(**{**system_settings(config), **other})
  return contrast.Contrast(model, strategy, biased, **settings)


def wrapping(config: Any) -> tuple[str, ...]:
  """The names of the levels above the system's own in the tree of parameters."""
  return ("system",) * ((config.debias.guide != "none") + (config.debias.contrast != "none"))


def frozen_parts(config: Any) -> tuple[str, ...]:
  """Parts that never learn: those of the config, and an ensemble's separately trained half."""
  return (*config.optimizer.frozen, *(("biased",) if config.debias.contrast == "ensemble" else ()))


def build_objective(config: Any, groups: Sequence[str] = ()) -> Objective:
  """The system's loss on the (debiased) logits, plus the visual-only branch's and the guide's, if any.

  Args:
    groups: broad group of each category of the data set, for `debias.mismatch`.

  Raises:
    InputError: mismatches are asked for without a guide, or of a data set without categories.
  """
  segmentation = segmentation_objective(config)
  settings = config.debias
  if settings.mismatch and (settings.guide == "none" or not groups):
    wanted = "a debias.guide" if settings.guide == "none" else "a data set that names its categories"
    raise InputError(f"debias.mismatch={settings.mismatch} needs {wanted}; set debias.mismatch=0.")
  if settings.guide == "none":
    if settings.decoys:
      raise InputError(f"debias.decoys={settings.decoys} needs a debias.guide; set debias.decoys=0.")
    return segmentation

  def guided(outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    total, parts = segmentation(outputs, batch)
    parts = {**parts, "guide": guide.guide_loss(outputs, batch)}
    total = total + settings.guide_weight * parts["guide"]
    if settings.mismatch:
      parts["mismatch"] = guide.mismatch_loss(outputs, batch, groups)
      total = total + settings.mismatch * parts["mismatch"]
    if settings.decoys:
      parts["decoys"] = guide.decoy_loss(outputs, batch)
      total = total + settings.decoys * parts["decoys"]
    return total, parts

  return guided


def segmentation_objective(config: Any) -> Objective:
  """The config's loss; a visual-only branch that learns adds the same of its own logits, equation 11.

  It hears nothing, so it has no sound to be matched or aligned with.
  """
  loss = config.loss.to_dict()
  segmentation = losses.objective(loss)
  if config.debias.contrast != "bias_only":
    return segmentation
  deaf = losses.objective({**loss, "matching": "none", "alignment": 0.0})

  def both(outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    total, parts = segmentation(outputs, batch)
    biased, _ = deaf(outputs.biased, batch)
    return total + biased, {**parts, "biased": biased}

  return both


def example_inputs(config: Any) -> tuple[np.ndarray, Any]:
  """Frames and sound of one empty clip, for tracing. The model's weights do not depend on their size."""
  seconds, size = config.data.seconds, min(config.data.size, 64)
  frames = np.zeros((1, seconds, size, size, 3), np.uint8)
  second = (SAMPLE_RATE_HZ,) if encoders.takes_waveform(config.model.audio) else (96, 64)
  sound = np.zeros((1, seconds, *second), np.float32)
  return frames, Stereo(sound, np.zeros((1, seconds, 64), np.float32)) if config.model.stereo else sound


def starting_variables(config: Any, model: nn.Module, *, to_judge: bool = False) -> dict[str, Any]:
  """Fresh variables from the seed, then whatever weight files `config.init` names, in this order:
  encoders, whole system, another run.

  An encoder that is to stay random is told of in the log.

  Args:
    to_judge: the model is not trained any more, so that no part of it may be random.

  Raises:
    InputError: a file is missing, of another network, or unreadable; or a part to be judged got no weights.
  """
  variables = initialise(model, *example_inputs(config), seed=config.seed)
  variables.setdefault("batch_stats", {})
  wrapped, given = wrapping(config), set()
  for part, name, arguments in (
    ("visual", config.model.visual, config.model.visual_args),
    ("audio", config.model.audio, config.model.audio_args),
  ):
    path = config.init[part]
    if path:
      path = pretrained_file(name) if path == "imagenet" else path
      given |= give(variables, path, name, arguments.to_dict(), (*wrapped, f"{part}_encoder"))
  if config.init.system:
    settings = system_settings(config)
    given |= give(variables, config.init.system, settings.pop("name"), settings, wrapped)
    if config.debias.guide == "cosine_released":  # published files hold it beside the system
      from avs_jax import weights

      loaded = weights.guide_from_torch(config.model.system, weights.read(config.init.system))
      if loaded is not None:
        given |= place(variables, loaded, ("guide",), config.init.system)
  if config.init.run:
    from avs_jax.checkpoint import load_variables

    given |= adopt(variables, load_variables(config.init.run), config.init.run)
  if config.debias.contrast == "ensemble":
    given |= place_biased(variables, config.debias.contrast_run, (*wrapped[1:], "biased"))
  if to_judge:
    weight_origin.refuse_random(config, variables["params"], given)
  else:
    weight_origin.warn_of_random(config, variables["params"], given, frozen_parts(config))
  return variables


def give(
  variables: dict, path: str, name: str, settings: Mapping[str, Any], prefix: tuple[str, ...]
) -> set[tuple[str, ...]]:
  """Puts a weight file of the network `name` under `prefix`; it bears published names, or those of our own files.

  Returns: paths of the parameters that it gave.
  """
  own = weight_origin.read_own(path)
  if own is not None:
    return weight_origin.fit(variables, own, prefix, path)
  return place(variables, read_weights(path, name, settings), prefix, path)


def place_biased(variables: dict, run: str, prefix: tuple[str, ...]) -> set[tuple[str, ...]]:
  """Gives the ensemble's visual-only half the weights of the run that trained it. Returns what `place` does.

  Raises:
    InputError: no run is named, or it trained another model.
  """
  from avs_jax.checkpoint import load_variables

  if not run:
    raise InputError(
      "debias.contrast=ensemble needs debias.contrast_run: the workdir of a run with debias.contrast=visual_only."
    )
  found: dict[str, Any] = {}
  for collection, tree in load_variables(run).items():
    flat = {strip(path): value for path, value in traverse_util.flatten_dict(tree).items()}
    own = {path: value for path, value in flat.items() if path[0] not in ("guide", "biased", "audio_encoder")}
    found[collection] = traverse_util.unflatten_dict(own)
    wanted = {
      path for path in traverse_util.flatten_dict(variables[collection]) if path[: len(prefix)] == prefix
    }
    if len(own) != len(wanted):
      raise InputError(
        f"debias.contrast_run={run}: has {len(own)} arrays of {collection}, the visual-only model"
        f" {len(wanted)}; give debias.contrast_model the settings it was trained with."
      )
  return place(variables, found, prefix, run)


def pretrained_file(name: str) -> str:
  """The file that "imagenet" means. Raises `InputError` for an encoder that no package ships weights of."""
  if name != "efficientnet_lite0":
    raise InputError(
      f"init.visual=imagenet: no package ships weights of {name}; give a file, or take efficientnet_lite0."
    )
  return str(efficientnet.pretrained_path())


def read_weights(path: str, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
  """A weight file of any container as variables of the network `name`. Raises `InputError` naming the file."""
  from avs_jax import weights

  try:
    return weights.from_torch(name, weights.read(path), **settings)
  except InputError as error:
    raise error if path in str(error) else InputError(f"{path}: {error}") from None


def place(
  variables: dict, loaded: Mapping[str, Any], prefix: tuple[str, ...], origin: str
) -> set[tuple[str, ...]]:
  """Copies loaded variables into the model's, under `prefix`. Returns paths of the parameters that were given.

  Raises:
    InputError: a variable that the model has not there.
  """
  count, given = 0, set()
  for collection, tree in loaded.items():
    target = traverse_util.flatten_dict(variables.get(collection, {}))
    for path, value in traverse_util.flatten_dict(tree).items():
      full = (*prefix, *path)
      if full not in target:
        raise InputError(
          f"{origin}: holds {'/'.join(path)}, which the model has not under {'/'.join(prefix)}."
        )
      target[full] = np.asarray(value, target[full].dtype)
      count += 1
      given |= {full} if collection == "params" else set()
    variables[collection] = traverse_util.unflatten_dict(target)
  log.info("loaded %d arrays from %s into %s", count, origin, "/".join(prefix) or "the system")
  return given


def adopt(variables: dict, found: Mapping[str, Any], origin: str) -> set[tuple[str, ...]]:
  """Takes over arrays of the same path (with or without a wrapping level) and shape; names how many.

  Returns: paths of the parameters that were given.

  Raises:
    InputError: nothing fits.
  """
  taken = skipped = 0
  given = set()
  for collection, tree in found.items():
    source = {strip(path): value for path, value in traverse_util.flatten_dict(tree).items()}
    target = traverse_util.flatten_dict(variables.get(collection, {}))
    for path, value in target.items():
      other = source.get(strip(path))
      if other is not None and other.shape == value.shape:
        target[path] = np.asarray(other, value.dtype)
        taken += 1
        given |= {path} if collection == "params" else set()
      else:
        skipped += 1
    variables[collection] = traverse_util.unflatten_dict(target)
  if not taken:
    raise InputError(f"init.run={origin}: no parameter there has a name and shape of this model.")
  log.info("took %d arrays from %s; %d of this model start fresh", taken, origin, skipped)
  return given


def check_weights(config: Any, model: nn.Module, variables: Mapping[str, Any], workdir: str) -> None:
  """Refuses weights that are not of the model which the config describes.

  Raises:
    InputError: an array is missing, too many, or of another shape.
  """
  shapes, _ = abstract_variables(model, *example_inputs(config))
  wanted = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}
  found = {path: np.shape(leaf) for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
  wrong = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
  if wrong:
    raise InputError(
      f"{workdir}: its weights are of another model ({len(wrong)} arrays differ, first {'/'.join(wrong[0])});"
      " leave out --config, or give the one it was trained with."
    )
