"""What grouping a frame's tokens costs block by block, beside the form that holds all pairs at once.

Time of the two is taken in turn, so that a busy machine is busy for both; memory is what the compiled program
asks for beside its arguments and results.

  python -m benchmarks.grouping --output=docs/benchmark_grouping.md
"""

import jax
import jax.numpy as jnp
import numpy as np

from avs_jax.fusion.group_merge import ROWS, group_tokens
from benchmarks import in_turn

# Tokens, channels and groups of RAVS with a PVT-v2-B5: stride 4 at 224 px, 8 at 224, 4 at 384.
SIZES = {
  "28 x 28 (224 px, stride 8)": (784, 128, 7),
  "56 x 56 (224 px, stride 4)": (3136, 64, 14),
  "96 x 96 (384 px, stride 4)": (9216, 64, 14),
}


def forms(tokens: int) -> dict[str, int]:
  """Rows held at a time by name: all of them are the N x N matrix."""
  return {"blocks": min(ROWS, tokens), "dense": tokens}


def measure(frames: int, size: tuple[int, int, int], repeats: int) -> dict[str, dict[str, float]]:
  """Wall and CPU seconds and temporary bytes by form; `equal` is 1 where both gave the same groups."""
  tokens, width, groups = size
  random = np.random.default_rng(0)
  value = jnp.asarray(random.normal(size=(frames, tokens, width)), jnp.float32)
  programs = {}
  for form, rows in forms(tokens).items():
    call = jax.jit(lambda x, rows=rows: group_tokens(x, groups, rows=rows))
    programs[form] = call.lower(value).compile()
  figures = in_turn.measure(programs, (value,), repeats)
  found = {form: np.asarray(program(value)) for form, program in programs.items()}
  for form in figures:
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
    f"{frames} picture{'s' if frames > 1 else ''}, k = 5, Gaussian tokens, float32; {in_turn.conditions(repeats)}",
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
  chosen = in_turn.flags(__doc__, frames=1, repeats=3)
  results = {name: measure(chosen.frames, size, chosen.repeats) for name, size in SIZES.items()}
  in_turn.publish(page(results, chosen.frames, chosen.repeats), results, chosen.output)


if __name__ == "__main__":
  main()
