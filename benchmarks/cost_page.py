"""The page of what every system costs, made from the figures that were kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax import tables
from benchmarks.cost_rows import OWN, SECONDS, TABLE_X, Subject, read_subject
from benchmarks.cost_speed import share, side_by_side

Rows = Mapping[str, Any]


def page(kept: Rows, command: str, names: Sequence[str]) -> str:
  """Every table that the figures allow, with all conditions.

  Args:
    names: the rows that the page is of. Of those measured, all that are kept are shown.
  """
  counted = {name: kept["counted"][name] for name in names if name in kept["counted"]}
  measured = by_conditions(kept["measured"])
  plain = [read_subject(name) for name in counted if name.count(":") == 2]
  sizes = {subject.size for subject in plain if subject.name not in OWN}
  open_loops = any(found["open_loops"] for found in counted.values())
  lines = [
    "# What every system costs",
    "",
    f"    {command}",
    "",
    f"One clip of {SECONDS} s (a frame a second), VGGish, one class, float32. Parameters and GFLOP are those of the"
    " program as traced and lowered, before compilation (the compiled program's own count takes the body of a loop"
    " once), a multiply-add counted as two; loops of known length count as often as they run. Sound included."
    " Trainable: by each system's recipe on MS3 (`configs/ms3.py:SYSTEM`), which freezes VGGish and, for"
    " active_queries, all of the visual encoder but its adapters (which Swin alone has). All queries open."
    + (" * a loop whose length depends on data is counted once." if open_loops else ""),
    f"Counted {counted_at(counted)}.",
    "",
    *grid_table(counted, [subject for subject in plain if subject.size in sizes]),
    "",
    "## Each paper's own backbone and size",
    "",
    *grid_table(counted, [read_subject(name) for name in OWN if name in counted]),
    "",
    *table_x(counted, measured),
    *speed_tables(measured, names),
    *verdict(counted, measured),
  ]
  return "\n".join(lines) + "\n"


def by_conditions(rows: Rows) -> dict[tuple[str, str], dict[str, Any]]:
  """{(device, precision): {row: its figures}}: only figures within one of them may be compared."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for row in rows.values():
    found.setdefault((row["device"], row["dtype"]), {})[row["name"]] = row
  return found


def counted_at(counted: Rows) -> str:
  """Commits and versions of the counted rows, in words."""
  places: dict[str, int] = {}
  for row in counted.values():
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    place = f"at commit {row['commit']} with {versions}"
    places[place] = places.get(place, 0) + 1
  if len(places) == 1:
    return next(iter(places))
  return "; ".join(f"{place}: {count} row{'s' * (count > 1)}" for place, count in places.items())


def grid_table(counted: Rows, subjects: Sequence[Subject]) -> list[str]:
  """Counted figures, a line a row."""
  header = ["system", "backbone", "px", "parameters (M)", "trainable (M)", "GFLOP a clip", "GFLOP a frame"]
  rows = []
  for subject in subjects:
    found = counted[subject.name]
    star = "*" if found["open_loops"] else ""
    rows.append([
      subject.system, subject.visual, str(subject.size), f"{found['parameters'] / 1e6:.2f}",
      f"{found['trainable'] / 1e6:.2f}", f"{found['gflop']:.1f}{star}", f"{found['gflop'] / SECONDS:.1f}",
    ])  # fmt: skip
  return tables.markdown(header, rows, 2)


def table_x(counted: Rows, measured: Mapping[Any, Rows]) -> list[str]:
  """SDAVS without each of its parts, printed and ours; [] where it was not counted."""
  names = {Subject("sdavs", "swin_base_w12", 384, change).name: line for change, line in TABLE_X.items()}
  if not set(names) <= set(counted):
    return []
  whole, printed_whole = Subject("sdavs", "swin_base_w12", 384).name, TABLE_X[""][3]
  place = max(measured, key=lambda place: len(set(names) & set(measured[place])), default=None)
  timed = {name: row for name, row in measured[place].items() if name in names} if place else {}
  rows = []
  for name, (label, gflop, millions, fps) in names.items():
    found, speed = counted[name], timed.get(name)
    ours = found["gflop"]
    part = share(speed, timed[whole]) if speed and whole in timed else None
    rows.append([
      label, f"{gflop:g}", f"{ours / 2:.1f}", f"{ours:.1f}", f"{millions:g}", f"{found['trainable'] / 1e6:.2f}",
      f"{fps:g}", f"{fps / printed_whole:.2f}", f"{speed['fps']:.3g}" if speed else "–", tables.number(part, 2),
    ])  # fmt: skip
  header = [
    "model", "printed GFLOPs", "ours, GMAC", "ours, GFLOP", "printed trainable (M)", "ours (M)", "printed frames/s",
    "of the whole", "ours, frames/s", "of the whole",
  ]  # fmt: skip
  absent = [label for name, (label, *_) in names.items() if name not in timed]
  speeds = (
    f"Our frames a second: {', '.join(place)}; of the whole: each over the reference of its own run (below)."
    if timed and place
    else ""
  )
  if absent:
    speeds = f"{speeds} Frames a second not measured here: {', '.join(absent)}.".strip()
  return [
    "## SDAVS without each part (its table X: Swin-base, 384 px)",
    "",
    *tables.markdown(header, rows),
    "",
    "The printed figures fit multiply-adds: Swin-base alone takes 47 G of them a frame at 384 px, 235 G a clip."
    " Most of what is more here are the 3 x 3 convolutions of 256 channels at stride 4 and, without STC, keys and"
    " values at full size at every stage: both are our reading of what the paper leaves open (sdavs.md). VGGish, in"
    " ours, is 4 GMAC. The printed frames a second are of the paper's own device: compare the shares. "
    + speeds,
    "",
  ]


