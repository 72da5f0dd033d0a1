"""Several scoreboards side by side: a row a run, means and standard deviations where a row has several seeds.

Scoreboards of different data are refused; what else sets them apart (sizes, sounds, stand-ins) is said above the
table (caveats.py).
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax import tables
from avs_jax.caveats import mixed, warnings
from avs_jax.errors import InputError, make_folder
from avs_jax.metrics import NEGATIVES
from avs_jax.report import ROW_NAMES, finite, with_global

Boards = Mapping[str, Sequence[Mapping[str, Any]]]
# Figures of the own sound and global figures, of models of one class and of several.
_OWN = {True: ("iou_frame", "f_max_batch20", "f_at_half"), False: ("iou_class_frame", "f_class_frame")}
_GLOBAL = {True: ("g_iou", "g_f", "g_fpr", "g_f_at_half"), False: ("g_iou", "g_f", "g_fpr")}
_LEGEND = "Own sound: higher is better; fpr and g_fpr: lower is better; the other g: higher is better."
_SEEDS = " Mean ± standard deviation (n - 1) over the seeds."


def over_seeds(scoreboards: Sequence[Mapping[str, Any]], sound: str, figure: str) -> list[float | None]:
  """One figure of each scoreboard; `sound` may be "global", for the G figures."""
  return [with_global(board).get(sound, {}).get(figure) for board in scoreboards]


def write(
  folder: str, scoreboards: Mapping[str, Any], *, show: bool = True, whole: bool = True
) -> dict[str, str]:
  """Writes the table: own sound, active area under each negative sound, and the global scores.

  Args:
    scoreboards: {row's name: what `report.read` gives, or several, one a seed}.
    show: print the table too.
    whole: keep the scoreboards themselves as JSON too; for those that no record holds elsewhere.

  Returns: {"md", "tex", "json" if `whole`: path} of comparison.* in `folder`.

  Raises: InputError where there is nothing to compare, or scoreboards are of different data.
  """
  boards = {name: [each] if isinstance(each, Mapping) else list(each) for name, each in scoreboards.items()}
  every = [board for some in boards.values() for board in some]
  if not every or not all(boards.values()):
    raise InputError("there is no scoreboard to compare; evaluate at least one run first.")
  _check_same_data(boards)
  header, rows = _table(boards, "iou_frame" in every[0].get("positive", {"iou_frame": 0}))
  records = [board.get("record", {}) for board in every]
  said = [*dict.fromkeys(sentence for each in records for sentence in warnings(each)), *mixed(records)]
  data_set = records[0].get("data_set")
  note = _LEGEND + (_SEEDS if len(every) > len(boards) else "")
  lines = [f"# Comparison on {data_set or 'a data set not named'}", ""]
  for sentence in said:
    lines += [f"**{sentence}**", ""]
  texts = {
    "md": "\n".join([*lines, *tables.markdown(header, rows), "", note]) + "\n",
    "tex": tables.latex(header, rows, f"{' '.join(said) or data_set or ''} {note}"),
  }
  if show:
    print(texts["md"], flush=True)
  if whole:
    texts["json"] = json.dumps(finite(scoreboards), indent=1, default=str) + "\n"
  make_folder(folder)
  return {kind: tables.save(os.path.join(folder, f"comparison.{kind}"), text) for kind, text in texts.items()}


def _check_same_data(boards: Boards) -> None:
  measured = {
    tuple(board.get("record", {}).get(key) for key in ("data_set", "split", "clips")): name
    for name, some in boards.items()
    for board in some
  }
  if len(measured) > 1:
    listed = "; ".join(
      f"{name}: {data} {split}, {clips} clips" for (data, split, clips), name in measured.items()
    )
    raise InputError(f"these scoreboards are of different data and cannot share a table ({listed}).")


def _table(boards: Boards, is_binary: bool) -> tuple[list[str], list[list[str]]]:
  own, globals_ = _OWN[is_binary], _GLOBAL[is_binary]
  columns = {
    **{f"own {figure}": ("positive", figure) for figure in own},
    **{f"fpr {ROW_NAMES[sound]}": (sound, "fpr") for sound in NEGATIVES},
    **{figure: ("global", figure) for figure in globals_},
  }
  rows = []
  for name, some in boards.items():
    records = [board.get("record", {}) for board in some]
    rows.append([
      name.replace("_", " "),
      *(tables.spread(over_seeds(some, *column)) for column in columns.values()),
      ", ".join(str(record.get("seed", "–")) for record in records),
      ", ".join(str(record.get("weights_digest", "–"))[:12] for record in records),
    ])  # fmt: skip
  return ["run", *columns, "seed", "weights"], rows
