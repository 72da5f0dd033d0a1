"""Brings a state_dict of another library under the names of the original repositories, and back for messages.

Spelling and prefix are those under which most of the wanted tensors are found; of equals, the spelling whose
anchor is there. What lies outside the prefix belongs to the rest of a larger model and is left.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from avs_jax.weights.dialects import NEVER_WEIGHTS, Rewrites, matches, rewrite
from avs_jax.weights.spellings import FAMILIES, Spelling, State, rename

_UNSPELT = Spelling("")


def _original(key: str, kind: Spelling, prefix: str) -> str | None:
  """The original name of a file's tensor, with "#<n>" where it is a part of one; None outside the backbone."""
  if key.startswith(prefix):
    return rename(key[len(prefix) :], kind.rewrites)
  inner = re.search(kind.outside, key) if kind.outside else None
  return rename(key[inner.start() :], kind.rewrites) if inner else None


def _whole(name: str) -> str:
  return re.sub(r"#\d", "", name)


def _candidates(
  family: tuple[Spelling, ...], names: Collection[str], least: int, anchored: bool
) -> Iterator[tuple[Spelling, str]]:
  """Spellings with the prefixes at which their anchor lies, or with all that hold `least` names."""
  if anchored:
    for kind in family:
      prefixes = {key[: -len(kind.anchor)] for key in names if key.endswith(kind.anchor)}
      for prefix in sorted(prefixes, key=len):
        if not prefix or prefix[-1] in "./":
          yield kind, prefix
    return
  held = {"": len(names)}
  for key in names:
    for cut in re.finditer(r"[./]", key):
      held[key[: cut.end()]] = held.get(key[: cut.end()], 0) + 1
  for kind in reversed(family):  # the original's own first, which changes least
    for prefix in sorted(held, key=len):
      if held[prefix] >= least:
        yield kind, prefix


