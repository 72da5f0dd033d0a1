"""What a contrastive debias strategy costs: training steps and predictions with and without it, taken in turn.

A busy machine is busy for all of them, so the factors hold where the seconds do not. Sun et al. (2024) name
about 1.5 times the training time and twice the FLOPs for theirs.

  python -m benchmarks.contrast --config=configs/ms3.py --output=docs/benchmark_contrast.md
"""

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from avs_jax import mesh as meshes
from avs_jax import optimizer as optimizers
from avs_jax.logbook import versions
from avs_jax.model import build_model, build_objective, frozen_parts
from avs_jax.step import TrainState, make_predict_step, make_train_step
from benchmarks.in_turn import publish
from benchmarks.start import start
from benchmarks.system import compiled, example_batch, seconds_of

_STRATEGIES = flags.DEFINE_list(
  "strategies", ["uncertainty"], "Beside none: uncertainty, bias_only, ensemble."
)


def programs(config: Any, clips: int) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
  """A call of one training step and of one prediction, and the FLOPs of each."""
  from avs_jax.initialise import initialise
  from avs_jax.model import example_inputs

  mesh = meshes.make_mesh(clips, devices=jax.devices()[:1])
  model = build_model(config)
  # An ensemble needs no trained half.
  variables = initialise(model, *example_inputs(config), seed=config.seed)
  variables.setdefault("batch_stats", {})
  frozen = frozen_parts(config)
  learns, _ = optimizers.split_trainable(variables["params"], frozen)
  rule = optimizers.build(config.optimizer, config.schedule, 100, 10)
  state = TrainState(np.zeros((), np.int32), variables["params"], variables["batch_stats"], rule.init(learns))
  sharding = meshes.weight_sharding(mesh, state)
  state = jax.device_put(state, sharding)
  batch = meshes.put_batch(mesh, example_batch(config, clips))
  key = jax.device_put(jax.random.key(0), meshes.replicated(mesh))
  predict, judged = compiled(make_predict_step(model, mesh).jitted, state.variables, batch)
  step, trained = compiled(
    make_train_step(
      model,
      build_objective(config),
      rule,
      frozen=frozen,
      pieces=1,
      mesh=mesh,
      state_sharding=sharding,
    ).jitted,
    state,
    batch,
    key,
  )

  def train() -> Any:
    nonlocal state
    state, figures = step(state, batch, key)
    return figures

  def judge() -> Any:
    return predict(state.variables, batch)

  return {"training": train, "inference": judge}, {"training": trained["flop"], "inference": judged["flop"]}


def with_strategy(config: Any, strategy: str) -> Any:
  """The config with another contrast, all else equal."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.debias.contrast = strategy
  return changed


def measure(config: Any, strategies: list[str], clips: int, repeats: int) -> dict[str, dict[str, Any]]:
  """Median seconds and FLOPs by strategy, of training and inference; factors against "none" turn by turn."""
  built = {name: programs(with_strategy(config, name), clips) for name in ("none", *strategies)}
  times: dict[str, dict[str, list[float]]] = {name: {"training": [], "inference": []} for name in built}
  for turn in range(repeats + 1):
    for kind in ("training", "inference"):
      for name, (calls, _) in built.items():
        took = seconds_of(calls[kind])
        if turn:  # the first turn warms up
          times[name][kind].append(took)
  figures: dict[str, dict[str, Any]] = {}
  for name, (_, flop) in built.items():
    figures[name] = {}
    for kind in ("training", "inference"):
      own, plain = times[name][kind], times["none"][kind]
      figures[name][kind] = {
        "seconds": statistics.median(own),
        "flop": flop[kind],
        "time_factor": statistics.median(a / b for a, b in zip(own, plain, strict=True)),
        "flop_factor": flop[kind] / built["none"][1][kind],
      }
  return figures


def page(config: Any, figures: Mapping[str, Any], clips: int, repeats: int) -> str:
  """The figures as Markdown with every condition."""
  data, model = config.data, config.model
  lines = [
    "# Cost of contrastive debiasing",
    "",
    f"`python -m benchmarks.contrast --config={flags.FLAGS['config'].config_filename}`: {model.system},"
    f" {model.visual}, {model.audio}, {clips} clip(s) of {data.seconds} x {data.size} x {data.size}, {model.dtype};"
    f" frozen: {', '.join(config.optimizer.frozen) or 'nothing'}. Medians of {repeats} calls taken in turn after"
    " one warm-up; a factor is the median of its turns.",
    f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}, load"
    f" {os.getloadavg()[0]:.1f}; {', '.join(f'{name} {value}' for name, value in versions().items())}.",
    "",
    "| contrast | training | time | FLOPs | inference | time | FLOPs |",
    "|---|---|---|---|---|---|---|",
  ]
  for name, row in figures.items():
    cells = [
      cell
      for kind in ("training", "inference")
      for cell in (
        f"{row[kind]['seconds'] / clips:.2f} s a clip",
        f"x {row[kind]['time_factor']:.2f}",
        f"x {row[kind]['flop_factor']:.2f}",
      )
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join([*lines, ""])


def main(arguments: list[str]) -> None:
  del arguments
  meshes.keep_compiled_programs()
  given = flags.FLAGS  # config, batch, repeats and output are benchmarks.system's
  config: ConfigDict = given.config
  figures = measure(config, _STRATEGIES.value, given.batch, given.repeats)
  text = page(config, figures, given.batch, given.repeats)
  publish(text, figures, given.output)


if __name__ == "__main__":
  start(main)
