"""What can be said to `run.py`: its flags, which of them each mode reads, and the config and folder they mean."""

import ast
import contextlib
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from avs_jax import saved_config
from avs_jax.errors import InputError
from configs import common
from configs.recipes.switch import settle

_VIDEO = ("workdir", "weights", "input", "output", "sound", "stride", "start", "end", "threshold", "fps")
# Which flags each mode reads; any other is refused, or it would be thought to do something.
READS = {
  "train": ("config", "workdir"),
  "eval": ("config", "workdir", "weights"),
  "score": ("config", "workdir", "input"),
  "predict": (*_VIDEO, "write", "every"),
  "listen": (*_VIDEO, "offscreen", "masks"),
  "serve": ("workdir", "weights", "host", "port"),
  "export": ("config", "workdir", "weights", "output", "half"),
  "prepare": ("config", "workdir", "output"),
  "check": ("config", "workdir"),
  "convert": (),
}

# What an encoder can be told stands in no config until somebody wants it, so no flag is defined for it.
_ENCODER_SETTING = re.compile(r"config\.(model\.(visual|audio)|marks\.encoder)_args\.\w+")


def define(values: flags.FlagValues, arguments: list[str]) -> None:
  """Makes `values` know the flags; those of the config's settings are found in `arguments`."""
  before = set(values)
  config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/; NAME.py:ARG passes ARG to it. --config.KEY=VALUE changes it, or what --workdir holds.",
    flag_values=values,
    lock_config=True,
    sys_argv=arguments,
  )

  def text(name: str, meaning: str) -> None:
    flags.DEFINE_string(name, None, meaning, flag_values=values)

  def number(name: str, meaning: str) -> None:
    flags.DEFINE_float(name, None, meaning, flag_values=values)

  flags.DEFINE_enum("mode", "train", list(READS), "What to do.", flag_values=values)
  text("workdir", "Folder of the run; default runs/<config name>, with _ARG; score: `scored` beside --input.")
  text("input", "predict, listen: video, picture, folder or pattern; score: masks.")
  text("output", "predict, listen, prepare, export: folder to write to.")
  text("weights", "predict, listen, serve, eval, export: a .safetensors with its config inside.")
  text("write", "predict: any of overlay,masks,rle,csv,npz; default overlay,csv.")
  every = "predict: a mask a second (default), or for every frame."
  flags.DEFINE_enum("every", None, ("second", "frame"), every, flag_values=values)
  text("sound", "predict, listen: a file whose sound takes the place of the input's own.")
  text("offscreen", "listen: a sound of what is not in the picture: a file or a made one's name.")
  text("masks", "listen: masks of another program, a folder per sound of PNGs, one a second.")
  number("start", "predict, listen: first second.")
  number("end", "predict, listen: last second.")
  number("threshold", "predict, listen: probability above which a pixel is marked; default 0.5.")
  number("fps", "predict, listen: frames a second of a folder of frames; default 1.")
  stride = "predict, listen: seconds between windows; default the model's own length."
  flags.DEFINE_integer("stride", None, stride, flag_values=values)
  half = "export: round weights to 16 bits, half the file."
  flags.DEFINE_boolean("half", None, half, flag_values=values)
  text("host", "serve: address to listen at.")
  flags.DEFINE_integer("port", None, "serve: port to listen at.", flag_values=values)
  for name in set(values) - before:
    values.register_key_flag_for_module(arguments[0], values[name])  # what --help shows


def parse(arguments: list[str], values: flags.FlagValues) -> list[str]:
  """Reads the flags into `values`. Returns the program's name and what is no flag.

  Raises:
    InputError: a flag that is unknown, of a wrong value, or not read by the mode.
  """
  arguments = [arguments[0], *map(_at_home, arguments[1:])]
  said = dict(said_in(arguments[1:]))
  refuse_unread(said)
  words, given_to_encoders = _without_encoder_settings(arguments[1:])
  arguments = [arguments[0], *_saved_config(said), *words]
  with wrong_flags_as_sentences():
    define(values, arguments)
    rest = values(arguments)
    config = values["config"].value
  for name, value in given_to_encoders.items():
    _set_encoder_setting(config, name, value)
  return rest


@contextlib.contextmanager
def wrong_flags_as_sentences() -> Iterator[None]:
  """Raises `InputError` for what absl and ml_collections raise where a flag, a setting or a config file is wrong."""
  try:
    yield
    return
  except (AttributeError, KeyError) as error:  # a key that the config has not
    text = str(error.args[0] if error.args else error).replace("\\n", "\n").replace("\\'", "").strip("'\"")
    key, *hint = text.splitlines()
    sentence = f"""the config has no setting '{key.strip("'")}'. {" ".join(hint)}"""
  except (TypeError, ValueError, OSError, flags.Error) as error:
    lines = str(error).replace("avs_jax.errors.InputError: ", "").strip().splitlines()
    sentence = lines[-1] if "Traceback" in str(error) else " ".join(lines)
  raise InputError(sentence)


def _at_home(word: str) -> str:
  """--NAME=~/… with the home folder in place of the ~, which shells put in for words of their own alone."""
  name, equals, value = word.partition("=")
  is_path = word.startswith("-") and value.startswith("~")
  return f"{name}{equals}{os.path.expanduser(value)}" if is_path else word


