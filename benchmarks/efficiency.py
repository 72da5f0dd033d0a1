"""What every system costs with every backbone: parameters, operations, and for rows asked for speed and memory.

  python -m benchmarks.efficiency --output=docs/efficiency.md
  python -m benchmarks.efficiency --output=docs/efficiency.md --measure=avsegformer:pvt_v2_b5:224,sdavs:pvt_v2_b5:224

Parameters and operations come from traced, lowered programs: nothing is compiled, run or allocated. Rows that are
measured together are each compiled and called in a process of their own, one call at a time in turn, so that a
busy machine is busy for all of them. Figures are kept in a JSON file beside the page: what is there is not counted
or measured again (--again does), so the command may be stopped anywhere.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from avs_jax import encoders, systems, tables
from avs_jax import optimizer as optimizers
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.logbook import versions
from avs_jax.types import SAMPLE_RATE_HZ
from benchmarks import flops
from benchmarks.cost_page import page
from benchmarks.cost_rows import OWN, SECONDS, TABLE_X, VISUAL, Subject, read_subject
from benchmarks.in_turn import cpu_seconds, peak_memory


def shapes(subject: Subject, audio: str = "vggish") -> tuple[Any, Any]:
  """Frames and sound of one clip."""
  second = (SAMPLE_RATE_HZ,) if encoders.takes_waveform(audio) else (96, 64)
  frames = jax.ShapeDtypeStruct((1, SECONDS, subject.size, subject.size, 3), np.uint8)
  return frames, jax.ShapeDtypeStruct((1, SECONDS, *second), np.float32)


def frozen_parts(system: str) -> tuple[str, ...]:
  """What the system's own recipe on MS3 leaves as it is."""
  from configs import ms3

  return tuple(ms3.get_config(system).optimizer.frozen)


def inspect(subject: Subject) -> dict[str, float]:
  """Parameters, those that learn, and operations of one clip; nothing is computed."""
  model, inputs = systems.build(**subject.settings()), shapes(subject)
  variables = jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs)
  params = variables["params"]
  learns, _ = optimizers.split_trainable(params, known_prefixes(params, frozen_parts(subject.system)))
  work = flops.count(lambda variables, *inputs: model.apply(variables, *inputs).logits, variables, *inputs)
  return {
    "parameters": size_of(params),
    "trainable": size_of(learns),
    "audio_encoder": size_of(params["audio_encoder"]),
    "gflop": work.flop / 1e9,
    "open_loops": work.open_loops,
  }


def known_prefixes(params: Mapping[str, Any], frozen: Sequence[str]) -> tuple[str, ...]:
  """Without the exceptions that this backbone has not (adapters)."""
  inside = set(params) | {name for part in params.values() if isinstance(part, Mapping) for name in part}
  return tuple(prefix for prefix in frozen if not prefix.startswith("!") or prefix[1:] in inside)


