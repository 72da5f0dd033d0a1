"""Which parts of a model were given weights, and which would see or hear with random ones.

Also puts files of this program's own names (`--mode=export`, `--mode=convert`) into a model, strictly.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from avs_jax.errors import InputError
from avs_jax.optimizer import matches

Path = tuple[str, ...]
Flat = dict[Path, Any]
COLLECTIONS = ("params", "batch_stats")
BESIDE = ("guide", "biased")  # what lies beside the system in the tree of parameters
ENCODERS = {"visual": "sees", "audio": "hears"}

log = logging.getLogger(__name__)


def strip(path: Path) -> Path:
  """A parameter's path without the levels of the strategies that wrap its system."""
  while path[0] == "system":
    path = path[1:]
  return path


# Files of our own names.


def read_own(path: str) -> Flat | None:
  """Arrays of a safetensors file whose names begin with a Flax collection, by path; None for any other file.

  Raises:
    InputError: the file is missing or damaged.
  """
  from avs_jax import weights

  if not path.endswith(".safetensors"):
    return None
  found = weights.read(path)
  if not all(name.split("/")[0] in COLLECTIONS for name in found):
    return None
  return {tuple(name.split("/")): value for name, value in found.items()}


def fit(variables: dict, found: Flat, prefix: Path, origin: str) -> set[Path]:
  """Puts the arrays of `read_own` into the model's variables under `prefix`, each into its place.

  What lay beside the system (a guide, a visual-only branch) is taken where the model has the same; an encoder
  may be missing as a whole.

  Returns: paths of the parameters that were given, collection left out.

  Raises:
    InputError: arrays are missing, left over or of another shape; nothing is changed then.
  """
  model = {(name, *path): x for name in COLLECTIONS for path, x in _flatten(variables.get(name, {})).items()}
  given = {(path[0], *strip(path[1:])): value for path, value in found.items()}
  own = {path: value for path, value in given.items() if path[1] not in BESIDE}
  places: dict[Path, Path] = {}
  size = 1 + len(prefix)
  for path in model:
    if path[1:size] == prefix:
      places[path[0], *path[size:]] = path
  for encoder in (f"{part}_encoder" for part in ENCODERS):
    if not any(path[1] == encoder for path in own):
      places = {path: full for path, full in places.items() if path[1] != encoder}
  faults = {
    "missing": places.keys() - own.keys(),
    "left over": own.keys() - places.keys(),
    "of another shape": {p for p in own.keys() & places.keys() if own[p].shape != np.shape(model[places[p]])},
  }
  said = [f"{len(paths)} {kind} ({_first(paths)})" for kind, paths in faults.items() if paths]
  if said:
    raise InputError(
      f"{origin}: its arrays are not this model's: {', '.join(said)}; give the settings that it was trained with"
      " (a file of --mode=export holds them as its metadata `config`)."
    )
  taken = {places[path]: value for path, value in own.items()}
  taken |= _beside(model, {path: value for path, value in given.items() if path not in own}, prefix, origin)
  for name in COLLECTIONS:
    tree = _flatten(variables.get(name, {}))
    for path, value in taken.items():
      if path[0] == name:
        tree[path[1:]] = np.asarray(value, tree[path[1:]].dtype)
    variables[name] = traverse_util.unflatten_dict(tree)
  log.info("loaded %d arrays from %s into %s", len(taken), origin, "/".join(prefix) or "the system")
  return {path[1:] for path in taken if path[0] == "params"}


def _beside(model: Flat, given: Flat, prefix: Path, origin: str) -> Flat:
  """Arrays of a file's guide or visual-only branch, by their paths in the model; none where it has another."""
  taken: Flat = {}
  for part in BESIDE:
    theirs = {path: value for path, value in given.items() if path[1] == part}
    ours = {(path[0], *strip(path[1:])): path for path in model if path[1 : 1 + len(prefix)] != prefix}
    ours = {path: full for path, full in ours.items() if path[1] == part}
    same = theirs.keys() == ours.keys() and all(
      np.shape(model[ours[path]]) == value.shape for path, value in theirs.items()
    )
    if theirs and same:
      taken |= {ours[path]: value for path, value in theirs.items()}
    elif theirs:
      log.info("%s: its %s is left out, the model has %s", origin, part, "another" if ours else "none")
  return taken


