"""BiasAVS's tables 2 and 3 on a stand-in: the parts of the active queries, and where their marks come from.

  python -m experiments.run --study=experiments/queries.py                    generated clips, one object (as S4)
  python -m experiments.run --study=experiments/queries.py:generated_multi    generated clips, several (as MS3)
  python -m experiments.run --study=experiments/queries.py:real_media         composed photographs and recordings

Table 2 takes the parts away one after the other, as the paper does: the contrast, the dropping of dominant pairs,
the interaction among active queries alone, the 0th query, the marks. Table 3: marks by K-means, by a Gaussian
mixture, and none; by a classifier only where weights of BEATs are at hand:
--set='{"marks": {"kind": "classifier", "weights": "BEATs.pt"}}'. Positive pairs only.
"""

from typing import Any

from avs_jax.errors import InputError
from experiments.paper_rows import PaperRow
from experiments.study import Line, Row, Study, Table
from experiments.systems import SETTINGS, SMALL

_CONTRAST = {"contrast": "uncertainty"}
_ALL = {"interaction": "all"}
_NO_FIRST = {"interaction": "all", "first_query": False}
_KEPT = {"queries_drop": 0.0}
# row -> its label, and what it changes in the active queries with marks by K-means.
ROWS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
  "whole": ("whole", {"debias": _CONTRAST}),
  "no_contrast": ("w/o contrast", {}),
  "no_drop": ("and w/o dropping", {"loss": _KEPT}),
  "no_interaction": ("and w/o interaction enhancement", {"loss": _KEPT, "model": _ALL}),
  "no_first": ("and w/o the 0th query", {"loss": _KEPT, "model": _NO_FIRST}),
  "no_marks": ("and w/o active queries", {"loss": _KEPT, "model": _ALL, "marks": {"kind": "none"}}),
  "gmm": ("GMM", {"debias": _CONTRAST, "marks": {"kind": "gmm"}}),
  "none": ("none", {"debias": _CONTRAST, "marks": {"kind": "none"}}),
}
# mIoU and F-score on V1M, that is MS3, in per cent.
PRINTED = {
  2: {
    "whole": (67.22, 80.8),
    "no_contrast": (66.12, 79.2),
    "no_drop": (65.95, 79.0),
    "no_interaction": (62.57, 74.4),
    "no_first": (62.36, 74.3),
    "no_marks": (62.16, 73.4),
  },
  3: {"whole": (64.18, 74.6), "gmm": (64.57, 74.2), "none": (63.59, 70.2)},
}


def get_study(arg: str = "generated") -> Study:
  """The study on the data named `arg`.

  Raises:
    InputError: there are no such data.
  """
  if arg not in SETTINGS:
    raise InputError(f"experiments/queries.py:{arg}: there is no such data; choose {', '.join(SETTINGS)}.")
  config, common = SETTINGS[arg]
  small = SMALL["active_queries"]
  rows = tuple(
    Row(name, f"{config}:active_queries", (*common, small, changes)) for name, (_, changes) in ROWS.items()
  )
  labels = {name: label for name, (label, _) in ROWS.items()}
  parts = tuple(Line((labels[name],), name) for name in PRINTED[2])
  marks = tuple(Line(("K-means" if name == "whole" else labels[name],), name) for name in PRINTED[3])
  printed = {
    number: tuple(
      PaperRow(number, "MS3", line.labels, PRINTED[number][line.row], places=2 if number == 2 else None)
      for line in lines
    )
    for number, lines in ((2, parts), (3, marks))
  }
  return Study(
    name=f"queries_{arg}",
    title=f"Parts of the active queries: {arg.replace('_', ' ')}",
    rows=rows,
    tables=(
      Table("table_2", "Table 2 (V1M): parts of the method", "conditions", ("model",), parts, printed[2]),
      Table("table_3", "Table 3 (V1M): where marks come from", "conditions", ("marks",), marks, printed[3]),
      Table(
        "conclusions",
        "What is lost with each part",
        "against",
        ("model",),
        parts,
        printed[2],
        against="whole",
      ),
    ),
    frontier=tuple(ROWS),
    pictures=("whole", "no_contrast", "no_marks"),
  )
