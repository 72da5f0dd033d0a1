"""What matching queries to targets costs: here, in optax, in scipy through one callback; and its share of a step.

Times of the three are taken in turn, so that a busy machine is busy for all. A training step of the config is
timed with them; it matches once a layer and once before the first.

  python -m benchmarks.matching --config=configs/ms3.py:active_queries --output=docs/benchmark_matching.md
"""

import os
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from scipy.optimize import linear_sum_assignment

from avs_jax.logbook import versions
from avs_jax.matching import assign
from avs_jax.model import build_model, build_objective, starting_variables
from avs_jax.optimizer import merge, split_trainable
from avs_jax.step import forward
from avs_jax.types import Batch
from benchmarks.in_turn import publish
from benchmarks.start import start
from benchmarks.system import example_batch, seconds_of

_FRAMES = flags.DEFINE_integer("frames", 20, "Frames matched in one call: four clips of five seconds.")

QUERIES, TARGETS = 100, (1, 8, 71)  # targets a frame: binary, semantic as trained, every class at once


def by_callback(cost: jax.Array) -> jax.Array:
  """scipy on the host: all problems of a batch in one callback."""

  def solve(cost: np.ndarray) -> np.ndarray:
    return np.stack([linear_sum_assignment(one.T)[1] for one in np.asarray(cost)]).astype(np.int32)

  shape = jax.ShapeDtypeStruct((cost.shape[0], cost.shape[2]), jnp.int32)
  return jax.pure_callback(solve, shape, cost)


FORMS: dict[str, Callable[[jax.Array], Any]] = {
  "shortest paths (used)": lambda cost: assign(cost)[0],
  "optax": jax.vmap(optax.assignment.hungarian_algorithm),
  "scipy, one callback": by_callback,
}


def measure(frames: int, targets: int, repeats: int, queries: int = QUERIES) -> dict[str, float]:
  """Median seconds of one call by form, on costs as they are early in training: all much alike."""
  cost = jnp.asarray(np.random.default_rng(0).normal(5, 0.5, (frames, queries, targets)), jnp.float32)
  calls = {name: jax.jit(form) for name, form in FORMS.items()}
  for call in calls.values():
    jax.block_until_ready(call(cost))
  times: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      times[name].append(seconds_of(lambda call=call: call(cost)))
  return {name: statistics.median(taken) for name, taken in times.items()}


def measure_share(config: Any, clips: int, repeats: int) -> dict[str, float]:
  """Median seconds of a step's loss and gradient, and of the matching of all its layers alone."""
  model, objective = build_model(config), build_objective(config)
  batch, frozen = example_batch(config, clips), tuple(config.optimizer.frozen)
  variables = jax.tree.map(jnp.asarray, starting_variables(config, model))
  learns, stays = split_trainable(variables["params"], frozen)

  def loss(learns: Any, stays: Any, statistics: Any, batch: Batch) -> jax.Array:
    whole = {"params": merge(learns, stays), "batch_stats": statistics}
    return objective(forward(model, whole, batch, jax.random.key(0), frozen)[0], batch)[0]

  frames, layers = clips * config.data.seconds, config.model.decoder_layers + 1
  targets = 1 if config.model.num_classes == 1 else min(config.loss.queries_targets, config.model.num_classes)
  cost = jnp.asarray(
    np.random.default_rng(0).normal(5, 0.5, (layers, frames, config.model.num_queries, targets)), jnp.float32
  )
  step, match = jax.jit(jax.grad(loss)), jax.jit(lambda cost: jax.lax.map(lambda one: assign(one)[0], cost))
  inputs = (learns, stays, variables["batch_stats"], batch)
  jax.block_until_ready((step(*inputs), match(cost)))
  whole, part = [], []
  for _ in range(repeats):
    whole.append(seconds_of(lambda: step(*inputs)))
    part.append(seconds_of(lambda: match(cost)))
  return {"step": statistics.median(whole), "matching": statistics.median(part), "layers": layers}


def page(
  sizes: dict[int, dict[str, float]], share: dict[str, float], frames: int, repeats: int, title: str
) -> str:
  """The figures as Markdown with every condition."""
  rows = [
    f"| {QUERIES} x {targets} | {name} | {1e3 * seconds:.2f} ms |"
    for targets, forms in sizes.items()
    for name, seconds in forms.items()
  ]
  about = ", ".join(f"{name} {version}" for name, version in versions().items())
  return "\n".join(
    [
      f"{frames} frames a call, median of {repeats} calls taken in turn after one warm-up; "
      f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, load average at the end "
      f"{os.getloadavg()[0]:.1f}; {about}.",
      "",
      "| queries x targets | form | time |",
      "|---|---|---|",
      *rows,
      "",
      f"A step of {title} (loss and gradient) takes {share['step']:.2f} s, the matching of its "
      f"{share['layers']:.0f} layers {1e3 * share['matching']:.2f} ms: {share['matching'] / share['step']:.2%}.",
      "",
    ]
  )


def main(arguments: list[str]) -> None:
  del arguments
  config, clips, repeats = (flags.FLAGS[name].value for name in ("config", "batch", "repeats"))
  sizes = {targets: measure(_FRAMES.value, targets, repeats) for targets in TARGETS}
  data = config.data
  title = f"{config.model.system}, {config.model.visual}, {clips} clip(s) of {data.seconds} x {data.size} px"
  text = page(sizes, measure_share(config, clips, repeats), _FRAMES.value, repeats, title)
  publish(f"# Cost of matching\n\n{text}", None, flags.FLAGS["output"].value)


if __name__ == "__main__":
  start(main)
