"""What a figure must never be without: data set, split, size and sounds, config, weights, seed."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from avs_jax import report
from avs_jax.errors import InputError

log = logging.getLogger(__name__)

MASKS = "masks"  # the folder of a run that `eval.save_masks` fills


def run_record(config: Any, source: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
  """The scoreboard's `record` of a judged model; versions, hardware and commit are added where it is written."""
  from avs_jax.checkpoint import combined, digest

  left_out = getattr(source, "left_out", "")
  return {
    "title": config.title,
    "data_set": source.title,
    "is_stand_in": source.is_stand_in,
    "split": config.eval.split,
    "clips": len(source),
    **({"missing_clips": left_out} if left_out else {}),
    "size": config.data.size,
    "negatives": said_of_negatives(config),
    "config": config.to_dict(),
    "weights_digest": combined(digest(variables)),
    "seed": config.seed,
  }


def record_of_masks(folder: str) -> dict[str, Any]:
  """Of the masks that a run has saved, what its scoreboard says of model and sounds; of any other nothing."""
  home, name = os.path.split(os.path.abspath(folder))
  board = report.read(home) if name == MASKS else None
  kept = ("config", "config_digest", "weights_digest", "seed", "negatives")
  return {key: board["record"][key] for key in kept if key in board["record"]} if board else {}


def keep_other(workdir: str, record: Mapping[str, Any]) -> None:
  """Moves a scoreboard that is of another split, or of more or fewer clips, out of the way of the one to be written."""
  try:
    board = report.read(workdir)
  except InputError:  # a broken one is worth nothing, and what was just measured is
    board = None
  before = (board or {}).get("record", {})
  names = ("split", "clips")
  if board is None or all(before.get(name) == record[name] for name in names):
    return
  kept = "_".join(["scoreboard", *(str(before.get(name)) for name in names)])
  for path in (os.path.join(workdir, "scoreboard.") + kind for kind in ("json", "md", "tex")):
    if os.path.exists(path):
      os.replace(path, os.path.join(workdir, kept + os.path.splitext(path)[1]))
  log.info("the scoreboard that was there is kept as %s.*", os.path.join(workdir, kept))


def said_of_negatives(config: Any) -> str:
  """Which negative sounds clips are judged under."""
  if config.eval.negative_audio == "published":
    return "published files; silence made here"
  return f"drawn here, data.seed {config.data.seed}"
