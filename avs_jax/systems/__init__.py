"""The systems by name: composition only, one paper each."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
from flax.core import FrozenDict

from avs_jax.errors import InputError, check_choice
from avs_jax.systems.active_queries import ActiveQueries
from avs_jax.systems.avsbench import AVSBench
from avs_jax.systems.avsegformer import AVSegFormer
from avs_jax.systems.ravs import RAVS
from avs_jax.systems.sdavs import SDAVS

SYSTEMS = {
  "avsbench": AVSBench,
  "avsegformer": AVSegFormer,
  "active_queries": ActiveQueries,
  "ravs": RAVS,
  "sdavs": SDAVS,
}
NAMES = tuple(SYSTEMS)


def build(name: str, **overrides) -> nn.Module:
  """The system `name` with its config's keys overridden, e.g. `visual="resnet50", num_classes=71`.

  Raises:
    InputError: unknown system or key; the message lists those that exist.
  """
  check_choice("model.system", name, SYSTEMS)
  system = SYSTEMS[name]
  known = {field.name for field in dataclasses.fields(system)} - {"parent", "name"}
  unknown = sorted(set(overrides) - known)
  if unknown:
    raise InputError(
      f"system {name} has no setting {', '.join(unknown)}; it knows {', '.join(sorted(known))}."
    )
  frozen = {
    key: FrozenDict(value)
    if isinstance(value, Mapping)
    else tuple(value)
    if isinstance(value, list)
    else value
    for key, value in overrides.items()
  }
  return system(**frozen)
