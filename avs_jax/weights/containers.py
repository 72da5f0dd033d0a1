"""Reads weight files of every kind in use, without PyTorch and without running what a file says.

Kinds: torch.save's archive (1.6 on) and its older stream, safetensors, pickled dictionaries (detectron2),
npz. Tensors are views of the memory-mapped file wherever the kind allows it; treat them as read-only.
"""

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from avs_jax.weights import pickles

KINDS = "torch.save's archive or stream, safetensors, a pickled dictionary, npz"
STREAM_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the magic number as every pickle protocol writes it
TABLE_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # last bytes of TensorFlow's checkpoint tables
WRAPPERS = ("state_dict", "model", "model_state_dict")
# Levels that say where a model was used, not what it is; `encoder.` is a real level in some, so not here.
PREFIXES = (
  "module.", "model.", "backbone.", "encoder_backbone.", "resnet.", "sed_model.", "audio_branch.", "swin.",
  "segformer.", "pvt_v2.", "audio_model.", "audio_encoder.",
)  # fmt: skip

BROKEN = (
  pickle.UnpicklingError, pickles.DamagedError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
  KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, ImportError,
  RuntimeError,
)  # fmt: skip


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Every tensor of a weight file by its name.

  The weights are looked for under `state_dict`, `model` or `model_state_dict` where the file nests them, and
  levels of the names that all share and that only say where the model was used (`module.`) are removed.
  bfloat16 comes back as float32, every other type as it is.

  Raises:
    InputError: the file is missing, damaged, of a kind that is not read, holds no tensors, or is a pickle
      that names anything a weight file does not need.
  """
  path = Path(path)
  try:
    tensors = _tensors(_load(path))
  except InputError:
    raise
  except pickles.RefusedError as error:
    raise InputError(
      f"{path} is refused: its pickle names {error}, which no weight file needs (nothing of it was run); "
      "give a file that holds the bare state_dict, or safetensors."
    ) from None
  except BROKEN as error:
    raise InputError(
      f"{path} is damaged or cut short ({_brief(error)}); a weight file of {KINDS} was expected: "
      "fetch it again."
    ) from None
  if not tensors:
    raise InputError(f"{path} holds no tensors; give a file with a state_dict.")
  return _strip(tensors)


def read_pickled_tensor(path: str | os.PathLike) -> np.ndarray:
  """The one array of a pickle that holds a bare tensor, as AVSBench stores its log-mel examples.

  Raises:
    InputError: the file is missing, damaged, names anything but a tensor's parts, or holds something else.
  """
  path = Path(path)
  try:
    value = _plain_pickle(path)
    if isinstance(value, (pickles.Tensor, pickles.Array)):
      return value.array()
  except InputError:
    raise
  except pickles.RefusedError as error:
    raise InputError(
      f"{path} is refused: its pickle names {error}, which a stored tensor does not need (nothing of it was "
      "run); make the log-mel file again from the sound."
    ) from None
  except BROKEN as error:
    raise InputError(
      f"{path} is damaged or cut short ({_brief(error)}); a pickled tensor was expected: fetch it again."
    ) from None
  raise InputError(
    f"{path} holds a {type(value).__name__}; a pickled tensor was expected: give the log-mel file."
  )


def read_plain(path: str | os.PathLike) -> Any:
  """What a file of torch.save or pickle holds, be it lists, sets and numbers; nothing of it is run.

  Raises:
    InputError: the file is missing, damaged, or names anything but plain data and tensors.
  """
  path = Path(path)
  try:
    return _load(path)
  except InputError:
    raise
  except pickles.RefusedError as error:
    raise InputError(
      f"{path} is refused: its pickle names {error}, which plain lists and numbers do not need (nothing of it was"
      " run); store bare lists."
    ) from None
  except BROKEN as error:
    raise InputError(f"{path} is damaged or cut short ({_brief(error)}): fetch it again.") from None


def _brief(error: BaseException) -> str:
  lines = str(error).strip().splitlines()
  return lines[0][:120] if lines else type(error).__name__


def _map(path: Path) -> np.ndarray:
  """The file's bytes, memory-mapped."""
  if not path.is_file():
    raise InputError(f"{path} is not there; give the path of a weight file.")
  if path.stat().st_size == 0:
    raise InputError(f"{path} is empty; fetch it again.")
  try:
    return np.asarray(np.memmap(path, np.uint8, "r"))
  except OSError as error:
    raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None


def _load(path: Path) -> Any:
  """The object in the file, whatever its kind."""
  data = _map(path)
  head = data[:512].tobytes()
  if head.startswith(b"PK"):
    return _archive(path, data)
  if head.startswith(b"\x80") and STREAM_MAGIC in head[:32]:
    with path.open("rb") as stream:
      return pickles.load_stream(stream, data)
  if len(head) > 8 and head[8:9] == b"{":
    return _safetensors(path, data)
  if data[-8:].tobytes() == TABLE_MAGIC or ".data-0" in path.name or path.suffix == ".meta":
    raise InputError(
      f"{path} is a TensorFlow checkpoint, which is not read; where TensorFlow is installed, store its "
      "variables with numpy.savez under their own names and give the .npz."
    )
  if head.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
    return _plain_pickle(path)
  raise InputError(f"{path} is {_guess(head)}; a weight file of {KINDS} was expected.")


