"""How a benchmark that has flags begins: what is wrong with them, or with the config, is a sentence."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from avs_jax import command_line
from avs_jax.errors import InputError


def define_config(default: str, meaning: str) -> Any:
  """The flag --config, a file of configs/; ends with status 2 where the one that was given is wrong."""
  try:
    with command_line.wrong_flags_as_sentences():  # the file is read here, if its settings are flags
      return config_flags.DEFINE_config_file("config", default, meaning, lock_config=True)
  except InputError as error:
    _end(error)


def start(main: Callable[[list[str]], None]) -> None:
  """Reads the flags and calls `main` with what is none; ends with status 2 where something given is wrong."""
  try:
    app.run(main, flags_parser=_parse)
  except InputError as error:
    _end(error)


def _parse(arguments: list[str]) -> list[str]:
  with command_line.wrong_flags_as_sentences():
    rest = flags.FLAGS(arguments)
    if "config" in flags.FLAGS:  # of a file that cannot be read it says so only when it is asked
      getattr(flags.FLAGS["config"].value, "title", None)
    return rest


def _end(error: InputError) -> NoReturn:
  print(f"error: {error}", file=sys.stderr)
  raise SystemExit(2) from None
