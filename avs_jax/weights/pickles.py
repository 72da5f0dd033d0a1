"""Reads the pickles inside weight files without running anything that they name.

A pickle is a program. Here every global that it may name is replaced by an inert stand-in of ours, and one
that is not listed ends the reading: nothing is imported, nothing of the file's choosing is called.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # first object of the stream that torch.save wrote before version 1.6
PROTOCOL = 1001  # second object of that stream

# numpy type codes of torch's storages and dtypes; "bf16" has none in numpy and becomes float32.
DTYPES = {
  "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bf16",
  "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "?",
  "complex64": "c8", "complex128": "c16",
}  # fmt: skip
STORAGES = {
  "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
  "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
  "BoolStorage": "?", "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16", "UntypedStorage": "u1",
}  # fmt: skip

# Things that training checkpoints keep beside the weights; their values are dropped unread.
COMPANY = {
  ("argparse", "Namespace"), ("types", "SimpleNamespace"), ("copyreg", "_reconstructor"),
  ("builtins", "object"), ("builtins", "slice"), ("builtins", "complex"), ("datetime", "datetime"),
  ("pathlib", "Path"), ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "PurePosixPath"),
  ("torch", "device"), ("torch.serialization", "_get_layout"), ("torch._C", "_cuda_getDevice"),
  ("easydict", "EasyDict"), ("addict.addict", "Dict"), ("yacs.config", "CfgNode"),
  ("fvcore.common.config", "CfgNode"), ("detectron2.config.config", "CfgNode"),
  ("mmcv.utils.config", "ConfigDict"), ("mmengine.config.config", "ConfigDict"),
  ("mmengine.logging.history_buffer", "HistoryBuffer"),
  ("omegaconf.dictconfig", "DictConfig"), ("omegaconf.listconfig", "ListConfig"),
  ("omegaconf.nodes", "AnyNode"), ("omegaconf.base", "ContainerMetadata"), ("omegaconf.base", "Metadata"),
  ("typing", "Any"),
  ("pytorch_lightning.utilities.parsing", "AttributeDict"),
  ("pytorch_lightning.utilities.types", "AttributeDict"),
  ("lightning_fabric.utilities.data", "AttributeDict"), ("lightning.fabric.utilities.data", "AttributeDict"),
  ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
  ("pytorch_lightning.callbacks.early_stopping", "EarlyStopping"),
  ("pytorch_lightning.callbacks.lr_monitor", "LearningRateMonitor"),
}  # fmt: skip


class RefusedError(Exception):
  """A pickle names a global that no weight file needs; the argument is that name."""


class DamagedError(Exception):
  """A pickle or the bytes it refers to do not hold together; the argument says how."""


class _Sealed(type):
  """Keeps a pickle from altering the class that stands in for another."""

  def __setattr__(cls, name: str, value: Any) -> None:
    raise DamagedError("it alters a class")


class Skipped(metaclass=_Sealed):
  """Stands for any object that is no weight: takes whatever it is given and keeps nothing."""

  __slots__ = ()

  def __new__(cls, *args: Any, **kwargs: Any) -> "Skipped":
    return object.__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    pass

  def __call__(self, *args: Any, **kwargs: Any) -> "Skipped":
    return self

  def __setstate__(self, state: Any) -> None:
    pass

  def __setitem__(self, key: Any, value: Any) -> None:
    pass

  def append(self, item: Any) -> None:
    """Takes one item of a list and drops it."""

  def extend(self, items: Any) -> None:
    """Takes items of a list and drops them."""

  def add(self, item: Any) -> None:
    """Takes one item of a set and drops it."""


class Mapping(dict):
  """Stands for OrderedDict, on which state_dicts hang version numbers that are of no use here."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    pass


class Constructor:
  """Stands for a permitted function or class: may be called, not altered."""

  __slots__ = ("build",)

  def __init__(self, build: Callable[..., Any]):
    self.build = build

  def __call__(self, *args: Any) -> Any:
    return self.build(*args)

  def __setstate__(self, state: Any) -> None:
    raise DamagedError("it alters a function")


class Kind:
  """Stands for a storage class or a dtype: numpy's type code and nothing else."""

  __slots__ = ("code",)

  def __init__(self, code: str):
    self.code = code

  def __setstate__(self, state: Any) -> None:
    raise DamagedError("it alters a type")


