"""One small JSON file for each finished run: all that tables and figures are made from, so no run is trained twice.

docs/records/<study>/<row>-<seed>.json holds the config, commit, versions, hardware and wall time, the whole
scoreboard with unseen sounds, the frontier, the similarities' histogram, and the masks of a few frames (bits,
packed; the frames themselves are made or read again from the data set).
"""

import base64
import glob
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import frontier, report, tables
from avs_jax.errors import InputError
from avs_jax.settings import FREE, is_under
from avs_jax.settings import deciding as settings

FORMAT = 1


def path_of(folder: str, study: str, row: str, seed: int) -> str:
  return os.path.join(folder, study, f"{row}-{seed}.json")


def _settings_then(record: Mapping[str, Any]) -> dict[str, Any]:
  """A record's settings. Older ones did not say whether `data.root` was set; what they were measured on does."""
  is_real = record.get("is_stand_in") is False or "in the layout of" in str(record.get("data_set"))
  then = {"data.root": is_real, **record["settings"]}
  return {name: value for name, value in then.items() if not is_under(name, FREE)}


def differences(record: Mapping[str, Any], config: Any) -> list[str]:
  """In which settings a record was made otherwise than `config` says; [] where it is of this config.

  A setting that is newer than the record counts as its default.
  """
  from configs import common

  then, now = _settings_then(record), _rounded(settings(config))
  defaults = common.get_config()
  common.select_system(defaults, config.model.system)
  default = _rounded(settings(defaults))
  found = []
  for name in sorted(set(then) | set(now)):
    before = then.get(name, default.get(name))
    if name not in now or before != now[name]:
      found.append(f"{name}: {before!r}, now {now.get(name)!r}")
  return found


def make(
  study: str, row: str, config: Any, workdir: str, wall_s: float, before: Any = None
) -> dict[str, Any]:
  """The record of the finished run in `workdir`.

  Args:
    before: similarities before training (`frontier.similarities`), if taken.

  Raises:
    InputError: the folder has no scoreboard or statistics.
  """
  board = report.read(workdir)
  if board is None:
    raise InputError(f"{workdir}: no scoreboard there; delete the folder's checkpoints and train again.")
  statistics = frontier.read(os.path.join(workdir, "statistics.npz"))
  facts = board["record"]
  kept = (
    "data_set",
    "is_stand_in",
    "split",
    "clips",
    "weights_digest",
    "config_digest",
    "hardware",
    "commit",
    "date",
  )
  return {
    "format": FORMAT,
    "study": study,
    "row": row,
    "seed": config.seed,
    **{name: facts.get(name) for name in kept},
    "versions": facts.get("versions"),
    "wall_s": round(wall_s, 1),
    "settings": settings(config),
    "figures": {name: figures for name, figures in board.items() if name not in ("record", "global")},
    "global": board["global"],
    "frontier": frontier.sweep(statistics) if frontier.is_sweepable(statistics) else None,
    "similarity": {"before": before, "after": frontier.similarities(statistics, config.debias.guide)},
    "pictures": _pictures(workdir, config.eval.conditions),
  }


def _pictures(workdir: str, conditions: tuple[str, ...]) -> list[dict[str, Any]]:
  """Masks of the pictured clips' middle second under each sound."""
  found, index = [], 0
  while os.path.exists(path := os.path.join(workdir, "pictures", f"four_sounds_{index}.npz")):
    with np.load(path) as file:
      second = len(file["frames"]) // 2
      masks = {name: file[name][second] for name in conditions if name in file.files}
      size = list(file["frames"].shape[1:3])
    packed = {name: pack(mask) for name, mask in masks.items()}
    found.append({"clip": index, "second": second, "size": size, "masks": packed})
    index += 1
  return found


def pack(mask: np.ndarray) -> str:
  """A mask as text: bits, zlib, base 64."""
  return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def unpack(text: str, size: tuple[int, int]) -> np.ndarray:
  """What `pack` was given."""
  bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
  return np.unpackbits(bits, count=size[0] * size[1]).astype(bool).reshape(size)


