"""The noise study on finished runs: their clips' own sounds under noise of several kinds, by signal-to-noise ratio.

  python -m experiments.noise --runs='runs/sdavs_generated/whole-*,runs/sdavs_generated/without_snrp-*'
  python -m experiments.noise --runs='runs/systems_generated/*-vanilla-?' --name=noise_systems --into=docs/results.md

A run is the work directory of a row and a seed, as `experiments.run` leaves it (NAME-SEED); runs of one row are put
together. Writes what was judged into RECORDS/NAME, with hardware, commit and versions of each sitting, and there goes
on where it was stopped; then one table of the sweep, one of SDAVS's table IX (noise added 0.1 times; printed lines
above it where both its models are at hand), one of what it was judged with, and a figure of IoU against decibels,
into OUTPUT. No run is changed.
"""

import argparse
import glob
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avs_jax import report, tables
from avs_jax.errors import InputError
from experiments import page
from experiments.records import runs_table, settings
from experiments.sdavs import PRINTED_NOISE
from experiments.study import Row, Study
from experiments.tables import said, spread

KINDS = ("brown", "pink", "white", "made_babble")  # and a train
LEVELS = "20,10,0,-10"
FACTOR = 0.1  # of table IX
FIGURES = ("iou_frame", "f_max_batch20", "f_at_half", "fpr")

Record = dict[str, Any]
log = logging.getLogger(__name__)


def find_runs(patterns: Sequence[str]) -> dict[str, dict[int, str]]:
  """{row: {seed: work directory}}.

  Raises:
    InputError: a pattern fits no run, a folder's name ends in no seed, or two folders are one row and seed.
  """
  found: dict[str, dict[int, str]] = {}
  for pattern in patterns:
    folders = [
      each for each in sorted(glob.glob(pattern)) if os.path.exists(os.path.join(each, "config.json"))
    ]
    if not folders:
      raise InputError(
        f"--runs={pattern}: no run is there; give work directories such as runs/STUDY/ROW-SEED."
      )
    for folder in folders:
      row, _, seed = os.path.basename(os.path.normpath(folder)).rpartition("-")
      if not row or not seed.isdecimal():
        raise InputError(f"{folder}: its name should end in a seed, e.g. whole-0; rename the folder.")
      other = found.setdefault(row, {}).setdefault(int(seed), folder)
      if os.path.realpath(other) != os.path.realpath(folder):
        raise InputError(
          f"--runs: {other} and {folder} are both {row} of seed {seed}; judge them apart, each with its own --name."
        )
  return found


def default_kinds(config: Any) -> tuple[str, ...]:
  """`KINDS` and a train: a recording where the clips are composed of recordings, else a synthesised one."""
  from data_pipelines import sounds

  return (*KINDS, "train" if sounds.is_of_real_media(config) else "made_train")


def judge_run(
  workdir: str, config: Any, kinds: Sequence[str], levels: Sequence[float], record: Record
) -> Iterator[str]:
  """Judges a run under its clips' own sounds, clean and under every noise that `record` lacks.

  Args:
    config: the run's.
    record: gets the figures of each sound as soon as they are known; its name is given then.
  """
  import jax

  from avs_jax import evaluate, perception
  from avs_jax import mesh as meshes
  from avs_jax.model import build_model
  from avs_jax.step import make_predict_step
  from data_pipelines import loader, sounds, sources

  model = build_model(config)
  variables = evaluate.weights_to_judge(config, model, workdir)
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  mesh = meshes.make_mesh(config.eval.batch)
  predict, count = make_predict_step(model, mesh), evaluate.make_count(mesh)
  mark = perception.build(config, model, variables, workdir, may_fit=False)
  variables = jax.device_put(variables, meshes.replicated(mesh))
  record |= {"data_set": source.title, "is_stand_in": source.is_stand_in, "clips": len(source)}
  source = loader.keep(source, config.data.cache_mb)
  for way in ((), tuple(levels)):  # the paper's factor, then decibels
    own = with_noise(config, kinds, way)
    for name in sounds.names(own):
      if name not in record["figures"]:
        rows = (mark(each, source) for each in sounds.batches(own, source, name))
        found = evaluate.judge(predict, count, variables, rows, mesh, describe=name).figures
        record["figures"][name] = {key: found.get(key) for key in FIGURES}
        yield name


