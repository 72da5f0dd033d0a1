"""A study: named runs, each a config and what it changes, and the tables and figures they fill.

A study is a Python file with `get_study(arg) -> Study`; experiments/robust.py is one to read.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from avs_jax import variants
from avs_jax.errors import InputError
from experiments.paper_rows import PaperRow

Form = Literal[
  "conditions", "conditions_mixed", "globals", "unseen", "mixed", "refused", "against", "frontier", "kinds",
  "kinds_against",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
  """One recipe, trained once for each seed.

  Attributes:
    name: of its record, e.g. "avsbench-prior".
    config: a config file, "configs/quickstart.py" or "configs/quickstart.py:avsegformer".
    changes: the settings in which it differs, in the config's own sections (as `config.variants` has them).
      Of several, later ones win.
    before: also take the guide's similarities before training (figure 4 left).
    partner: the row whose finished run of the same seed is the other half of an ensemble
      (`debias.contrast_run`); it must stand before this one.
  """

  name: str
  config: str
  changes: tuple[Mapping[str, Any], ...] = ()
  before: bool = False
  partner: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a table: the words before its figures, and the row they come from."""

  labels: tuple[str, ...]
  row: str


@dataclasses.dataclass(frozen=True)
class Table:
  """A table in the form of the paper's.

  Attributes:
    name: of its files.
    title: what it shows.
    form: conditions: own sound, each negative, G; conditions_mixed: and the own sound under each noise of
      `eval.noise_mix`; globals: G alone; unseen: a line for each unseen sound; mixed: a line for the own sound
      and one for it under each noise; refused: how many own seconds get no mask, and what that costs;
      against: what each line loses against one of them; frontier: the highest positive IoU at bounds of
      G-FPR; kinds: own sound on all clips, where sounds come and go, and on two of a kind; kinds_against:
      what each line gains on these against one row.
    labels: heads of the columns of words.
    paper: the printed lines that stand beside ours.
    against: of these forms, the row that the others are compared with.
  """

  name: str
  title: str
  form: Form
  labels: tuple[str, ...]
  lines: tuple[Line, ...]
  paper: tuple[PaperRow, ...] = ()
  against: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs and what is made of them.

  Attributes:
    name: of the folder of its records.
    similarity: rows whose similarities are drawn (figure 4).
    frontier: rows whose frontiers are drawn together.
    pictures: rows shown side by side under four sounds (figures 3 and 5), first to last.
    data_set: the published data set that the rows are for, so that `data.root` must be set; "" for stand-ins.
  """

  name: str
  title: str
  rows: tuple[Row, ...]
  tables: tuple[Table, ...] = ()
  similarity: tuple[str, ...] = ()
  frontier: tuple[str, ...] = ()
  pictures: tuple[str, ...] = ()
  data_set: str = ""

  def __post_init__(self):
    names = [row.name for row in self.rows]
    if len(set(names)) < len(names) or not names:
      raise InputError(
        f"study {self.name}: rows need names, each its own; found {', '.join(names) or 'none'}."
      )
    asked = [line.row for table in self.tables for line in table.lines]
    late = [
      row.name for place, row in enumerate(self.rows) if row.partner and row.partner not in names[:place]
    ]
    if late:
      raise InputError(
        f"study {self.name}: the partner of row {late[0]} must be a row that stands before it."
      )
    asked += [table.against for table in self.tables if table.form in ("against", "kinds_against")]
    unknown = sorted({*asked, *self.similarity, *self.frontier, *self.pictures} - set(names))
    if unknown:
      raise InputError(f"study {self.name}: there is no row {unknown[0]!r}; the rows are {', '.join(names)}.")

  def row(self, name: str) -> Row:
    return next(row for row in self.rows if row.name == name)


def load(path: str) -> Study:
  """The study that a file describes; `FILE:ARG` hands ARG to its `get_study`.

  Raises:
    InputError: no such file, or nothing of that name in it.
  """
  return _module(path, "--study").get_study(*path.split(":", 1)[1:])


def _module(path: str, flag: str) -> ModuleType:
  file = path.split(":", 1)[0]
  if not os.path.isfile(file):
    raise InputError(f"{flag}: {file} is not there; give a file such as experiments/robust.py.")
  wanted = "get_study" if flag == "--study" else "get_config"
  spec = importlib.util.spec_from_file_location(f"_{wanted}_{os.path.basename(file)[:-3]}", file)
  assert spec is not None and spec.loader is not None  # it is a file
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, wanted):
    raise InputError(f"{flag}: {file} has no function {wanted}; see experiments/robust.py.")
  return module


def configure(row: Row, seed: int) -> Any:
  """The config of one run: the file's, with the row's changes and the seed; its variants are left out.

  Raises:
    InputError: no such file, or a key that the config has not.
  """
  config = _module(row.config, f"row {row.name}").get_config(*row.config.split(":", 1)[1:])
  for changes in row.changes:
    with config.unlocked():
      config.variants = type(config)({"changes": dict(changes)})
    try:
      config = variants.variant(config, "changes")
    except InputError as error:
      raise InputError(f"row {row.name}: {error}") from None
  with config.unlocked():
    config.variants = type(config)()
    config.seed = seed
    config.title = f"{row.name.replace('_', ' ')}, seed {seed}"
  return config.lock()
