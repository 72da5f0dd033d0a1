"""One program from a laptop to a pod: the device mesh and what is laid out on it how."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avs_jax.errors import InputError

# Below this many elements a weight is cheaper to copy than to gather.
_SHARD_FROM = 1 << 16


def make_mesh(batch: int, model: int = 1, devices: list | None = None) -> Mesh:
  """A mesh with axes `data` and `model` over as many devices as the global batch can be dealt to.

  Args:
    batch: global batch size in clips; the `data` axis is the largest device count that divides it.
    model: devices that share one copy of the weights.

  Raises:
    InputError: `model` does not divide the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  if len(devices) % model:
    raise InputError(f"mesh.model={model} must divide the {len(devices)} devices of this machine.")
  data = len(devices) // model
  if jax.process_count() == 1:
    while batch % data:
      data -= 1
  elif batch % data:
    raise InputError(f"schedule.batch={batch} must be a multiple of {data} devices on several hosts.")
  used = np.asarray(devices[: data * model]).reshape(data, model)
  return Mesh(used, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def by_clip(mesh: Mesh) -> NamedSharding:
  """Clips are dealt over the `data` axis."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def weight_sharding(mesh: Mesh, tree: Any) -> Any:
  """A sharding per leaf: large weights are split over `model` along their longest divisible axis."""
  size = mesh.shape["model"]

  def layout(leaf: Any) -> NamedSharding:
    shape = np.shape(leaf)
    if size == 1 or np.prod(shape) < _SHARD_FROM:
      return replicated(mesh)
    axes = [axis for axis in range(len(shape)) if shape[axis] % size == 0]
    if not axes:
      return replicated(mesh)
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "model"))

  return jax.tree.map(layout, tree)


def put_batch(mesh: Mesh, batch: Any) -> Any:
  """This process's rows of the global batch, laid out over the `data` axis."""
  sharding = by_clip(mesh)
  return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
