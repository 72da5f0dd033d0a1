"""The scoreboard: one table over all sounds, and what its figures were measured with.

`write` makes scoreboard.json, .md and .tex from {sound: figures}; comparison.py sets several side by side. A
column bears the name of its metric's family (docs/metrics.md), never a bare "mIoU".
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax import metrics, tables
from avs_jax.caveats import warnings
from avs_jax.errors import InputError, make_folder
from avs_jax.metrics import NEGATIVES

ROW_NAMES = {
  "positive": "own sound",
  "silence": "silence",
  "noise": "noise",
  "offscreen": "off-screen sound",
}
# The own sound on clips of one kind alone (`data_pipelines.clips.kinds_of`).
PART_NAMES = {
  "positive_switch": "own sound, where sounds come and go",
  "positive_pair": "own sound, two of a kind",
}
# Which columns a table has: binary masks, classes. Right of the bar: against the empty mask.
_BINARY = ("iou_frame", "f_max_batch20", "iou_dataset", "f_max_dataset", "f_at_half")
_CLASSES = (
  "iou_class_frame", "f_class_frame", "iou_class_dataset", "f_class_dataset",
  "iou_class_frame_published", "f_class_frame_published",
)  # fmt: skip
_AGAINST_EMPTY = ("fpr", "iou_frame_empty", "quiet_frames", "similarity")
_UNGATED = ("iou_frame_ungated", "iou_class_frame_ungated", "fpr_ungated")
# What an all-empty prediction gets: a figure of the own sound's summary, or a constant.
_FLOORS = {
  "iou_frame": "iou_frame_floor", "f_max_batch20": "f_max_batch20_floor", "f_max_dataset": "f_max_dataset_floor",
  "iou_dataset": 0.0, "f_at_half": 0.0, "fpr": 0.0, "iou_frame_empty": 1.0, "quiet_frames": 1.0,
}  # fmt: skip
# The G figure in each column; the first of each family is the published one.
_GLOBALS = {
  "iou_frame": "g_iou", "f_max_batch20": "g_f", "iou_dataset": "g_iou_dataset", "f_max_dataset": "g_f_max_dataset",
  "f_at_half": "g_f_at_half", "fpr": "g_fpr",
}  # fmt: skip
_CLASS_GLOBALS = {"iou_class_frame": "g_iou", "f_class_frame": "g_f", "fpr": "g_fpr"}
LEGEND = {
  "iou_frame": "mean over frames of I/U at p > 0.5; empty masks scored by background (AVSBench's mIoU)",
  "iou_frame_nonempty": "iou_frame over frames with an object only",
  "f_max_batch20_nonempty": "f_max_batch20 without the runs that hold no object",
  "f_max_batch20": "max over 255 thresholds inside each run of 20 frames, then mean (AVSBench's F, 4 clips)",
  "iou_dataset": "sum of I over sum of U, whole set (CAVP's family); not comparable with iou_frame",
  "f_max_dataset": "one maximum over thresholds for the whole set",
  "f_at_half": "F at p > 0.5, frames with an object; no threshold is chosen, floor 0",
  "iou_class_frame": "per class and frame, mean over frames, then over classes met; padding left out",
  "f_class_frame": "the same, F",
  "iou_class_dataset": "per class, sum of I over sum of U (CAVP's family), mean over classes met",
  "f_class_dataset": "the same, F",
  "iou_class_frame_published": "as AVSBench-semantic's code: padding counted, classes never met are 0",
  "f_class_frame_published": "the same, F",
  "fpr": "share of pixels that are on, whatever the mask (the Robust paper's FPR)",
  "iou_frame_empty": "IoU against the empty mask, the right answer to a negative sound: share of pixels off",
  "quiet_frames": "share of frames without a single pixel on",
  "similarity": "mean agreement of sound and picture, in the guide's opinion",
  "iou_frame_ungated": "iou_frame of the masks before the guide's gate",
  "iou_class_frame_ungated": "iou_class_frame of the masks before the guide's gate",
  "fpr_ungated": "fpr of the masks before the guide's gate",
}


def with_global(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """The results with "global" added: the G figures, None unless own sound and all three negatives are there.

  Returns: `g_iou`, `g_f`, `g_fpr` of the published family (iou_frame, f_max_batch20; of classes: iou_class_frame,
    f_class_frame), `g_<family>` of the others, and `g_iou_bound`, `g_f_bound`, what a perfect model would get (an
    empty prediction does not score 0, so the bound is below 1).
  """
  results = {name: dict(figures) for name, figures in results.items() if name not in ("global", "record")}
  first = next(iter(results.values()), {})
  families = _GLOBALS if "iou_frame" in first else _CLASS_GLOBALS
  scores: dict[str, float | None] = dict.fromkeys((*families.values(), "g_iou_bound", "g_f_bound"))
  if all(name in results for name in ("positive", *NEGATIVES)):
    own, negatives = results["positive"], [results[name] for name in NEGATIVES]
    for figure, target in families.items():
      scores[target] = _g(own.get(figure), [row.get(figure) for row in negatives])
    scores["g_fpr"] = sum(row["fpr"] for row in negatives) / len(negatives)
    if families is _GLOBALS:
      scores["g_iou_bound"] = _g(1.0, [own["iou_frame_floor"]])
      perfect = own.get("f_max_batch20_ceiling", 1.0)  # boards of before it was counted say nothing of it
      scores["g_f_bound"] = _g(perfect, [own["f_max_batch20_floor"]])
  results["global"] = scores
  return results


def _g(positive: float | None, negatives: Sequence[float | None]) -> float | None:
  if positive is None or any(value is None for value in negatives):
    return None
  rows = {str(i): {"iou": value, "f": value, "fpr": 0.0} for i, value in enumerate(negatives)}
  return metrics.global_scores({"iou": positive, "f": positive}, rows)["g_iou"]


def complete_record(record: Mapping[str, Any]) -> dict[str, Any]:
  """The record with config digest, versions, hardware, commit and date added where it lacks them."""
  import jax

  record = dict(record)
  config = record.get("config")
  if config is not None and "config_digest" not in record:
    text = json.dumps(config, sort_keys=True, default=str)
    record["config_digest"] = hashlib.sha256(text.encode()).hexdigest()[:16]
  packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")
  record.setdefault("versions", {"python": platform.python_version(), **{p: _version(p) for p in packages}})
  devices = jax.devices()
  machine = f"{platform.machine()}, {os.cpu_count()} CPU cores"
  record.setdefault(
    "hardware", f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()}), {machine}"
  )
  record.setdefault(
    "float32_products", str(jax.config.jax_default_matmul_precision or "the device's default")
  )
  record.setdefault("commit", commit())
  record.setdefault("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
  return record


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "absent"


@functools.cache
def commit() -> str:
  """The commit of this program's checkout, "+" appended where files differ from it; "unknown" without one."""
  here = os.path.dirname(os.path.abspath(__file__))

  def git(*arguments: str) -> str:
    done = subprocess.run(
      ["git", "-C", here, *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()

  try:
    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return "unknown"


def table(results: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
  """Header and rows of the scoreboard: own sound, negatives, their mean, the floor, unseen sounds, globals.

  Raises: InputError where there is no sound.
  """
  scores = with_global(results)["global"]
  sounds = {name: results[name] for name in results if name not in ("global", "record")}
  if not sounds:
    raise InputError("the scoreboard has no sound to show; evaluate at least the clips' own sound.")
  first = next(iter(sounds.values()))
  columns = [c for c in (*_BINARY, *_CLASSES, *_AGAINST_EMPTY, *_UNGATED) if c in first]
  rows = []

  def add(name: str, figures: Mapping[str, Any], count: str = "") -> None:
    rows.append([name, *(tables.number(figures.get(column)) for column in columns), count])

  known = [name for name in ROW_NAMES if name in sounds]
  for name in known:
    figures = sounds[name]
    # With the own sound the empty mask is not the right answer, so nothing is said of it.
    shown = {c: figures.get(c) for c in columns if name != "positive" or c not in _AGAINST_EMPTY[1:3]}
    add(ROW_NAMES[name], shown, f"{figures['frames']} / {figures['clips']}")
  present = [sounds[name] for name in NEGATIVES if name in sounds]
  if len(present) == len(NEGATIVES):
    values = {c: [figures.get(c) for figures in present] for c in columns}
    add("mean of the three", {c: None if None in v else sum(v) / len(v) for c, v in values.items()})
  if "iou_frame_floor" in first:
    add("(all-empty prediction)", {c: first[v] if isinstance(v, str) else v for c, v in _FLOORS.items()})
  for name, figures in sounds.items():
    if name not in ROW_NAMES:
      own = name.startswith(("mixed_", "positive_"))  # the own sound under noise, or of some clips alone
      shown = {c: figures.get(c) for c in columns if not own or c not in _AGAINST_EMPTY[1:3]}
      said = PART_NAMES.get(name, name.replace("_", " "))
      add(said, shown, f"{figures['frames']} / {figures['clips']}")
  if scores["g_iou"] is not None:
    families = _GLOBALS if "iou_frame" in first else _CLASS_GLOBALS
    add("G, all sounds", {c: scores[target] for c, target in families.items()})
  if scores["g_iou_bound"] is not None:
    bounds = {"iou_frame": scores["g_iou_bound"], "f_max_batch20": scores["g_f_bound"]}
    bounds["f_max_dataset"] = _g(1.0, [first["f_max_dataset_floor"]])
    add("(G of a perfect model)", {**bounds, "iou_dataset": 1.0, "f_at_half": 1.0, "fpr": 0.0})
  return ["sound", *columns, "frames / clips"], rows


def _global_line(results: Mapping[str, Mapping[str, Any]]) -> str:
  scores = results["global"]
  if scores["g_iou"] is None:
    return "Global scores need the clips' own sound, silence, noise and off-screen sound."
  names = {"G-mIoU": "g_iou", "G-F": "g_f", "G-FPR": "g_fpr"}
  line = ", ".join(f"{name} {tables.number(scores[figure])}" for name, figure in names.items())
  family = "iou_frame, f_max_batch20" if "g_f_at_half" in scores else "iou_class_frame, f_class_frame"
  return f"{line} (of {family})"


def _own_line(results: Mapping[str, Mapping[str, Any]]) -> str:
  """The own sound's figures without the frames that hold no object, which the table counts; "" for classes."""
  names = ("iou_frame_nonempty", "f_max_batch20_nonempty")
  own = results.get("positive", {})
  figures = ", ".join(f"{name} {tables.number(own[name])}" for name in names if name in own)
  return f"Own sound, frames with an object alone: {figures}" if figures else ""


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
  names = {
    "title": "run", "data_set": "data", "split": "split", "clips": "clips", "missing_clips": "missing clips",
    "size": "judged at, px", "negatives": "negative sounds",
    "weights_digest": "weights", "config_digest": "config", "seed": "seed", "hardware": "hardware",
    "float32_products": "precision of float32 products", "commit": "commit", "date": "date",
  }  # fmt: skip
  facts = [(label, str(record[key])) for key, label in names.items() if record.get(key) not in (None, "")]
  versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
  return [*facts, ("versions", versions)] if versions else facts


def markdown(results: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> str:
  """The scoreboard as Markdown."""
  header, rows = table(results)
  lines = [f"# {record.get('title') or 'Scoreboard'}: {record.get('data_set', 'data set not named')}", ""]
  for sentence in warnings(record):
    lines += [f"**{sentence}**", ""]
  lines += tables.markdown(header, rows)
  lines += ["", _global_line(results), ""]
  if _own_line(results):
    lines += [_own_line(results) + ".", ""]
  lines += [
    "Under silence, noise and off-screen sound the columns before `fpr` are taken against the object's",
    "own mask and should be LOW; `iou_frame_empty` and `quiet_frames` are taken against the empty mask,",
    "the right answer there, and should be HIGH. All figures are fractions.",
    "",
  ]
  lines += [f"- `{name}`: {LEGEND[name]}" for name in header if name in LEGEND]
  lines += [
    "",
    "| measured with | |",
    "|---|---|",
    *(f"| {label} | {value} |" for label, value in _facts(record)),
  ]
  return "\n".join(lines) + "\n"


def latex(results: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> str:
  """The scoreboard as a LaTeX table (booktabs); a stand-in's name is in the caption."""
  facts = "; ".join(f"{label} {value}" for label, value in _facts(record) if label != "versions")
  lines = [f"{line}." for line in (_global_line(results), _own_line(results), facts) if line]
  caption = " ".join([*warnings(record), *lines])
  return tables.latex(*table(results), caption)


def print_table(results: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any] | None = None) -> None:
  """Prints the scoreboard in columns."""
  record, results = record or {}, with_global(results)
  header, rows = table(results)
  widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
  if not record.get("is_stand_in"):
    print(f"data: {record.get('data_set', 'not named')}")
  for sentence in warnings(record):
    print(sentence)
  for row in [header, *rows]:
    print(
      "  ".join(
        cell.ljust(w) if i == 0 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(row, widths, strict=True))
      )
    )
  print(*filter(None, (_global_line(results), _own_line(results))), sep="\n", flush=True)


def finite(value: Any) -> Any:
  """JSON has no nan: it becomes null, numpy numbers become plain ones."""
  if isinstance(value, Mapping):
    return {str(key): finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [finite(item) for item in value]
  if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


def write(
  folder: str, results: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any], *, show: bool = True
) -> dict[str, str]:
  """Writes scoreboard.json, scoreboard.md and scoreboard.tex into `folder`, and prints the table.

  Args:
    results: {sound: figures of `metrics.summarise` or `summarise_classes`}; positive, silence, noise,
      offscreen, and any further name for an unseen sound.
    record: `title`, `data_set`, `is_stand_in`, `split`, `clips`, `config`, `weights_digest`, `seed`; what
      `complete_record` can find out is added.

  Returns: {"json", "md", "tex": path}.
  """
  make_folder(folder)
  results, record = with_global(finite(results)), complete_record(record)
  record["warnings"] = warnings(record)
  whole = finite({"record": record, **results})
  texts = {
    "json": json.dumps(whole, indent=1, default=str) + "\n",
    "md": markdown(results, record),
    "tex": latex(results, record),
  }
  if show:
    print_table(results, record)
  return {kind: tables.save(os.path.join(folder, f"scoreboard.{kind}"), text) for kind, text in texts.items()}


def read(folder: str) -> dict[str, Any] | None:
  """{sound: figures}, "global" and "record" of scoreboard.json; None if absent. Raises `InputError` if broken."""
  path = os.path.join(folder, "scoreboard.json")
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except ValueError as error:
    raise InputError(f"{path} is not whole ({error}); delete it and evaluate again.") from None
