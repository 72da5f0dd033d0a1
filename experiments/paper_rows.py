"""The printed lines of the Robust paper's tables 2 to 9, digit by digit, and where they contradict themselves.

"Do Audio-Visual Segmentation Models Truly Segment Sounding Objects?", main text (tables 2 to 4) and supplement
(5 to 9). IoU and F are per cent; where the paper prints fractions (its own rows in tables 5 and 6) that is
said. FPR are fractions. A `doubt` names figures that the line's own columns, or another table, contradict; in
`TABLES` it also says over which frames F was taken, where not over the 20 of our column (docs/metrics.md).
"""

import dataclasses
from typing import Any

from avs_jax import metrics

Triple = tuple[float, float, float]  # IoU, F, FPR


@dataclasses.dataclass(frozen=True)
class PaperRow:
  """A printed line.

  Attributes:
    table: its number.
    data: S4 or MS3.
    labels: the words before its figures.
    own: IoU and F with the clip's own sound; None where the table has none.
    negatives: (IoU, F, FPR) under silence, noise, off-screen; None where not given.
    g: G-mIoU, G-F, G-FPR as printed; None where not given.
    unseen: (IoU, F, FPR) under one unseen sound (tables 5, 6).
    is_fraction: IoU and F of this line are printed as fractions.
    doubt: what is wrong with the line, for a footnote.
    disagrees: the G figures that its own columns contradict: g_iou, g_f, g_fpr.
    places: decimals of its IoU and F; None: those of the Robust paper's table.
  """

  table: int
  data: str
  labels: tuple[str, ...]
  own: tuple[float, float] | None = None
  negatives: tuple[Triple, Triple, Triple] | None = None
  g: Triple | None = None
  unseen: Triple | None = None
  is_fraction: bool = False
  doubt: str = ""
  disagrees: tuple[str, ...] = ()
  places: int | None = None

  @property
  def digits(self) -> int:
    """Decimals of the printed IoU and F columns: the Robust paper's table 8 has two, the others one."""
    if self.places is not None:
      return self.places
    return 2 if self.table == 8 else 1


def recomputed(row: PaperRow) -> dict[str, float] | None:
  """g_iou, g_f (per cent) and g_fpr from the line's own columns; None where it has none."""
  if row.own is None or row.negatives is None:
    return None
  rows = {
    name: dict(zip(("iou", "f", "fpr"), triple, strict=True))
    for name, triple in zip(metrics.NEGATIVES, row.negatives, strict=True)
  }
  return metrics.global_scores({"iou": row.own[0], "f": row.own[1]}, rows)


def reach(row: PaperRow) -> dict[str, float] | None:
  """How far the printed G may lie from `recomputed` by the rounding of the printed columns alone."""
  here = recomputed(row)
  if here is None or row.own is None or row.negatives is None:
    return None
  half, low = 0.5 * 10**-row.digits, {}
  for sign in (-1, 1):  # G rises with the own figure and falls with the negatives
    own = (row.own[0] + sign * half, row.own[1] + sign * half)
    moved = tuple((max(i - sign * half, 0), max(f - sign * half, 0), p) for i, f, p in row.negatives)
    other = recomputed(dataclasses.replace(row, own=own, negatives=moved))
    for name in ("g_iou", "g_f"):
      low[name] = max(low.get(name, 0.0), abs(other[name] - here[name]))
  last = 0.01 if row.digits == 2 else 0.001  # the last printed place of G-mIoU and G-F
  printed = {"g_iou": low["g_iou"] + last / 2, "g_f": low["g_f"] + last / 2}
  decimals = 3 if row.table == 7 and all(p == round(p, 3) for _, _, p in row.negatives) else 2
  # An FPR printed as .00 with two decimals may be .005; table 7 prints three where it can.
  return {**printed, "g_fpr": 0.5 * 10**-decimals + 0.0005}


def _same(iou: float, f: float, fpr: float) -> tuple[Triple, Triple, Triple]:
  return (iou, f, fpr), (iou, f, fpr), (iou, f, fpr)


