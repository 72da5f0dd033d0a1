"""Runs a study: every row for every seed, going on where it was stopped, then the tables and figures.

  python -m experiments.run --study=experiments/robust.py --workdir=runs/robust
  python -m experiments.run --study=experiments/robust.py --tables-only

A run whose record is of the same config is not trained again; one that was stopped goes on from its checkpoint.
A run that fails is named at the end, and the others go on.
"""

import argparse
import dataclasses
import fnmatch
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from avs_jax import tables
from avs_jax.errors import InputError
from avs_jax.logbook import duration
from experiments import figures, page, records
from experiments import tables as papers
from experiments.study import Row, Study, configure, load

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
  """One row with one seed."""

  row: Row
  seed: int
  config: Any
  workdir: str
  record: str

  @property
  def name(self) -> str:
    return f"{self.row.name}-{self.seed}"


def plan(
  study: Study,
  seeds: Sequence[int],
  workdir: str,
  folder: str,
  only: Sequence[str] = (),
  changes: Mapping | None = None,
) -> list[Run]:
  """All runs, seed by seed, so that every table is whole after the first seed.

  Args:
    only: patterns of row names; all rows if empty.
    changes: settings for all rows, over the rows' own.

  Raises:
    InputError: a pattern that fits no row, a broken config; before anything is trained.
  """
  for pattern in only:
    if not any(fnmatch.fnmatch(row.name, pattern) for row in study.rows):
      raise InputError(
        f"--only={pattern} fits no row; the rows are {', '.join(row.name for row in study.rows)}."
      )
  chosen = [row for row in study.rows if not only or any(fnmatch.fnmatch(row.name, each) for each in only)]
  runs = []
  for seed in seeds:
    for row in chosen:
      config = configure(dataclasses.replace(row, changes=(*row.changes, changes or {})), seed)
      with config.unlocked():
        config.warmup.folder = config.warmup.folder or os.path.join(os.path.abspath(workdir), "warmup")
        if row.partner:
          config.debias.contrast_run = os.path.join(os.path.abspath(workdir), f"{row.partner}-{seed}")
      home = os.path.join(workdir, f"{row.name}-{seed}")
      runs.append(Run(row, seed, config, home, records.path_of(folder, study.name, row.name, seed)))
  return runs


def is_done(run: Run) -> bool:
  """Whether the run's record is there and of this config; says why not, where it is of another."""
  record = records.read(run.record)
  if record is None:
    return False
  differs = records.differences(record, run.config)
  if differs:
    log.warning("%s was made with other settings (%s); training again", run.record, "; ".join(differs[:3]))
  return not differs


def train_one(study: Study, run: Run, folder: str) -> dict[str, Any]:
  """Trains (or goes on with) one run in its work directory and keeps its record."""
  from avs_jax.train import train

  _leave_other_config(run)
  clock = _Clock(os.path.join(run.workdir, "seconds.json"))
  with clock:
    train(run.config, run.workdir)
  before = similarities_before(run) if run.row.before and run.config.debias.guide != "none" else None
  record = records.make(study.name, run.row.name, run.config, run.workdir, clock.total, before)
  records.write(folder, record)
  return record


def _leave_other_config(run: Run) -> None:
  """Moves a work directory of other settings out of the way: its checkpoints are not this run's.

  Raises:
    InputError: its config.json cannot be read.
  """
  from configs import common

  if not os.path.exists(os.path.join(run.workdir, "config.json")):
    return
  if records.settings(common.from_workdir(run.workdir)) != records.settings(run.config):
    number = 1
    while os.path.exists(aside := f"{run.workdir}.old{number}"):
      number += 1
    os.rename(run.workdir, aside)
    log.warning("%s held a run with other settings, which is now %s", run.workdir, aside)


class _Clock:
  """Wall seconds inside, summed over all the times a run was started."""

  def __init__(self, path: str):
    self.path, self.total, self.begin = path, 0.0, 0.0

  def __enter__(self) -> "_Clock":
    if os.path.exists(self.path):
      with open(self.path) as file:
        self.total = json.load(file)["seconds"]
    self.begin = time.monotonic()
    return self

  def __exit__(self, *error: object) -> None:
    self.total += time.monotonic() - self.begin
    tables.save(self.path, json.dumps({"seconds": self.total}))


