"""Rows of the cost tables timed in turn, each in a process of its own, as many at a time as memory holds."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from avs_jax import systems
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from benchmarks.cost_rows import SECONDS, Subject, shapes
from benchmarks.in_turn import cpu_seconds, peak_memory

# What a row's process may take: the largest of our systems was seen to hold 3.33 GB (docs/recipes.md).
ROOM_BYTES = 3.5e9
MEASURED = ("fps", "cpu_seconds_per_frame")


class EndedEarly(InputError):
  """A row's process ended before its answer, for want of memory as a rule; `name` is the row's."""

  def __init__(self, name: str):
    super().__init__(
      f"the process that measures {name} ended early; see its message above, try a smaller size."
    )
    self.name = name


def hardware() -> str:
  """The device that computes, the processor's model where the system tells it, and its cores."""
  model = cpu_model()
  words = (jax.devices()[0].device_kind, *([model] if model else []), platform.machine())
  return f"{', '.join(words)}, {os.cpu_count()} CPU cores"


def cpu_model() -> str:
  """The processor's name as Linux gives it; "" where it gives none."""
  try:
    with open("/proc/cpuinfo") as file:
      names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
  except OSError:
    return ""
  return names[0] if names else ""


def room() -> float:
  """Bytes that rows may share: those free on this machine, or on its device where that has fewer."""
  try:
    with open("/proc/meminfo") as file:
      (line,) = [line for line in file if line.startswith("MemAvailable")]
    free = float(line.split()[1]) * 1024
  except OSError:  # not Linux
    free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
  device = jax.devices()[0]
  held = device.memory_stats() if device.platform != "cpu" else None
  return min(free, held["bytes_limit"]) if held and "bytes_limit" in held else free


def groups(subjects: Sequence[Subject], together: int) -> list[list[Subject]]:
  """Rows by groups that are measured beside the reference.

  Args:
    together: rows in a group; 0 for as many as fit beside the reference into the memory that is free.
  """
  count = together or max(1, int(room() / ROOM_BYTES) - 1)
  return [list(subjects[start : start + count]) for start in range(0, len(subjects), count)]


# --- a worker


