"""The paper's tables in the paper's form, printed lines first, ours below, each with its data set."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax import comparison, frontier, tables
from avs_jax.errors import InputError
from experiments.paper_rows import PaperRow
from experiments.records import runs_table
from experiments.study import Line, Study, Table

Records = Mapping[str, Sequence[Mapping[str, Any]]]  # row -> its records, one a seed

# Forms with a line for each sound of each row.
_BY_SOUND = ("unseen", "mixed")
# The own sound on all clips, and on those of one kind.
_KINDS = {"positive": "own", "positive_switch": "switching", "positive_pair": "two of a kind"}
_SOUNDS = {"silence": "silence", "noise": "noise", "offscreen": "off-screen"}
# Heads of the figures of each form; the metric's family, never a bare "mIoU".
_HEADS = {
  "conditions": (
    "own iou_frame", "own f_max_batch20",
    *(f"{sound} {figure}" for sound in _SOUNDS.values() for figure in ("iou_frame", "f_max_batch20", "fpr")),
    "g_iou", "g_f", "g_fpr",
  ),
  "globals": ("g_iou", "g_f", "g_fpr"),
  "unseen": ("iou_frame", "f_max_batch20", "fpr"),
  "mixed": ("iou_frame", "f_max_batch20", "lost iou_frame", "lost f_max_batch20"),
  "against": (
    "own iou_frame", "lost iou_frame", "lost f_max_batch20", "printed: lost J", "printed: lost F", "seeds that lose",
    "holds",
  ),
  "refused": ("own iou_frame", "own seconds without a mask", "iou_frame of the others"),
  "frontier": (
    "own iou_frame", "g_fpr",
    *(f"mask sweep, g_fpr <= {limit:g}" for limit in frontier.LIMITS),
    *(f"mask and gate, g_fpr <= {limit:g}" for limit in frontier.LIMITS),
  ),
  "kinds": tuple(f"{kind} {figure}" for kind in _KINDS.values() for figure in ("iou_frame", "f_max_batch20")),
  "kinds_against": tuple(
    f"{kind}: {what}" for kind in _KINDS.values() for what in ("gained iou_frame", "seeds that gain")
  ),
}  # fmt: skip
_COLUMNS = {
  "conditions": (
    ("positive", "iou_frame"), ("positive", "f_max_batch20"),
    *((sound, figure) for sound in _SOUNDS for figure in ("iou_frame", "f_max_batch20", "fpr")),
    ("global", "g_iou"), ("global", "g_f"), ("global", "g_fpr"),
  ),
  "globals": (("global", "g_iou"), ("global", "g_f"), ("global", "g_fpr")),
  "kinds": tuple((kind, figure) for kind in _KINDS for figure in ("iou_frame", "f_max_batch20")),
}  # fmt: skip


def figure(record: Mapping[str, Any], sound: str, name: str) -> float | None:
  """A figure of a record: IoU and F in per cent, FPR as a fraction."""
  row = record["global"] if sound == "global" else record["figures"].get(sound, {})
  value = row.get(name)
  return value if value is None or "fpr" in name else 100 * value


def heads(form: str, records: Records) -> tuple[str, ...]:
  """The heads of the figures of a table of these records."""
  if form != "conditions_mixed":
    return _HEADS[form]
  whole = _HEADS["conditions"]
  mixes = (f"{said(sound)} {name}" for sound in mixed_sounds(records) for name in _HEADS["unseen"][:2])
  return (*whole[:2], *mixes, *whole[2:])


def said(sound: str) -> str:
  """A row of the scoreboard in words: "mixed_brown_0db" is "own + brown 0db"."""
  return "own" if sound == "positive" else sound.replace("mixed_", "own + ").replace("_", " ")


def spread(values: Sequence[float | None], name: str) -> str:
  """Mean and deviation with as many decimals as the figure deserves."""
  return tables.spread(values, 3 if "fpr" in name else 1)


def cells(
  records: Sequence[Mapping[str, Any]], form: str, sound: str = "", mixes: Sequence[str] = ()
) -> list[str]:
  """The figures of one line.

  Args:
    mixes: sounds whose columns "conditions_mixed" has beside those of "conditions".
  """
  if form == "frontier":
    return _frontier_cells(records)
  if form == "mixed":
    return _mixed_cells(records, sound)
  if form == "refused":
    return [spread(values, "iou_frame") for values in zip(*map(_refused, records), strict=True)]
  columns = [(sound, name) for name in _HEADS["unseen"]] if form == "unseen" else _columns(form, mixes)
  return [spread([figure(record, *column) for record in records], column[1]) for column in columns]


def _columns(form: str, mixes: Sequence[str]) -> list[tuple[str, str]]:
  """(sound, figure) of each column."""
  if form != "conditions_mixed":
    return list(_COLUMNS[form])
  whole = _COLUMNS["conditions"]
  return [*whole[:2], *((sound, name) for sound in mixes for name in _HEADS["unseen"][:2]), *whole[2:]]


def _mixed_cells(records: Sequence[Mapping[str, Any]], sound: str) -> list[str]:
  """IoU and F under a sound, and how much less that is than with the clean one, seed by seed."""
  shown, lost = [], []
  for name in _HEADS["unseen"][:2]:
    values = [figure(record, sound, name) for record in records]
    clean = [figure(record, "positive", name) for record in records]
    pairs = zip(clean, values, strict=True)
    shown.append(spread(values, name))
    lost.append(spread([None if a is None or b is None else a - b for a, b in pairs], name))
  return [*shown, *(["–"] * 2 if sound == "positive" else lost)]


def _refused(record: Mapping[str, Any]) -> tuple[float | None, ...]:
  """In per cent: IoU under the own sound, the share of seconds with no mask at all, and the IoU of the others.

  A second without a mask has IoU 0 where there is an object; where there is none in some, the last is not told.
  """
  iou, quiet = (figure(record, "positive", name) for name in ("iou_frame", "quiet_frames"))
  always = iou == figure(record, "positive", "iou_frame_nonempty")
  others = (
    100 * iou / (100 - quiet) if always and iou is not None and quiet is not None and quiet < 100 else None
  )
  return iou, quiet, others


def _against_cells(table: Table, line: Line, records: Records) -> list[str]:
  """What a line loses against `table.against`, seed by seed, printed and here, and whether all seeds agree."""
  names, dash = _HEADS["unseen"][:2], "–"
  own = [figure(record, "positive", names[0]) for record in records[line.row]]
  if line.row == table.against:
    return [spread(own, names[0]), *[dash] * 6]
  whole = {record["seed"]: record for record in records.get(table.against, ())}
  pairs = [(whole[each["seed"]], each) for each in records[line.row] if each["seed"] in whole]
  lost = {name: [_loss(a, b, name) for a, b in pairs] for name in names}
  known = [value for value in lost[names[0]] if value is not None]
  worse = sum(value > 0 for value in known)
  verdict = "yes" if worse == len(known) else "undecided" if worse else "no"
  printed = {row.labels: row.own for row in table.paper}
  labels = next((each.labels for each in table.lines if each.row == table.against), ())
  theirs, base = printed.get(line.labels), printed.get(labels)
  stated = (
    [dash] * 2
    if theirs is None or base is None
    else [f"{b - t:.1f}" for b, t in zip(base, theirs, strict=True)]
  )
  shown = [spread(lost[name], name) for name in names]
  return [spread(own, names[0]), *shown, *stated, f"{worse} of {len(known)}", verdict if known else dash]


def _kinds_against_cells(table: Table, line: Line, records: Records) -> list[str]:
  """What a line gains on clips of each kind against `table.against`, seed by seed, and how many seeds gain."""
  whole = {record["seed"]: record for record in records.get(table.against, ())}
  pairs = [(whole[each["seed"]], each) for each in records[line.row] if each["seed"] in whole]
  shown = []
  for kind in _KINDS:
    values = [
      (figure(before, kind, "iou_frame"), figure(after, kind, "iou_frame")) for before, after in pairs
    ]
    gained = [after - before for before, after in values if before is not None and after is not None]
    shown += [spread(gained, "iou_frame"), f"{sum(gain > 0 for gain in gained)} of {len(gained)}"]
  return shown


def _loss(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> float | None:
  first, second = figure(before, "positive", name), figure(after, "positive", name)
  return None if first is None or second is None else first - second


def _frontier_cells(records: Sequence[Mapping[str, Any]]) -> list[str]:
  swept = [record["frontier"] for record in records]
  if not all(swept):
    return ["–"] * len(_HEADS["frontier"])
  own = [100 * each["operating"]["iou_frame"] for each in swept]
  shown = [spread(own, "iou"), spread([each["operating"]["g_fpr"] for each in swept], "fpr")]
  for which in ("mask", "best"):
    for limit in frontier.LIMITS:
      found = [frontier.highest_iou(_with_operating(each, which), limit) for each in swept]
      shown.append(spread([None if value is None else 100 * value for value in found], "iou"))
  return shown


def _with_operating(swept: Mapping[str, Any], which: str) -> list[Mapping[str, Any]]:
  return [swept["operating"], *swept[which]]


def unseen_sounds(records: Records) -> list[str]:
  """Names of the unseen sounds that all records share, in their order."""
  return _shared(records, "unseen_")


def mixed_sounds(records: Records) -> list[str]:
  """Names of the own sounds under noise (`eval.noise_mix`) that all records share, in their order."""
  return _shared(records, "mixed_")


def _shared(records: Records, start: str) -> list[str]:
  every = [record["figures"] for some in records.values() for record in some]
  first = every[0] if every else {}
  return [name for name in first if name.startswith(start) and all(name in figures for figures in every)]


def lines_of(table: Table, records: Records) -> list[tuple[Line, str]]:
  """Lines to print, each with its sound where the table has one for each."""
  asked = {line.row: records[line.row] for line in table.lines if line.row in records}
  if table.form == "unseen":
    sounds = unseen_sounds(asked)
  elif table.form == "mixed":
    sounds = ["positive", *mixed_sounds(asked)]
  else:
    sounds = [""]
  return [(line, sound) for sound in sounds for line in table.lines]


def build(table: Table, records: Records) -> tuple[list[str], list[list[str]], list[str]]:
  """Header, rows and notes of a table.

  Raises:
    InputError: records of different data would share it.
  """
  words = (*(("sound",) if table.form in _BY_SOUND else ()), *table.labels)
  asked = {line.row: records[line.row] for line in table.lines if line.row in records}
  mixes = mixed_sounds(asked)
  header = ["data", *words, *heads(table.form, asked), "seeds"]
  special = {"against": _against_cells, "kinds_against": _kinds_against_cells}.get(table.form)
  doubts: dict[str, str] = {}
  rows = []
  for row in () if "against" in table.form else table.paper:
    mark = ""
    if row.doubt:
      mark = doubts.setdefault(row.doubt, f"†{len(doubts) + 1}")
    labels = list(row.labels) + [""] * (len(words) - len(row.labels))
    rows.append([f"AVSBench-{row.data}, printed{mark}", *labels, *_printed(row, table.form, len(mixes)), "–"])
  sets = {(r["data_set"], r["split"], r["clips"]) for some in asked.values() for r in some}
  if len(sets) > 1:
    listed = "; ".join(f"{data} {split}, {clips} clips" for data, split, clips in sorted(sets))
    raise InputError(f"{table.name}: its records are of different data ({listed}); keep one set of records.")
  absent = []
  for line, sound in lines_of(table, records):
    if line.row not in asked:
      absent.append(line.row)
      continue
    some = asked[line.row]
    labels = [*((said(sound.removeprefix("unseen_")),) if sound else ()), *line.labels]
    rows.append([
      f"{some[0]['data_set']}, ours",
      *labels,
      *(special(table, line, records) if special else cells(some, table.form, sound, mixes)),
      ", ".join(str(record["seed"]) for record in some),
    ])  # fmt: skip
  notes = [f"{mark} {doubt}." for doubt, mark in doubts.items()]
  if absent:
    notes.append(f"Not run: {', '.join(dict.fromkeys(absent))}.")
  return header, rows, notes


def _printed(row: PaperRow, form: str, mixes: int = 0) -> list[str]:
  """The cells of a printed line, digits as printed (fractions turned into per cents).

  Args:
    mixes: sounds of "conditions_mixed" that no printed line has.
  """
  dash, digits = "–", row.digits
  last, fpr = (2 if row.table == 8 else 3), (3 if row.table == 7 else 2)
  g = [dash] * 3 if row.g is None else [*(f"{value:.{last}f}" for value in row.g[:2]), f"{row.g[2]:.3f}"]
  if form == "globals":
    return g
  assert form != "refused", "no paper prints it"
  if form == "unseen":
    assert row.unseen is not None  # tables 5 and 6
    if row.is_fraction:
      return [*(f"{100 * value:.1f}" for value in row.unseen[:2]), f"{row.unseen[2]:.3g}"]
    return [*(f"{value:.2f}" for value in row.unseen[:2]), f"{row.unseen[2]:.3f}"]
  own = [dash] * 2 if row.own is None else [f"{value:.{digits}f}" for value in row.own]
  if form == "mixed":
    return [*own, dash, dash]
  if form == "kinds":
    return [*own, *[dash] * (len(_HEADS[form]) - 2)]
  own += [dash] * (2 * mixes if form == "conditions_mixed" else 0)
  triples = [dash] * 9
  if row.negatives is not None:
    triples = [
      cell
      for iou, f, share in row.negatives
      for cell in (f"{iou:.{digits}f}", f"{f:.{digits}f}", f"{share:.{fpr}f}")
    ]
  return [*own, *triples, *g]


def notes_of(table: Table, records: Records) -> list[str]:
  """What a reader must know of all such tables."""
  asked = [record for line in table.lines for record in records.get(line.row, ())]
  notes = ["iou_frame, f_max_batch20, g_iou and g_f in per cent, fpr and g_fpr as fractions."]
  if table.form == "frontier":
    notes.append(
      "Highest positive iou_frame at a threshold whose g_fpr keeps the bound: the threshold is chosen on the"
      " clips it is judged on, so these are upper bounds."
    )
  elif table.form == "against":
    notes.append('Lost against the whole model with the same seed; "holds" where every seed loses iou_frame.')
  elif table.form == "kinds":
    notes.append(
      "Own sound: on all test clips; on those in which an object sounds in some seconds only; on those that show two"
      " of one category, of which one sounds."
    )
  elif table.form == "refused":
    notes = [
      "In per cent. A second without a mask counts as IoU 0: what a gate that refuses own sounds costs."
    ]
  elif table.form == "kinds_against":
    notes.append(f"Gained against the row {table.against} with the same seed, on the same clips.")
  elif table.form == "unseen":
    notes.append("Against the object's own mask: low is good.")
  elif table.form == "mixed":
    notes.append(
      "The right mask under noise is that of the own sound: high is good, lost against clean is bad."
    )
  else:
    notes.append(
      "Under silence, noise and off-screen sound, against the object's own mask: low is good; g: high is good."
    )
  if table.form == "globals" and table.paper:
    notes.append("G-F of printed lines rests on F over the authors' own test batches.")
  if table.form == "conditions_mixed":
    notes.append('"own + NOISE" is the clip\'s own sound under noise at so many dB: high is good.')
  notes += _gated(table, records)
  if any(len(records.get(line.row, ())) > 1 for line in table.lines):
    notes.append("Mean ± standard deviation (n - 1) over the seeds.")
  if any(record["is_stand_in"] for record in asked):
    notes.append(f"STAND-IN DATA: {asked[0]['data_set']}; ours cannot be compared with the printed lines.")
  return notes


def _gated(table: Table, records: Records) -> list[str]:
  """A sentence for each line that was judged with its guide's gate: what it is without."""
  notes = []
  for line in table.lines:
    some = records.get(line.row, ())
    if not any(record.get("settings", {}).get("debias.gate") for record in some):
      continue
    bare = [spread([figure(each, "positive", "iou_frame_ungated") for each in some], "iou")]
    bare += [spread([figure(each, sound, "fpr_ungated") for each in some], "fpr") for sound in _SOUNDS]
    notes.append(
      f"{', '.join(line.labels)}: judged with its gate; the masks alone have own iou_frame {bare[0]}, fpr under"
      f" silence, noise and off-screen sound {', '.join(bare[1:])}."
    )
  return notes


