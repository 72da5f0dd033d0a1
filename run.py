"""The one command: trains, judges, scores, converts, prepares and checks.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --mode=eval --workdir=runs/quickstart
"""

import json
import logging
import os
import sys

import absl.logging
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from avs_jax.errors import InputError

MODES = ("train", "eval", "score", "convert", "prepare", "check")
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/; NAME.py:ARG passes ARG to it.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_INPUT = flags.DEFINE_string("input", None, "score: folder of predicted masks.")
_OUTPUT = flags.DEFINE_string("output", None, "prepare: folder to write the data set to.")


def parse(arguments: list[str]) -> list[str]:
  """Reads the flags; a wrong one is a sentence and exit status 2, not a traceback."""
  try:
    for argument in arguments[1:]:
      if argument.startswith("--config="):
        path = argument.removeprefix("--config=").split(":")[0]
        if not os.path.exists(path):
          raise InputError(f"--config={path}: no such file; the configs are in configs/.")
    rest = flags.FLAGS(arguments)
    _ = _CONFIG.value
    return rest
  except (AttributeError, KeyError, TypeError, ValueError, OSError, flags.Error) as error:
    lines = [line.strip() for line in str(error).strip().strip("'\"").splitlines() if line.strip()]
    print(f"run.py: error: {lines[-1] if lines else type(error).__name__}", file=sys.stderr)
    raise SystemExit(2) from None


def config_and_workdir() -> tuple[ConfigDict, str]:
  """The config given, or the one a run's folder holds; and the folder."""
  config, workdir = _CONFIG.value, _WORKDIR.value
  if config is None and workdir:
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
      raise InputError(f"{path} is not there; give --config, or the --workdir of a run.")
    from configs import common

    with open(path) as file:
      config = common.from_json(json.load(file), path)
  if config is None:
    raise InputError("--config is missing, e.g. --config=configs/quickstart.py.")
  if not workdir:
    name = (
      flags.FLAGS["config"].config_filename if hasattr(flags.FLAGS["config"], "config_filename") else "run"
    )
    workdir = os.path.join("runs", os.path.splitext(os.path.basename(name.split(":")[0]))[0])
  return config, workdir


def use_compilation_cache() -> None:
  """Compiled programs are kept between runs, so a second start takes seconds."""
  import jax

  default = os.path.join(os.path.expanduser("~"), ".cache", "avs_jax", "xla")
  jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", default))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def main(arguments: list[str]) -> None:
  rest = arguments[1:]
  if _MODE.value == "convert":
    from avs_jax import weights

    if len(rest) not in (2, 3):
      raise InputError("--mode=convert takes IN OUT.safetensors and, to get Flax names, the network's name.")
    weights.convert(*rest)
    return
  if rest:
    raise InputError(f"{' '.join(rest)}: not understood; settings are written --config.KEY=VALUE.")
  config, workdir = config_and_workdir()
  use_compilation_cache()
  if _MODE.value == "train":
    from avs_jax.variants import train_all

    train_all(config, workdir)
  elif _MODE.value == "eval":
    from avs_jax.evaluate import evaluate

    evaluate(config, workdir)
  elif _MODE.value == "score":
    from avs_jax.evaluate import score_folder

    score_folder(config, _INPUT.value, workdir)
  elif _MODE.value == "prepare":
    from data_pipelines.prepare import prepare

    prepare(config, _OUTPUT.value)
  elif _MODE.value == "check":
    from data_pipelines.check import check

    raise SystemExit(check(config, workdir))


def run(arguments: list[str]) -> None:
  absl.logging.set_verbosity(absl.logging.WARNING)  # Orbax and Grain tell much
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  for package in ("avs_jax", "data_pipelines"):
    logger = logging.getLogger(package)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
  try:
    main(arguments)
  except InputError as error:
    print(f"run.py: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
  app.run(run, flags_parser=parse)
