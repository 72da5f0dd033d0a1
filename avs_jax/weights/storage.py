"""Keeps Flax variables in safetensors files, one flat name a tensor: "params/block1_0/attn/q/kernel".

The file's metadata says what the tensors are for, as JSON under the key "avs_jax".
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from avs_jax.weights import containers

KEY = "avs_jax"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
  for key, value in tree.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      yield from _flat(value, name + "/")
      continue
    array = np.asarray(value)
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8")):
      array = array.astype(np.float32)  # numpy has no such types of its own
    if array.dtype.kind not in "biufc":
      raise InputError(
        f"variable {name} is of type {array.dtype}, not numbers; only arrays of numbers can be stored."
      )
    yield name, array


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
  """Writes named arrays as safetensors, whole or not at all.

  Raises:
    InputError: the folder is not there or cannot be written, or the name does not end in ".safetensors".
  """
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  path = Path(path)
  if path.suffix != ".safetensors":
    raise InputError(f"{path} must end in .safetensors, the only kind that is written; rename it.")
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  plain = {
    name: np.asarray(value, value.dtype.newbyteorder("="), order="C") for name, value in tensors.items()
  }
  if not path.parent.is_dir():
    raise InputError(f"{path} cannot be written: its folder is not there; make it or give another.")
  try:
    save_file(plain, partial, {KEY: json.dumps(dict(metadata), default=str)})
    os.replace(partial, path)
  except (OSError, SafetensorError) as error:
    raise InputError(f"{path} cannot be written ({error}); give a folder that can be written to.") from None
  finally:
    partial.unlink(missing_ok=True)


def save(
  path: str | os.PathLike, variables: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> None:
  """Stores Flax variables; `metadata` is anything JSON can say, such as the model's name and settings.

  Raises:
    InputError: see `write`; or the variables hold something that is no array of numbers.
  """
  write(path, dict(_flat(variables)), metadata or {})


def load(path: str | os.PathLike) -> dict[str, Any]:
  """The variables that `save` stored, as nested dictionaries; the arrays are views of the file.

  Raises:
    InputError: no such file, a damaged one, or one whose names are not those of Flax variables.
  """
  tree: dict[str, Any] = {}
  for name, value in containers.read(path).items():
    *parents, leaf = name.split("/")
    if not parents:
      raise InputError(
        f"{path} holds '{name}', which is no path of a Flax variable; convert the file first "
        "(--mode=convert with the model's name)."
      )
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {}) if isinstance(node, dict) else node
    if not isinstance(node, dict) or leaf in node:
      raise InputError(
        f"{path} holds '{name}' and another array under a part of that name, which no model has; the file is"
        " damaged or was made by hand: convert or export it again."
      )
    node[leaf] = value
  return tree


def load_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """What was said of the variables when they were stored; empty where nothing was.

  Raises:
    InputError: the file is missing or no safetensors file.
  """
  import safetensors

  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return json.loads((file.metadata() or {}).get(KEY, "{}"))
  except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
    raise InputError(
      f"{path} is no safetensors file with readable metadata ({error}); convert it first."
    ) from None


def convert(
  source: str | os.PathLike, target: str | os.PathLike, name: str | None = None, **overrides: Any
) -> dict[str, tuple[int, ...]]:
  """Rewrites a weight file of any kind as safetensors: what `run.py --mode=convert` does.

  Args:
    source: a weight file of any kind that `read` knows.
    target: the file to write, "….safetensors".
    name: an encoder or system, whose Flax variables are then written; without it the tensors keep their
      PyTorch names and layouts.
    **overrides: settings of that encoder or system.

  Returns:
    Name and shape of every tensor written.

  Raises:
    InputError: see `read`, `from_torch` and `write`; the message names the source. Or both are one file.
  """
  if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
    raise InputError(
      f"{target}: is the file to be read, which would be replaced; give another name to write to."
    )
  tensors = containers.read(source)
  metadata: dict[str, Any] = {"source": Path(source).name, "names": "torch"}
  if name is not None:
    from avs_jax.weights.placement import from_torch

    try:
      tensors = dict(_flat(from_torch(name, tensors, **overrides)))
    except InputError as error:
      raise InputError(f"{source}: {error}") from None
    metadata |= {"names": "flax", "model": name, "overrides": overrides}
  write(target, tensors, metadata)
  return {key: value.shape for key, value in tensors.items()}
