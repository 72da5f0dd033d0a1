"""The page of what every system costs, made from the figures that were kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax import tables
from benchmarks.cost_rows import OWN, SECONDS, TABLE_X, Subject, read_subject


def page(kept: Mapping[str, Any], command: str) -> str:
  """Every table that the figures allow, with all conditions."""
  counted, measured = kept.get("counted", {}), kept.get("measured", {})
  plain = [read_subject(name) for name in counted if name.count(":") == 2]
  sizes = {subject.size for subject in plain if subject.name not in OWN}
  open_loops = any(found["open_loops"] for found in counted.values())
  said = ", ".join(f"{name} {version}" for name, version in kept.get("versions", {}).items())
  lines = [
    "# What every system costs",
    "",
    f"    {command}",
    "",
    f"One clip of {SECONDS} s (a frame a second), VGGish, one class, float32. Parameters and GFLOP are those of the"
    " program as traced and lowered, before compilation, a multiply-add counted as two; loops of known length count"
    " as often as they run. Sound included. Trainable: by each system's recipe on MS3 (`configs/ms3.py:SYSTEM`),"
    " which freezes VGGish and, for active_queries, all of the visual encoder but its adapters (which Swin alone"
    " has). All queries open."
    + (" * a loop whose length depends on data is counted once." if open_loops else ""),
    f"{said}.",
    "",
    *grid_table(counted, [subject for subject in plain if subject.size in sizes]),
    "",
    "## Each paper's own backbone and size",
    "",
    *grid_table(counted, [read_subject(name) for name in OWN if name in counted]),
    "",
    *table_x(counted),
    *speed_table(measured),
    *verdict(counted, measured),
  ]
  return "\n".join(lines) + "\n"


def grid_table(counted: Mapping[str, Any], subjects: Sequence[Subject]) -> list[str]:
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


def table_x(counted: Mapping[str, Any]) -> list[str]:
  """SDAVS without each of its parts, printed and counted; [] where it was not counted."""
  names = {Subject("sdavs", "swin_base_w12", 384, change).name: line for change, line in TABLE_X.items()}
  if not set(names) <= set(counted):
    return []
  rows = []
  for name, (label, gflop, millions, _) in names.items():
    found = counted[name]
    ours = found["gflop"]
    rows.append([
      label, f"{gflop:g}", f"{ours / 2:.1f}", f"{ours:.1f}", f"{millions:g}", f"{found['trainable'] / 1e6:.2f}",
    ])  # fmt: skip
  header = ["model", "printed GFLOPs", "ours, GMAC", "ours, GFLOP", "printed trainable (M)", "ours (M)"]
  return [
    "## SDAVS without each part (its table X: Swin-base, 384 px)",
    "",
    *tables.markdown(header, rows),
    "",
    "The printed figures fit multiply-adds: Swin-base alone takes 47 G of them a frame at 384 px, 235 G a clip."
    " Most of what is more here are the 3 x 3 convolutions of 256 channels at stride 4 and, without STC, keys and"
    " values at full size at every stage: both are our reading of what the paper leaves open (sdavs.md). VGGish, in"
    " ours, is 4 GMAC.",
    "",
  ]


def speed_table(measured: Mapping[str, Any]) -> list[str]:
  """Measured rows; [] where none was."""
  if not measured:
    return []
  header = [
    "row",
    "frames/s",
    "CPU s a frame",
    "peak memory GB",
    "temporaries GB",
    "precision",
    "calls",
    "load",
    "beside",
  ]
  rows = []
  for name, found in measured.items():
    temporary = found["temporary_bytes"]
    rows.append([
      name, f"{found['fps']:.3g}", f"{found['cpu_seconds_per_frame']:.3f}", f"{found['peak_bytes'] / 1e9:.2f}",
      "–" if temporary is None else f"{temporary / 1e9:.2f}", found["dtype"], str(found["repeats"]),
      f"{found['load']:.1f}", found["together"],
    ])  # fmt: skip
  devices = sorted({found["device"] for found in measured.values()})
  return [
    "## Speed and memory",
    "",
    f"{'; '.join(devices)}. Median of the calls after one warm-up, one clip a call, each row in a process of its"
    " own, all rows of a run in turn; data and compilation excluded. On a busy machine compare the CPU seconds"
    " (all threads together). Peak: of the process, weights and compilation included.",
    "",
    *tables.markdown(header, rows),
    "",
  ]


def verdict(counted: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
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
  sizes = sorted({int(name.split(":")[2]) for name in measured})
  for size in sizes:
    names = [f"{system}:pvt_v2_b5:{size}" for system in ("avsegformer", "sdavs")]
    if set(names) <= set(measured):
      slow, fast = (measured[name] for name in names)
      what = f"{fast['fps'] / slow['fps']:.2f} times ({fast['fps']:.3g} against {slow['fps']:.3g})"
      spent = slow["cpu_seconds_per_frame"] / fast["cpu_seconds_per_frame"]
      rows.append([f"frames a second at {size} px", "2.19 times (32.25 against 14.71)", what])
      rows.append([f"CPU seconds a frame at {size} px", "–", f"1 / {spent:.2f}"])
  return [
    "## SDAVS's claims against AVSegFormer, PVT-v2-B5",
    "",
    *tables.markdown(["of what", "printed", "here"], rows, 3),
    "",
  ]