def with_noise(config: Any, kinds: Sequence[str], levels: Sequence[float]) -> Any:
  """The config judged under the own sounds and these noises alone; without levels, noise is added by factor."""
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.eval.conditions, own.eval.unseen, own.eval.pictures = ("positive",), (), 0
    own.eval.noise_mix.kind, own.eval.noise_mix.snr_db = tuple(kinds), tuple(map(float, levels))
    own.eval.noise_mix.factor = FACTOR
  return own


def sweep(
  runs: Mapping[str, Mapping[int, str]],
  folder: str,
  kinds: Sequence[str],
  levels: Sequence[float],
  clips: int,
) -> dict[str, list[Record]]:
  """Judges all runs, keeping a record of each in `folder`. Returns {row: its records by seed}."""
  import jax

  from configs import common

  found: dict[str, list[Record]] = {}
  for row, seeds in runs.items():
    for seed, workdir in sorted(seeds.items()):
      config = common.from_workdir(workdir)
      if config.model.num_classes > 1:
        raise InputError(
          f"{workdir}: its masks hold classes, and the noise study has figures of binary ones alone."
        )
      if clips:
        with config.unlocked():
          config.eval.test_clips = clips
      made_with = {"settings": settings(config), "weights": _weights(workdir)}
      path = os.path.join(folder, f"{row}-{seed}.json")
      record = _read(path, made_with)
      record |= {"row": row, "seed": seed, "split": config.eval.split}
      before, sitting, begin = list(record["figures"]), _sitting(config), time.monotonic()
      for name in judge_run(workdir, config, kinds, levels, record):
        log.info("%s-%d under %s: iou_frame %.4f", row, seed, name, record["figures"][name]["iou_frame"])
        if not sitting["sounds"]:
          # Of what a record without sittings holds it is not known what it was judged with.
          record.setdefault("sittings", [{"sounds": before}] if before else []).append(sitting)
        sitting["sounds"].append(name)
        sitting["wall_s"] = round(time.monotonic() - begin, 1)
        tables.save(path, json.dumps(record, indent=1) + "\n")
      found.setdefault(row, []).append(record)
      jax.clear_caches()
  return found


def _sitting(config: Any) -> Record:
  """What the figures of one call are judged with: what `experiments.records` keeps of a run."""
  facts = report.complete_record({"config": config.to_dict()})
  kept = ("config_digest", "hardware", "commit", "date", "versions")
  return {**{name: facts[name] for name in kept}, "wall_s": 0.0, "sounds": []}


def _weights(workdir: str) -> str:
  """What tells one training of a run from another: when its scoreboard says that it was judged, and the digest."""
  path = os.path.join(workdir, "scoreboard.json")
  if not os.path.exists(path):
    raise InputError(f"{workdir}: the run is not finished; no scoreboard is there.")
  with open(path, encoding="utf-8") as file:
    return json.load(file)["record"].get("weights_digest", "")


def _read(path: str, made_with: Mapping[str, Any]) -> Record:
  """The record that is kept, if it is of the same run; else a new one."""
  fresh = {**made_with, "figures": {}}
  if not os.path.exists(path):
    return fresh
  with open(path, encoding="utf-8") as file:
    kept = json.load(file)
  if {key: kept.get(key) for key in made_with} == json.loads(json.dumps(made_with)):
    return kept
  log.warning("%s is of another training or clips; judging again", path)
  return fresh


# --- tables and figure


def values(records: Sequence[Record], sound: str, name: str) -> list[float | None]:
  """A figure in per cent, record by record."""
  found = [record["figures"].get(sound, {}).get(name) for record in records]
  return [None if value is None else 100 * value for value in found]


def sweep_table(
  found: Mapping[str, Sequence[Record]], kinds: Sequence[str], levels: Sequence[float]
) -> list[str]:
  """iou_frame by row and kind of noise, clean and at every level."""
  header = ["model", "noise", "clean", *(f"{level:g} dB" for level in levels), "seeds"]
  rows = []
  for kind in kinds:
    for row, some in found.items():
      sounds = ["positive", *(f"mixed_{short(kind)}_{level:g}db" for level in levels)]
      cells = [spread(values(some, sound, "iou_frame"), "iou_frame") for sound in sounds]
      rows.append([row, short(kind).replace("_", " "), *cells, _seeds(some)])
  return tables.markdown(header, rows, 2)


