"""What grouping a frame's tokens costs block by block, beside the form that holds all pairs at once.

Time of the two is taken in turn, so that a busy machine is busy for both; memory is what the compiled program
asks for beside its arguments and results.

  python -m benchmarks.grouping --output=docs/benchmark_grouping.md
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.fusion.group_merge import ROWS, group_tokens
from avs_jax.logbook import versions

# Tokens, channels and groups of RAVS with a PVT-v2-B5: stride 4 at 224 px, 8 at 224, 4 at 384.
SIZES = {
  "28 x 28 (224 px, stride 8)": (784, 128, 7),
  "56 x 56 (224 px, stride 4)": (3136, 64, 14),
  "96 x 96 (384 px, stride 4)": (9216, 64, 14),
}


def forms(tokens: int) -> dict[str, int]:
  """Rows held at a time by name: all of them are the N x N matrix."""
  return {"blocks": min(ROWS, tokens), "dense": tokens}


def cpu_seconds() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def measure(frames: int, size: tuple[int, int, int], repeats: int) -> dict[str, dict[str, float]]:
  """Wall and CPU seconds and temporary bytes by form; `equal` is 1 where both gave the same groups."""
  tokens, width, groups = size
  random = np.random.default_rng(0)
  value = jnp.asarray(random.normal(size=(frames, tokens, width)), jnp.float32)
  programs: dict[str, Any] = {}
  figures: dict[str, dict[str, float]] = {}
  found = {}
  for form, rows in forms(tokens).items():
    call = jax.jit(lambda x, rows=rows: group_tokens(x, groups, rows=rows))
    programs[form] = call.lower(value).compile()
    memory = programs[form].memory_analysis()
    figures[form] = {"temporary_bytes": float(getattr(memory, "temp_size_in_bytes", float("nan")))}
    found[form] = np.asarray(programs[form](value))
  times: dict[str, list[tuple[float, float]]] = {form: [] for form in programs}
  for _ in range(repeats):
    for form, program in programs.items():
      begin, used = time.perf_counter(), cpu_seconds()
      jax.block_until_ready(program(value))
      times[form].append((time.perf_counter() - begin, cpu_seconds() - used))
  for form, pairs in times.items():
    wall, cpu = zip(*pairs, strict=True)
    figures[form] |= {"seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}
    figures[form]["equal"] = float(np.mean(found[form] == found["blocks"]))
  return figures


def page(results: dict[str, dict[str, dict[str, float]]], frames: int, repeats: int) -> str:
  """The figures as a Markdown page with every condition."""
  lines = [
    "# Cost of grouping tokens",
    "",
    f"`blocks` (`avs_jax.fusion.group_merge.group_tokens`, the default) holds the distances of {ROWS} tokens to all"
    " others at a time; `dense` those of all tokens, N x N. The last column is the share of tokens that both put"
    " into the same group. Groups and their exactness: `tests/avs_jax/fusion/test_group_merge.py`.",
    "",
    f"{frames} picture{'s' if frames > 1 else ''}, k = 5, Gaussian tokens, float32; {jax.devices()[0].device_kind},"
    f" {os.cpu_count()} CPU cores, {platform.machine()};"
    f" {', '.join(f'{name} {version}' for name, version in versions().items() if 'jax' in name)};"
    f" median of {repeats} calls, the forms in turn, after one warm-up; load average at the end"
    f" {', '.join(f'{value:.1f}' for value in os.getloadavg())}. On a busy machine compare the CPU seconds.",
    "",
    "| tokens | form | wall s | CPU s | temporaries MB | N x N floats MB | same groups |",
    "|---|---|---|---|---|---|---|",
  ]
  for name, figures in results.items():
    matrix = frames * SIZES.get(name, (0,))[0] ** 2 * 4 / 1e6
    for form, row in figures.items():
      lines.append(
        f"| {name} | {form} | {row['seconds']:.3f} | {row['cpu_seconds']:.3f} |"
        f" {row['temporary_bytes'] / 1e6:.1f} | {matrix:.1f} | {row['equal']:.4f} |"
      )
  return "\n".join([*lines, ""])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--frames", type=int, default=1, help="Pictures in a call.")
  parser.add_argument("--repeats", type=int, default=3, help="Timed calls of each form, after one warm-up.")
  parser.add_argument("--output", help="Markdown file to write; its JSON beside it.")
  chosen = parser.parse_args()
  results = {name: measure(chosen.frames, size, chosen.repeats) for name, size in SIZES.items()}
  text = page(results, chosen.frames, chosen.repeats)
  print(text)
  if chosen.output:
    with open(chosen.output, "w") as file:
      file.write(text)
    with open(os.path.splitext(chosen.output)[0] + ".json", "w") as file:
      json.dump(results, file, indent=1)


if __name__ == "__main__":
  main()