def similarities_before(run: Run) -> dict[str, Any] | None:
  """What the guide says of the test split before the first training step, after the warm-up."""
  from avs_jax import evaluate, frontier
  from avs_jax import mesh as meshes
  from avs_jax.model import build_model, starting_variables
  from avs_jax.warmup import warm_up
  from data_pipelines import sources

  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.eval.unseen, config.eval.pictures, config.eval.save_masks = (), 0, False
  model = build_model(config)
  variables = starting_variables(config, model)
  if config.warmup.steps:
    variables = warm_up(config, variables, sources.build(config, "train"), run.workdir)
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  home = os.path.join(run.workdir, "before")
  os.makedirs(home, exist_ok=True)
  seen = evaluate.four_sounds(config, model, variables, source, meshes.make_mesh(config.eval.batch), home)
  return frontier.similarities({name: each.statistics for name, each in seen.items()}, config.debias.guide)


def train_all(study: Study, runs: Sequence[Run], folder: str, minutes: float = 0.0) -> dict[str, str]:
  """Trains what has no record yet. Returns {run: why it failed}.

  Args:
    minutes: start no further run after so many; 0 for no bound.

  Raises:
    InputError: the study is for a published data set, and `data.root` is empty.
  """
  if study.data_set and not all(run.config.data.root for run in runs):
    raise InputError(
      f"study {study.name} is for {study.data_set}, and data.root is empty; set AVS_DATA_ROOT to its folder, or take"
      " a study of stand-ins, e.g. :generated."
    )
  import jax

  from avs_jax.evaluate import is_run

  wanted = {f"{run.row.partner}-{run.seed}" for run in runs if run.row.partner and not is_done(run)}
  due = [run for run in runs if not is_done(run) or (run.name in wanted and not is_run(run.workdir))]
  log.info(
    "%d of %d runs are to be done: %s", len(due), len(runs), ", ".join(run.name for run in due) or "none"
  )
  failed, begin = {}, time.monotonic()
  for number, run in enumerate(due):
    if minutes and time.monotonic() - begin > 60 * minutes:
      log.warning("%g minutes are over; %d runs are left for the next time", minutes, len(due) - number)
      break
    left = remaining(due[number:], runs)
    about = f", about {duration(left)} left" if left else ""
    if take_over(study, run, folder):
      continue
    log.info("=== run %d of %d: %s%s", number + 1, len(due), run.name, about)
    try:
      record = train_one(study, run, folder)
      log.info("=== %s done in %s", run.name, duration(record["wall_s"]))
    except Exception as error:  # noqa: BLE001  a study of hours must not end at its first bad row
      failed[run.name] = f"{type(error).__name__}: {error}".splitlines()[0]
      os.makedirs(run.workdir, exist_ok=True)
      with open(os.path.join(run.workdir, "error.txt"), "w") as file:
        traceback.print_exc(file=file)
      log.error("=== %s FAILED: %s", run.name, failed[run.name])
    jax.clear_caches()  # each run compiles anew from the disk's cache; what it held is never used again
  return failed


def take_over(study: Study, run: Run, folder: str) -> bool:
  """Whether a run of the same settings has a record by now, in whatever study; if so, it is this run's too."""
  if run.row.partner or run.row.before:  # what these records hold is not told by the settings alone
    return False
  if any(row.partner == run.row.name for row in study.rows):  # its weights are wanted, not its figures
    return False
  found = records.find(folder, run.config)
  if found is None:
    return False
  log.info("=== %s is %s-%d of study %s", run.name, found["row"], found["seed"], found["study"])
  records.write(folder, {**found, "study": study.name, "row": run.row.name})
  return True


def remaining(due: Sequence[Run], runs: Sequence[Run]) -> float | None:
  """Seconds that `due` will take: as the same row with another seed, else as the average run; None unknown."""
  known: dict[str, list[float]] = {}
  for run in runs:
    record = records.read(run.record)
    if record is not None:
      known.setdefault(run.row.name, []).append(record["wall_s"])
  every = [seconds for some in known.values() for seconds in some]
  if not every:
    return None
  average = sum(every) / len(every)
  return sum(sum(some) / len(some) if (some := known.get(run.row.name)) else average for run in due)