def factor_table(found: Mapping[str, Sequence[Record]], kinds: Sequence[str]) -> list[str]:
  """Table IX: each row clean and with noise added `FACTOR` times."""
  rows = []
  if {"whole", "without_snrp"} <= set(found):
    for sound, pairs in PRINTED_NOISE.items():
      for (iou, f), row in zip(pairs, ("without_snrp", "whole"), strict=True):
        rows.append(["AVSBench-MS3, printed", sound, row, f"{iou}", f"{f}", "–", "–"])
  for sound in ("positive", *(f"mixed_{short(kind)}_x{FACTOR:g}" for kind in kinds)):
    for row, some in found.items():
      iou, f = (values(some, sound, name) for name in FIGURES[:2])
      clean = values(some, "positive", "iou_frame")
      lost = [None if a is None or b is None else a - b for a, b in zip(clean, iou, strict=True)]
      shown = [spread(each, "iou") for each in (iou, f, lost)]
      rows.append([f"{some[0]['data_set']}, ours", said(sound), row, *shown, _seeds(some)])
  header = ["data", "sound", "model", "iou_frame", "f_max_batch20", "lost iou_frame", "seeds"]
  return tables.markdown(header, rows, 3)


def short(kind: str) -> str:
  """A noise as the scoreboard names it: a file without folder and ending."""
  return os.path.splitext(os.path.basename(kind))[0]


def _scope(found: Mapping[str, Sequence[Record]], kinds: Sequence[str], levels: Sequence[float]) -> str:
  """What was swept, and what of the default kinds and levels was not."""
  left_out = [kind.replace("_", " ") for kind in KINDS if kind not in kinds]
  left_out += [f"{level} dB" for level in LEVELS.split(",") if float(level) not in levels]
  seeds = sorted({record["seed"] for some in found.values() for record in some})
  said_kinds = ", ".join(short(kind).replace("_", " ") for kind in kinds)
  return (
    f"Swept: {', '.join(found)}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}, under {said_kinds} at"
    f" {', '.join(f'{level:g}' for level in levels)} dB{'; not swept: ' if left_out else ''}{', '.join(left_out)}."
  )


def _precisions(found: Mapping[str, Sequence[Record]]) -> list[str]:
  return sorted({record["settings"]["model.dtype"] for some in found.values() for record in some})


def _seeds(some: Sequence[Record]) -> str:
  return ", ".join(str(record["seed"]) for record in some)


def draw(
  path: str, found: Mapping[str, Sequence[Record]], kinds: Sequence[str], levels: Sequence[float]
) -> str:
  """IoU against decibels, a panel a kind, a line a row; dashed: the clean sound."""
  from matplotlib.figure import Figure

  from avs_jax import visualize

  figure = Figure(figsize=(2.9 * len(kinds), 3.4), layout="constrained")
  axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
  first = next(iter(found.values()))[0]
  for axis, kind in zip(axes, kinds, strict=True):
    for number, (row, some) in enumerate(found.items()):
      colour = f"C{number % 10}"
      points = [
        (x, tables.mean_std(values(some, f"mixed_{short(kind)}_{x:g}db", "iou_frame"))) for x in levels
      ]
      known = [(x, point[0], point[1] or 0.0) for x, point in points if point is not None]
      if known:
        axis.errorbar(
          *zip(*known, strict=True), color=colour, linewidth=1.2, marker="o", markersize=3, label=row
        )
      clean = tables.mean_std(values(some, "positive", "iou_frame"))
      if clean is not None:
        axis.axhline(clean[0], color=colour, linestyle="--", linewidth=0.7)
    axis.set_title(short(kind).replace("_", " "), fontsize=9)
    axis.set_xlabel("signal to noise, dB", fontsize=8)
    axis.invert_xaxis()
  axes[0].set_ylabel("iou_frame, per cent", fontsize=8)
  axes[-1].legend(fontsize=7)
  figure.suptitle(f"{first['data_set']}, {first['clips']} clips; dashed: clean", fontsize=8)
  return visualize.save(figure, path)


