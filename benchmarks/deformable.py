"""What multi-scale deformable attention costs in its two forms: one gather of packed rows, or four gathers.

Time of the two is taken in turn, so that a busy machine is busy for both; memory is what the compiled program
asks for beside its arguments and results.

  python -m benchmarks.deformable --output=docs/benchmark_deformable.md
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.deformable import FORMS
from benchmarks import in_turn

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
  programs = {name: jax.jit(call).lower(*arguments).compile() for name, call in calls.items()}
  return in_turn.measure(programs, arguments, repeats)


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
    f" a cell, float32; {in_turn.conditions(repeats)}",
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
  chosen = in_turn.flags(__doc__, frames=5, repeats=7)
  results = {
    f"{side} x {side}": measure(chosen.frames, sizes, chosen.repeats) for side, sizes in SIZES.items()
  }
  in_turn.publish(page(results, chosen.frames, chosen.repeats), results, chosen.output)


if __name__ == "__main__":
  main()
