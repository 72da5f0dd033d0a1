"""Which sounds a trained model recognises: what its figures are made of, by category and by recording.

  python -m experiments.recognised --workdir=runs/robust_real_media/avsbench-grounded-0

Reads what judging left in the folder (statistics.npz, manifest.csv); nothing is run again. For each category, and
each recording where the data know theirs: the share of its own seconds that are masked at all, their mean IoU with
the others counted as 0 (`iou_frame`), and, lent to clips of others, the false-positive rate it causes there.
"""

import argparse
import collections
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import frontier, tables
from avs_jax.errors import InputError

HEADER = ["seconds", "masked", "iou_frame", "lent: seconds", "lent: fpr"]
Figures = dict[str, float | int | None]


def category(source: Any, index: int) -> str:
  """Categories of a clip's objects."""
  return ", ".join(sorted(source.objects(index)))


def recording(source: Any, index: int) -> str:
  """The same with their recordings."""
  return f"{category(source, index)}: {', '.join(source.recordings(index))}"


def figures(
  source: Any,
  statistics: Mapping[str, Mapping[str, np.ndarray]],
  donors: Mapping[str, str],
  name: Callable[[Any, int], str] = category,
) -> dict[str, Figures]:
  """What each sound does, own and lent.

  Args:
    source: the split that was judged.
    statistics: of each sound, a row an annotated frame, as `frontier.read` gives them.
    donors: clip -> clip whose sound it was lent, by their names.
    name: what a clip's sound counts as.
  """
  from data_pipelines import negatives

  own, lent = collections.defaultdict(list), collections.defaultdict(list)
  positive = statistics["positive"]
  for k in np.flatnonzero(positive["counted"] & (positive["truth"] > 0)):
    found = (positive["active"][k] > 0, positive["overlap"][k] / positive["union"][k])
    own[name(source, int(positive["keys"][k, 0]))].append(found)
  lender = negatives.whole(source)  # clips that were not judged lend their sounds too
  place = {clip: index for index, clip in enumerate(lender.ids)}
  foreign = statistics.get("offscreen", {"counted": np.zeros(0, bool)})
  for k in np.flatnonzero(foreign["counted"]):
    donor = donors.get(source.ids[int(foreign["keys"][k, 0])])
    if donor in place:
      lent[name(lender, place[donor])].append(foreign["active"][k] / foreign["pixels"][k])
  return {
    each: {
      "seconds": len(own[each]),
      "masked": _mean([masked for masked, _ in own[each]]),
      "iou_frame": _mean([iou for _, iou in own[each]]),
      "lent": len(lent[each]),
      "fpr": _mean(lent[each]),
    }
    for each in sorted(own.keys() | lent.keys())
  }


def _mean(values: Sequence[Any]) -> float | None:
  return float(np.mean(values)) if len(values) else None


def table(called: str, found: Mapping[str, Figures]) -> list[str]:
  """Markdown lines, a row a sound."""
  digits = {"seconds": 0, "masked": 3, "iou_frame": 3, "lent": 0, "fpr": 4}
  rows = [
    [name, *(tables.number(each[key], count) for key, count in digits.items())]
    for name, each in found.items()
  ]
  return tables.markdown([called, *HEADER], rows)


def recognised(workdir: str) -> str:
  """The page of a run that was judged.

  Raises:
    InputError: the folder holds no run, or was not judged.
  """
  from configs import common
  from data_pipelines import negatives, sources

  config = common.from_workdir(workdir)
  statistics = frontier.read(os.path.join(workdir, "statistics.npz"))
  if "positive" not in statistics:
    raise InputError(f"{workdir} was not judged under the clips' own sound; judge it again with --mode=eval.")
  rows = negatives.read_manifest(os.path.join(workdir, "manifest.csv"))
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  donors = {
    row.clip: row.donor for row in rows if row.condition == "offscreen" and row.split == config.eval.split
  }
  lines = [f"# What is recognised: {config.title or config.model.system}, {source.title}", ""]
  lines += [*table("category", figures(source, statistics, donors)), ""]
  if hasattr(source, "recordings"):
    lines += [*table("recording", figures(source, statistics, donors, recording)), ""]
  lines += ["A second without a mask counts as IoU 0. Lent: as off-screen sound, to clips of other groups."]
  return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
  """Prints the page of the run that the arguments name, and keeps it there as recognised.md."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, help="folder of a run that was judged")
  given = parser.parse_args(arguments)
  logging.basicConfig(level=logging.WARNING, format="%(message)s")
  text = recognised(given.workdir)
  with open(os.path.join(given.workdir, "recognised.md"), "w", encoding="utf-8") as file:
    file.write(text)
  print(text)


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except InputError as error:
    sys.exit(f"experiments.recognised: error: {error}")