def write(
  output: str,
  title: str,
  found: Mapping[str, Sequence[Record]],
  kinds: Sequence[str],
  levels: Sequence[float],
  command: str,
) -> list[str]:
  """Writes noise.md and noise.png into `output`.

  Raises:
    InputError: runs of different data would share a table.
  """
  sets = sorted({(record["data_set"], record["clips"]) for some in found.values() for record in some})
  if len(sets) > 1:
    raise InputError(f"--runs: these are of different data ({sets[0]}, {sets[1]}); judge them apart.")
  picture = draw(os.path.join(output, "noise.png"), found, kinds, levels)
  stand_in = any(record["is_stand_in"] for some in found.values() for record in some)
  lines = [
    f"## {title}",
    "",
    f"The clips' own sounds under noise over their whole length, {sets[0][1]} clips of {sets[0][0]}"
    f"{' (STAND-IN DATA)' if stand_in else ''}; the right mask stays that of the own sound, so high is good. iou_frame"
    " and f_max_batch20 in per cent; mean ± standard deviation (n - 1) over the seeds.",
    "",
    _scope(found, kinds, levels),
    "",
    *sweep_table(found, kinds, levels),
    "",
    f"Noise of peak 1 added {FACTOR:g} times (SDAVS, table IX):",
    "",
    *factor_table(found, kinds),
    "",
    f"What it was judged with ({', '.join(_precisions(found))}; minutes: all sounds of a run; –: not on record):",
    "",
    *runs_table(tuple(found), found),
    "",
    f"    {command}",
    "",
  ]
  return [tables.save(os.path.join(output, "noise.md"), "\n".join(lines)), picture]


# --- the command


def main(arguments: Sequence[str] | None = None) -> None:
  """Judges, tables and draws what the arguments ask for.

  Raises:
    InputError: a number, a noise or a run that cannot be.
  """
  parser = argparse.ArgumentParser(
    "experiments.noise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--runs", required=True, help="work directories, patterns parted by commas")
  add("--name", default="noise", help="of the folders of records and tables")
  add(
    "--kinds",
    default="",
    help="noises as eval.noise_mix.kind takes them, parted by commas; default "
    f"{','.join(KINDS)} and a train, on real media a recorded one",
  )
  add("--snr-db", default=LEVELS, help="levels, parted by commas")
  add("--clips", type=int, default=0, help="of the test split; 0: as the run was judged")
  add("--records", default="docs/records", help="where what was judged is kept")
  add("--output", default="", help="where the table and the figure go; default docs/tables/NAME")
  add("--into", default="", help="a page that is to hold them too, e.g. docs/results.md")
  given = parser.parse_args(arguments)
  try:
    levels = [float(level) for level in given.snr_db.split(",")]
  except ValueError:
    raise InputError(
      f"--snr-db={given.snr_db} is not a list of numbers; write e.g. --snr-db=10,0,-10."
    ) from None
  from avs_jax.mesh import keep_compiled_programs
  from configs import common

  runs = find_runs(given.runs.split(","))
  first = next(iter(next(iter(runs.values())).values()))  # all are of the same data, or share no table
  kinds = given.kinds.split(",") if given.kinds else default_kinds(common.from_workdir(first))
  keep_compiled_programs()
  found = sweep(runs, os.path.join(given.records, given.name), kinds, levels, given.clips)
  output = given.output or os.path.join("docs", "tables", given.name)
  command = f"python -m experiments.noise --runs='{given.runs}' --name={given.name} --kinds={','.join(kinds)}"
  command += f" --snr-db={given.snr_db}" + (f" --clips={given.clips}" if given.clips else "")
  title = f"Noise in the sound: {given.name.replace('_', ' ')}"
  paths = write(output, title, found, kinds, levels, command)
  if given.into:
    with open(paths[0], encoding="utf-8") as file:
      text = file.read().strip()
    link = os.path.relpath(paths[1], os.path.dirname(os.path.abspath(given.into)))
    study = Study(given.name, title, tuple(Row(row, "") for row in found))
    page.insert(given.into, study, f"{text}\n\n![{title}]({link})")
  print("\n".join(paths))


if __name__ == "__main__":
  logging.basicConfig(level=logging.INFO, format="%(message)s")
  try:
    main()
  except InputError as error:
    print(f"experiments.noise: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