class Storage:
  """A run of numbers that tensors are views of; `fetch` is set once it is known where its bytes lie."""

  __slots__ = ("key", "code", "numel", "start", "root", "order", "fetch")

  def __init__(self, key: str, code: str, numel: int, root: "Storage | None" = None, start: int = 0):
    self.key, self.code, self.numel, self.root, self.start = key, code, numel, root, start
    self.order = "<"
    self.fetch: Callable[[], np.ndarray] | None = None  # gives the bytes as uint8

  def __setstate__(self, state: Any) -> None:
    raise DamagedError("it alters a storage")

  @property
  def itemsize(self) -> int:
    """Bytes of one number."""
    return 2 if self.code == "bf16" else np.dtype(self.code).itemsize

  def numbers(self, code: str | None = None) -> np.ndarray:
    """All numbers on one axis, not copied, bfloat16 as bits, bytes as `code`. Raises DamagedError if too few."""
    if self.root is not None:
      return self.root.numbers()[self.start : self.start + self.numel]
    if self.fetch is None:
      raise DamagedError(f"storage {self.key} has no data")
    raw = self.fetch()
    self.fetch = lambda: raw  # checked once, however many tensors share the storage
    if raw.size < self.numel * self.itemsize:
      raise DamagedError(f"storage {self.key} holds {raw.size} bytes of {self.numel * self.itemsize}")
    code = code or self.code
    dtype = np.dtype("u2" if code == "bf16" else code).newbyteorder(self.order)
    used = self.numel * self.itemsize // dtype.itemsize * dtype.itemsize
    return raw[:used].view(dtype)


class Tensor:
  """A view of a storage, made into an array only when it is wanted."""

  __slots__ = ("storage", "offset", "shape", "stride", "code")

  def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, code: str | None = None):
    if not isinstance(storage, Storage):
      raise DamagedError("a tensor has no storage")
    self.storage, self.code = storage, code or storage.code
    self.offset = int(offset)
    self.shape = tuple(int(n) for n in shape)
    self.stride = tuple(int(n) for n in stride)

  def __setstate__(self, state: Any) -> None:
    pass  # attributes hung on a tensor, such as a parameter's name

  def array(self) -> np.ndarray:
    """The values; a view where the type allows, float32 for bfloat16. Raises DamagedError if not all in storage."""
    numbers = self.storage.numbers(self.code)
    if len(self.shape) != len(self.stride) or min((self.offset, *self.shape, *self.stride)) < 0:
      raise DamagedError("a tensor's shape and strides disagree")
    count = math.prod(self.shape)
    last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
    if count and (last >= numbers.size or count > numbers.size):
      raise DamagedError("a tensor reaches beyond its storage")
    if count == 0:
      values = np.zeros(self.shape, numbers.dtype)
    else:
      steps = tuple(step * numbers.itemsize for step in self.stride)
      values = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False)
    if self.code == "bf16":
      return (values.astype(np.uint32) << 16).view(np.float32)
    return values


class Array:
  """A numpy array or scalar of a pickle, made only when it is wanted."""

  __slots__ = ("shape", "kind", "order", "raw")

  def __init__(self, *_: Any):
    self.shape: tuple[int, ...] = ()
    self.kind, self.order, self.raw = None, "C", b""

  def __setstate__(self, state: Any) -> None:
    _, shape, self.kind, is_fortran, self.raw = state
    self.shape, self.order = tuple(int(n) for n in shape), "F" if is_fortran else "C"

  def array(self) -> np.ndarray:
    """The values, a view of the pickle's bytes; raises DamagedError if they are no plain numbers."""
    if not isinstance(self.kind, DType) or not isinstance(self.raw, (bytes, bytearray, str)):
      raise DamagedError("an array of Python objects")
    raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw  # Python 2 wrote bytes as str
    return np.frombuffer(raw, self.kind.dtype()).reshape(self.shape, order=self.order)


class DType:
  """A numpy dtype of plain numbers."""

  __slots__ = ("code", "order")

  def __init__(self, code: Any, *_: Any):
    self.code, self.order = str(code), "="

  def __setstate__(self, state: Any) -> None:
    self.order = state[1] if state[1] in ("<", ">", "|", "=") else "="

  def dtype(self) -> np.dtype:
    """The numpy dtype; raises DamagedError for anything but plain numbers."""
    dtype = np.dtype(self.code) if self.code.lstrip("<>=|")[:1] in tuple("biufc?") else np.dtype(object)
    if dtype.kind not in "biufc":
      raise DamagedError("an array of Python objects")
    return dtype.newbyteorder(self.order)


def _scalar(kind: Any, raw: Any = b"") -> Array:
  scalar = Array()
  scalar.kind, scalar.raw = kind, raw
  return scalar


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> Array:
  array = Array()
  array.__setstate__((1, shape, kind, order == "F", raw))
  return array


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
  if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
    raise DamagedError(f"text in the encoding {encoding}")
  return text.encode(encoding)


def _no_bytes(*content: Any) -> bytes:
  """The empty bytes, the only ones that a pickle makes by calling their type."""
  if content:
    raise DamagedError("bytes made of something")
  return b""


def _parameter(data: Any, *_: Any) -> Any:
  return data


def _typed(build: Any, _kind: Any, arguments: Any, _state: Any = None) -> Any:
  if not isinstance(build, Constructor):
    raise DamagedError("a tensor of an unknown making")
  return build(*arguments)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
  return Tensor(storage, offset, shape, stride)


def _tensor_v3(
  storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any
):
  return Tensor(storage, offset, shape, stride, kind.code)