_S4_BASE: dict[str, Any] = {
  "own": (78.7, 87.9),
  "negatives": ((76.6, 87.1, 0.19), (77.6, 88.0, 0.18), (78.2, 88.2, 0.19)),
  "g": (35.032, 21.479, 0.186),
}
_S4_OURS: dict[str, Any] = {
  "own": (78.1, 88.2),
  "negatives": _same(0.2, 22.6, 0.0),
  "g": (87.672, 82.461, 0.0),
}
_MS3_BASE: dict[str, Any] = {
  "own": (54.0, 64.5),
  "negatives": ((27.6, 53.5, 0.05), (31.7, 57.4, 0.05), (42.2, 62.4, 0.09)),
  "g": (59.468, 51.036, 0.072),
}
_MS3_OURS: dict[str, Any] = {
  "own": (51.3, 64.5),
  "negatives": ((9.8, 17.7, 0.0), (9.9, 25.8, 0.0), (9.1, 20.3, 0.0)),
}
_MS3_BASE_DOUBT: dict[str, Any] = {
  "doubt": "G-FPR .072 is printed, the columns give .063",
  "disagrees": ("g_fpr",),
}
_OTHER_RUN: dict[str, Any] = {
  "g": (66.605, 70.590, 0.004),
  "doubt": (
    "G of another run: tables 2, 3 and 8 print 65.427 / 70.911 / .001 from the same columns, which give 65.455 /"
    " 70.909"
  ),
  "disagrees": ("g_iou", "g_f"),
}

TABLE_2 = (
  PaperRow(2, "S4", ("AVSBench",), **_S4_BASE),
  PaperRow(2, "S4", ("AVSegFormer",), (82.1, 89.9), _same(83.0, 90.4, 0.19), (28.199, 17.355, 0.188)),
  PaperRow(
    2, "S4", ("Stepping-Stones",), (83.2, 91.3),
    ((82.2, 91.3, 0.19), (82.2, 91.3, 0.19), (82.5, 91.3, 0.19)), (28.980, 15.806, 0.190),
    doubt="G-mIoU 28.980 is printed, the columns give 29.190", disagrees=("g_iou",),
  ),
  PaperRow(
    2, "S4", ("SAMA-AVS",), (83.1, 90.0),
    ((56.2, 69.1, 0.17), (59.3, 73.8, 0.13), (68.7, 79.0, 0.17)), (52.688, 40.417, 0.155),
  ),
  PaperRow(2, "S4", ("CAVP",), (78.7, 88.8), _same(78.7, 88.8, 0.19), (33.526, 19.891, 0.185)),
  PaperRow(2, "S4", ("COMBO",), (84.7, 91.9), _same(84.6, 91.9, 0.19), (26.062, 14.888, 0.190)),
  PaperRow(2, "S4", ("AVSBench + Ours",), **_S4_OURS),
  PaperRow(
    2, "S4", ("AVSegFormer + Ours",), (74.2, 84.8),
    ((0.2, 22.6, 0.0), (0.3, 22.7, 0.0), (0.5, 22.9, 0.0)), (85.069, 80.849, 0.001),
  ),
  PaperRow(2, "MS3", ("AVSBench",), **_MS3_BASE, **_MS3_BASE_DOUBT),
  PaperRow(
    2, "MS3", ("AVSegFormer",), (61.3, 73.8),
    ((53.2, 68.2, 0.13), (47.5, 63.8, 0.09), (50.3, 66.0, 0.11)), (54.889, 46.571, 0.103),
    doubt="G-FPR .103 is printed, the columns give .110", disagrees=("g_fpr",),
  ),
  PaperRow(
    2, "MS3", ("Stepping-Stones",), (67.3, 77.6),
    ((45.6, 72.5, 0.09), (43.8, 72.3, 0.08), (41.0, 63.3, 0.15)), (61.439, 43.937, 0.114),
    doubt="G-FPR .114 is printed, the columns give .107", disagrees=("g_fpr",),
  ),
  PaperRow(
    2, "MS3", ("SAMA-AVS",), (68.6, 78.3),
    ((29.7, 36.8, 0.09), (39.2, 46.6, 0.12), (44.1, 49.9, 0.14)), (65.308, 65.038, 0.125),
    doubt="G-FPR .125 is printed, the columns give .117", disagrees=("g_fpr",),
  ),
  PaperRow(2, "MS3", ("CAVP",), (45.8, 61.7), _same(45.8, 61.7, 0.11), (49.647, 47.262, 0.110)),
  PaperRow(2, "MS3", ("COMBO",), (59.2, 71.2)),
  PaperRow(2, "MS3", ("AVSBench + Ours",), **_MS3_OURS, g=(65.427, 70.911, 0.001)),
  PaperRow(
    2, "MS3", ("AVSegFormer + Ours",), (61.5, 74.0),
    ((9.1, 17.0, 0.0), (9.4, 17.2, 0.0), (9.1, 17.0, 0.0)), (73.354, 78.244, 0.000),
  ),
)  # fmt: skip

