"""Brings a state_dict of another library under the names of the original repositories.

The spelling is recognised by one tensor that only it has, whose name also shows under which prefix the
backbone lies in a larger model; what lies outside that prefix belongs to the rest of that model and is left.
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from avs_jax.weights.dialects import NEVER_WEIGHTS, matches
from avs_jax.weights.spellings import FAMILIES, Spelling, State, rename


def _join(state: State) -> State:
  """Joins the rows of tensors named with "#<n>", along the first axis."""
  joined: State = {}
  pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
  for name, value in state.items():
    found = re.search(r"#(\d)", name)
    if found:
      pieces.setdefault(name.replace(found[0], ""), []).append((int(found[1]), value))
    else:
      joined[name] = value
  for name, rows in pieces.items():
    joined[name] = np.concatenate([value for _, value in sorted(rows, key=lambda row: row[0])])
  return joined


def spelling(name: str, names: Collection[str]) -> tuple[Spelling, str] | None:
  """The spelling of `names` for the encoder `name`, and the prefix that it lies under; None if unknown."""
  family = next((kinds for letters, kinds in FAMILIES.items() if name.startswith(letters)), ())
  for kind in family:
    prefixes = [key[: -len(kind.anchor)] for key in names if key.endswith(kind.anchor)]
    prefixes = [prefix for prefix in prefixes if not prefix or prefix[-1] in "./"]
    if prefixes:
      return kind, min(prefixes, key=len)
  return None


def to_original(name: str, state: Mapping[str, np.ndarray], wanted: Collection[str]) -> State:
  """`state` under the original repository's names, without buffers that are no weights.

  Args:
    name: of an encoder or a system; where no spelling of it is known, nothing is changed.
    state: a state_dict as any of the libraries above writes it, perhaps of a larger model.
    wanted: the names that the encoder has.
  """
  state = {key: np.asarray(value) for key, value in state.items() if not matches(key, NEVER_WEIGHTS)}
  found = spelling(name, state)
  if found is None:
    return state
  kind, prefix = found
  own: State = {}
  for key, value in state.items():
    if key.startswith(prefix):
      own[rename(key[len(prefix) :], kind.rewrites)] = value
    elif kind.outside and (inner := re.search(kind.outside, key)):
      own[rename(key[inner.start() :], kind.rewrites)] = value
  return kind.finish(_join(own), wanted)
