"""Several runs from one config, one after the other, and the table that sets them side by side."""

import os
from typing import Any

from absl import logging

from avs_jax import report
from avs_jax.errors import InputError


def train_all(config: Any, workdir: str) -> dict[str, dict]:
  """Trains `config`, or each of `config.variants` in a folder of its own, and compares them.

  A variant is {dotted key: value} over the config. The warm-up is shared. A finished variant is not trained
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
    logging.info("=== %s: %s", name, own.title)
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
  own.variants = type(own)()
  for key, value in config.variants[name].items():
    section, _, leaf = key.rpartition(".")
    holder = own
    for part in section.split(".") if section else ():
      holder = holder[part]
    if leaf not in holder:
      raise InputError(f"variants.{name}: the config has no key {key!r}.")
    holder[leaf] = value
  own.title = f"{config.title}: {name.replace('_', ' ')}" if config.title else name
  return own
