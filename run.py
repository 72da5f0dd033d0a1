"""The one command: trains, judges, scores, applies a model to videos, converts, exports, prepares and checks.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --mode=eval --workdir=runs/quickstart
python run.py --mode=predict --input=talk.mp4 --output=masks
"""

import logging
import os
import sys
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn

import absl.logging
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from avs_jax.errors import InputError
from configs import common
from configs.recipes.switch import settle

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/; NAME.py:ARG passes ARG to it.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config name>.")
_INPUT = flags.DEFINE_string(
  "input", None, "predict, listen: video, picture, folder or pattern; score: masks."
)
_OUTPUT = flags.DEFINE_string("output", None, "predict, listen, prepare, export: folder to write to.")
_WEIGHTS = flags.DEFINE_string(
  "weights", None, "predict, listen, serve: a .safetensors with its config inside."
)
flags.DEFINE_string("write", None, "predict: any of overlay,masks,rle,csv,npz; default overlay,csv.")
flags.DEFINE_enum(
  "every", None, ("second", "frame"), "predict: a mask a second (default), or for every frame."
)
flags.DEFINE_string("sound", None, "predict, listen: a file whose sound takes the place of the input's own.")
flags.DEFINE_string(
  "offscreen", None, "listen: a sound of what is not in the picture: a file or a made one's name."
)
flags.DEFINE_string(
  "masks", None, "listen: masks of another program, a folder per sound of PNGs, one a second."
)
flags.DEFINE_float("start", None, "predict, listen: first second.")
flags.DEFINE_float("end", None, "predict, listen: last second.")
flags.DEFINE_float(
  "threshold", None, "predict, listen: probability above which a pixel is marked; default 0.5."
)
flags.DEFINE_float("fps", None, "predict, listen: frames a second of a folder of frames; default 1.")
flags.DEFINE_integer(
  "stride", None, "predict, listen: seconds between windows; default the model's own length."
)
flags.DEFINE_boolean("half", None, "export: round weights to 16 bits, half the file.")
flags.DEFINE_string("host", None, "serve: address to listen at.")
flags.DEFINE_integer("port", None, "serve: port to listen at.")


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


def given(*names: str) -> dict[str, Any]:
  """The flags of these names that were set; defaults belong to the functions that take them."""
  return {name: flags.FLAGS[name].value for name in names if flags.FLAGS[name].value is not None}


def model() -> Any:
  """What predict, listen and serve run: --weights, the run in --workdir, or the model that comes with the program."""
  if _CONFIG.value is not None or (_WEIGHTS.value and _WORKDIR.value):
    raise InputError(
      "a trained model has its own config; give either --workdir=RUN or --weights=FILE, no --config."
    )
  Predictor = import_module("avs_jax.predict").Predictor
  return Predictor.from_run(_WORKDIR.value) if _WORKDIR.value else Predictor.from_weights(_WEIGHTS.value)


def score() -> None:
  config, workdir = config_and_workdir()
  import_module("avs_jax.evaluate").score_folder(config, _INPUT.value, workdir)


def predict() -> None:
  settings = given("write", "sound", "every", "stride", "start", "end", "threshold", "fps")
  import_module("avs_jax.own_video").command(model, _INPUT.value, _OUTPUT.value, **settings)


def listen() -> None:
  settings = given("sound", "offscreen", "masks", "stride", "start", "end", "threshold", "fps")
  import_module("avs_jax.listen").command(model, _INPUT.value, _OUTPUT.value, **settings)


def convert(names: list[str]) -> None:
  if len(names) not in (2, 3):
    raise InputError("--mode=convert takes IN OUT.safetensors and, to get Flax names, the network's name.")
  import_module("avs_jax.weights").convert(*names)


# Packages are imported by the mode that needs them: flags are understood without jax.
MODES = {
  "train": lambda: import_module("avs_jax.variants").train_all(*config_and_workdir()),
  "eval": lambda: import_module("avs_jax.variants").evaluate_all(*config_and_workdir()),
  "score": score,
  "predict": predict,
  "listen": listen,
  "serve": lambda: import_module("avs_jax.web.serve").serve(model(), **given("host", "port")),
  "export": lambda: import_module("avs_jax.export").export(
    *config_and_workdir(), _OUTPUT.value, **given("half")
  ),
  "prepare": lambda: import_module("data_pipelines.prepare").prepare(config_and_workdir()[0], _OUTPUT.value),
  "check": lambda: sys.exit(import_module("data_pipelines.check").check(*config_and_workdir())),
  "convert": convert,
}
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")


def main(arguments: list[str]) -> None:
  rest = arguments[1:]
  if _MODE.value == "convert":
    convert(rest)
    return
  if rest:
    raise InputError(f"{' '.join(rest)}: not understood; settings are written --config.KEY=VALUE.")
  mesh = import_module("avs_jax.mesh")
  mesh.join_hosts()
  mesh.keep_compiled_programs()
  MODES[_MODE.value]()


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
