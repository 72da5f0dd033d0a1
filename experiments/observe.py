"""Observes a trained model: does it follow loud sounds more than soft ones, some kinds more than others?

  python -m experiments.observe --workdir=runs/robust/avsbench-0 --clips=64

Writes observe.json, observe.png and queries.png into OUTPUT (default: WORKDIR/observe). Scenes are generated where
the run's data were; else those of AVSS at --root, or of the composed real-media clips.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from avs_jax.errors import InputError


def scenes(config: Any, count: int, clips: int) -> tuple[Iterator[Any], str]:
  """Scenes of `count` objects for a run's data, and their name for captions."""
  from data_pipelines import coavs, sources

  data = config.data
  if not data.root and data.stand_in == "generated":
    made = coavs.generated(count, clips, size=data.size, seconds=data.seconds, seed=data.seed)
    return made, "generated Co-AVS scenes (stand-in)"
  labelled = config.copy_and_resolve_references()
  with labelled.unlocked():
    labelled.data.name = "avss"
    labelled.data.clips.test = max(labelled.data.clips.test, 8 * clips)
  source = sources.build(labelled, "test")
  return coavs.from_source(source, count, clips), f"Co-AVS scenes of {source.title}"


def observe_run(workdir: str, output: str, clips: int, root: str = "") -> dict[str, Any]:
  """Observes the best checkpoint of a run. Returns the figures.

  Raises:
    InputError: no such run, or data without labels.
  """
  from avs_jax import observe, perception
  from avs_jax.evaluate import weights_to_judge
  from avs_jax.model import build_model
  from configs import common

  config = common.from_workdir(workdir)
  if root:
    with config.unlocked():
      config.data.root = root
  model = build_model(config)
  variables = weights_to_judge(config, model, workdir)
  mark = perception.build(config, model, variables, workdir, may_fit=False)
  hear = observe.listener(config, model, variables, mark)
  singles, _ = scenes(config, 1, clips)
  pairs, title = scenes(config, 2, clips)
  caption = f"{config.title or config.model.system}: {title}, {clips} clips of one object and {clips} of two"
  return observe.observe(hear, singles, pairs, output, caption)


def main(arguments: list[str]) -> None:
  """Observes the run that the arguments name, and prints what was found.

  Raises:
    InputError: a number below 1, or as `observe_run`.
  """
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", required=True, help="folder of a trained run")
  parser.add_argument("--output", default="", help="folder to write to; default WORKDIR/observe")
  parser.add_argument("--clips", type=int, default=64, help="scenes of one object, and as many of two")
  parser.add_argument("--root", default="", help="AVSS, for a run on other published data")
  given = parser.parse_args(arguments)
  logging.basicConfig(level=logging.INFO, format="%(message)s")
  if given.clips < 1:
    raise InputError(f"--clips={given.clips} must be at least 1.")
  figures = observe_run(
    given.workdir, given.output or os.path.join(given.workdir, "observe"), given.clips, given.root
  )
  for name in ("guiding", "category", "co_avs", "superposition"):
    if name in figures:
      shown = "  ".join(f"{key} {value:.3f}" for key, value in figures[name].items())
      print(f"{name:14s} {shown}")
  for name in ("spread", "robustness", "dominance"):
    value = figures.get(name)
    print(f"{name:14s} {'-' if value is None else f'{value:.3f}'}")


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except InputError as error:
    print(f"observe: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
