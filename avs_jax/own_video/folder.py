"""The folder that each input gets: whole or not there, and known again by what it was made of."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avs_jax.errors import InputError

DONE = "done.json"


@contextlib.contextmanager
def whole(folder: Path, mode: str) -> Iterator[Path]:
  """A folder to be filled, which gets its name at the end; after an exception nothing is left.

  What is put into it includes `DONE`, with the `mode`.

  Raises:
    InputError: it cannot be written, or something else is there.
  """
  partial, old = begin(folder, mode), _beside(folder, "old")
  try:
    yield partial
    if is_ours(folder, mode):
      shutil.rmtree(old, ignore_errors=True)
      os.rename(folder, old)
    os.rename(partial, folder)  # fails where anything but an empty folder has come there since
    shutil.rmtree(old, ignore_errors=True)
  except OSError as error:
    raise InputError(f"{folder} cannot be written ({error}); free space, or give another --output.") from None
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def is_ours(folder: Path, mode: str) -> bool:
  """Whether a run of this mode has written the folder: only then may it be replaced."""
  try:
    return json.loads((folder / DONE).read_text())["mode"] == mode
  except (OSError, ValueError, KeyError, TypeError):
    return False


def _beside(folder: Path, what: str) -> Path:
  """A hidden folder of ours next to it."""
  return folder.with_name(f".{folder.name}.{what}")


def begin(folder: Path, mode: str) -> Path:
  """An empty folder beside `folder`, to be filled; what a killed run left there is removed.

  Raises:
    InputError: `folder` is there, and not of the same `mode`.
  """
  if folder.exists() and not is_ours(folder, mode):
    raise InputError(f"{folder} is there and was not written by --mode={mode}; give another --output.")
  partial = _beside(folder, "partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  except OSError as error:
    raise InputError(f"{partial} cannot be made ({error}); give another --output.") from None
  return partial


def folders(inputs: Sequence[str], output: str) -> list[Path]:
  """A folder for each input, straight under `output`: its name without ending, or with it where two would be the same.

  An input that is given as ".." or "." has the name of the folder that this means.

  Raises:
    InputError: two inputs of different folders have the same name, or one has none.
  """
  paths = [Path(os.path.abspath(path)) for path in inputs]
  # "...mp4" without its ending would be "..": the folder above.
  stems = [path.stem if path.stem.strip(".") else path.name for path in paths]
  names = [path.name if stems.count(s) > 1 else s for path, s in zip(paths, stems, strict=True)]
  if not all(name.strip(".") for name in names):
    raise InputError("the root of a disk has no name for its results; give a video or a folder in it.")
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise InputError(f"two inputs are called {twice[0]}; rename one, or give them one after the other.")
  return [Path(output) / name for name in names]


def sealed(facts: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
  """Facts with a digest of them and of the files (or folders of files) that they are of."""
  stamps = [stamp(each) for each in files]
  text = json.dumps([facts, stamps], sort_keys=True)
  return {**facts, "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def stamp(path: str) -> list[Any]:
  """Names, sizes and times of a file, or of the files of a folder."""
  files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
  return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


def is_done(folder: Path, facts: Mapping[str, Any], files: Sequence[str]) -> bool:
  """Whether the folder was written from the same file by the same model with the same settings, and holds `files`."""
  try:
    same = json.loads((folder / DONE).read_text())["digest"] == facts["digest"]
  except (OSError, ValueError, KeyError, TypeError):
    return False
  return same and all((folder / name).exists() for name in files)


def about_footage(footage: Any) -> dict[str, Any]:
  """What was found of the input."""
  height, width = footage.size
  return {
    "height": height,
    "width": width,
    "fps": round(footage.fps, 3),
    "duration_s": None if footage.duration_s is None else round(footage.duration_s, 3),
    "has_sound": footage.has_sound,
    "sample_rate_hz": footage.rate_hz if footage.has_sound else None,
    "channels": footage.channels if footage.has_sound else None,
  }