def speed_tables(measured: Mapping[Any, Rows], names: Sequence[str]) -> list[str]:
  """Measured rows, a table for each device and precision, and which rows were not measured."""
  lines = ["## Speed and memory", ""]
  if measured:
    lines += [
      "Median of the calls after one warm-up, one clip a call, each row in a process of its own, all rows of a run in"
      " turn; data and compilation excluded. On a busy machine compare the CPU seconds (all threads together). Peak:"
      " of the process, weights and compilation included. Times the reference: frames a second, and CPU seconds, over"
      " those of the row named, measured in the same run. Rows of different runs, devices or precisions are not"
      " compared.",
      "",
    ]
  for (device, dtype), rows in measured.items():
    lines += [f"{device}; {dtype}.", "", *speed_table(rows), ""]
  timed = {name for rows in measured.values() for name in rows}
  absent = [name for name in names if name not in timed]
  if absent:
    those = ", ".join(absent) if len(absent) <= 8 else "every one that no table of this section names"
    lines += [f"Not measured: {len(absent)} of this page's {len(names)} rows, {those} (`--measure=all`).", ""]
  return lines


def speed_table(rows: Rows) -> list[str]:
  """The rows of one device and precision, and below them their runs."""
  header = [
    "row", "s a clip", "frames/s", "CPU s a frame", "times the reference", "in CPU s", "peak memory GB",
    "temporaries GB", "calls", "run",
  ]  # fmt: skip
  runs: dict[str, int] = {}
  cells = []
  for name, found in rows.items():
    temporary, beside = found["temporary_bytes"], found.get("reference")
    ratios = (
      [found[key] / beside[key] for key in ("fps", "cpu_seconds_per_frame")] if beside else [None, None]
    )
    said = f"commit {found['commit']}, {found.get('date', 'no date kept')}, load {found['load']:.1f}"
    said += f", `--measure={found['asked']}`; in turn: {found['together']}"
    said += f"; reference {beside['name']}" if beside else ""
    run = runs.setdefault(said, len(runs) + 1)
    cells.append([
      name, f"{SECONDS / found['fps']:.3g}", f"{found['fps']:.3g}", f"{found['cpu_seconds_per_frame']:.3f}",
      *(tables.number(ratio, 2) for ratio in ratios), f"{found['peak_bytes'] / 1e9:.2f}",
      "–" if temporary is None else f"{temporary / 1e9:.2f}", str(found["repeats"]), str(run),
    ])  # fmt: skip
  lines = tables.markdown(header, cells)
  return [*lines, "", *(f"- Run {run}: {said}." for said, run in runs.items())]


def verdict(counted: Rows, measured: Mapping[Any, Rows]) -> list[str]:
  """SDAVS's three claims against AVSegFormer, each with our figures."""
  pair = ("avsegformer:pvt_v2_b5:224", "sdavs:pvt_v2_b5:224")
  own = ("avsegformer:pvt_v2_b5:512", "sdavs:pvt_v2_b5:384")
  if not {*pair, *own} <= set(counted):
    return []
  (old, new), (old_own, new_own) = ([counted[name] for name in names] for names in (pair, own))

  def fewer(after: float, before: float) -> str:
    return f"{100 * (1 - after / before):.0f} %"

  rows = [
    ["trainable parameters, both without VGGish", "48 % fewer", f"{fewer(new['trainable'], old['trainable'])} fewer"],
    [
      "SDAVS's trainable against all of AVSegFormer's, VGGish included", "48 % fewer",
      f"{fewer(new['trainable'], old['parameters'])} fewer",
    ],
    ["FLOPs at 224 px", "60 % fewer", f"{fewer(new['gflop'], old['gflop'])} fewer"],
    [
      "FLOPs at each paper's own size (384 against 512 px)", "60 % fewer",
      f"{fewer(new_own['gflop'], old_own['gflop'])} fewer",
    ],
  ]  # fmt: skip
  for place, timed in measured.items():
    where = f" ({', '.join(place)})" if len(measured) > 1 else ""
    for size in sorted({int(name.split(":")[2]) for name in timed}):
      slow, fast = (timed.get(f"{system}:pvt_v2_b5:{size}") for system in ("avsegformer", "sdavs"))
      if slow and fast:
        rows += speed_verdict(slow, fast, f"{size} px{where}")
  return [
    "## SDAVS's claims against AVSegFormer, PVT-v2-B5",
    "",
    *tables.markdown(["of what", "printed", "here"], rows, 3),
    "",
  ]


def speed_verdict(slow: Rows, fast: Rows, where: str) -> list[list[str]]:
  """The claim of speed, with our figures where one run measured both."""
  claim = [f"frames a second at {where}", "2.19 times (32.25 against 14.71)"]
  pair = side_by_side(slow, fast)
  if pair is None:
    return [[*claim, "not compared: measured in different runs"]]
  slow, fast = pair
  what = f"{fast['fps'] / slow['fps']:.2f} times ({fast['fps']:.3g} against {slow['fps']:.3g})"
  spent = slow["cpu_seconds_per_frame"] / fast["cpu_seconds_per_frame"]
  return [[*claim, what], [f"CPU seconds a frame at {where}", "–", f"1 / {spent:.2f}"]]
