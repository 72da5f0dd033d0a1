"""The one command: trains, judges, scores, applies a model to videos, converts, exports, prepares and checks.

python run.py --config=configs/quickstart.py --workdir=runs/quickstart
python run.py --mode=eval --workdir=runs/quickstart
python run.py --mode=predict --input=talk.mp4 --output=masks
"""

import logging
import sys
from importlib import import_module
from typing import Any, NoReturn

import absl.logging
from absl import app, flags

from avs_jax import command_line
from avs_jax.errors import InputError

FLAGS = flags.FLAGS


def parse(arguments: list[str]) -> list[str]:
  """Reads the flags; a wrong one is a sentence and exit status 2, not a traceback."""
  try:
    return command_line.parse(arguments, FLAGS)
  except InputError as error:
    end(str(error))


def end(sentence: str) -> NoReturn:
  print(f"run.py: error: {sentence.strip()}", file=sys.stderr)
  raise SystemExit(2)


def model() -> Any:
  """What predict, listen and serve run: --weights, the run in --workdir, or the model that comes with the program."""
  if FLAGS.weights and FLAGS.workdir:
    raise InputError("a trained model has its own config; give either --workdir=RUN or --weights=FILE.")
  Predictor = import_module("avs_jax.predict").Predictor
  return Predictor.from_run(FLAGS.workdir) if FLAGS.workdir else Predictor.from_weights(FLAGS.weights)


def evaluate(config: Any, workdir: str) -> None:
  if FLAGS.weights:
    import_module("avs_jax.evaluate").evaluate(config, workdir, FLAGS.weights)
  else:
    import_module("avs_jax.variants").evaluate_all(config, workdir)


def predict() -> None:
  settings = given("write", "sound", "every", "stride", "start", "end", "threshold", "fps")
  import_module("avs_jax.own_video.files").command(model, FLAGS.input, FLAGS.output, **settings)


def listen() -> None:
  settings = given("sound", "offscreen", "masks", "stride", "start", "end", "threshold", "fps")
  import_module("avs_jax.own_video.listen").command(model, FLAGS.input, FLAGS.output, **settings)


def convert(names: list[str]) -> None:
  if len(names) not in (2, 3):
    raise InputError("--mode=convert takes IN OUT.safetensors and, to get Flax names, the network's name.")
  import_module("avs_jax.weights").convert(*names)


def given(*names: str) -> dict[str, Any]:
  return command_line.given(FLAGS, *names)


# Packages are imported by the mode that needs them: flags are understood without jax.
MODES = {
  "train": lambda *run: import_module("avs_jax.variants").train_all(*run),
  "eval": evaluate,
  "score": lambda config, workdir: import_module("avs_jax.evaluate").score_folder(
    config, FLAGS.input, workdir
  ),
  "export": lambda *run: import_module("avs_jax.export").export(
    *run, FLAGS.output, **given("half", "weights")
  ),
  "prepare": lambda config, _: import_module("data_pipelines.prepare").prepare(config, FLAGS.output),
  "check": lambda *run: sys.exit(import_module("data_pipelines.check").check(*run)),
  "predict": predict,
  "listen": listen,
  "serve": lambda: import_module("avs_jax.web.serve").serve(model(), **given("host", "port")),
}


def main(arguments: list[str]) -> None:
  rest = arguments[1:]
  if FLAGS.mode == "convert":
    convert(rest)
    return
  if rest:
    raise InputError(f"{' '.join(rest)}: not understood; settings are written --config.KEY=VALUE.")
  settings = command_line.config_and_workdir(FLAGS) if "config" in command_line.READS[FLAGS.mode] else ()
  if FLAGS.mode != "check":  # which says what is wrong with jax, should it not start
    mesh = import_module("avs_jax.mesh")
    mesh.join_hosts()
    mesh.keep_compiled_programs()
  MODES[FLAGS.mode](*settings)


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
