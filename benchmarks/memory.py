"""What memory a training step takes, counted from the program alone: nothing is allocated and nothing is run.

  python -m benchmarks.memory --config=configs/ms3.py:ravs --batch=4 --config.model.dtype=bfloat16
    --config.model.remat=True --scan

Shapes stand for parameters, optimiser and batch. The traced step is walked through in its own order, every array
counted from where it is made to where it is last read: what a compiler needs that fuses nothing and moves nothing.
--compile also asks the compiler of the device at hand for its assignment of buffers. A CPU's is no guide to bfloat16:
it has no such arithmetic and keeps float32 copies of what enters a product.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.extend import core

from avs_jax import mesh as meshes
from avs_jax import optimizer as optimizers
from avs_jax.initialise import abstract_variables
from avs_jax.model import build_model, build_objective, example_inputs, frozen_parts
from avs_jax.step import TrainState, make_train_step
from avs_jax.train import check_settings
from avs_jax.types import unchecked
from benchmarks.start import start
from benchmarks.system import example_batch

_SCAN = flags.DEFINE_bool("scan", False, "Run equal blocks of the visual encoder as one: half the trace.")
_COMPILE = flags.DEFINE_bool("compile", False, "Ask the compiler too.")


def alive(program: Any) -> float:
  """Most bytes that the arrays made inside a program (a jaxpr) take at a time, its inputs not counted."""
  last: dict[Any, int] = {}
  for place, equation in enumerate(program.eqns):
    last |= {value: place for value in equation.invars if isinstance(value, core.Var)}
  last |= {value: len(program.eqns) for value in program.outvars if isinstance(value, core.Var)}
  mine, now, most = {}, 0.0, 0.0
  for place, equation in enumerate(program.eqns):
    sizes = {value: nbytes(value.aval) for value in equation.outvars}
    made, inside = sum(sizes.values()), max(map(alive, _bodies(equation.params)), default=0.0)
    is_loop = equation.primitive.name in ("scan", "while")  # results are gathered beside what a round needs
    most = max(most, now + (made + inside if is_loop else max(made, inside)))
    for value, size in sizes.items():
      if last.get(value, -1) > place:
        mine[value], now = size, now + size
    for value in {each for each in equation.invars if isinstance(each, core.Var)}:
      if last[value] == place and value in mine:
        now -= mine.pop(value)
  return most


def largest(program: Any) -> int:
  """Numbers in the largest array that is made anywhere inside a program (a jaxpr)."""
  made = [int(np.prod(getattr(value.aval, "shape", ()))) for each in program.eqns for value in each.outvars]
  inside = [largest(body) for each in program.eqns for body in _bodies(each.params)]
  return max([*made, *inside], default=0)


def nbytes(aval: Any) -> float:
  """Bytes of an array of this shape and type; random keys have two words."""
  shape, dtype = getattr(aval, "shape", ()), getattr(aval, "dtype", None)
  size = 8 if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize
  return float(np.prod(shape, dtype=np.float64) * size)


def _bodies(parameters: dict[str, Any]) -> Iterator[Any]:
  """The programs inside an operation."""
  for value in parameters.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      if isinstance(each, core.ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, core.Jaxpr):
        yield each


def count(config: Any, clips: int, *, compiles: bool = False) -> dict[str, float]:
  """Bytes of a training step.

  Returns: `arguments` (state and batch), `temporary`, and `total`, their sum: the new state, which takes the old one's
    place, counts twice where it is among what is alive. With `compiles` also `compiled_temporary`,
    `compiled_total` and `compile_s`.
  """
  mesh = meshes.make_mesh(clips, devices=jax.devices()[:1])
  model = build_model(config)
  variables, _ = abstract_variables(model, *example_inputs(config))
  params, statistics = variables["params"], variables.get("batch_stats", {})
  frozen = frozen_parts(config)
  learns, _ = optimizers.split_trainable(params, frozen)
  rule = optimizers.build(config.optimizer, config.schedule, 100, 10)
  state = TrainState(
    jax.ShapeDtypeStruct((), np.int32), params, statistics, jax.eval_shape(rule.init, learns)
  )
  train_step = make_train_step(
    model,
    build_objective(config),
    rule,
    frozen=frozen,
    pieces=config.schedule.accumulate,
    mesh=mesh,
    state_sharding=meshes.weight_sharding(mesh, state),
  )
  batch = example_batch(config, clips)
  traced = train_step.jitted.trace(state, batch, jax.eval_shape(lambda: jax.random.key(0)))
  arguments = sum(nbytes(leaf) for leaf in jax.tree.leaves((state, batch)))
  temporary = alive(traced.jaxpr.jaxpr)
  found = {"arguments": arguments, "temporary": temporary, "total": arguments + temporary}
  if compiles:
    begin = time.perf_counter()
    with unchecked():
      lowered = traced.lower()
    memory: Any = lowered.compile().memory_analysis()
    found["compiled_temporary"] = float(memory.temp_size_in_bytes)
    found["compiled_total"] = float(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    found["compile_s"] = time.perf_counter() - begin
  return found


def main(arguments: list[str]) -> None:
  del arguments
  meshes.keep_compiled_programs()
  config, clips = flags.FLAGS.config, flags.FLAGS.batch  # the flags of benchmarks.system
  with config.unlocked():
    config.schedule.batch = clips
    if _SCAN.value:
      config.model.visual_args.scan = True
  check_settings(config)
  found = count(config, clips, compiles=_COMPILE.value)
  data, model = config.data, config.model
  print(
    f"{model.system}, {model.visual}, {model.audio}, {model.dtype}, remat {model.remat}; {clips} clips of"
    f" {data.seconds} x {data.size} x {data.size}"
  )
  for name, value in found.items():
    print(f"{name:20s} {value:.0f} s" if name.endswith("_s") else f"{name:20s} {value / 1e9:.2f} GB")


if __name__ == "__main__":
  start(main)
