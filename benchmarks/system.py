"""What one configuration costs: clips a second, compile seconds, memory, FLOPs, and how the data keep up.

Every speed is also given as a share of the rate of a plain 3 x 3 convolution measured in turn with it, because
machines are noisy and shared.

  python -m benchmarks.system --config=configs/ms3.py --output=docs/benchmark_ms3.md
"""

import contextlib
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from avs_jax import encoders
from avs_jax import mesh as meshes
from avs_jax import optimizer as optimizers
from avs_jax.logbook import versions
from avs_jax.model import build_model, build_objective, frozen_parts, starting_variables
from avs_jax.report import commit
from avs_jax.step import TrainState, give_back_freed_memory, make_predict_step, make_train_step
from avs_jax.types import SAMPLE_RATE_HZ, Batch
from benchmarks.cost_speed import hardware
from benchmarks.in_turn import forget_peak, peak_memory, publish
from benchmarks.start import define_config, start

_CONFIG = define_config("configs/ms3.py", "What to measure.")
_BATCH = flags.DEFINE_integer("batch", 1, "Clips in a batch.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls after one warm-up; medians are reported.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write; its JSON beside it.")

Row = tuple[str, str]
_AHEAD = 16  # batches; more than the pipeline reads ahead


def seconds_of(call: Callable[[], Any]) -> float:
  """Wall seconds of a call, its results waited for."""
  begin = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - begin


def plain_convolution() -> tuple[Callable[[], Any], float]:
  """A 3 x 3 convolution of 256 channels on five 56 x 56 maps, and its floating-point operations."""
  shape, channels = (5, 56, 56, 256), 256
  x, kernel = jnp.ones(shape), jnp.ones((3, 3, channels, channels))
  run = jax.jit(
    lambda x, kernel: jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
  )
  jax.block_until_ready(run(x, kernel))
  return lambda: run(x, kernel), 2.0 * np.prod(shape) * channels * 9


def in_turn(call: Callable[[], Any], repeats: int) -> dict[str, float]:
  """Median seconds of `call`, and of the plain convolution run before each call of it."""
  plain, work = plain_convolution()
  times, rates = [], []
  for _ in range(repeats):
    rates.append(work / seconds_of(plain))
    times.append(seconds_of(call))
  return {
    "seconds": statistics.median(times),
    "plain_flop_per_s": statistics.median(rates),
    "best": min(times),
  }


def example_batch(config: Any, clips: int) -> Batch:
  """Random frames and sound of the config's size."""
  random = np.random.default_rng(0)
  seconds, size = config.data.seconds, config.data.size
  shape, hears_samples = (clips, seconds), encoders.takes_waveform(config.model.audio)
  return Batch(
    frames=random.integers(0, 256, (*shape, size, size, 3), np.uint8),
    log_mel=random.normal(size=(*shape, 96, 64)).astype(np.float32),
    masks=random.integers(0, 2, (*shape, size, size)).astype(np.int32),
    annotated=np.ones(shape, bool),
    present=np.ones(shape, bool),
    condition=np.zeros(clips, np.int32),
    index=np.arange(clips, dtype=np.int32),
    waveform=random.uniform(-1, 1, (*shape, SAMPLE_RATE_HZ)).astype(np.float32) if hears_samples else None,
  )


def compiled(function: Any, *arguments: Any) -> tuple[Any, dict[str, float]]:
  """The compiled program, with its size, seconds to trace and to compile, FLOPs and temporary memory.

  What compiling freed is given back, as in training and judging. CPU seconds are those of all threads: on a busy
  machine, what to compare.
  """
  begin = time.perf_counter()
  lowered = function.lower(*arguments)
  traced, traced_cpu = time.perf_counter(), time.process_time()
  program = lowered.compile()
  done, done_cpu = time.perf_counter(), time.process_time()
  cost: Any = program.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  memory = program.memory_analysis()
  give_back_freed_memory()
  return program, {
    "trace_s": traced - begin,
    "compile_s": done - traced,
    "compile_cpu_s": done_cpu - traced_cpu,
    "operations": lowered.as_text().count(" = "),
    "instructions": program.as_text().count(" = "),
    "flop": float(cost.get("flops", float("nan"))),
    "temporary_bytes": float(getattr(memory, "temp_size_in_bytes", float("nan"))),
    "argument_bytes": float(getattr(memory, "argument_size_in_bytes", float("nan"))),
  }