def _guess(head: bytes) -> str:
  """What a file that is no weight file seems to be."""
  text = head.lstrip()[:64].lower()
  if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
    return "a web page (a download that asked for something first)"
  if text.startswith(b"version https://git-lfs"):
    return "a Git LFS pointer, not the file itself (run git lfs pull)"
  if head.startswith(b"\x89HDF"):
    return "an HDF5 file"
  if head[257:262] == b"ustar":
    return "a tar archive (unpack it; PyTorch before 0.1.10 wrote such files, which are not read)"
  if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ")):
    return "a compressed file (unpack it)"
  return "of no known kind"


def _plain_pickle(path: Path) -> Any:
  _map(path)  # says what is wrong with a missing or empty file
  with path.open("rb") as stream:
    return pickles.load(stream)[0]


def _archive(path: Path, data: np.ndarray) -> Any:
  """An .npz or an archive of torch.save, told apart by the names inside."""
  with zipfile.ZipFile(path) as archive:
    infos = {info.filename: info for info in archive.infolist()}
    if infos and all(name.endswith(".npy") for name in infos):
      with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
    roots = [name[: -len("data.pkl")] for name in infos if name == "data.pkl" or name.endswith("/data.pkl")]
    if not roots:
      raise InputError(f"{path} is an archive of other things; a weight file of {KINDS} was expected.")
    root = min(roots, key=len)
    if root + "constants.pkl" in infos:
      raise InputError(f"{path} is a TorchScript program, which is not read; give the model's state_dict.")
    entry = root + "byteorder"
    order = ">" if entry in infos and archive.read(entry).strip() == b"big" else "<"
    value, storages = pickles.load(io.BytesIO(archive.read(root + "data.pkl")))
    for key, storage in storages.items():
      info = infos.get(f"{root}data/{key}")
      if info is None:
        raise pickles.DamagedError(f"storage {key} is not in the archive")
      storage.order = order
      storage.fetch = lambda info=info: _entry(path, data, info)
    return value


def _entry(path: Path, data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
  """The bytes of one entry: a view of the file where it is stored uncompressed. Checks its CRC."""
  if info.compress_type != zipfile.ZIP_STORED:
    with zipfile.ZipFile(path) as archive:
      return np.frombuffer(archive.read(info), np.uint8)
  header = data[info.header_offset : info.header_offset + 30].tobytes()
  signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
  start = info.header_offset + 30 + name_length + extra_length
  raw = data[start : start + info.file_size]
  if signature != b"PK\x03\x04" or raw.size != info.file_size:
    raise pickles.DamagedError(f"{info.filename} is cut short")
  if info.CRC and zlib.crc32(raw) != info.CRC:  # 0: the writer was told to leave it out
    raise pickles.DamagedError(f"the check sum of {info.filename} is wrong")
  return raw


def _safetensors(path: Path, data: np.ndarray) -> dict[str, pickles.Tensor]:
  """The tensors of a safetensors file, as views; the library has checked the header before."""
  import json

  import safetensors

  try:
    with safetensors.safe_open(path, framework="numpy"):
      pass
  except safetensors.SafetensorError as error:
    raise pickles.DamagedError(str(error)) from None
  codes = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1",
    "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?", "C64": "c8",
  }  # fmt: skip
  length = int.from_bytes(data[:8].tobytes(), "little")
  header = json.loads(data[8 : 8 + length].tobytes())
  tensors = {}
  for name, entry in header.items():
    if name == "__metadata__":
      continue
    if entry["dtype"] not in codes:
      raise InputError(
        f"{path}: tensor {name} is of type {entry['dtype']}, which is not read; store it as F32."
      )
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    storage = pickles.Storage(name, "u1", end - begin)
    storage.fetch = lambda raw=data[begin:end]: raw
    shape = entry["shape"]
    steps = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    tensors[name] = pickles.Tensor(storage, 0, shape, steps, codes[entry["dtype"]])
  return tensors


def _tensors(value: Any) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint's dictionary, from under its wrappers; everything else is left out."""
  while isinstance(value, dict):
    inner = next((value[key] for key in WRAPPERS if isinstance(value.get(key), dict)), None)
    if inner is None:
      break
    value = inner
  if not isinstance(value, dict):
    return {}
  tensors = {}
  for name, item in value.items():
    if isinstance(item, (pickles.Tensor, pickles.Array)):
      item = item.array()
    if isinstance(name, str) and isinstance(item, np.ndarray):
      tensors[name] = item
  return tensors


def _strip(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Removes, repeatedly, a prefix that all names share."""
  while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
    tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
  return tensors
