"""Turns a PyTorch state_dict into Flax variables, strictly: every tensor has its place or the import fails.

The place of a tensor follows from the module itself: its abstract variables are traced (nothing is computed),
each Flax path is turned into the PyTorch name by one rule, and the two lists of names must be equal.
"""

import functools
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from avs_jax.encoders.mix_transformer import stack_blocks
from avs_jax.errors import InputError
from avs_jax.types import SAMPLE_RATE_HZ
from avs_jax.weights import dialects, names
from avs_jax.weights.spellings import State

Path = tuple[str, ...]
Variables = dict[str, Any]

# Shapes that bring every parameter of an audio encoder to life: log-mel or filter-bank examples, 1 s.
AUDIO_SHAPES = {"vggish": (1, 96, 64), "htsat": (1, 101, 64), "beats": (1, 98, 128)}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_VISUAL = "visual_encoder."  # in the systems' own names
STATISTICS = {"mean": "running_mean", "var": "running_var"}


def torch_name(path: Path) -> str:
  """The PyTorch name of a Flax path, collection first: ("params", "block1_0", "norm1", "scale").

  A trailing "_<digits>" of a module name stands for ".<digits>"; kernel, scale and embedding are "weight";
  the running statistics bear PyTorch's names; every other leaf keeps its own.
  """
  collection, *modules, leaf = path
  parts = [re.sub(r"(?:_\d+)+$", lambda found: found[0].replace("_", "."), module) for module in modules]
  leaf = STATISTICS.get(leaf, leaf) if collection == "batch_stats" else LEAVES.get(leaf, leaf)
  return ".".join([*parts, leaf])


