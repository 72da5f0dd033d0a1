"""What `--mode=predict` does: one video or many through a model, and files of what it says.

OUTPUT/<name>/           a folder for each input, with the files of products.py and
OUTPUT/<name>/done.json  what they were made of: an input whose settings, model and file are the same is skipped

A folder gets its name when it is whole: a run that was stopped goes on with the first input that is not.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from avs_jax.errors import InputError
from avs_jax.own_video import products
from avs_jax.own_video.folder import DONE, about_footage, folders, is_done, sealed, whole
from avs_jax.predict import Predictor

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
  refuse_absent(sound=settings.get("sound"))
  failed = predict_files(model(), source, output, write=names, **settings)
  tell(failed, len(inputs), output)


def refuse_absent(**given: str | None) -> None:
  """Raises `InputError` where a file that a flag of that name gives is not there; once, not for every input."""
  for flag, path in given.items():
    if path and not os.path.exists(path):
      raise InputError(f"--{flag}={path}: there is no such file; give one with a sound track.")


def tell(failed: Mapping[str, str], count: int, output: str) -> None:
  """Says how many of `count` inputs are done, and names those that failed.

  Raises:
    SystemExit(1): there are failed inputs.
  """
  log.info("%d of %d inputs are in %s", count - len(failed), count, output)
  if failed:
    print(f"{len(failed)} of {count} inputs failed:", file=sys.stderr)
    for path, reason in failed.items():
      print(f"  {reason}" if path in reason else f"  {path}: {reason}", file=sys.stderr)
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
    title = f"{number}/{len(inputs)} {Path(path).name}" if len(inputs) > 1 else Path(path).name
    try:
      facts = facts_of(path)
      if is_done(folder, facts, files):
        log.info("%s: done before, in %s", title, folder)
        continue
      work(path, folder, facts, title)
    except InputError as error:
      failed[path] = str(error)
    except Exception as error:  # noqa: BLE001  one video must not cost a night's other thousand
      log.exception("%s failed", path)
      failed[path] = f"{type(error).__name__}: {error}"
    if path in failed and number < len(inputs):
      log.error("%s; going on with the next", failed[path].rstrip("."))
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


def progress(footage: Any, start: float, end: float | None, title: str) -> tqdm:
  """A bar over the seconds of the footage, with the time that is left."""
  until = min((t for t in (end, footage.duration_s) if t is not None), default=None)
  total = None if until is None else round(max(until - start, 0), 1)
  form = "{l_bar}{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}, {rate_noinv_fmt}]"
  return tqdm(total=total, desc=title, unit="s", disable=None, bar_format=form if total else None)
