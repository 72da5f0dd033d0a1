"""RAVS's ablations: tables 3 (parts) and 4 (numbers of groups), with the clips that they are for scored apart.

  python -m experiments.run --study=experiments/ravs.py                    generated clips, VPO-like
  python -m experiments.run --study=experiments/ravs.py:generated_multi    generated clips, several objects (as MS3)
  python -m experiments.run --study=experiments/ravs.py:real_media         composed photographs and recordings, VPO-like
  python -m experiments.run --study=experiments/ravs.py:real_media_multi   (as MS3)
  AVS_DATA_ROOT=... python -m experiments.run --study=experiments/ravs.py:ms3

Half of the VPO-like clips hold several sources that come and go from second to second, which uncertainty is for; half
two of a kind, of which one sounds and only the direction of the sound tells which, which grouping and alignment are
for. Masks are binary, the model hears directions (`model.stereo`); `mono` is the whole model without them.

`baseline` has cells in place of groups, no alignment, no attention in time and no uncertainty; `gtf` aligns its
cells with the sound, positives by the ground truth; `sgsm` groups and merges; `ama` aligns the groups too; `whole`
has attention in time and uncertainty as well. `discount` weighs masks by uncertainty in our form in place of
equation 11 (docs/ravs.md). All rows share one warm-up.
"""

from collections.abc import Mapping
from typing import Any

from avs_jax.errors import InputError
from configs.recipes import ravs
from experiments.paper_rows import PaperRow
from experiments.robust import MULTI
from experiments.study import Line, Row, Study, Table

Changes = Mapping[str, Mapping[str, Any]]
_SURE = {"uncertainty_form": "none", "temporal": False}
# row -> what it is called, and the settings that make it.
PARTS: dict[str, tuple[str, Changes]] = {
  "baseline": ("Baseline", {"model": {**_SURE, "merge": "cells"}, "loss": {"alignment": 0.0}}),
  "gtf": (
    "+GTF",
    {"model": {**_SURE, "merge": "cells"}, "loss": {"alignment": 0.1, "alignment_truth": True}},
  ),
  "sgsm": ("+SGSM", {"model": _SURE, "loss": {"alignment": 0.0}}),
  "sgsm_seen": (
    "+SGSM of what is seen alone",
    {"model": {**_SURE, "merge_of": "seen"}, "loss": {"alignment": 0.0}},
  ),
  "ama": ("+SGSM+CST (AMA)", {"model": _SURE}),
  "whole": ("+AMA+UE (RAVS)", {}),
  "discount": ("+AMA+UE, discount (ours)", {"model": {"uncertainty_form": "discount"}}),
}
GROUPS: dict[str, tuple[int, int, int]] = {
  "groups_28_14_5": (28, 14, 5),
  "whole": (14, 7, 5),
  "groups_10_7_5": (10, 7, 5),
  "groups_5_5_5": (5, 5, 5),
}
# J and F on AVSBench-MS3 as printed.
PRINTED: dict[int, dict[str, tuple[float, float]]] = {
  3: {"baseline": (59.8, 68.7), "gtf": (62.2, 73.6), "sgsm": (65.3, 76.4), "ama": (66.1, 78.3), "whole": (70.6, 82.1)},
  4: {
    "groups_28_14_5": (68.6, 78.8), "whole": (70.6, 82.1), "groups_10_7_5": (69.3, 80.8),
    "groups_5_5_5": (66.7, 76.3),
  },
}  # fmt: skip
# What the paper says of each part: table -> (title, row before, rows after).
CLAIMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
  "claim_merging": ("grouping and merging by sound", "baseline", ("gtf", "sgsm")),
  "claim_alignment": ("aligning the groups", "sgsm", ("ama",)),
  "claim_uncertainty": ("uncertainty", "ama", ("whole", "discount")),
  "claim_groups": ("the number of groups", "whole", tuple(name for name in GROUPS if name != "whole")),
}

_VPO: Changes = {"data": {"name": "vpo_msmi"}, "model": {"stereo": True}}
_QUICK: Changes = {
  "data": {"seed": 1, "seconds": 3, "clips": {"train": 3200, "val": 40, "test": 160}},
  "model": {"width": 24},
  "augment": {"flip": True},
  "warmup": {"steps": 400, "frames": 1},
  "schedule": {"epochs": 1},  # 400 steps, no clip twice
  "loss": ravs.RECIPES["tiny"][0]["loss"],
  "eval": {"pictures": 6, "every_epochs": 1.0},
}
_MEDIA: Changes = {
  "loss": ravs.RECIPES["tiny"][0]["loss"],
  "warmup": {"steps": 150, "batch": 8},
  "eval": {"pictures": 6},
}
_MULTI: Changes = {"data": MULTI["data"]}
# arg -> config file, settings of all rows.
SETTINGS: dict[str, tuple[str, tuple[Changes, ...]]] = {
  "generated": ("configs/quickstart.py", (_QUICK, _VPO)),
  "generated_multi": ("configs/quickstart.py", (_QUICK, _MULTI)),
  "real_media": ("configs/real_media.py", (_MEDIA, _VPO)),
  "real_media_multi": ("configs/real_media.py", (_MEDIA, _MULTI)),
  "ms3": ("configs/ms3.py", ()),
}


def get_study(arg: str = "generated") -> Study:
  """The study on the data named `arg`.

  Raises:
    InputError: there are no such data.
  """
  if arg not in SETTINGS:
    raise InputError(f"experiments/ravs.py:{arg}: there is no such data; choose {', '.join(SETTINGS)}.")
  config, common = SETTINGS[arg]
  rows = {name: changes for name, (_, changes) in PARTS.items()}
  rows |= {name: {"model": {"groups": groups}} for name, groups in GROUPS.items() if name != "whole"}
  parts = {name: label for name, (label, _) in PARTS.items()}
  if _VPO in common:
    rows["mono"], parts["mono"] = {"model": {"stereo": False}}, "RAVS, hearing no direction"
  return Study(
    name=f"ravs_{arg}",
    title=f"RAVS's ablations: {arg.replace('_', ' ')}",
    data_set="MS3" if arg == "ms3" else "",
    rows=tuple(Row(name, f"{config}:ravs", (*common, changes)) for name, changes in rows.items()),
    tables=(
      _table(3, "the parts", ("settings",), parts),
      _table(
        4, "numbers of groups", ("groups",), {name: str(list(groups)) for name, groups in GROUPS.items()}
      ),
      *(
        Table(
          name,
          f"What {title} gains, and on which clips",
          "kinds_against",
          ("row",),
          tuple(Line((row,), row) for row in after),
          against=before,
        )
        for name, (title, before, after) in CLAIMS.items()
      ),
    ),
    pictures=("baseline", "ama", "whole"),
  )


def _table(number: int, title: str, words: tuple[str, ...], labels: Mapping[str, str]) -> Table:
  """Table 3 or 4 with its printed lines."""
  return Table(
    f"table_{number}",
    f"Table {number} (MS3): {title}",
    "kinds",
    words,
    tuple(Line((label,), name) for name, label in labels.items()),
    tuple(PaperRow(number, "MS3", (labels[name],), own, places=1) for name, own in PRINTED[number].items()),
  )
