"""What the values of a config may be, whatever reads them later."""

import math
from typing import Any

from avs_jax import settings
from avs_jax.errors import InputError
from avs_jax.types import Condition

# The least that settings may be which would otherwise end a run late, or by a sentence that names something else.
LEAST = {
  "seed": 0, "steps": 0, "mesh.model": 1,
  "data.seed": 0, "data.seconds": 1, "data.size": 1, "data.cache_mb": 0, "data.threads": 1, "data.workers": 0,
  "model.width": 1, "model.heads": 1, "model.points": 1, "model.num_queries": 1,
  "augment.mask_bands": 0, "augment.mask_frames": 0,
  "warmup.steps": 0, "warmup.batch": 1, "warmup.frames": 0, "warmup.pictures": 0,
  "schedule.epochs": 0, "schedule.batch": 1, "schedule.accumulate": 1, "schedule.lr_warmup_steps": 0,
  "eval.batch": 1, "eval.clips": 0, "eval.test_clips": 0, "eval.pictures": 0, "eval.from_epoch": 0,
  "log.every_steps": 1, "log.checkpoint_steps": 0, "log.keep": 1,
}  # fmt: skip


def check_values(config: Any) -> None:
  """Refuses counts below `LEAST`, settings that are NaN, and sounds to be judged that are unknown, none or named twice.

  Raises:
    InputError: names the setting, its value and what it may be.
  """
  for name, value in settings.flat(config.to_dict()).items():
    if isinstance(value, float) and math.isnan(value):
      raise InputError(f"{name}={value} is no number; give one.")
    least = LEAST.get(name)
    if least is not None and value < least:
      means_all = name in ("eval.clips", "eval.test_clips")
      raise InputError(f"{name}={value} must be at least {least}{'; 0 takes all' if means_all else ''}.")
  names = tuple(config.eval.conditions)
  if not names or len(set(names)) < len(names):
    raise InputError(f"eval.conditions={names} must name at least one sound, and none twice.")
  for name in names:
    condition_of(name)


def condition_of(name: str) -> Condition:
  """The condition a config names. Raises `InputError` for another word."""
  known = {condition.name.lower(): condition for condition in Condition}
  if name not in known:
    raise InputError(f"eval.conditions: {name!r} is not a sound; choose from {', '.join(known)}.")
  return known[name]
