"""The diary of a run: a log someone can follow, figures a program can read, and the record of its making."""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import traverse_util

from avs_jax import tables
from avs_jax.errors import InputError
from avs_jax.weight_origin import strip

log = logging.getLogger(__name__)

TRAINING_DATA = "training_data.json"
_NOTE = """\
What is in this folder
  config.json       every setting of the run; --mode=eval needs nothing else
  training_data.json  which clips it trained on, and whether they stand in for a data set
  log.txt           what was printed
  metrics.jsonl     a line per logged step and per validation
  tensorboard/      the same for TensorBoard
  checkpoints/      the newest states; the same command goes on from them
  best/             the weights with the best validation score; what was judged
  scoreboard.*      figures under four sounds (json, markdown, LaTeX)
  manifest.csv      which sound each test clip got under each condition
  train_manifest.csv  which training clips got another sound, epoch by epoch; none where negatives.fraction is 0
  pictures/         the same frames under four sounds; curves.png
"""


class Logbook:
  """Writes the log, metrics.jsonl and TensorBoard scalars of one run. Only process 0 writes.

  Args:
    workdir: the run's folder, already there.
  """

  def __init__(self, workdir: str, config: Any):
    self.workdir, self.config, self.caption = workdir, config, config.title
    self.is_writer = jax.process_index() == 0
    self.waited = 0.0
    self.last = (time.monotonic(), 0)
    self.begin = self.steps = 0
    self.board: Any = None
    if not self.is_writer:
      return
    from tensorboardX import SummaryWriter

    self.board = SummaryWriter(os.path.join(workdir, "tensorboard"))
    with open(os.path.join(workdir, "README.txt"), "w") as file:
      file.write(_NOTE)

  def say(self, text: str) -> None:
    log.info("%s", text)
    if self.is_writer:
      self._append("log.txt", time.strftime("%Y-%m-%d %H:%M:%S ") + text)

  def _append(self, name: str, line: str) -> None:
    path = os.path.join(self.workdir, name)
    try:
      with open(path, "a") as file:
        file.write(line + "\n")
    except OSError as error:
      raise InputError(
        f"{path} cannot be written ({error}); free space and run the same command again."
      ) from None

  def start(self, mesh: Any, steps: int, steps_per_epoch: int, learns: Any, stays: Any, source: Any) -> None:
    """Says once what is about to happen."""
    self.caption = f"{self.config.title or self.config.model.system}: {source.title}"
    devices, batch = mesh.devices.size, self.config.schedule.batch
    self.steps = steps
    self.say(f"data: {source.title}, {len(source)} training clips")
    if self.is_writer:
      tables.save(os.path.join(self.workdir, TRAINING_DATA), training_data(source))
    self.say(
      f"devices: {devices} {mesh.devices.flat[0].device_kind} of {jax.device_count()}; batch {batch} clips"
      f" ({batch // mesh.shape['data']} a device); {steps} steps of {steps_per_epoch} an epoch"
    )
    if jax.default_backend() == "cpu" and os.path.exists("/proc/driver/nvidia/version"):
      self.say(
        "devices: jax uses the CPU alone, though this machine has an NVIDIA driver; for its GPU install"
        " requirements-cuda.txt (CUDA 13, driver 580 or newer; the file says what older ones take)"
      )
    for name, part in (("trainable", learns), ("frozen", stays)):
      totals = count_parameters(part)
      each = ", ".join(f"{key} {value:,}" for key, value in totals.items())
      self.say(f"{name}: {sum(totals.values()):,} parameters ({each or 'none'})")

  def begin_at(self, step: int) -> None:
    """Step 0, or the step of the checkpoint from which the run goes on; later rows of metrics.jsonl go."""
    self.begin = step
    self.last = (time.monotonic(), step)
    if step:
      self.say(f"resumed from the checkpoint of step {step}")
    if not self.is_writer:
      return
    write_config(self.config, self.workdir)
    rows = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
    tables.save(os.path.join(self.workdir, "metrics.jsonl"), "".join(rows))

  def rows(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last one that a kill cut short is left out."""
    path, rows = os.path.join(self.workdir, "metrics.jsonl"), []
    if os.path.exists(path):
      with open(path) as file:
        for line in file:
          with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Time inside is time the step waits for data."""
    begin = time.monotonic()
    yield
    self.waited += time.monotonic() - begin

  def log(self, step: int, figures: Mapping[str, float], *, clips: int) -> None:
    """A line: step, loss parts, norms, learning rate, clips a second, share of time waiting for data, ETA."""
    now = time.monotonic()
    then, before = self.last
    seconds = max(now - then, 1e-9)
    if step == before:
      return
    rate = (step - before) / seconds
    row = {**figures, "clips_per_s": rate * clips, "data_wait": min(self.waited / seconds, 1.0)}
    self.last, self.waited = (now, step), 0.0
    self.write(step, row)
    if step == self.begin + 1:
      self.say(f"step {step}/{self.steps} first step after {seconds:.1f} s (with compilation)")
      return
    norms = {"gradient_norm": "grad", "update_norm": "update", "parameter_norm": "param", "lr": "lr"}
    losses = " ".join(
      f"{k} {v:.4f}" for k, v in figures.items() if k not in norms and not k.startswith("val_")
    )
    rest = " ".join(f"{short} {figures[k]:.3g}" for k, short in norms.items() if k in figures)
    left = duration((self.steps - step) / rate)
    self.say(
      f"step {step}/{self.steps} {losses} {rest} {row['clips_per_s']:.2f} clips/s"
      f" wait {row['data_wait']:.0%} eta {left}"
    )

  def log_validation(self, step: int, figures: Mapping[str, Any]) -> None:
    numbers = {f"val_{k}": v for k, v in figures.items() if isinstance(v, int | float)}
    self.write(step, numbers)
    shown = " ".join(
      f"{k} {v:.4f}"
      for k, v in figures.items()
      if k in self.config.eval.metric or k in ("iou_frame", "f_at_half", "fpr")
    )
    self.say(f"step {step}/{self.steps} validation, own sound: {shown}")
    self.last, self.waited = (time.monotonic(), step), 0.0

  def write(self, step: int, row: Mapping[str, Any]) -> None:
    if not self.is_writer:
      return
    self._append("metrics.jsonl", json.dumps({"step": step, **row}))
    for name, value in row.items():
      self.board.add_scalar(name, value, step)

  def finish(self) -> None:
    """Draws the curves and closes the files."""
    if not self.is_writer:
      return
    from avs_jax import visualize

    picture = os.path.join(self.workdir, "pictures", "curves.png")
    os.makedirs(os.path.dirname(picture), exist_ok=True)
    visualize.curves(picture, self.rows(), caption=self.caption)
    self.board.close()


def write_config(config: Any, workdir: str) -> None:
  """config.json, from which `--mode=eval --workdir=…` knows everything."""
  settings = json.loads(config.to_json_best_effort())
  tables.save(os.path.join(workdir, "config.json"), json.dumps(settings, indent=2))


def training_data(source: Any) -> str:
  """What `export.training_data` reads of a run, as JSON."""
  about = {"title": source.title, "is_stand_in": source.is_stand_in, "clips": len(source)}
  return json.dumps({**about, "missing_clips": getattr(source, "left_out", "")}, indent=1) + "\n"


def duration(seconds: float) -> str:
  """ "1:02:03" or "2:03"."""
  minutes, second = divmod(int(seconds), 60)
  hour, minute = divmod(minutes, 60)
  return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def versions() -> dict[str, str]:
  """Versions of what computed, and on what."""
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")
  found = {"python": platform.python_version()}
  for name in names:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def count_parameters(params: Mapping[str, Any]) -> dict[str, int]:
  """Number of values under each top-level name (one level deeper where a debias strategy wraps a system)."""
  totals: dict[str, int] = {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    name = strip(path)[0]
    totals[name] = totals.get(name, 0) + math.prod(leaf.shape)
  return totals