def spelling(
  name: str, names: Collection[str], wanted: Collection[str], aliases: Rewrites = ()
) -> tuple[Spelling, str] | None:
  """The spelling of `names` for the encoder `name`, and the prefix that it lies under; None if unknown."""
  family = next((kinds for letters, kinds in FAMILIES.items() if name.startswith(letters)), ())
  wanted = set(wanted)
  best: tuple[Spelling, str] | None = None
  rank = (len(wanted & {rewrite(key, aliases) for key in names}), 1)  # as they are
  for anchored in (True, False):
    if not anchored and rank[0] == len(wanted):
      break
    # Without its anchor a spelling has to fit well: a file of something else is better named as it is.
    least = max(1, (len(wanted) + 1) // 2)
    for kind, prefix in _candidates(family, names, least, anchored):
      originals = {key: _original(key, kind, prefix) for key in names}
      covered = len(wanted & {rewrite(_whole(new), aliases) for new in originals.values() if new is not None})
      is_plain = all(key == new for key, new in originals.items())
      grade = 3 if anchored else 2 if is_plain else 0
      if (covered, grade) > rank and (anchored or covered >= least):
        best, rank = (kind, prefix), (covered, grade)
  return best


@dataclasses.dataclass(frozen=True)
class Translation:
  """A state_dict under original names.

  Attributes:
    state: the tensors; parts of one are joined where all are there.
    uneven: tensors whose parts have different shapes, and what these are; they are not in `state`.
    prefix: what stands before the backbone's names in the file; `theirs` gives names without it.
  """

  state: State
  uneven: dict[str, str]
  prefix: str
  _kind: Spelling
  _aliases: Rewrites
  # The file's name, without the prefix: the original name, "#<n>" at the end of parts.
  _originals: dict[str, str]

  def theirs(self, name: str) -> str:
    """What the file calls the tensor of the original `name`, or would call it by the example of its others.

    Of a tensor in parts, those that are lacking, or all where none is. The original name where nothing shows it.
    """
    if self._kind is _UNSPELT:
      return next((key for key, new in self._originals.items() if new == name), name)
    for known in dict.fromkeys((name, rename(name, self._kind.before))):
      present = {new: key for key, new in self._originals.items() if _whole(new) == known}
      numbers = [f"#{n}" for n in range(_parts(self._kind))] if present.keys() != {known} else []
      places = [new for n in numbers for new in self._placed(known, n)]
      lacking = [new for new in places if new not in present]
      if present and not lacking:
        return " + ".join(present.values())
      spelt = [found for new in (lacking or [known]) if (found := self._spelt(new))]
      if spelt:
        return ", ".join(spelt)
    return name

  def _placed(self, name: str, number: str) -> list[str]:
    """`name` with the number of a part where other tensors of its kind have theirs."""
    for new in self._originals.values():
      found = re.search(r"#\d", new)
      if found and _skeleton(_whole(new)).rpartition(".")[0] == _skeleton(name).rpartition(".")[0]:
        stem, dot, leaf = name.rpartition(".")
        return [f"{stem}{number}{dot}{leaf}"]
    return []

  def _spelt(self, name: str) -> str | None:
    """The name that the file lacks, by the example of a tensor that differs from it in leaf or numbers alone."""
    stem, _, leaf = name.rpartition(".")
    pairs = [(self._kind.anchor, self._renamed(self._kind.anchor)), *self._originals.items()]
    pairs.sort(key=lambda pair: not pair[1].startswith(f"{stem}."))  # those that differ in the leaf first
    leaves = {re.split(r"[./]", key)[-1] for key, new in pairs if new.rpartition(".")[2] == leaf}
    for key, new in pairs:
      tried = [key]
      if new.rpartition(".")[0] == stem:
        tried += [re.sub(r"[^./]+$", other, key) for other in sorted(leaves)]
      if _skeleton(new) == _skeleton(name):
        tried += _recounted(key, _numbers(new), _numbers(name))
      for candidate in tried:
        if candidate not in self._originals and self._renamed(candidate) == name:
          return candidate
    return None

  def _renamed(self, key: str) -> str:
    return rewrite(rename(key, self._kind.rewrites), self._aliases)


def _parts(kind: Spelling) -> int:
  """Number of parts that a spelling's divided tensors have; 0 where it divides none."""
  return max((int(n) + 1 for _, text in kind.rewrites for n in re.findall(r"#(\d)", text)), default=0)


def _skeleton(name: str) -> str:
  return re.sub(r"\d+", "0", name)


def _numbers(name: str) -> list[int]:
  return [int(n) for n in re.findall(r"\d+", name)]


def _recounted(key: str, example: list[int], wanted: list[int]) -> list[str]:
  """`key` with its numbers moved as from `example` to `wanted`, matched from the left and from the right."""
  words, numbers = re.split(r"\d+", key), _numbers(key)
  steps = [there - here for here, there in zip(example, wanted, strict=True)]
  room = [0] * len(numbers)
  results = []
  for moved in ((steps + room)[: len(numbers)], (room + steps)[len(steps) :]):
    texts = [str(n + step) for n, step in zip(numbers, moved, strict=True)]
    results.append("".join(a + b for a, b in zip(words, [*texts, ""], strict=True)))
  return results


def _join(state: State, kind: Spelling, keys: Mapping[str, str]) -> tuple[State, dict[str, str]]:
  """Joins the parts "#<n>" of tensors along the first axis where all are there and alike; and the unlike ones."""
  joined: State = {}
  pieces: dict[str, dict[str, np.ndarray]] = {}
  for name, value in state.items():
    if "#" in name:
      pieces.setdefault(_whole(name), {})[name] = value
    else:
      joined[name] = value
  uneven = {}
  for name, parts in pieces.items():
    rows = [parts[part] for part in sorted(parts)]
    if len(rows) < _parts(kind):
      continue
    if any(row.shape != rows[0].shape or not row.ndim for row in rows):
      uneven[name] = " beside ".join(f"{keys[part]} {list(parts[part].shape)}" for part in sorted(parts))
    else:
      joined[name] = np.concatenate(rows)
  return joined, uneven


def translate(
  name: str, state: Mapping[str, np.ndarray], wanted: Collection[str], aliases: Rewrites = ()
) -> Translation:
  """`state` under the original repository's names, without buffers that are no weights.

  Args:
    name: of an encoder or a system; where no spelling of it is known, nothing is changed.
    state: a state_dict as any of the libraries above writes it, perhaps of a larger model.
    wanted: the names that the encoder has.
    aliases: pairs that lead from the original names to the wanted ones, where they differ.
  """
  state = {key: np.asarray(value) for key, value in state.items() if not matches(key, NEVER_WEIGHTS)}
  kind, prefix = spelling(name, state, wanted, aliases) or (_UNSPELT, "")
  own: State = {}
  keys: dict[str, str] = {}
  for key, value in state.items():
    new = _original(key, kind, prefix)
    if new is not None:
      own[new], keys[new] = value, key.removeprefix(prefix)
  joined, uneven = _join(own, kind, keys)
  finished = kind.finish(joined, wanted)
  return Translation(
    {rewrite(key, aliases): value for key, value in finished.items()},
    {rewrite(key, aliases): sentence for key, sentence in uneven.items()},
    prefix, kind, aliases, {key: rewrite(new, aliases) for new, key in keys.items()},
  )  # fmt: skip


def to_original(name: str, state: Mapping[str, np.ndarray], wanted: Collection[str]) -> State:
  """The tensors of `translate`."""
  return translate(name, state, wanted).state
