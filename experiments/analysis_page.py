"""What `experiments.analyse` found in runs that differ in their seed alone: a record of each, one section of a page.

RECORDS/NAME/ROW-SEED.json holds a run's figures by sound and stage, and what they were measured on and with.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import report, tables
from avs_jax.errors import InputError
from experiments import page, records
from experiments.study import Row, Study

PRINTED = {"before": (0.33, 22.1, 0.43), "after": (0.79, 15.3, 0.32)}  # table VII: CKA, KL, JS
MEASURES = ("cka", "kl", "js")
SOUNDS = {"positive": "own", "silence": "silence", "noise": "noise"}
GATES = {
  "channel_mean": "channels: mean", "channel_spread": "spread over channels", "channel_selectivity": "moves with sound",
  "spatial_inside": "cells: own inside", "spatial_outside": "own outside", "others_inside": "another's inside",
  "others_outside": "another's outside", "spatial_spread": "spread over cells",
}  # fmt: skip

Record = dict[str, Any]
Records = Sequence[Mapping[str, Any]]


def make(name: str, row: str, config: Any, facts: Mapping[str, Any], figures: Mapping[str, Any]) -> Record:
  """The record of an analysed run.

  Args:
    name: of the folder of records.
    facts: `provenance.run_record`'s.
    figures: {sound: {stage: {name: value}}}.
  """
  settings = json.dumps(records.settings(config), sort_keys=True).encode()
  kept = ("data_set", "is_stand_in", "split", "clips", "weights_digest")
  own = {"study": name, "row": row, "seed": config.seed, **{key: facts[key] for key in kept}}
  own["settings_digest"] = hashlib.sha256(settings).hexdigest()[:16]
  return {**report.complete_record(own), "figures": figures}


def mean_of(stages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Table VII's figures averaged over the stages."""
  names = [f"{key}_{when}" for key in MEASURES for when in PRINTED]
  return {name: float(np.mean([stage[name] for stage in stages.values()])) for name in names}


def consistency_table(found: Records) -> list[str]:
  """Table VII: the printed lines, ours by stage under the own sound, and their mean."""
  rows = [["printed", when, *map(str, values)] for when, values in PRINTED.items()]
  every = [record["figures"]["positive"] for record in found]
  every = [{**stages, "mean": mean_of(stages)} for stages in every]
  for stage in every[0]:
    for when in PRINTED:
      cells = [tables.spread([own[stage][f"{key}_{when}"] for own in every], 3) for key in MEASURES]
      rows.append([stage, when, *cells])
  return tables.markdown(["stage", "DAMF", "CKA", "KL (nats)", "JS (nats)"], rows, 2)


def gate_table(found: Records) -> list[str]:
  """The gates' statistics by stage and sound, and by how much more the own masks stand out than another clip's."""
  rows = []
  for stage in found[0]["figures"]["positive"]:
    for sound, words in SOUNDS.items():
      every = [record["figures"][sound][stage] for record in found]
      contrast = [_more(own) for own in every]
      cells = [tables.spread([own.get(key) for own in every], 3) for key in GATES]
      rows.append([stage, words, *cells, tables.spread(contrast, 3)])
  return tables.markdown(["stage", "sound", *GATES.values(), "own less another's"], rows, 2)


def _more(own: Mapping[str, float]) -> float | None:
  """By how much the weights inside exceed those outside, more under the own masks than under another clip's."""
  if not {"spatial_inside", "others_inside"} <= own.keys():
    return None
  return own["spatial_inside"] - own["spatial_outside"] - own["others_inside"] + own["others_outside"]


def section(found: Records, command: str) -> str:
  """The section of a page on runs of one row.

  Raises:
    InputError: the runs are of several rows or of different data.
  """
  for key in ("row", "data_set", "clips"):
    if len(values := sorted({record[key] for record in found})) > 1:
      raise InputError(f"--workdir: a section is of seeds of one row on the same data; {key} is {values}.")
  first = found[0]
  facts = [" / ".join(dict.fromkeys(record[key] for record in found)) for key in ("hardware", "commit")]
  versions = " / ".join(dict.fromkeys(f"jax {record['versions']['jax']}" for record in found))
  seeds = ", ".join(str(record["seed"]) for record in found)
  lines = [
    f"## {_title(first['row'])}",
    "",
    f"Agreement of picture and sound before and after DAMF (table VII) and the weights of SNRP's gates (figure 8), "
    f"{first['clips']} clips of {first['data_set']}{' (STAND-IN DATA)' if first['is_stand_in'] else ''}; terms: "
    "[sdavs.md](sdavs.md#looking-inside-table-vii-figures-5-6-and-8). Mean ± standard deviation (n - 1) over the "
    "seeds.",
    "",
    *tables.markdown(["row", "seeds", "hardware", "commit", "versions"], [[first["row"], seeds, *facts, versions]], 5),
    "",
    "Under the own sound:",
    "",
    *consistency_table(found),
    "",
    "The gates under each sound. Inside and outside: mean weight of the cells in and out of what sounds in the clip, "
    "and of the cells under the masks of another clip, the control; last: what the own contrast has more than the "
    "other.",
    "",
    *gate_table(found),
    "",
    f"    {command}",
  ]  # fmt: skip
  return "\n".join(lines)


def insert(path: str, found: Records, command: str) -> str:
  """Puts the section into a page, between its marks. Returns `path`."""
  first = found[0]
  study = Study(first["study"], _title(first["row"]), (Row(first["row"], ""),))
  return page.insert(path, study, section(found, command))


def _title(row: str) -> str:
  return f"Inside SDAVS: {row.replace('_', ' ')}"