def write(folder: str, record: Mapping[str, Any]) -> str:
  """Keeps a record. Returns its path."""
  path = path_of(folder, record["study"], record["row"], record["seed"])
  return tables.save(path, _dump(record) + "\n")


def _dump(value: Any, indent: int = 0) -> str:
  """JSON that a diff can be read of: a line a setting, lists and small things on one line, six digits."""
  if isinstance(value, Mapping) and any(isinstance(item, Mapping | list | tuple) for item in value.values()):
    inner = " " * (indent + 1)
    items = [f"{inner}{json.dumps(str(key))}: {_dump(item, indent + 1)}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
  return json.dumps(_rounded(value))


def _rounded(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _rounded(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_rounded(item) for item in value]
  return float(f"{value:.6g}") if isinstance(value, float) else value


def read(path: str) -> dict[str, Any] | None:
  """A record; None where there is no such file.

  Raises:
    InputError: it is broken, or of another format.
  """
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding="utf-8") as file:
      record = json.load(file)
    if record["format"] != FORMAT:
      raise ValueError(f"format {record['format']}, not {FORMAT}")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{path} is no record of this version ({error}); delete it to train the run again."
    ) from None
  return record


def find(folder: str, config: Any) -> dict[str, Any] | None:
  """A record of this config's settings, in whatever study; None where there is none."""
  for path in sorted(glob.glob(os.path.join(folder, "*", f"*-{config.seed}.json"))):
    record = _loose(path)  # other commands keep other things there
    if record.get("format") == FORMAT and not differences(record, config):
      return record
  return None


def _loose(path: str) -> dict[str, Any]:
  """What a file holds, whatever it is; {} where it is no JSON object."""
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def read_all(folder: str, study: Any) -> dict[str, list[dict[str, Any]]]:
  """{row: its records by rising seed} of a study's folder; rows without any are left out."""
  found: dict[str, list[dict[str, Any]]] = {}
  home = os.path.join(folder, study.name)
  names = sorted(os.listdir(home)) if os.path.isdir(home) else []
  known = {row.name for row in study.rows}
  for name in names:
    row, _, seed = name.removesuffix(".json").rpartition("-")
    if name.endswith(".json") and row in known and seed.isdecimal():
      record = read(os.path.join(home, name))
      assert record is not None  # it was just listed
      found.setdefault(row, []).append(record)
  for some in found.values():
    some.sort(key=lambda record: record["seed"])
  return {row.name: found[row.name] for row in study.rows if row.name in found}


def runs_table(names: Sequence[str], records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
  """What was run, on what, for how long: a line a row; "–" stands for what a record does not say.

  A record made in several sittings holds them, each with its own facts (`experiments.noise`).
  """
  header = ["row", "seeds", "minutes a run", "hardware", "commit", "versions"]
  rows = []
  for name in names:
    sittings = [record.get("sittings", [record]) for record in records.get(name, ())]
    every = [each for some in sittings for each in some]
    facts = [sorted({each.get(key) or "–" for each in every}) for key in ("hardware", "commit")]
    versions = sorted({f"jax {each['versions']['jax']}" if each.get("versions") else "–" for each in every})
    minutes = [_minutes(some) for some in sittings]
    rows.append([
      name,
      ", ".join(str(record["seed"]) for record in records.get(name, ())) or "not run",
      "–" if None in minutes else tables.spread(minutes, 1),
      *("; ".join(each) or "–" for each in (*facts, versions)),
    ])  # fmt: skip
  return tables.markdown(header, rows, 2)


def _minutes(sittings: Sequence[Mapping[str, Any]]) -> float | None:
  """What they took together; None where one does not say."""
  seconds = [each.get("wall_s") for each in sittings]
  return None if None in seconds else sum(seconds) / 60
