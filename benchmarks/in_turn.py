"""Small programs timed in turn, so that a busy machine is busy for all of them, and the page that says so."""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from avs_jax.logbook import versions

Figures = dict[str, dict[str, float]]
BY_HAND = "<!-- written by hand from here on; the command keeps it -->"


def cpu_seconds() -> float:
  """CPU seconds that this process has used, in the kernel too."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def peak_memory() -> float:
  """Largest resident size of this process so far, or since `forget_peak`, in bytes; not of what it was before it
  became this program."""
  try:
    with open("/proc/self/status") as file:
      (line,) = [line for line in file if line.startswith("VmHWM")]
    return float(line.split()[1]) * 1024
  except OSError:  # not Linux
    scale = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)


def forget_peak() -> None:
  """Lets `peak_memory` begin anew at the present size, where the system can (Linux)."""
  with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
    file.write("5")


def measure(programs: Mapping[str, Any], arguments: Sequence[Any], repeats: int) -> Figures:
  """Medians of wall and CPU seconds, and bytes asked for beside arguments and results, of compiled programs.

  Each is called once before the first timed turn.
  """
  figures: Figures = {}
  for name, program in programs.items():
    memory = program.memory_analysis()
    figures[name] = {"temporary_bytes": float(getattr(memory, "temp_size_in_bytes", float("nan")))}
    jax.block_until_ready(program(*arguments))
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
  for _ in range(repeats):
    for name, program in programs.items():
      begin, used = time.perf_counter(), cpu_seconds()
      jax.block_until_ready(program(*arguments))
      times[name].append((time.perf_counter() - begin, cpu_seconds() - used))
  for name, pairs in times.items():
    wall, cpu = zip(*pairs, strict=True)
    figures[name] |= {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
  return figures


def conditions(repeats: int) -> str:
  """Machine, versions and load, in a sentence."""
  found = ", ".join(f"{name} {version}" for name, version in versions().items() if "jax" in name)
  return (
    f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}; {found};"
    f" median of {repeats} calls, the forms in turn, after one warm-up; load average at the end"
    f" {', '.join(f'{value:.1f}' for value in os.getloadavg())}. On a busy machine compare the CPU seconds."
  )


def flags(about: str | None, frames: int, repeats: int) -> argparse.Namespace:
  """The command line of such a benchmark, with its defaults."""
  parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--frames", type=int, default=frames, help="Pictures in a call.")
  parser.add_argument(
    "--repeats", type=int, default=repeats, help="Timed calls of each form, after one warm-up."
  )
  parser.add_argument("--output", help="Markdown file to write; its JSON beside it.")
  return parser.parse_args()


def publish(text: str, results: Mapping[str, Any] | None, output: str | None) -> None:
  """Prints the page; writes it where `output` says, and its figures, if any, beside it.

  What follows the line `BY_HAND` in an older page stays.
  """
  print(text)
  if not output:
    return
  kept = ""
  if os.path.exists(output):
    with open(output) as file:
      _, mark, below = file.read().partition(BY_HAND)
    kept = f"\n{mark}{below}" if mark else ""
  with open(output, "w") as file:
    file.write(text.rstrip("\n") + "\n" + kept)
  if results is not None:
    with open(os.path.splitext(output)[0] + ".json", "w") as file:
      json.dump(results, file, indent=1)