def _without_encoder_settings(words: list[str]) -> tuple[list[str], dict[str, str]]:
  """The words without --config.model.visual_args.KEY=VALUE and its kin, and these: {name: value as said}."""
  others, found = [], {}
  rest = iter(words)
  for word in rest:
    if word == "--":
      others += [word, *rest]
      break
    name, equals, value = word.lstrip("-").partition("=")
    if word.startswith("-") and _ENCODER_SETTING.fullmatch(name):
      found[name] = value if equals else next(rest, "")
    else:
      others.append(word)
  return others, found


def _set_encoder_setting(config: ConfigDict, name: str, said: str) -> None:
  """Sets what `name` (config.model.visual_args.KEY) means.

  Raises:
    InputError: the encoder that the config names has no such setting, or one of another kind.
  """
  from avs_jax import encoders  # not where the modes that need no model would wait for jax

  path, key = name.removeprefix("config.").split("."), name.split(".")[-1]
  encoder = config[path[0]][path[1].removesuffix("_args")]
  if not encoders.has_setting(encoder, key):
    known = ", ".join(encoders.settings(encoder))
    raise InputError(f"{name}: the encoder {encoder} has no setting {key!r}; it has {known}.")
  try:
    value = ast.literal_eval(said)
  except (ValueError, SyntaxError):
    value = {"true": True, "false": False}.get(said, said)
  chosen = config[path[0]][path[1]]
  before = chosen[key] if key in chosen else getattr(encoders.build(encoder), key)
  if before is not None and type(value) is not type(before) and not _is_number_for(value, before):
    raise InputError(f"{name}={said} is no {type(before).__name__}, as {before!r} is.")
  with config.unlocked():
    chosen[key] = float(value) if isinstance(before, float) else value


def _is_number_for(value: Any, before: Any) -> bool:
  return isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool)


def said_in(words: list[str]) -> Iterator[tuple[str, str]]:
  """Names and values of the flags, in either form, before any of them is understood."""
  for word, after in pairwise([*words, ""]):
    if word == "--":
      return
    if word.startswith("-"):
      name, equals, value = word.lstrip("-").partition("=")
      yield name, value if equals else after


def refuse_unread(said: dict[str, str]) -> None:
  """Raises `InputError` where a flag is given that the mode does not read."""
  mode = said.get("mode", "train")
  known = {name for reads in READS.values() for name in reads}
  for name in said:
    word = name.removeprefix("no") if name == "nohalf" else name.split(".")[0]
    if mode in READS and word in known and word not in READS[mode]:
      reads = ", ".join(f"--{each}" for each in READS[mode]) or "no flags, but IN OUT.safetensors"
      raise InputError(f"--mode={mode} does not read --{name}; it reads {reads}.")


def _saved_config(said: dict[str, str]) -> list[str]:
  """The --config that is meant where none is given and a folder or file has its own.

  Raises:
    InputError: a config that is not there, or none to be changed, or one too many.
  """
  mode, path = said.get("mode", "train"), said.get("config")
  if path is not None and not os.path.isfile(path.split(":")[0]):
    raise InputError(f"--config={path}: no such file; the configs are in configs/.")
  if "config" not in READS.get(mode, ()):
    return []
  if path is not None and said.get("weights"):
    raise InputError(
      "--weights names a file with its config inside; leave out --config, and change it by --config.KEY=VALUE."
    )
  origin = _origin(mode, said)
  if path is None and origin:
    return [f"--config={saved_config.__file__}:{origin}"]
  if path is None and any(name.startswith("config.") for name in said):
    raise InputError(
      "--config.KEY=VALUE changes a config; give it too, as --config=configs/NAME.py, or a run's --workdir."
    )
  return []


def _origin(mode: str, said: dict[str, str]) -> str:
  """What has the config where no --config is given: workdir=RUN or weights=FILE, or "" for nothing."""
  if mode == "score":  # the folder is where figures go; masks lie in the folder of the run that made them
    folder = os.path.dirname(os.path.abspath(said.get("input", "")))
    return f"workdir={folder}" if os.path.isfile(os.path.join(folder, "config.json")) else ""
  if mode == "check" and not os.path.isfile(os.path.join(said.get("workdir", ""), "config.json")):
    return ""  # the folder is where the report goes
  return next((f"{name}={said[name]}" for name in ("weights", "workdir") if said.get(name)), "")


def config_and_workdir(values: flags.FlagValues) -> tuple[ConfigDict, str]:
  """The config given, or the one that a run's folder or a weight file holds; and the folder to work in.

  Raises:
    InputError: no config is given, or `data.name` is no data set's.
  """
  config = values["config"].value
  if config is None and values["mode"].value == "check":
    return settle(common.get_config()), values["workdir"].value or os.path.join("runs", "check")
  if config is None:
    raise InputError("--config is missing, e.g. --config=configs/quickstart.py.")
  return settle(config), values["workdir"].value or _default_workdir(values)


def _default_workdir(values: flags.FlagValues) -> str:
  """runs/NAME or runs/NAME_ARG of the config; beside the masks, or the weight file, that are judged."""
  masks, weights = values["input"].value, values["weights"].value
  if values["mode"].value == "score":
    return os.path.join(os.path.dirname(os.path.abspath(masks or "masks")), "scored")
  if weights:
    return f"{os.path.splitext(weights)[0]}_judged"
  path, _, argument = values["config"].config_filename.partition(":")
  name = os.path.splitext(os.path.basename(path))[0]
  ending = "_" + re.sub(r"[^\w.-]+", "-", argument) if argument else ""
  return os.path.join("runs", name + ending)


def given(values: flags.FlagValues, *names: str) -> dict[str, Any]:
  """The flags of these names that were set; defaults belong to the functions that take them."""
  return {name: values[name].value for name in names if values[name].value is not None}