TABLE_3 = (
  PaperRow(3, "S4", ("Baseline", "0 %"), g=(35.032, 21.479, 0.186)),
  PaperRow(3, "S4", ("Ours", "10 %"), g=(87.672, 82.461, 0.000)),
  PaperRow(3, "S4", ("Ours", "20 %"), g=(87.780, 82.114, 0.000)),
  PaperRow(3, "S4", ("Ours", "30 %"), g=(87.204, 82.233, 0.000)),
  PaperRow(3, "MS3", ("Baseline", "0 %"), g=(59.468, 51.036, 0.072), doubt=_MS3_BASE_DOUBT["doubt"]),
  PaperRow(3, "MS3", ("Ours", "10 %"), g=(65.427, 70.911, 0.001)),
  PaperRow(3, "MS3", ("Ours", "20 %"), g=(67.909, 72.572, 0.003)),
  PaperRow(3, "MS3", ("Ours", "30 %"), g=(66.251, 72.908, 0.000)),
)

TABLE_9 = (
  PaperRow(9, "S4", ("no", "no"), **_S4_BASE),
  PaperRow(
    9, "S4", ("yes", "no"), (79.0, 88.4),
    ((76.6, 86.6, 0.19), (77.9, 87.7, 0.20), (78.5, 88.0, 0.19)), (34.847, 21.993, 0.189),
  ),
  PaperRow(9, "S4", ("yes", "yes"), **_S4_OURS),
  PaperRow(9, "MS3", ("no", "no"), **_MS3_BASE, **_MS3_BASE_DOUBT),
  PaperRow(
    9, "MS3", ("yes", "no"), (51.6, 23.3),
    ((34.4, 52.1, 0.10), (40.2, 58.6, 0.10), (45.2, 62.3, 0.10)), (55.489, 30.057, 0.095),
    doubt="F 23.3 beside mIoU 51.6 is an outlier, though the printed G-F follows from it",
  ),
  PaperRow(9, "MS3", ("yes", "yes"), **_MS3_OURS, **_OTHER_RUN),
)  # fmt: skip

TABLE_4 = tuple(dataclasses.replace(row, table=4, own=None, negatives=None, disagrees=()) for row in TABLE_9)


def _unseen(table: int, data: str, sound: str, base: Triple, ours: Triple) -> tuple[PaperRow, PaperRow]:
  return (
    PaperRow(table, data, (sound, "AVSBench"), unseen=base),
    PaperRow(
      table, data, (sound, "AVSBench + Ours"), unseen=ours, is_fraction=True,
      doubt="IoU and F of this line are printed as fractions beside per cents; here all are per cent",
    ),
  )  # fmt: skip


TABLE_5 = (
  *_unseen(5, "S4", "Tuning Fork", (78.14, 88.16, 0.187), (0.003, 0.248, 0.0001)),
  *_unseen(5, "S4", "Rooster", (78.19, 88.26, 0.186), (0.002, 0.234, 3.82e-5)),
  *_unseen(5, "S4", "Sheep", (78.26, 88.25, 0.187), (0.002, 0.236, 8.43e-5)),
  *_unseen(5, "S4", "Thunder", (78.19, 88.23, 0.187), (0.002, 0.233, 4.03e-5)),
)
TABLE_6 = (
  *_unseen(6, "MS3", "Tuning Fork", (41.44, 62.19, 0.091), (0.103, 0.186, 0.007)),
  *_unseen(6, "MS3", "Rooster", (44.52, 63.04, 0.102), (0.091, 0.169, 0.000)),
  *_unseen(6, "MS3", "Sheep", (40.14, 62.13, 0.082), (0.091, 0.179, 0.0001)),
  *_unseen(6, "MS3", "Thunder", (38.16, 61.82, 0.074), (0.091, 0.178, 9.07e-5)),
)

TABLE_7 = (
  PaperRow(7, "S4", ("cosine",), **_S4_OURS),
  PaperRow(
    7, "S4", ("Euclidean",), (69.3, 82.5),
    ((5.9, 33.8, 0.032), (0.2, 23.8, 0.0), (0.2, 24.3, 0.0)), (81.144, 77.283, 0.004),
    doubt="G-FPR .004 is printed, the columns give .0107", disagrees=("g_fpr",),
  ),
  PaperRow(
    7, "S4", ("Concat",), (77.5, 87.5),
    ((1.0, 23.1, 0.003), (0.2, 22.6, 0.0), (0.2, 22.6, 0.0)), (87.139, 82.047, 0.000),
  ),
  PaperRow(7, "MS3", ("cosine",), **_MS3_OURS, **{**_OTHER_RUN, "disagrees": ("g_iou", "g_f", "g_fpr")}),
  PaperRow(
    7, "MS3", ("Euclidean",), (43.5, 56.4),
    ((10.7, 21.8, 0.011), (11.1, 24.2, 0.028), (9.5, 28.3, 0.001)), (58.526, 64.447, 0.014),
  ),
  PaperRow(
    7, "MS3", ("Concat",), (49.7, 62.8),
    ((12.1, 21.0, 0.006), (14.8, 32.3, 0.012), (14.1, 29.0, 0.011)), (63.053, 67.333, 0.011),
    doubt="G-FPR .011 is printed, the columns give .0097", disagrees=("g_fpr",),
  ),
)  # fmt: skip

