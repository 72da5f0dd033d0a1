"""Several runs from one config, one after the other, and the table that sets them side by side."""

import logging
import os
from typing import Any

from avs_jax import report
from avs_jax.errors import InputError

log = logging.getLogger(__name__)


def train_all(config: Any, workdir: str) -> dict[str, dict]:
  """Trains `config`, or each of `config.variants` in a folder of its own, and compares them.

  A variant holds the settings in which it differs, in the config's own sections. The warm-up is shared. A
  finished variant is not trained
  again.

  Returns: {variant: {condition: figures}}, {} for a config without variants.
  """
  from avs_jax.train import train

  if not config.variants:
    train(config, workdir)
    return {}
  results = {}
  for name in config.variants:
    own = variant(config, name)
    own.warmup.folder = own.warmup.folder or os.path.join(os.path.abspath(workdir), "warmup")
    folder = os.path.join(workdir, name)
    log.info("=== %s: %s", name, own.title)
    if report.read(folder) is None:
      train(own, folder)
    results[name] = report.read(folder)
  report.compare(workdir, results)
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
    if key not in config:
      raise InputError(f"{where}.{key}: the config has no such key.")
    if hasattr(value, "items"):
      _apply(config[key], value, f"{where}.{key}")
    else:
      config[key] = value