def size_of(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


# --- measuring: one process a row, called in turn


def serve(subject: Subject, dtype: str) -> None:
  """A worker: compiles, warms up, then makes a call for every line it reads, and prints what it took."""
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
  device = jax.devices()[0]
  facts = {
    "device": f"{device.device_kind}, {platform.machine()}, {os.cpu_count()} CPU cores",
    "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
  }
  print(json.dumps(facts), flush=True)
  for _ in sys.stdin:
    begin, used = time.perf_counter(), cpu_seconds()
    jax.block_until_ready(compiled(variables, *inputs))
    took = {"seconds": time.perf_counter() - begin, "cpu_seconds": cpu_seconds() - used}
    print(json.dumps({**took, "peak_bytes": peak_bytes(device)}), flush=True)


def peak_bytes(device: Any) -> float:
  """The most that was held: by the device where it says so, else by this process."""
  held = device.memory_stats() if device.platform != "cpu" else None
  if held and "peak_bytes_in_use" in held:
    return float(held["peak_bytes_in_use"])
  return peak_memory()


def measure(subjects: Sequence[Subject], dtype: str, repeats: int) -> dict[str, dict[str, Any]]:
  """Speed and memory by row, measured in turn.

  Raises:
    InputError: a row's process ended before its first call, for want of memory as a rule.
  """
  command = [sys.executable, "-m", "benchmarks.efficiency", f"--dtype={dtype}", "--serve"]
  pipe = subprocess.PIPE
  workers, results = {}, {}
  try:
    for subject in subjects:  # one after the other: compiling together would need twice the memory
      worker = subprocess.Popen([*command, subject.name], stdin=pipe, stdout=pipe, text=True)
      workers[subject.name] = worker
      results[subject.name] = _answer(worker, subject.name)
    calls: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(repeats):
      for name, worker in workers.items():
        assert worker.stdin is not None
        print("go", file=worker.stdin, flush=True)
        calls[name].append(_answer(worker, name))
  finally:
    for worker in workers.values():
      worker.terminate()
      worker.wait()
  together = ", ".join(workers)
  for name, taken in calls.items():
    seconds = statistics.median(call["seconds"] for call in taken)
    results[name] |= {
      "fps": SECONDS / seconds,
      "cpu_seconds_per_frame": statistics.median(call["cpu_seconds"] for call in taken) / SECONDS,
      "peak_bytes": max(call["peak_bytes"] for call in taken),
      "dtype": dtype,
      "repeats": repeats,
      "together": together,
      "load": os.getloadavg()[0],
      "jax": versions()["jax"],
    }
  return results


def _answer(worker: Any, name: str) -> dict[str, Any]:
  line = worker.stdout.readline()
  if not line:
    raise InputError(
      f"the process that measures {name} ended early; see its message above, try a smaller size."
    )
  return json.loads(line)


# --- the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "benchmarks.efficiency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--systems", default=",".join(systems.NAMES), help="systems, parted by commas")
  add("--visual", default=",".join(VISUAL), help="backbones, parted by commas, or all")
  add("--size", type=int, default=224, help="pixels a side of the rows of every system and backbone")
  add("--measure", default="", help="rows to be timed side by side, SYSTEM:BACKBONE:SIZE parted by commas")
  add("--repeats", type=int, default=5, help="timed calls of each")
  add("--dtype", default="float32", help="of the timed rows: float32, bfloat16")
  add("--again", action="store_true", help="count and measure anew what is kept")
  add("--output", default="", help="Markdown file to write; its JSON beside it")
  add("--serve", default="", help=argparse.SUPPRESS)
  return parser.parse_args(arguments)


def asked(options: argparse.Namespace) -> list[Subject]:
  """Rows to be counted: every system and backbone, the papers' own, and table X."""
  chosen = options.systems.split(",")
  visual = encoders.VISUAL if options.visual == "all" else options.visual.split(",")
  names = [f"{system}:{backbone}:{options.size}" for system in chosen for backbone in visual]
  names += [name for name in OWN if name.split(":")[0] in chosen]
  if "sdavs" in chosen:
    names += [Subject("sdavs", "swin_base_w12", 384, change).name for change in TABLE_X if change]
  return [read_subject(name) for name in dict.fromkeys(names)]


def main(arguments: Sequence[str] | None = None) -> None:
  options = parse(arguments)
  if options.serve:
    serve(read_subject(options.serve), options.dtype)
    return
  subjects, timed = asked(options), [read_subject(each) for each in filter(None, options.measure.split(","))]
  path = os.path.splitext(options.output)[0] + ".json" if options.output else ""
  kept: dict[str, Any] = {}
  if path and os.path.exists(path) and not options.again:
    with open(path) as file:
      kept = json.load(file)
  kept = {"versions": {}, "counted": {}, "measured": {}, **kept}

  def keep() -> None:
    kept["versions"] = {name: version for name, version in versions().items() if name in ("jax", "flax")}
    if path:
      tables.save(path, json.dumps(kept, indent=1) + "\n")

  for subject in subjects:
    if subject.name not in kept["counted"]:
      kept["counted"][subject.name] = inspect(subject)
      jax.clear_caches()  # traces of big networks would add up
      print(subject.name, kept["counted"][subject.name], flush=True)
      keep()
  due = [subject for subject in timed if subject.name not in kept["measured"]]
  if due:
    kept["measured"].update(measure(due, options.dtype, options.repeats))
    keep()
  words = ["python -m benchmarks.efficiency", f"--output={options.output}"]
  text = page(
    kept, " ".join(words + ([f"--measure={','.join(kept['measured'])}"] if kept["measured"] else []))
  )
  if options.output:
    tables.save(options.output, text)
  print(text)


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    print(f"benchmarks.efficiency: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
