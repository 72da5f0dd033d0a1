"""One file that is a whole model: its weights, the config they were trained with, and a card that says what they are.

Format: safetensors. Tensors have flat names, "params/visual_encoder/…/kernel"; the file's metadata holds
`config` (JSON of the run's config.json), `card` (JSON, free: title, data, figures, licence …) and `format`.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from avs_jax.errors import InputError
from avs_jax.weights import containers, storage

FORMAT = "avs_jax model 1"
_KINDS = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32", "int64": "I64", "uint32": "U32",
          "uint8": "U8", "bool": "BOOL"}  # fmt: skip


def save(
  path: str | os.PathLike,
  variables: Mapping[str, Any],
  config_dict: Mapping[str, Any],
  card: Mapping[str, Any],
  *,
  half: bool = False,
) -> None:
  """Writes the file whole or not at all; the same arguments give the same bytes.

  Args:
    variables: {"params": ..., "batch_stats": ...}, nested.
    config_dict: what config.json of the run holds.
    card: what JSON can say of the model.
    half: arrays of 32 bits are stored in 16 (half the file, 3 digits) where none of their numbers is too large for
      that (65,504), as a running variance may be; `load` gives 32 again.

  Raises:
    InputError: the folder cannot be written, the name does not end in ".safetensors", or a variable is no array
      of numbers.
  """
  path = Path(path)
  if path.suffix != ".safetensors":
    raise InputError(f"{path} must end in .safetensors, the only kind that is written; rename it.")
  if not path.parent.is_dir():
    raise InputError(f"{path} cannot be written: its folder is not there; make it or give another.")
  arrays = {}
  for name, value in sorted(_flat(variables).items()):
    value = np.asarray(value)
    if value.dtype.name == "bfloat16":
      value = value.astype(np.float32)
    if half and fits_half(value):
      value = value.astype(np.float16)
    if value.dtype.name not in _KINDS:
      raise InputError(
        f"variable {name} is of type {value.dtype}; arrays of {', '.join(_KINDS)} can be stored."
      )
    arrays[name] = np.asarray(value, order="C")  # ascontiguousarray would give a scalar an axis
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    with open(partial, "wb") as file:
      file.write(_header(arrays, config_dict, card))
      for value in arrays.values():
        file.write(value.tobytes())
    os.replace(partial, path)
  except OSError as error:
    raise InputError(f"{path} cannot be written ({error}); give a folder that can be written to.") from None
  finally:
    partial.unlink(missing_ok=True)


def fits_half(value: np.ndarray) -> bool:
  """Whether an array is of 32-bit numbers that 16 bits can hold."""
  return value.dtype == np.float32 and bool((np.abs(value) <= np.finfo(np.float16).max).all())


def load(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Variables (nested, numpy, weights in 32 bits), config and card of a file that `save` wrote.

  Raises:
    InputError: the file is missing, damaged, or holds weights without their config (as published ones do).
  """
  if "://" in str(path):
    raise InputError(f"{path}: addresses are not fetched; download the file and give its path.")
  if not os.path.isfile(path):
    raise InputError(
      f"{path}: there is no such weight file; give a .safetensors file with its config inside."
    )
  said = _metadata(path)
  try:
    config, card = json.loads(said["config"]), json.loads(said.get("card", "{}"))
  except (KeyError, ValueError):
    raise InputError(bare(path)) from None
  variables = storage.load(path)
  variables.setdefault("batch_stats", {})
  flat = traverse_util.flatten_dict(variables, keep_empty_nodes=True)
  wide = {
    name: value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value
    for name, value in flat.items()
  }
  return traverse_util.unflatten_dict(wide), config, card


def bare(path: str | os.PathLike) -> str:
  """What is said of weights without their config."""
  return (
    f"{path} holds weights without their config, so the model is not known; python run.py --mode=export"
    f" --config=configs/NAME.py --config.init.system={path} --workdir=runs/theirs --output=theirs makes"
    " theirs/model.safetensors, which is one (docs/own_video.md); of a run of this program give --workdir."
  )


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
  return {"/".join(path): value for path, value in traverse_util.flatten_dict(dict(variables)).items()}


def _header(
  arrays: Mapping[str, np.ndarray], config_dict: Mapping[str, Any], card: Mapping[str, Any]
) -> bytes:
  """Written here because the library writes metadata in an order of its own, another one each time."""
  header: dict[str, Any] = {
    "__metadata__": {
      "format": FORMAT,
      "config": json.dumps(config_dict, sort_keys=True, default=str),
      "card": json.dumps(card, sort_keys=True, default=str),
    }
  }
  start = 0
  for name, value in arrays.items():
    kind, end = _KINDS[value.dtype.name], start + value.nbytes
    header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, end]}
    start = end
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
  return struct.pack("<Q", len(text)) + text


def _metadata(path: str | os.PathLike) -> dict[str, str]:
  """A safetensors file's own words; `InputError` says what another file is."""
  import safetensors

  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return file.metadata() or {}
  except (OSError, safetensors.SafetensorError) as error:
    reason = error
  with open(path, "rb") as file:
    is_other = file.read(9)[8:] != b"{"
  if is_other and Path(path).suffix != ".safetensors":
    containers.read(path)  # says what is wrong with a file that holds no weights either
    raise InputError(bare(path))
  raise InputError(f"{path} is no whole safetensors file ({reason}); fetch or write it again.")