def _allowed() -> dict[tuple[str, str], Any]:
  """Every global that may be named, with what stands for it."""
  table: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Mapping, ("collections", "defaultdict"): lambda *_: Mapping(),
    ("collections", "Counter"): lambda *_: Mapping(), ("builtins", "set"): set, ("builtins", "frozenset"): frozenset,
    # Protocol 2, torch.save's, names built-ins as Python 2 did.
    ("__builtin__", "set"): set, ("__builtin__", "frozenset"): frozenset, ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("numpy", "dtype"): DType,
  }  # fmt: skip
  for home in ("numpy.core", "numpy._core"):
    table[(f"{home}.multiarray", "_reconstruct")] = Array
    table[(f"{home}.multiarray", "scalar")] = _scalar
    table[(f"{home}.numeric", "_frombuffer")] = _from_buffer
  wrapped = {key: Constructor(build) for key, build in table.items()}
  kinds = {("torch", name): Kind(code) for name, code in (*DTYPES.items(), *STORAGES.items())}
  kinds[("torch.storage", "UntypedStorage")] = Kind("u1")
  kinds[("numpy", "ndarray")] = Kind("u1")
  kinds[("torch", "Tensor")] = kinds[("torch.nn.parameter", "Parameter")] = Kind("f4")
  return {**wrapped, **kinds, **dict.fromkeys(COMPANY, Skipped)}


ALLOWED = _allowed()


class Reader(pickle.Unpickler):
  """Unpickler that knows the listed globals only and collects the storages that are referred to.

  Attributes:
    storages: by key; the caller gives each its bytes.
  """

  def __init__(self, stream: io.BufferedIOBase, *, is_nested: bool = False):
    super().__init__(stream, encoding="latin1")
    self.storages: dict[str, Storage] = {}
    self.is_nested = is_nested

  def find_class(self, module: str, name: str) -> Any:
    """The stand-in of a listed global; never imports anything. Raises RefusedError for any other."""
    if (module, name) == ("torch.storage", "_load_from_bytes") and not self.is_nested:
      return Constructor(_storage_from_bytes)
    if (module, name) not in ALLOWED:
      raise RefusedError(f"{module}.{name}")
    return ALLOWED[(module, name)]

  def persistent_load(self, pid: Any) -> Storage:
    """A storage, from ("storage", type, key, device, size, in old files a view). Raises RefusedError, DamagedError."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
      raise RefusedError(f"the persistent object {str(pid)[:60]}")
    kind, key, numel = pid[1], str(pid[2]), int(pid[4])
    if not isinstance(kind, Kind) or numel < 0:
      raise DamagedError("a storage of an unknown type")
    root = self.storages.setdefault(key, Storage(key, kind.code, numel))
    if len(pid) == 6 and pid[5] is not None:
      _, start, length = pid[5]
      return Storage(key, kind.code, int(length), root, int(start))
    return root


def load(stream: io.BufferedIOBase, *, is_nested: bool = False) -> tuple[Any, dict[str, Storage]]:
  """The object of the pickle that `stream` stands at, and the storages that it refers to.

  Raises:
    RefusedError, DamagedError: see there; pickle's own errors for a broken pickle.
  """
  start = stream.tell()
  for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
    # Python makes room for as many remembered objects as the highest number says, at once.
    if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > count:
      raise DamagedError("it numbers objects that it does not have")
  stream.seek(start)
  reader = Reader(stream, is_nested=is_nested)
  return reader.load(), reader.storages


def _storage_from_bytes(raw: Any) -> Any:
  data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
  return load_stream(io.BytesIO(data), np.frombuffer(data, np.uint8), is_nested=True)


def load_stream(stream: io.BufferedIOBase, data: np.ndarray, *, is_nested: bool = False) -> Any:
  """The object in a stream that torch.save wrote before version 1.6.

  Layout: four pickles (magic number, protocol, sizes of C types, the object), a pickled list of storage keys,
  then for each key the number of elements (8 bytes) and the elements.

  Args:
    stream: the file, at its first byte; `data` the same bytes, for views.

  Raises: RefusedError, DamagedError: see there; pickle's own errors for a broken pickle.
  """
  if any(load(stream, is_nested=True)[0] != expected for expected in (MAGIC, PROTOCOL)):
    raise DamagedError("it is no stream of torch.save")
  sizes, _ = load(stream, is_nested=True)
  root, storages = load(stream, is_nested=is_nested)
  keys, _ = load(stream, is_nested=True)
  position = stream.tell()
  order = "<" if not isinstance(sizes, dict) or sizes.get("little_endian", True) else ">"
  for key in keys:
    storage = storages[str(key)]
    numel = int.from_bytes(data[position : position + 8].tobytes(), "little" if order == "<" else "big")
    start, position = position + 8, position + 8 + numel * storage.itemsize
    if numel != storage.numel or position > data.size:
      raise DamagedError("the data of a storage is cut short")
    storage.order = order
    storage.fetch = lambda raw=data[start:position]: raw
  return root
