"""What every system costs with every backbone: parameters, operations, and for rows asked for speed and memory.

  python -m benchmarks.efficiency --output=docs/efficiency.md
  python -m benchmarks.efficiency --output=docs/efficiency.md --measure=avsegformer:pvt_v2_b5:224,sdavs:pvt_v2_b5:224
  python -m benchmarks.efficiency --output=docs/efficiency.md --measure=all

Parameters and operations come from traced, lowered programs: nothing is compiled, run or allocated. Rows that are
measured together are each compiled and called in a process of their own, one call at a time in turn, so that a
busy machine is busy for all of them. `all` takes every row of the page in groups that fit into memory, each beside
SDAVS at the page's size. Figures are kept in a JSON file beside the page, each with the settings, versions and
commit it was made with: what is there with the same settings is not counted or measured again (--again does), so
the command may be stopped anywhere.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from avs_jax import encoders, systems, tables
from avs_jax import optimizer as optimizers
from avs_jax.errors import InputError
from avs_jax.logbook import versions
from avs_jax.report import commit
from benchmarks import cost_speed, flops
from benchmarks.cost_page import page
from benchmarks.cost_rows import OWN, SECONDS, TABLE_X, VISUAL, Subject, read_subject, shapes

FORMAT = 2


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


# --- what is kept


def settings_digest(subject: Subject, **conditions: Any) -> str:
  """A few letters that differ where the model, the clip, the recipe's frozen parts or `conditions` differ."""
  model = systems.build(**subject.settings())
  fields = [field.name for field in dataclasses.fields(model) if field.name not in ("parent", "name")]
  facts = {name: getattr(model, name) for name in fields} | conditions
  facts |= {"size": subject.size, "seconds": SECONDS, "frozen": frozen_parts(subject.system)}
  text = json.dumps(facts, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def made(settings: str) -> dict[str, Any]:
  """What stands beside a figure: settings, commit, versions."""
  found = {name: version for name, version in versions().items() if name in ("jax", "jaxlib", "flax")}
  return {"settings": settings, "commit": commit(), "versions": found}


def read_kept(path: str) -> dict[str, Any]:
  """The figures beside a page; none where there is no such file, or one of an older format."""
  kept: dict[str, Any] = {}
  if os.path.exists(path):
    with open(path) as file:
      kept = json.load(file)
    if kept.get("format") != FORMAT:
      print(f"{path} is not of format {FORMAT}: everything is counted anew.", flush=True)
      kept = {}
  return {"format": FORMAT, "counted": {}, "measured": {}, **kept}


def kept_as(name: str, dtype: str, device: str) -> str:
  """The key of a measured row."""
  return f"{name} | {dtype} | {device}"


def fill(kept: dict[str, Any], timed: Sequence[Subject], options: argparse.Namespace, keep: Any) -> None:
  """Measures those of `timed` that are not kept under the options' conditions; `keep` is called after each run.

  Rows that are named are measured side by side, so all of them anew where one is due. Of all, those that are due.
  """
  device = cost_speed.hardware()
  reference = Subject("sdavs", "pvt_v2_b5", options.size)
  conditions = {"dtype": options.dtype, "repeats": options.repeats}
  digests = {subject.name: settings_digest(subject, **conditions) for subject in [*timed, reference]}
  done: dict[str, Any] = {}
  for name, digest in digests.items():
    found = kept["measured"].get(kept_as(name, options.dtype, device))
    if found and found["settings"] == digest and not options.again:
      done[name] = found

  def store(rows: Mapping[str, Mapping[str, Any]]) -> None:
    for name, found in rows.items():
      key = kept_as(name, options.dtype, found["device"])
      kept["measured"][key] = {**found, **made(digests[name]), "asked": options.measure}
    keep()

  if options.measure == "all":
    beside = reference.name
    done = {name: row for name, row in done.items() if row.get("reference", {}).get("name") == beside}
    due = [subject for subject in timed if subject.name not in done]
    if not due and beside in done:
      return
    for rows in cost_speed.measure_in_groups(
      due, reference, options.dtype, options.repeats, options.together
    ):
      # The reference's own line is that of its first run.
      store({name: row for name, row in rows.items() if name != beside or beside not in done})
      done[beside] = rows[beside]
    return
  names = {subject.name for subject in timed}
  if not names <= set(done) or len({(done[name]["together"], done[name]["date"]) for name in names}) > 1:
    beside = reference.name if reference.name in names else ""
    store(cost_speed.measure(timed, options.dtype, options.repeats, beside))


# --- the command


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "benchmarks.efficiency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--systems", default=",".join(systems.NAMES), help="systems, parted by commas")
  add("--visual", default=",".join(VISUAL), help="backbones, parted by commas, or all")
  add("--size", type=int, default=224, help="pixels a side of the rows of every system and backbone")
  add(
    "--measure",
    default="",
    help="rows to be timed side by side, SYSTEM:BACKBONE:SIZE parted by commas; all: every row of the page,"
    " in groups",
  )
  add(
    "--together",
    type=int,
    default=0,
    help="rows of a group of --measure=all, beside the reference; 0: as memory holds",
  )
  add("--repeats", type=int, default=5, help="timed calls of each")
  add("--dtype", default="float32", help="of the timed rows: float32, bfloat16")
  add("--again", action="store_true", help="count and measure anew what is asked for, though kept")
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


def command_of(options: argparse.Namespace) -> str:
  """The command that makes the page, whole."""
  names = ("systems", "visual", "size", "dtype", "repeats", "measure", "together", "output")
  said = [(name, getattr(options, name)) for name in names]
  words = [f"--{name}={value}" for name, value in said if value]
  return shlex.join(["python", "-m", "benchmarks.efficiency", *words])


def main(arguments: Sequence[str] | None = None) -> None:
  options = parse(arguments)
  # Before the device is first asked for: many processes share it.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if options.serve:
    cost_speed.serve(read_subject(options.serve), options.dtype)
    return
  subjects = asked(options)
  named = [read_subject(each) for each in options.measure.split(",") if each and each != "all"]
  timed = subjects if options.measure == "all" else named
  path = os.path.splitext(options.output)[0] + ".json" if options.output else ""
  kept = read_kept(path)

  def keep() -> None:
    if path:
      tables.save(path, json.dumps(kept, indent=1) + "\n")

  for subject in subjects:
    settings = settings_digest(subject)
    if options.again or kept["counted"].get(subject.name, {}).get("settings") != settings:
      kept["counted"][subject.name] = {**inspect(subject), **made(settings)}
      jax.clear_caches()  # traces of big networks would add up
      print(subject.name, kept["counted"][subject.name], flush=True)
      keep()
  if timed:
    fill(kept, timed, options, keep)
  text = page(kept, command_of(options), [subject.name for subject in subjects])
  if options.output:
    tables.save(options.output, text)
  print(text)


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    print(f"benchmarks.efficiency: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