def serve(subject: Subject, dtype: str) -> None:
  """Compiles, warms up, then makes a call for every line it reads, and prints what it took."""
  import time

  from avs_jax.mesh import keep_compiled_programs

  keep_compiled_programs()
  model = systems.build(**subject.settings(), dtype=dtype)
  inputs = tuple(np.zeros(each.shape, each.dtype) for each in shapes(subject))
  variables = jax.device_put(initialise(model, *inputs, seed=0))
  program = jax.jit(lambda variables, *inputs: model.apply(variables, *inputs).logits)
  compiled = program.lower(variables, *inputs).compile()
  memory: Any = compiled.memory_analysis()
  jax.block_until_ready(compiled(variables, *inputs))
  facts = {"device": hardware(), "temporary_bytes": getattr(memory, "temp_size_in_bytes", None)}
  print(json.dumps(facts), flush=True)
  for _ in sys.stdin:
    begin, used = time.perf_counter(), cpu_seconds()
    jax.block_until_ready(compiled(variables, *inputs))
    took = {"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_seconds() - used}
    print(json.dumps({**took, "peak_bytes": peak_bytes(jax.devices()[0])}), flush=True)


def peak_bytes(device: Any) -> float:
  """The most that was held: by the device where it says so, else by this process."""
  held = device.memory_stats() if device.platform != "cpu" else None
  if held and "peak_bytes_in_use" in held:
    return float(held["peak_bytes_in_use"])
  return peak_memory()


# --- those who ask workers


def measure(
  subjects: Sequence[Subject], dtype: str, repeats: int, reference: str = ""
) -> dict[str, dict[str, Any]]:
  """Speed and memory by row, measured in turn; the workers have ended when it returns.

  Args:
    reference: the row among them whose figures of this run every row is given beside its own; "" for none.

  Raises:
    EndedEarly: a row's process ended before its answer.
  """
  command = [sys.executable, "-m", "benchmarks.efficiency", f"--dtype={dtype}", "--serve"]
  pipe = subprocess.PIPE
  workers, results = {}, {}
  began = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
  try:
    for subject in subjects:  # one after the other: compiling together would need twice the memory
      worker = subprocess.Popen([*command, subject.name], stdin=pipe, stdout=pipe, text=True)
      workers[subject.name] = worker
      results[subject.name] = _answer(worker, subject.name)
    calls: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(repeats):
      for name, worker in workers.items():
        try:
          print("go", file=worker.stdin, flush=True)
        except BrokenPipeError:
          raise EndedEarly(name) from None
        calls[name].append(_answer(worker, name))
  finally:
    for worker in workers.values():
      worker.kill()
      worker.communicate()  # waits, and closes the pipes
  load = os.getloadavg()[0]
  for name, taken in calls.items():
    results[name] |= {
      "name": name,
      "fps": SECONDS / statistics.median(call["seconds"] for call in taken),
      "cpu_seconds_per_frame": statistics.median(call["cpu_seconds"] for call in taken) / SECONDS,
      "peak_bytes": max(call["peak_bytes"] for call in taken),
      "dtype": dtype,
      "repeats": repeats,
      "together": ", ".join(workers),
      "date": began,
      "load": load,
    }
  if reference:
    beside = {"name": reference, **{key: results[reference][key] for key in MEASURED}}
    for found in results.values():
      found["reference"] = beside
  return results


def _answer(worker: Any, name: str) -> dict[str, Any]:
  line = worker.stdout.readline()
  if not line:
    raise EndedEarly(name)
  return json.loads(line)


def measure_in_groups(
  subjects: Sequence[Subject], reference: Subject, dtype: str, repeats: int, together: int
) -> Iterator[dict[str, dict[str, Any]]]:
  """Rows by groups, the reference measured anew in each, as they are done.

  The rows of a group in which one ended early are each tried beside the reference alone; one that ends there too
  is said and left out.

  Raises:
    EndedEarly: the reference's process ended early, alone or beside one row.
  """
  due = groups([subject for subject in subjects if subject != reference], together) or [[]]
  while due:
    group = due.pop(0)
    try:
      yield measure([reference, *group], dtype, repeats, reference.name)
    except EndedEarly as error:
      if len(group) > 1:
        due = [[subject] for subject in group] + due
      elif error.name == reference.name:
        raise
      else:
        print(f"{error.name} is not measured: {error}", flush=True)


# --- what may be compared


def side_by_side(
  first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
  """Figures of two rows that one run measured in turn; None where no run did.

  Rows are of one run if they have the same `together`, date, precision and device; a row's `reference` is of the
  row's own run.
  """
  for row, other in ((first, second), (second, first)):
    beside = (row or {}).get("reference")
    if row and other and beside and beside["name"] == other["name"] and same_conditions(row, other):
      return (row, beside) if row is first else (beside, row)
  if not first or not second or not same_conditions(first, second):
    return None
  one_run = all(first.get(key) == second.get(key) for key in ("together", "date"))
  return (first, second) if one_run else None


def same_conditions(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
  """Whether two rows are of one precision and one device."""
  return all(first[key] == second[key] for key in ("dtype", "device"))


def share(row: Mapping[str, Any], whole: Mapping[str, Any]) -> float | None:
  """A row's frames a second over another's: of one run, or each over the same reference in its own run."""
  pair = side_by_side(row, whole)
  if pair:
    return pair[0]["fps"] / pair[1]["fps"]
  ours, theirs = row.get("reference"), whole.get("reference")
  if not ours or not theirs or ours["name"] != theirs["name"] or not same_conditions(row, whole):
    return None
  return (row["fps"] / ours["fps"]) / (whole["fps"] / theirs["fps"])
