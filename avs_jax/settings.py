"""Which settings of a config decide a run's figures, and whether the run in a folder may go on with other ones."""

import json
import os
from collections.abc import Mapping
from typing import Any

from avs_jax.errors import InputError

# Settings that change no figure, or name a place on one machine; loss.name, which is no more, decided nothing.
FREE = (
  "title", "log", "eval.pictures", "eval.save_masks", "warmup.folder", "data.packed", "data.media_cache",
  "data.cache_mb", "data.threads", "data.workers", "mesh", "model.remat", "prepare", "variants",
  "debias.contrast_run", "loss.name",
)  # fmt: skip
# Settings that decide how weights are judged, but not which weights there are ...
_JUDGING = ("eval", "data.clips.test")
# ... except these, which choose the best ones.
_CHOOSING = ("eval.metric", "eval.clips", "eval.every_epochs", "eval.from_epoch")
_LENGTH = ("steps", "schedule.epochs")


def deciding(config: Any) -> dict[str, Any]:
  """What of a config decides its figures, as JSON has it: {"section.key": value}; of `data.root`, whether it is set.

  What the form of the set's loss decides where it is left open has the form's value.
  """
  from avs_jax.set_losses import OF_FORM  # here: who reads a folder's settings need not wait for jax

  plain = flat(json.loads(config.to_json_best_effort()))
  for key, value in OF_FORM[config.loss.queries_form].items():
    if plain[f"loss.{key}"] is None:
      plain[f"loss.{key}"] = value
  found = {name: value for name, value in plain.items() if not is_under(name, FREE)}
  return found | {"data.root": bool(config.data.root)}


def flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"section.key": value} of nested settings."""
  found: dict[str, Any] = {}
  for key, value in section.items():
    found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
  return found


def is_under(name: str, sections: tuple[str, ...]) -> bool:
  """Whether a setting is one of `sections`, or lies in one."""
  return any(name == each or name.startswith(each + ".") for each in sections)


def differences(saved: Any, config: Any) -> list[str]:
  """In which settings that decide the training `config` differs from the saved one of a run; [] where it may go on.

  A run may be made longer where the learning rate is constant: its steps so far are those of the longer run. Any other
  schedule is laid over all steps, and a run that is made shorter would be one that has trained too long.
  """
  then, now = (_training(each) for each in (saved, config))
  other = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
  found = [_said(name, then.get(name), now.get(name)) for name in other]
  length = "steps" if saved.steps or config.steps else "schedule.epochs"  # steps, where set, have the word
  before, after = (deciding(each)[length] for each in (saved, config))
  if before != after and not (config.schedule.decay == "constant" and 0 < before < after):
    found.append(_said(length, before, after))
  return found


def _training(config: Any) -> dict[str, Any]:
  free = (*_JUDGING, *_LENGTH)
  return {k: v for k, v in deciding(config).items() if k in _CHOOSING or not is_under(k, free)}


def _said(name: str, before: Any, after: Any) -> str:
  return f"{name}: {json.dumps(before)}, now {json.dumps(after)}"


def holds_run(workdir: str) -> bool:
  """Whether a training has left something in the folder: a saved step, or its settings with a scoreboard."""
  for name in ("checkpoints", "best"):
    folder = os.path.join(workdir, name)
    if os.path.isdir(folder) and any(each.isdecimal() for each in os.listdir(folder)):
      return True
  return all(os.path.exists(os.path.join(workdir, name)) for name in ("config.json", "scoreboard.json"))


def refuse_other(config: Any, workdir: str) -> None:
  """Raises `InputError` where the folder holds a run that was trained otherwise than `config` says, or is no folder."""
  if "://" in workdir:
    raise InputError(
      f"--workdir={workdir}: runs are written to folders of this machine; mount the bucket and give its folder."
    )
  from configs import common

  if saved_as_they_are(workdir).get("variants"):
    raise InputError(f"{workdir} holds the runs of several variants; give another --workdir.")
  if not holds_run(workdir):
    return
  if not os.path.exists(os.path.join(workdir, "config.json")):
    raise InputError(f"{workdir} holds checkpoints without their config.json; give another --workdir.")
  found = differences(common.from_workdir(workdir), config)
  if found:
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    raise InputError(
      f"{workdir} holds a run that was trained with other settings ({'; '.join(found[:4])}{more}); give another"
      " --workdir, or the settings as they were."
    )


def refuse_variants(config: Any, instead: str) -> None:
  """Raises `InputError` where a config means several runs and one is asked for; `instead` does all of them."""
  if config.variants:
    names = list(config.variants)
    raise InputError(
      f"the config has variants ({', '.join(names)}), and this is one run; call avs_jax.variants.{instead} for all of"
      f" them, or give avs_jax.variants.variant(config, {names[0]!r}) for one."
    )


def saved_as_they_are(workdir: str) -> dict[str, Any]:
  """What config.json holds, of whatever version; {} where there is none."""
  try:
    with open(os.path.join(workdir, "config.json")) as file:
      found = json.load(file)
  except (OSError, ValueError):
    return {}
  return found if isinstance(found, dict) else {}