def measure(config: Any, clips: int, repeats: int) -> dict[str, Any]:
  """All figures of one configuration, by name."""
  begin = time.perf_counter()
  mesh = meshes.make_mesh(clips, devices=jax.devices()[:1])
  model = build_model(config)
  batch = meshes.put_batch(mesh, example_batch(config, clips))
  key = jax.device_put(jax.random.key(0), meshes.replicated(mesh))
  variables = jax.device_put(starting_variables(config, model), meshes.replicated(mesh))
  figures: dict[str, Any] = {"weights_s": time.perf_counter() - begin}
  figures["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

  # Before there is an optimiser: whoever judges or predicts has none in memory.
  predict, figures["inference"] = compiled(make_predict_step(model, mesh).jitted, variables, batch)
  figures["inference"]["peak_rss_bytes"] = peak_memory()
  forget_peak()
  for _ in range(2):
    jax.block_until_ready(predict(variables, batch))
  figures["inference"]["running_rss_bytes"] = peak_memory()  # without the plain convolution
  figures["inference"] |= in_turn(lambda: predict(variables, batch), repeats)
  del predict

  begin = time.perf_counter()
  learns, _ = optimizers.split_trainable(variables["params"], frozen_parts(config))
  figures["trainable"] = sum(leaf.size for leaf in jax.tree.leaves(learns))
  rule = optimizers.build(config.optimizer, config.schedule, 100, 10)
  state = TrainState(np.zeros((), np.int32), variables["params"], variables["batch_stats"], None)
  state = state.replace(opt_state=jax.eval_shape(rule.init, learns))
  sharding = meshes.weight_sharding(mesh, state)
  opt_state = jax.jit(rule.init, out_shardings=sharding.opt_state)(learns)
  state = jax.device_put(state.replace(opt_state=opt_state), sharding)
  del variables, learns, opt_state  # the state holds them
  figures["start_s"] = figures.pop("weights_s") + time.perf_counter() - begin
  train_step = make_train_step(
    model,
    build_objective(config),
    rule,
    frozen=frozen_parts(config),
    pieces=1,
    mesh=mesh,
    state_sharding=sharding,
  )
  program, figures["training"] = compiled(train_step.jitted, state, batch, key)
  figures["training"]["peak_rss_bytes"] = peak_memory()
  forget_peak()

  def step() -> Any:
    nonlocal state
    state, losses = program(state, batch, key)
    return losses

  figures["training"]["first_step_s"] = seconds_of(step)
  seconds_of(step)
  figures["training"]["running_rss_bytes"] = peak_memory()
  figures["training"] |= in_turn(step, repeats)

  figures |= feeding(config, clips, step, repeats)
  return figures


def feeding(config: Any, clips: int, step: Callable[[], Any], repeats: int) -> dict[str, Any]:
  """What the data pipeline gives by itself, and how long training steps wait for it; no clip is kept in memory."""
  from data_pipelines import feed, sources

  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.cache_mb = 0
    config.schedule.batch = clips
  source = sources.build(config, "train")
  waited = 0.0
  with contextlib.closing(feed.training(config, source)) as batches:
    next(batches)  # the first is waited for by every run, once
    begin = time.perf_counter()
    for _ in range(repeats):
      asked = time.perf_counter()
      next(batches)
      waited += time.perf_counter() - asked
      jax.block_until_ready(step())
    total = time.perf_counter() - begin
    for _ in range(_AHEAD):
      next(batches)
    begin = time.perf_counter()
    for _ in range(3 * _AHEAD):
      next(batches)
    alone = time.perf_counter() - begin
  return {
    "data_set": source.title,
    "waiting_share": waited / total,
    "feed_clips_per_s": 3 * _AHEAD * clips / alone,
  }


def table(config: Any, figures: Mapping[str, Any], clips: int, repeats: int) -> str:
  """The figures as a Markdown page with every condition."""
  data, model = config.data, config.model
  rows: list[Row] = [
    ("system", f"{model.system}, {model.visual}, {model.audio}, {model.num_classes} class(es)"),
    ("input", f"{clips} clip(s) of {data.seconds} x {data.size} x {data.size}, {model.dtype}"),
    ("device", hardware()),
    ("commit", commit()),
    ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
    ("timing", f"median of {repeats} calls after one warm-up; audio encoder included, data excluded"),
    ("load average at the end", ", ".join(f"{value:.1f}" for value in os.getloadavg())),
    ("parameters", f"{figures['parameters']:,}, trainable {figures['trainable']:,}"),
    ("build, weights and optimiser", f"{figures['start_s']:.1f} s"),
  ]
  for name in ("inference", "training"):
    part = figures[name]
    rate = part["flop"] / part["seconds"]
    rows += [
      (f"{name}: trace, compile", f"{part['trace_s']:.1f} s, {part['compile_s']:.1f} s "
       f"({part['compile_cpu_s']:.1f} CPU s; loading, where the program was kept)"),
      (f"{name}: program", f"{part['operations']:,} operations, {part['instructions']:,} instructions compiled"),
      (f"{name}: work", f"{part['flop'] / clips / 1e9:.1f} GFLOP a clip (compiled program)"),
      (f"{name}: time", f"{part['seconds'] / clips:.3f} s a clip (best {part['best'] / clips:.3f})"),
      (f"{name}: rate", f"{clips / part['seconds']:.3f} clips/s, {rate / 1e9:.1f} GFLOP/s"),
      (f"{name}: share of a plain 3x3 convolution", f"{rate / part['plain_flop_per_s']:.0%} of "
       f"{part['plain_flop_per_s'] / 1e9:.1f} GFLOP/s measured in turn"),
      (f"{name}: memory", f"peak {part['peak_rss_bytes'] / 1e9:.2f} GB resident until compiled, "
       f"{part['running_rss_bytes'] / 1e9:.2f} GB from then on; program's temporaries "
       f"{part['temporary_bytes'] / 1e9:.2f} GB"),
    ]  # fmt: skip
  wanted = clips / figures["training"]["seconds"]
  rows += [
    ("first training step after compilation", f"{figures['training']['first_step_s']:.1f} s"),
    ("waiting for data", f"{figures['waiting_share']:.1%} of the time of {repeats} training steps"),
    ("data pipeline alone", f"{figures['feed_clips_per_s']:.1f} clips/s ({figures['data_set']}),"
     f" {figures['feed_clips_per_s'] / wanted:.0f} times what the training step takes"),
  ]  # fmt: skip
  return "\n".join(
    ["| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
  )


def main(arguments: list[str]) -> None:
  del arguments
  meshes.keep_compiled_programs()
  config, clips, repeats = _CONFIG.value, _BATCH.value, _REPEATS.value
  figures = measure(config, clips, repeats)
  text = table(config, figures, clips, repeats)
  title = f"# Cost of {config.title or config.model.system}\n\n"
  words = [word for word in sys.argv[1:] if not word.startswith("--output")]
  command = "    " + shlex.join(["python", "-m", "benchmarks.system", *words]) + "\n\n"
  publish(title + command + text, figures, _OUTPUT.value)


if __name__ == "__main__":
  start(main)