def to_torch_layout(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape that a Flax parameter has in PyTorch: kernels [*taps, in, out] are [out, in, *taps] there."""
  return (shape[-1], shape[-2], *shape[:-2]) if leaf == "kernel" and len(shape) >= 2 else shape


def to_flax_layout(leaf: str, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
  """`tensor` in Flax's layout and float32, or None where its shape cannot be meant.

  A convolution with one tap may be a dense layer in Flax and the other way round: axes of length 1 among the
  taps are free.
  """
  expected = to_torch_layout(leaf, shape)
  if tensor.shape != expected:
    is_kernel = leaf == "kernel" and len(shape) >= 2 and tensor.ndim >= 2
    taps = tuple(n for n in tensor.shape[2:] if n != 1)
    if not is_kernel or (*tensor.shape[:2], *taps) != (*expected[:2], *(n for n in expected[2:] if n != 1)):
      return None
  if leaf == "kernel" and len(shape) >= 2:
    tensor = np.moveaxis(tensor, (0, 1), (-1, -2)).reshape(shape)
  return np.asarray(tensor, np.float32, order="C")


def _trace(module: Any, *inputs: jax.ShapeDtypeStruct) -> Variables:
  """Abstract variables of `module`, by tracing its `init`."""
  takes_train = "train" in inspect.signature(type(module).__call__).parameters
  init = functools.partial(module.init, train=False) if takes_train else module.init
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  return jax.eval_shape(init, keys, *inputs)


def abstract_variables(name: str, **overrides: Any) -> Variables:
  """Shapes of every variable of the encoder or system `name`; nothing is computed.

  Raises:
    InputError: `name` is neither an encoder nor a system.
  """
  from avs_jax import encoders  # here, not above: the encoders may use this package

  if name in encoders.NAMES:
    shape = AUDIO_SHAPES.get(name, (1, 64, 64, 3))
    return _trace(encoders.build(name, **overrides), jax.ShapeDtypeStruct(shape, jnp.float32))
  from avs_jax import systems

  if name in systems.NAMES:
    frames = jax.ShapeDtypeStruct((1, 5, 64, 64, 3), jnp.float32)
    module = systems.build(name, **overrides)
    second = (SAMPLE_RATE_HZ,) if module.takes_waveform else (96, 64)
    return _trace(module, frames, jax.ShapeDtypeStruct((1, 5, *second), jnp.float32))
  known = ", ".join((*encoders.NAMES, *systems.NAMES))
  raise InputError(f"'{name}' is neither an encoder nor a system; give one of: {known}.")


def _system_names() -> tuple[str, ...]:
  from avs_jax import systems

  return systems.NAMES


def _unrolled(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
  """Settings that keep a mix transformer's blocks apart, as files do, and where they are to be stacked."""
  visual = overrides.get("visual_args") or {}
  if overrides.get("scan"):
    return {**overrides, "scan": False}, ()
  if visual.get("scan"):
    return {**overrides, "visual_args": {**visual, "scan": False}}, ("visual_encoder",)
  return dict(overrides), None


def _stack(params: dict[str, Any], path: Path) -> dict[str, Any]:
  """`stack_blocks` of the mix transformer under `path`."""
  if path:
    return {**params, path[0]: _stack(params[path[0]], path[1:])}
  return jax.tree.map(np.asarray, stack_blocks(params))


def _wanted(name: str, overrides: Mapping[str, Any]) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
  """(PyTorch name, Flax path, Flax shape) of every variable of `name`."""
  renames = dialects.dialect(name, overrides).renames
  variables = abstract_variables(name, **overrides)
  for path, leaf in traverse_util.flatten_dict(variables).items():
    if path[0] in ("params", "batch_stats"):
      yield dialects.rewrite(torch_name(path), renames), path, tuple(leaf.shape)


def to_torch_names(name: str, **overrides: Any) -> dict[str, tuple[int, ...]]:
  """The tensors that `from_torch(name, ...)` expects, by their PyTorch names, with their PyTorch shapes.

  Convolutions with one tap that are dense layers in Flax are listed as [out, in].
  """
  wanted = sorted(_wanted(name, _unrolled(overrides)[0]))
  return {torch: to_torch_layout(path[-1], shape) for torch, path, shape in wanted}


def _listed(items: list[str], limit: int = 12) -> str:
  more = f" and {len(items) - limit} more" if len(items) > limit else ""
  return ", ".join(items[:limit]) + more


def _own_visual(
  name: str, given: State, wanted: Collection[str], prefix: str, overrides: Mapping[str, Any]
) -> names.Translation:
  """The visual encoder's tensors in `given`, which lie under `prefix`, under their original names."""
  from avs_jax import systems

  visual = str(overrides.get("visual", systems.SYSTEMS[name].visual))
  theirs = {key[len(prefix) :]: value for key, value in given.items() if key.startswith(prefix)}
  hoped = {key[len(_VISUAL) :] for key in wanted if key.startswith(_VISUAL)}
  return names.translate(visual, theirs, hoped)


def from_torch(name: str, state: Mapping[str, np.ndarray], **overrides: Any) -> Variables:
  """Flax variables of the encoder or system `name` from a PyTorch state_dict.

  Args:
    name: as for `encoders.build` or `systems.build`.
    state: PyTorch name -> array; for an encoder also in Hugging Face's, timm's, OpenMMLab's, detectron2's
      or TensorFlow's names, and under any prefix of a larger model (see `names`).
    **overrides: as for `build`.

  Returns:
    {"params": ..., "batch_stats": ...}, nested dictionaries of float32 arrays.

  Raises:
    InputError: names are missing or unexpected, or a shape differs; the first twelve of each are in the message,
      in the file's own names.
  """
  overrides, scanned = _unrolled(overrides)
  rules = dialects.dialect(name, overrides)
  wanted: dict[str, list[tuple[Path, tuple[int, ...]]]] = {}
  for torch, path, shape in _wanted(name, overrides):
    wanted.setdefault(torch, []).append((path, shape))
  whole = names.translate(name, state, wanted, rules.aliases)
  given, uneven, theirs = whole.state, whole.uneven, whole.theirs
  if rules.visual:
    seen = _own_visual(name, given, wanted, rules.visual, overrides)
    rest = {key: value for key, value in given.items() if not key.startswith(rules.visual)}
    given = rest | {_VISUAL + key: value for key, value in seen.state.items()}
    uneven = uneven | {_VISUAL + key: sentence for key, sentence in seen.uneven.items()}

    def theirs(name: str) -> str:
      if not name.startswith(_VISUAL):
        return whole.theirs(name)
      return whole.theirs(rules.visual + seen.prefix + seen.theirs(name.removeprefix(_VISUAL)))

  for part in rules.optional:
    if not any(re.search(part, key) for key in given):
      wanted = {key: places for key, places in wanted.items() if not re.search(part, key)}
  if rules.guide:  # it shapes the training; masks do not depend on it, see `guide_from_torch`
    given = {key: value for key, value in given.items() if not key.startswith(rules.guide)}
  heads = () if name in _system_names() else dialects.HEADS
  droppable = (*dialects.NEVER_WEIGHTS, *heads, *rules.dead)
  missing = sorted(theirs(key) for key in wanted.keys() - given.keys() - uneven.keys())
  strangers = (key for key in given.keys() - wanted.keys() if not dialects.matches(key, droppable))
  unexpected = sorted(theirs(key) for key in strangers)
  flat: dict[Path, np.ndarray] = {}
  misshapen = [f"parts of {key}: {sentence}" for key, sentence in uneven.items()]
  for key, path, shape in ((key, *place) for key, places in wanted.items() for place in places):
    if key not in given:
      continue
    value = to_flax_layout(path[-1], given[key], shape)
    if value is None:
      expected = list(to_torch_layout(path[-1], shape))
      misshapen.append(f"{theirs(key)} is {list(given[key].shape)} instead of {expected}")
    else:
      flat[path] = value
  faults = [
    f"{label} {len(faulty)}: {_listed(faulty)}"
    for label, faulty in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
    if faulty
  ]
  if faults:
    settings = ", ".join(f"{key}={value!r}" for key, value in overrides.items())
    settings = settings if len(settings) < 100 else "the settings given"
    where = f" under '{whole.prefix}'" if whole.prefix else ""
    raise InputError(
      f"the tensors{where} do not fit '{name}' with {settings or 'its defaults'}; {'; '.join(faults)}; "
      "give the file of this very model or the overrides that it was trained with."
    )
  variables = traverse_util.unflatten_dict(flat)
  return variables if scanned is None else {**variables, "params": _stack(variables["params"], scanned)}


def guide_from_torch(name: str, state: Mapping[str, np.ndarray]) -> Variables | None:
  """Variables of the cosine guide that a checkpoint of the system `name` holds beside it; None without one.

  Raises:
    InputError: the guide there is not one linear map.
  """
  prefix = dialects.dialect(name, {}).guide
  own = {key[len(prefix) :]: np.asarray(state[key]) for key in state if prefix and key.startswith(prefix)}
  if not own:
    return None
  weight, bias = own.pop("audio_proj.weight", None), own.pop("audio_proj.bias", None)
  if own or weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
    raise InputError(
      f"the tensors under {prefix!r} are not the guide of a published '{name}'; expected a linear map, "
      f"{prefix}audio_proj.weight [C, D] and {prefix}audio_proj.bias [C]."
    )
  kernel = np.asarray(weight.T, np.float32, order="C")
  return {"params": {"audio_proj": {"kernel": kernel, "bias": np.asarray(bias, np.float32)}}}


def postprocessing_from_torch(state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """P [A, A] and mean [A] of VGGish's post-processing, float32, for `encoders.vggish.postprocess`.

  Args:
    state: `vggish_pca_params` (.pth or .npz), or a wrapper's state_dict, which has the two under `pproc.`.

  Raises:
    InputError: one of the two is not there, there twice, or of a shape that does not fit.
  """
  found = []
  for wanted in ("pca_eigen_vectors", "pca_means"):
    keys = [key for key in state if re.search(rf"(^|\.){wanted}$", key)]
    if len(keys) != 1:
      raise InputError(
        f"VGGish's post-processing: {len(keys)} tensors are called {wanted} ({_listed(keys) or 'none'}); give the"
        " tensors of vggish_pca_params, pca_eigen_vectors [A, A] and pca_means [A]."
      )
    found.append(np.asarray(state[keys[0]], np.float32))
  vectors, means = found
  if (
    vectors.ndim != 2
    or vectors.shape != (means.size, means.size)
    or means.shape not in ((means.size,), (means.size, 1))
  ):
    raise InputError(
      f"VGGish's post-processing: pca_eigen_vectors is {list(vectors.shape)} and pca_means {list(means.shape)};"
      " expected [A, A] and [A] or [A, 1]."
    )
  return vectors, means.reshape(-1)