def write(folder: str, study: Study, table: Table, records: Records, command: str) -> dict[str, str]:
  """Writes <table>.md and <table>.tex into `folder`. Returns {"md", "tex": path}."""
  header, rows, notes = build(table, records)
  left = 1 + len(table.labels) + (table.form in _BY_SOUND)
  told = [*notes_of(table, records), *notes]
  text = [f"## {table.title}", "", *tables.markdown(header, rows, left), ""]
  text += [*(line for note in told for line in (note, "")), f"    {command}", ""]
  caption = f"{table.title}. {' '.join(told)}"
  return {
    "md": tables.save(os.path.join(folder, f"{table.name}.md"), "\n".join(text)),
    "tex": tables.save(os.path.join(folder, f"{table.name}.tex"), tables.latex(header, rows, caption, left)),
  }


def write_summary(folder: str, study: Study, records: Records, command: str) -> str:
  """Writes comparison.* over all rows (avs_jax/comparison.py), and runs.md: what was run, on what, for how long."""
  boards = {
    name: [{**r["figures"], "global": r["global"], "record": r} for r in some]
    for name, some in records.items()
  }
  if boards:
    comparison.write(folder, boards, show=False, whole=False)
  names = [row.name for row in study.rows]
  text = [f"# {study.title}", "", *runs_table(names, records), "", f"    {command}", ""]
  return tables.save(os.path.join(folder, "runs.md"), "\n".join(text))