TABLE_8 = (
  PaperRow(8, "S4", ("1.0",), (78.15, 88.22), _same(0.16, 22.59, 0.0), (87.67, 82.46, 0.000)),
  PaperRow(8, "S4", ("0.8",), (78.97, 88.78), _same(0.16, 22.60, 0.0), (88.18, 82.70, 0.000)),
  PaperRow(
    8, "S4", ("0.6",), (77.98, 88.00),
    ((0.18, 22.64, 0.0), (0.17, 22.63, 0.0), (0.17, 22.64, 0.0)), (87.56, 82.34, 0.000),
  ),
  PaperRow(
    8, "S4", ("0.4",), (78.76, 88.56),
    ((1.06, 32.21, 0.0), (0.16, 22.59, 0.0), (0.16, 22.65, 0.0)), (87.54, 80.73, 0.000),
    doubt="G-mIoU 87.54 is printed, the columns give 87.94", disagrees=("g_iou",),
  ),
  PaperRow(
    8, "S4", ("0.2",), (78.95, 88.68),
    ((0.22, 22.93, 0.0), (0.17, 22.85, 0.0), (0.18, 22.85, 0.0)), (88.16, 82.50, 0.000),
  ),
  PaperRow(
    8, "MS3", ("1.0",), (51.27, 64.51),
    ((9.84, 17.72, 0.0), (9.93, 25.78, 0.0), (9.11, 20.33, 0.0)), (65.43, 70.91, 0.001),
  ),
  PaperRow(
    8, "MS3", ("0.8",), (53.32, 66.32),
    ((9.64, 18.09, 0.0), (11.75, 35.07, 0.01), (9.81, 31.23, 0.0)), (66.86, 68.98, 0.004),
  ),
  PaperRow(
    8, "MS3", ("0.6",), (51.23, 64.94),
    ((13.37, 21.38, 0.03), (15.20, 37.80, 0.02), (9.67, 26.79, 0.0)), (64.55, 67.99, 0.011),
    doubt="G-FPR .011 is printed, the columns give .0167", disagrees=("g_fpr",),
  ),
  PaperRow(
    8, "MS3", ("0.4",), (52.75, 65.85),
    ((13.66, 26.41, 0.02), (10.33, 35.82, 0.01), (10.33, 35.82, 0.01)), (66.12, 66.57, 0.007),
    doubt="noise and off-screen are printed with the same six figures; G-FPR .007, the columns give .0133",
    disagrees=("g_fpr",),
  ),
  PaperRow(
    8, "MS3", ("0.2",), (52.81, 65.56),
    ((9.81, 18.01, 0.0), (12.99, 35.02, 0.01), (9.81, 21.94, 0.0)), (66.32, 69.97, 0.005),
  ),
)  # fmt: skip

# Over which frames a printed F is a maximum. AVSBench's own test batch is our 20 frames.
_F_AVSBENCH = (
  "F under the own sound is AVSBench's, over 4 clips; under negatives over a test batch that is not told"
)
_F_AVSEGFORMER = {
  "S4": "F over test batches of 2 clips or of 1, as in the released code, not over 20 frames",
  "MS3": "F over test batches of 1 clip, as in the released code, not over 20 frames; silence at 224 px, others at 512",
}
_F_UNTOLD = "F over a test batch that is not told"


def _caution(row: PaperRow) -> str:
  """What keeps a printed line's figures from being those of our columns."""
  if row.own is None and row.unseen is None:
    return ""
  if any("AVSegFormer" in label for label in row.labels):
    return _F_AVSEGFORMER[row.data]
  is_base = row.labels == ("AVSBench",) or row.labels == ("no", "no")
  return _F_AVSBENCH if is_base else _F_UNTOLD


def _cautioned(rows: tuple[PaperRow, ...]) -> tuple[PaperRow, ...]:
  return tuple(
    dataclasses.replace(row, doubt="; ".join(filter(None, (row.doubt, _caution(row))))) for row in rows
  )


TABLES = {
  number: _cautioned(rows)
  for number, rows in enumerate(
    (TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, TABLE_8, TABLE_9), start=2
  )
}


def printed(table: int, data: str) -> tuple[PaperRow, ...]:
  """The lines of a table for S4 or MS3."""
  return tuple(row for row in TABLES[table] if row.data == data)


def relabelled(row: PaperRow, labels: tuple[str, ...]) -> PaperRow:
  """A line with other words before the same figures."""
  return dataclasses.replace(row, labels=labels)
