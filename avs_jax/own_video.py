"""What `--mode=predict` does: one video or many through a model, and files of what it says.

OUTPUT/<name>/           a folder for each input, with the files of products.py and
OUTPUT/<name>/done.json  what they were made of: an input whose settings, model and file are the same is skipped

A folder gets its name when it is whole: a run that was stopped goes on with the first input that is not.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avs_jax import products
from avs_jax.errors import InputError
from avs_jax.predict import Predictor

DONE = "done.json"

log = logging.getLogger(__name__)


def command(
  model: Callable[[], Predictor],
  source: str | None,
  output: str | None,
  *,
  write: str = "overlay,csv",
  **settings: Any,
) -> None:
  """Predicts for `source`; names the inputs that failed and exits with status 1 if there are any.

  Args:
    model: called once the rest is known to make sense.
    write: names of `products.WRITERS`, comma-separated.

  Raises:
    InputError: see `predict_files`.
  """
  from data_pipelines import video

  if not source or not output:
    raise InputError("--mode=predict needs --input=VIDEO (or a folder, or a pattern) and --output=FOLDER.")
  names = products.chosen(write)
  inputs = video.find(source)
  failed = predict_files(model(), source, output, write=names, **settings)
  tell(failed, len(inputs), output)


def tell(failed: Mapping[str, str], count: int, output: str) -> None:
  """Says how many of `count` inputs are done, names those that failed, and exits with status 1 if there are any."""
  log.info("%d of %d inputs are in %s", count - len(failed), count, output)
  if failed:
    print(f"{len(failed)} of {count} inputs failed:", file=sys.stderr)
    for reason in failed.values():
      print(f"  {reason}", file=sys.stderr)
    raise SystemExit(1)


def predict_files(
  predictor: Predictor,
  source: str,
  output: str,
  *,
  write: Sequence[str] = ("overlay", "csv"),
  sound: str | None = None,
  every: str = "second",
  stride: int | None = None,
  start: float = 0.0,
  end: float | None = None,
  threshold: float = 0.5,
  fps: float = 1.0,
) -> dict[str, str]:
  """Predicts for everything that `source` names and writes it under `output`.

  Args: as of `Predictor.predict`; `write` names of `products.WRITERS`.

  Returns: {input: why it failed}, empty where all went well.

  Raises:
    InputError: nothing is there, two inputs would share a folder, or the settings make no sense.
  """
  from data_pipelines import video

  inputs = video.find(source)
  settings = {
    "every": every,
    "stride": stride,
    "start": start,
    "end": end,
    "threshold": threshold,
    "fps": fps,
  }
  predictor.check(every=every, stride=stride, start=start, end=end, threshold=threshold)

  def work(path: str, folder: Path, facts: Mapping[str, Any], title: str) -> None:
    predict_file(predictor, path, folder, facts, write=write, sound=sound, title=title, **settings)

  return for_each(
    inputs,
    output,
    lambda path: facts_of(predictor, path, sound, write, settings),
    [products.FILES[name] for name in sorted(write)],
    work,
  )


def for_each(
  inputs: Sequence[str],
  output: str,
  facts_of: Callable[[str], Mapping[str, Any]],
  files: Sequence[str],
  work: Callable[[str, Path, Mapping[str, Any], str], None],
) -> dict[str, str]:
  """Works through inputs: what is done is skipped, and what fails does not cost the others.

  Args:
    facts_of: what the files of an input depend on, of `sealed`.
    files: what is in a folder that is whole.
    work: (input, folder, facts, title); fills the folder.

  Returns: {input: why it failed}, empty where all went well.
  """
  failed: dict[str, str] = {}
  for number, (path, folder) in enumerate(zip(inputs, folders(inputs, output), strict=True), 1):
    facts = facts_of(path)
    title = f"{number}/{len(inputs)} {Path(path).name}" if len(inputs) > 1 else Path(path).name
    if is_done(folder, facts, files):
      log.info("%s: done before, in %s", title, folder)
      continue
    try:
      work(path, folder, facts, title)
    except InputError as error:
      failed[path] = str(error)
    except Exception as error:  # noqa: BLE001  one video must not cost a night's other thousand
      log.exception("%s failed", path)
      failed[path] = f"{type(error).__name__}: {error}"
    if path in failed and number < len(inputs):
      log.error("%s; going on with the next", failed[path])
  return failed


def predict_file(
  predictor: Predictor,
  path: str,
  folder: Path,
  facts: Mapping[str, Any],
  *,
  write: Sequence[str],
  sound: str | None,
  title: str,
  every: str,
  stride: int | None,
  start: float,
  end: float | None,
  threshold: float,
  fps: float,
) -> None:
  """One input; the folder appears when all is written.

  Raises:
    InputError: nothing of the input can be read, or the folder cannot be written or is not ours to replace.
  """
  from data_pipelines import video

  began = time.monotonic()
  footage = video.open_footage(path, sound, fps=fps)
  said = predictor.predict(footage, every=every, stride=stride, start=start, end=end, threshold=threshold)
  about = {**facts, "video": about_footage(footage)}
  with whole(folder, facts["mode"]) as partial:
    with contextlib.ExitStack() as stack, progress(footage, start, end, title) as bar:
      writers = [
        stack.enter_context(products.WRITERS[name](partial, footage, about, start)) for name in write
      ]
      for each in said:
        for writer in writers:
          writer.add(each)
        bar.update(round(each.until_s - start - bar.n, 3))
    took = time.monotonic() - began
    log.info("%s: %.1f s of video in %.1f s", title, each.until_s - start, took)
    (partial / DONE).write_text(
      json.dumps({**about, "notes": footage.notes}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


@contextlib.contextmanager
def whole(folder: Path, mode: str) -> Iterator[Path]:
  """A folder to be filled, which gets its name at the end; after an exception nothing is left.

  What is put into it includes `DONE`, with the `mode`.

  Raises:
    InputError: it cannot be written, or something else is there.
  """
  partial = begin(folder, mode)
  try:
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
  except OSError as error:
    raise InputError(f"{folder} cannot be written ({error}); free space, or give another --output.") from None
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def begin(folder: Path, mode: str) -> Path:
  """An empty folder beside `folder`, to be filled; what a killed run left there is removed.

  Raises:
    InputError: `folder` is there, and not of the same `mode`.
  """
  if folder.exists():
    try:
      is_ours = json.loads((folder / DONE).read_text())["mode"] == mode
    except (OSError, ValueError, KeyError):
      is_ours = False
    if not is_ours:
      raise InputError(f"{folder} is there and was not written by --mode={mode}; give another --output.")
  partial = folder.with_name(f".{folder.name}.partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  except OSError as error:
    raise InputError(f"{partial} cannot be made ({error}); give another --output.") from None
  return partial


def folders(inputs: Sequence[str], output: str) -> list[Path]:
  """A folder for each input: its name without ending, or with it where two would be the same.

  Raises:
    InputError: two inputs of different folders have the same name.
  """
  stems = [Path(path).stem for path in inputs]
  names = [Path(p).name if stems.count(s) > 1 else s for p, s in zip(inputs, stems, strict=True)]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise InputError(f"two inputs are called {twice[0]}; rename one, or give them one after the other.")
  return [Path(output) / name for name in names]


def facts_of(
  predictor: Predictor, path: str, sound: str | None, write: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
  """What the files of an input depend on, and a digest of it."""
  facts = {
    "mode": "predict",
    "model": {"name": predictor.name, "weights": predictor.weights_digest},
    "settings": dict(settings),
    "write": sorted(write),
    "source": Path(path).name,
    "sound": sound,
  }
  return sealed(facts, [each for each in (path, sound) if each])


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
  except (OSError, ValueError, KeyError):
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


def progress(footage: Any, start: float, end: float | None, title: str) -> tqdm:
  """A bar over the seconds of the footage, with the time that is left."""
  until = min((t for t in (end, footage.duration_s) if t is not None), default=None)
  total = None if until is None else round(max(until - start, 0), 1)
  form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_noinv_fmt}]"
  return tqdm(total=total, desc=title, unit="s", disable=None, bar_format=form if total else None)
