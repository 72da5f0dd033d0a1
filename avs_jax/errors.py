"""The one kind of failure that is the user's to mend: bad files, bad settings, missing data."""

import os
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
  """Something given to the program is wrong; the message is one sentence: what, expected what, do what.

  `run.py` prints the message alone and exits with status 2; every other exception is a defect of ours
  and keeps its traceback.
  """


def check_choice(setting: str, value: Any, allowed: Iterable[Any]) -> None:
  """Refuses a setting that is none of its choices; None among them stands for "not given" and is not named.

  Raises:
    InputError: says the setting, its value and the choices.
  """
  allowed = tuple(allowed)
  if value not in allowed:
    names = ", ".join(str(name) for name in allowed if name is not None)
    raise InputError(f"{setting}={value!r} is not known; choose one of {names}.")


def make_folder(path: str | os.PathLike) -> None:
  """Makes a folder that results go to, and those above it, where they are not there.

  Raises:
    InputError: it cannot be made.
  """
  try:
    os.makedirs(path, exist_ok=True)
  except OSError as error:
    raise InputError(f"{os.fspath(path)}: the folder cannot be made ({error}); give another.") from None