def write_tables(study: Study, folder: str, output: str, command: str) -> Iterator[str]:
  """Writes every table and figure from the records alone; gives their paths.

  Args:
    command: what runs the study; under each table it gets the table's rows and seeds.

  Raises:
    InputError: there is no record, or one is broken.
  """
  found = records.read_all(folder, study)
  if not found:
    raise InputError(
      f"{os.path.join(folder, study.name)} holds no record of study {study.name}; run it first."
    )
  for row, some in found.items():
    for record in some:
      differs = records.differences(record, configure(study.row(row), record["seed"]))
      if differs:
        log.warning(
          "%s-%d has other settings than the study: %s", row, record["seed"], "; ".join(differs[:3])
        )
  yield papers.write_summary(output, study, found, f"{command} --seeds={_seeds(found.values())}")
  for table in study.tables:
    rows = [name for name in dict.fromkeys(line.row for line in table.lines) if name in found]
    exact = f"{command} --seeds={_seeds(found[name] for name in rows)} --only={','.join(rows)}"
    yield from papers.write(output, study, table, found, exact).values()
  yield from figures.draw_all(output, study, found)


def _seeds(some: Iterable[Sequence[Mapping[str, Any]]]) -> str:
  return ",".join(map(str, sorted({record["seed"] for each in some for record in each})))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser("experiments.run", description="Runs a study and writes its tables.")
  add = parser.add_argument
  add(
    "--study",
    required=True,
    help="a study file, e.g. experiments/robust.py or experiments/robust.py:real_media",
  )
  add("--workdir", default="", help="where runs train; default runs/<study>")
  add("--records", default="docs/records", help="where records are kept and found")
  add("--output", default="", help="where tables and figures go; default docs/tables/<study>")
  add("--into", default="", help="a page that is to hold all tables and figures too, e.g. docs/results.md")
  add("--seeds", default="0,1,2", help="e.g. 0,1,2")
  add("--only", default="", help="rows to run, patterns parted by commas, e.g. 'avsbench-*'")
  add("--set", default="", help='JSON of settings for all rows, e.g. \'{"data": {"root": "..."}}\'')
  add("--minutes", type=float, default=0.0, help="start no further run after so many minutes")
  add("--list", action="store_true", help="say what would be run, and stop")
  add("--tables-only", action="store_true", help="write tables and figures from the records, train nothing")
  return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit status: 1 where a run failed."""
  options = parse(arguments)
  study = load(options.study)
  workdir = options.workdir or os.path.join("runs", study.name)
  output = options.output or os.path.join("docs", "tables", study.name)
  command = f"python -m experiments.run --study={options.study}"
  command += f" --set='{options.set}'" if options.set else ""
  failed: dict[str, str] = {}
  if not options.tables_only:
    runs = plan(study, *_choices(options, workdir))
    if options.list:
      for run in runs:
        print(f"{run.name}: {'done' if is_done(run) else 'to be run'}")
      return 0
    from avs_jax import mesh
    from data_pipelines import sources

    mesh.keep_compiled_programs()
    with sources.remembering():  # rows share their clips
      failed = train_all(study, runs, options.records, options.minutes)
  if options.tables_only or records.read_all(options.records, study):
    paths = list(write_tables(study, options.records, output, command))
    if options.into:
      paths.append(page.insert(options.into, study, page.compose(study, paths, options.into)))
    print("\n".join(paths))
  for name, why in failed.items():
    print(f"FAILED {name}: {why} (see {os.path.join(workdir, name, 'error.txt')})", file=sys.stderr)
  return 1 if failed else 0


def _choices(options: argparse.Namespace, workdir: str) -> tuple[list[int], str, str, list[str], dict]:
  """Seeds, work directory, records' folder, patterns and changes, as `plan` takes them."""
  try:
    seeds = [int(seed) for seed in options.seeds.split(",")]
  except ValueError:
    raise InputError(
      f"--seeds={options.seeds} is not a list of whole numbers; write e.g. --seeds=0,1,2."
    ) from None
  try:
    changes = json.loads(options.set) if options.set else {}
    if not isinstance(changes, dict):
      raise ValueError("not an object")
  except ValueError as error:
    raise InputError(f"--set={options.set} is no JSON object of settings ({error}).") from None
  return seeds, workdir, options.records, [each for each in options.only.split(",") if each], changes


def run(arguments: Sequence[str] | None = None) -> int:
  """`main` with a log on the screen, and one sentence for what the user can mend."""
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  for package in ("avs_jax", "data_pipelines", "experiments"):
    logger = logging.getLogger(package)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
  # `python -m` gives this module another name.
  log.parent = logging.getLogger("experiments")
  try:
    return main(arguments)
  except InputError as error:
    print(f"experiments.run: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  raise SystemExit(run())
