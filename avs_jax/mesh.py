"""One program from a laptop to a pod: the device mesh and what is laid out on it how."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avs_jax.errors import InputError

# Below this many elements a weight is cheaper to copy than to gather.
_SHARD_FROM = 1 << 16


def make_mesh(
  batch: int, model: int = 1, devices: list | None = None, *, setting: str = "schedule.batch"
) -> Mesh:
  """A mesh with axes `data` and `model` over as many devices as the global batch can be dealt to.

  Args:
    batch: global batch size in clips; the `data` axis is the largest device count that divides it.
    model: devices that share one copy of the weights.
    setting: what the batch is called in the config.

  Raises:
    InputError: `model` does not divide the number of devices, or that of one host's; or several hosts' devices do
      not divide the batch.
  """
  devices = by_host(jax.devices() if devices is None else devices)
  if len(devices) % model:
    raise InputError(f"mesh.model={model} must divide the {len(devices)} devices of this machine.")
  if jax.local_device_count() % model:
    raise InputError(
      f"mesh.model={model} must divide the {jax.local_device_count()} devices of each host: a copy of the weights"
      " shares one host's clips."
    )
  data = len(devices) // model
  if jax.process_count() == 1:
    while batch % data:
      data -= 1
  elif batch % data:
    raise InputError(
      f"{setting}: {batch} clips at a time must be a multiple of {data} devices on several hosts."
    )
  used = np.asarray(devices[: data * model]).reshape(data, model)
  return Mesh(used, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def by_host(devices: Sequence[Any]) -> list[Any]:
  """The devices of one host after those of another, so that what shares a row of a mesh shares a host."""
  return sorted(devices, key=lambda each: (each.process_index, each.id))


def agreed(wish: bool) -> bool:
  """Whether any process wishes it: the same answer on every process. All must ask at the same step."""
  if jax.process_count() == 1:
    return wish
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.asarray(wish))))


def join_hosts() -> None:
  """Joins the processes of a run over several hosts, if the environment says that this is one of them.

  JAX_COORDINATOR_ADDRESS is host:port of process 0, with JAX_NUM_PROCESSES and JAX_PROCESS_ID; the word
  "auto" leaves all three to the cluster (TPU pods, Slurm). Call it before anything else of jax.

  Raises:
    InputError: an address is given, and one of the other two is no whole number.
  """
  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address == "auto":
    del os.environ["JAX_COORDINATOR_ADDRESS"]  # or jax would take the word for an address
    jax.distributed.initialize()
  elif address:
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    values = [os.environ.get(name, "") for name in names]
    if not all(value.isdigit() for value in values):
      raise InputError(
        f"JAX_COORDINATOR_ADDRESS={address} needs {' and '.join(names)} as whole numbers; set both, or unset it."
      )
    jax.distributed.initialize(address, *map(int, values))


def keep_compiled_programs() -> None:
  """Compiled programs are kept between runs, so a second start takes seconds."""
  default = os.path.join(os.path.expanduser("~"), ".cache", "avs_jax", "xla")
  jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", default))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
