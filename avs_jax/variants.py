"""Several runs from one config, one after the other, and the table that sets them side by side."""

import contextlib
import logging
import os
from typing import Any

import jax

from avs_jax import comparison, limits, report, settings
from avs_jax.checkpoint import Checkpoints
from avs_jax.errors import InputError, make_folder

# Sections whose keys are names of somebody else's: encoders' arguments, prefixes of parameters.
FREE = ("visual_args", "audio_args", "encoder_args", "contrast_model", "multipliers", "freeze_epochs")

log = logging.getLogger(__name__)


def train_all(config: Any, workdir: str) -> dict[str, dict]:
  """Trains `config`, or each of `config.variants` in a folder of its own, and compares them.

  A variant holds the settings in which it differs, in the config's own sections. Variants with the same
  encoders share their warm-up. A finished variant is not trained again, and one that was trained with other settings
  is refused before any is trained.

  Returns: {variant: {condition: figures}}, {} for a config without variants.

  Raises:
    InputError: the folder holds a run of one config or other settings, or a variant sets an unknown key.
    SystemExit(0): as of `train`.
  """
  from avs_jax.logbook import write_config
  from avs_jax.train import train

  if not config.variants:
    train(config, workdir)
    return {}
  own = {name: variant(config, name) for name in config.variants}  # all are understood before one is trained
  if settings.holds_run(workdir):
    raise InputError(
      f"{workdir} holds a run of one config, and this one has variants; give another --workdir."
    )
  for name, chosen in own.items():
    limits.check_values(chosen)
    settings.refuse_other(chosen, os.path.join(workdir, name))
  make_folder(workdir)
  if jax.process_index() == 0:
    write_config(config, workdir)
  results = {}
  for name, chosen in own.items():
    folder = os.path.join(workdir, name)
    chosen.warmup.folder = chosen.warmup.folder or os.path.join(os.path.abspath(workdir), "warmup")
    log.info("=== %s: %s", name, chosen.title)
    if not _is_judged(chosen, folder):
      train(chosen, folder)
    results[name] = report.read(folder)
  return _side_by_side(config, workdir, results)


def _is_judged(config: Any, folder: str) -> bool:
  """Whether the folder's scoreboard is of these very settings, and of weights that were trained to the end.

  Not so where a run was made longer and stopped, or judged while it was being trained.
  """
  from avs_jax.train import planned_steps
  from configs import common
  from data_pipelines import sources

  board = report.read(folder)
  if board is None:
    return False
  try:
    then = common.from_json(board["record"]["config"], folder)
  except (KeyError, InputError):
    return False
  if settings.deciding(then) != settings.deciding(config):
    return False
  if not os.path.isdir(os.path.join(folder, "checkpoints")):
    return False
  with contextlib.closing(Checkpoints(os.path.join(folder, "checkpoints"), keep=0)) as kept:
    saved = kept.steps()
  return bool(saved) and saved[-1] >= planned_steps(config, len(sources.build(config, "train")))[0]


def evaluate_all(config: Any, workdir: str) -> dict[str, dict]:
  """Judges the run in `workdir`, or those of all its variants. Returns what `train_all` does.

  Where `config.init` gives the weights of one run and no variant has its own, they are judged once, by the config
  without its variants.
  """
  from avs_jax.evaluate import evaluate, is_run

  given = config.init.run or config.init.system
  if config.variants and given and not any(is_run(os.path.join(workdir, name)) for name in config.variants):
    log.info("%s is judged once, by the config without its variants (%s)", given, ", ".join(config.variants))
    config = config.copy_and_resolve_references()
    config.variants = type(config)()
  if not config.variants:
    evaluate(config, workdir)
    return {}
  results = {}
  for name in config.variants:
    folder = os.path.join(workdir, name)
    evaluate(variant(config, name), folder)
    results[name] = report.read(folder)
  return _side_by_side(config, workdir, results)


def _side_by_side(config: Any, workdir: str, results: dict[str, dict]) -> dict[str, dict]:
  """The table and the picture that compare the runs."""
  from avs_jax import visualize

  if jax.process_index() == 0:
    comparison.write(workdir, results)
    data_set = next(iter(results.values()))["record"]["data_set"]
    visualize.compared(
      os.path.join(workdir, "comparison.png"),
      {name: os.path.join(workdir, name) for name in results},
      caption=f"{config.title}: {data_set}",
    )
  return results


def variant(config: Any, name: str) -> Any:
  """The config with one variant's changes applied and no variants left.

  Raises:
    InputError: a variant sets a key that the config has not.
  """
  own = config.copy_and_resolve_references()
  changes = config.variants[name]
  own.variants = type(own)()
  _apply(own, changes, f"variants.{name}")
  own.title = f"{config.title}: {name.replace('_', ' ')}" if config.title else name
  return own


def _apply(config: Any, changes: Any, where: str) -> None:
  for key, value in changes.items():
    is_free = where.split(".")[-1] in FREE
    if key not in config and not is_free:
      raise InputError(f"{where}.{key}: the config has no such key.")
    if hasattr(value, "items"):
      _apply(config[key], value, f"{where}.{key}")
      continue
    try:
      with config.unlocked():
        config[key] = value
    except TypeError as error:
      raise InputError(f"{where}.{key}={value!r}: {error}.") from None
