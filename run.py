"""The one command: trains, judges, scores, converts, prepares and checks.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --mode=eval --workdir=runs/quickstart
"""

import logging
import os
import sys
from itertools import pairwise
from typing import NoReturn

import absl.logging
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from avs_jax.errors import InputError
from configs import common
from configs.recipes.switch import settle

MODES = ("train", "eval", "score", "convert", "prepare", "check", "export")
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/; NAME.py:ARG passes ARG to it.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_INPUT = flags.DEFINE_string("input", None, "score: folder of predicted masks.")
_OUTPUT = flags.DEFINE_string("output", None, "prepare, export: folder to write to.")


def parse(arguments: list[str]) -> list[str]:
  """Reads the flags; a wrong one is a sentence and exit status 2, not a traceback."""
  try:
    words = [word for argument in arguments[1:] for word in argument.split("=", 1)]
    paths = [path for word, path in pairwise(words) if word in ("--config", "-config")]
    for path in paths:
      if not os.path.isfile(path.split(":")[0]):
        raise InputError(f"--config={path}: no such file; the configs are in configs/.")
    if not paths and any(word.startswith("--config.") for word in words):
      raise InputError("--config.KEY=VALUE changes a config; give it too, as --config=configs/NAME.py.")
    rest = flags.FLAGS(arguments)
    _ = _CONFIG.value
    return rest
  except (AttributeError, KeyError) as error:  # a key that the config has not
    text = str(error.args[0] if error.args else error).replace("\\n", "\n").replace("\\'", "").strip("'\"")
    key, *hint = text.splitlines()
    end(f"""the config has no setting '{key.strip("'")}'. {" ".join(hint)}""")
  except (TypeError, ValueError, OSError, flags.Error) as error:
    lines = str(error).replace("avs_jax.errors.InputError: ", "").strip().splitlines()
    end(lines[-1] if "Traceback" in str(error) else " ".join(lines))


def end(sentence: str) -> NoReturn:
  print(f"run.py: error: {sentence.strip()}", file=sys.stderr)
  raise SystemExit(2)


def config_and_workdir() -> tuple[ConfigDict, str]:
  """The config given, or the one a run's folder holds; and the folder."""
  config, workdir = _CONFIG.value, _WORKDIR.value
  if config is None:
    if not workdir:
      raise InputError("--config is missing, e.g. --config=configs/quickstart.py.")
    config = common.from_workdir(workdir)
  settle(config)
  if not workdir:
    name = flags.FLAGS["config"].config_filename.split(":")[0]
    workdir = os.path.join("runs", os.path.splitext(os.path.basename(name))[0])
  return config, workdir


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
  from avs_jax import evaluate, mesh, variants

  config, workdir = config_and_workdir()
  mesh.join_hosts()
  mesh.keep_compiled_programs()
  if _MODE.value == "train":
    variants.train_all(config, workdir)
  elif _MODE.value == "eval":
    variants.evaluate_all(config, workdir)
  elif _MODE.value == "score":
    evaluate.score_folder(config, _INPUT.value, workdir)
  elif _MODE.value == "export":
    from avs_jax import export

    export.export(config, workdir, _OUTPUT.value)
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
    end(str(error))


if __name__ == "__main__":
  app.run(run, flags_parser=parse)