def _flatten(tree: Mapping[str, Any]) -> Flat:
  return dict(traverse_util.flatten_dict(dict(tree)))


def _first(paths: Collection[Path]) -> str:
  shown = ["/".join(path) for path in sorted(paths)[:3]]
  return ", ".join([*shown, "…"] if len(paths) > 3 else shown)


# Parts that nothing gave weights to.


def fresh(params: Mapping[str, Any], given: Collection[Path]) -> dict[str, list[Path]]:
  """Parameters that no file gave, by the part of the model that they belong to."""
  parts: dict[str, list[Path]] = {}
  for path in _flatten(params):
    if path not in given:
      parts.setdefault(strip(path)[0], []).append(path)
  return parts


def refuse_random(config: Any, params: Mapping[str, Any], given: Collection[Path]) -> None:
  """Raises `InputError` where a model that is to be judged would hold weights that nobody trained.

  A guide may be random, unless it gates: masks do not depend on it.
  """
  origin = config.init.system or config.init.run
  parts, sizes = fresh(params, given), fresh(params, ())
  for part, does in ENCODERS.items():
    name = f"{part}_encoder"
    if name in parts and len(parts[name]) == len(sizes[name]):
      raise InputError(
        f"{origin} holds no {part} encoder; give --config.init.{part}=FILE (without it the model {does} with"
        " random weights)."
      )
  if not config.debias.gate:
    parts.pop("guide", None)
  if parts:
    count = sum(map(len, parts.values()))
    raise InputError(
      f"{origin} holds nothing for {', '.join(sorted(parts))} of this model ({count} arrays), which would be judged"
      " with random weights; give the file of a whole model, or the settings that it was trained with."
    )


def warn_of_random(
  config: Any, params: Mapping[str, Any], given: Collection[Path], frozen: Sequence[str]
) -> list[str]:
  """Says aloud which encoders stay random in training: given by no file, not warmed up, and mostly frozen.

  Returns: their names.
  """
  flat, parts = _flatten(params), fresh(params, given)
  holds = [prefix for prefix in frozen if not prefix.startswith("!")]
  frees = [prefix[1:] for prefix in frozen if prefix.startswith("!")]
  found = []
  for part, does in ENCODERS.items():
    paths = parts.get(f"{part}_encoder", []) if not config.warmup.steps else []
    still = [
      path
      for path in paths
      if any(matches(path, p) for p in holds) and not any(matches(path, p) for p in frees)
    ]
    whole = sum(np.size(x) for path, x in flat.items() if strip(path)[0] == f"{part}_encoder")
    if 2 * sum(np.size(flat[path]) for path in still) > whole:
      found.append(f"{part}_encoder")
      log.warning(
        "RANDOM AND FROZEN: the %s encoder (%s) was given no weights and does not learn, so the model %s with random"
        " weights to the end; give --config.init.%s=FILE, or take it out of optimizer.frozen.",
        part,
        config.model[part],
        does,
        part,
      )
  return found


def untaught(config: Mapping[str, Any]) -> list[str]:
  """A sentence for each encoder that, by the config alone, was neither given weights nor learned; for a scoreboard.

  Whether a whole system's file holds its encoders the config does not say; `refuse_random` and the log do.
  """
  init, frozen = config.get("init", {}), config.get("optimizer", {}).get("frozen", ())
  if init.get("system") or init.get("run") or config.get("warmup", {}).get("steps"):
    return []
  is_deaf = config.get("debias", {}).get("contrast") == "visual_only"
  return [
    f"RANDOM ENCODER: the {part} encoder was frozen and given no weights (init.{part}), so the model {does} with"
    " random ones."
    for part, does in ENCODERS.items()
    if f"{part}_encoder" in frozen and not init.get(part) and not (is_deaf and part == "audio")
  ]


def title(path: str) -> str:
  """A file's name without its folder, which belongs to one machine."""
  return os.path.basename(os.path.normpath(path))
