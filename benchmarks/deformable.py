"""What multi-scale deformable attention costs in its two forms: one gather of packed rows, or four gathers.

Time of the two is taken in turn, so that a busy machine is busy for both; memory is what the compiled program
asks for beside its arguments and results.

  python -m benchmarks.deformable --output=docs/benchmark_deformable.md
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.deformable import FORMS
from avs_jax.logbook import versions

HEADS, POINTS, WIDTH = 8, 4, 256  # AVSegFormer's pixel decoder
SIZES = {224: ((7, 7), (14, 14), (28, 28)), 512: ((16, 16), (32, 32), (64, 64))}


def inputs(frames: int, sizes: tuple[tuple[int, int], ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Values, places near each cell's own, and weights, as the pixel decoder's queries ask for them."""
  random = np.random.default_rng(0)
  cells = sum(rows * cols for rows, cols in sizes)
  shape = (frames, cells, HEADS, len(sizes), POINTS)
  centres = np.concatenate(
    [
      np.stack(np.meshgrid((np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows), -1).reshape(-1, 2)
      for rows, cols in sizes
    ]
  )  # [S, 2]
  places = centres[None, :, None, None, None] + random.normal(0, 0.05, (*shape, 2))
  value = random.normal(size=(frames, cells, HEADS, WIDTH // HEADS))
  weights = random.random(shape)
  return tuple(jnp.asarray(array, jnp.float32) for array in (value, places, weights))  # type: ignore[return-value]


def cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def measure(frames: int, sizes: tuple[tuple[int, int], ...], repeats: int) -> dict[str, dict[str, float]]:
  """Wall and CPU seconds and temporary bytes by form and direction."""
  arguments = inputs(frames, sizes)
  calls: dict[str, Callable[..., Any]] = {}
  for form, sample in FORMS.items():

    def forward(value: Any, places: Any, weights: Any, sample: Any = sample) -> Any:
      return sample(value, sizes, places, weights)

    def loss(value: Any, places: Any, weights: Any, forward: Any = forward) -> Any:
      return jnp.square(forward(value, places, weights)).sum()

    calls[f"{form}, forward"] = forward
    calls[f"{form}, forward and backward"] = jax.value_and_grad(loss, (0, 1, 2))
  figures: dict[str, dict[str, float]] = {}
  programs = {}
  for name, call in calls.items():
    programs[name] = jax.jit(call).lower(*arguments).compile()
    memory = programs[name].memory_analysis()
    figures[name] = {"temporary_bytes": float(getattr(memory, "temp_size_in_bytes", float("nan")))}
    jax.block_until_ready(programs[name](*arguments))
  times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name, program in programs.items():
      begin, used = time.perf_counter(), cpu_seconds()
      jax.block_until_ready(program(*arguments))
      times[name].append((time.perf_counter() - begin, cpu_seconds() - used))
  for name, pairs in times.items():
    wall, cpu = zip(*pairs, strict=True)
    figures[name] |= {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
  return figures


def page(results: dict[str, dict[str, dict[str, float]]], frames: int, repeats: int) -> str:
  """The figures as a Markdown page with every condition."""
  lines = [
    "# Cost of deformable attention",
    "",
    f"`python -m benchmarks.deformable --frames={frames} --repeats={repeats}`",
    "",
    "`packed` (`avs_jax.deformable.sample_packed`, the default) gathers one row of four neighbours a point;"
    " `plain` (`sample_plain`) gathers four times. They give equal numbers"
    " (`tests/avs_jax/test_deformable.py`).",
    "",
    f"{frames} picture(s), {HEADS} heads, {POINTS} points, width {WIDTH}, levels at strides 8, 16 and 32, one query"
    f" a cell, float32; {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()};"
    f" {', '.join(f'{name} {version}' for name, version in versions().items() if 'jax' in name)};"
    f" median of {repeats} calls, the forms in turn, after one warm-up; load average at the end"
    f" {', '.join(f'{value:.1f}' for value in os.getloadavg())}. On a busy machine compare the CPU seconds.",
    "",
    "| input | direction | form | wall s | CPU s | temporaries MB |",
    "|---|---|---|---|---|---|",
  ]
  for size, figures in results.items():
    for name in sorted(figures, key=lambda name: (name.split(", ")[1], name)):
      form, direction = name.split(", ")
      row = figures[name]
      lines.append(
        f"| {size} | {direction} | {form} | {row['seconds']:.3f} | {row['cpu_seconds']:.3f} |"
        f" {row['temporary_bytes'] / 1e6:.1f} |"
      )
  return "\n".join([*lines, ""])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--frames", type=int, default=5, help="Pictures in a call.")
  parser.add_argument("--repeats", type=int, default=7, help="Timed calls of each form, after one warm-up.")
  parser.add_argument("--output", help="Markdown file to write; its JSON beside it.")
  chosen = parser.parse_args()
  results = {
    f"{side} x {side}": measure(chosen.frames, sizes, chosen.repeats) for side, sizes in SIZES.items()
  }
  text = page(results, chosen.frames, chosen.repeats)
  print(text)
  if chosen.output:
    with open(chosen.output, "w") as file:
      file.write(text)
    with open(os.path.splitext(chosen.output)[0] + ".json", "w") as file:
      json.dump(results, file, indent=1)


if __name__ == "__main__":
  main()
