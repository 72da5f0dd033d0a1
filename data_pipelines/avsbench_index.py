"""Which files a split of AVSBench consists of, by the csv that comes with it, and which of them are missing.

S4    Single-source/s4_meta_data.csv (name, category, split) and s4_data/
        visual_frames/<split>/<category>/<name>/<name>_<k>.png   k = 1..5
        gt_masks/<split>/<category>/<name>/<name>_<k>.png        train: k = 1 only
        audio_wav/<split>/<category>/<name>.wav                  and/or audio_log_mel/.../<name>.pkl
MS3   Multi-sources/ms3_meta_data.csv (video_id, split) and ms3_data/
        visual_frames/<id>/<id>.mp4_<k>.png                      k = 1..5; ".mp4" is really in the name
        gt_masks/<split>/<id>/<id>_<k>.png                       all five in every split
        audio_wav/<split>/<id>.wav                               and/or audio_log_mel/<split>/<id>.pkl
AVSS  metadata.csv (uid, label, split), label2idx.json and, label being v1s, v1m or v2,
        <label>/<uid>/frames/<k>.jpg, labels_rgb/<k>.png         k = 0..4, v2: 0..9; v1s train: label 0 only
        <label>/<uid>/audio.wav
"""

import csv
import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from avs_jax.errors import InputError
from data_pipelines.transforms import AVSS_CLASSES

SPLITS = ("train", "val", "test")
TITLES = ("S4", "MS3", "AVSS")
ALIASES = {
  "s4": "S4",
  "v1s": "S4",
  "single-source": "S4",
  "ms3": "MS3",
  "v1m": "MS3",
  "multi-source": "MS3",
  "multi-sources": "MS3",
  "avss": "AVSS",
  "v2": "AVSS",
  "avsbench-semantic": "AVSS",
}
VPO_NAMES = ("vpo_ss", "vpo_ms", "vpo_msmi")
# What `data.name` takes, for messages; case does not matter, nor - for _.
DATA_NAMES = "s4 (V1S, single-source), ms3 (V1M, multi-sources), avss (V2, AVSBench-semantic), " + ", ".join(
  VPO_NAMES
)
HOMES = {"S4": "Single-source", "MS3": "Multi-sources", "AVSS": "AVSBench-semantic"}
TABLES = {"S4": "s4_meta_data.csv", "MS3": "ms3_meta_data.csv", "AVSS": "metadata.csv"}
COLUMNS = {
  "S4": ("name", "category", "split"),
  "MS3": ("video_id", "split"),
  "AVSS": ("uid", "label", "split"),
}
SECONDS = {"S4": 5, "MS3": 5, "AVSS": 10}
PUBLISHED_CLIPS = {
  "S4": {"train": 3452, "val": 740, "test": 740},
  "MS3": {"train": 296, "val": 64, "test": 64},
}
AVSS_SECONDS = {"v1s": 5, "v1m": 5, "v2": 10}
MARKER = "stand_in.json"  # written beside the csv when the clips are not the real data set's


@dataclasses.dataclass(frozen=True)
class Entry:
  """The files of one clip; mask k belongs to frame k, and later frames have none."""

  id: str
  group: str  # S4: category; AVSS: v1s, v1m, v2; MS3: ""
  objects: frozenset[str]
  frames: tuple[str, ...]
  masks: tuple[str, ...]
  wav: str
  log_mel: str  # "" where the layout has none

  def sounds(self, audio: str) -> str:
    return self.wav if audio == "wav" else self.log_mel


def subset_name(name: str) -> str:
  """S4, MS3 or AVSS from any of the names in use.

  Raises:
    InputError: no subset is called so.
  """
  title = ALIASES.get(str(name).lower().replace("_", "-"))
  if title is None:
    raise InputError(f"{name!r} is no subset of AVSBench; choose s4 (V1S), ms3 (V1M) or avss (V2)")
  return title


def data_name(name: str) -> str:
  """s4, ms3, avss, vpo_ss, vpo_ms or vpo_msmi: `data.name` from any of the names in use.

  Raises:
    InputError: no data set is called so.
  """
  plain = str(name).lower().replace("_", "-")
  if plain.replace("-", "_") in VPO_NAMES:
    return plain.replace("-", "_")
  if plain not in ALIASES:
    raise InputError(f"data.name={name!r} is not a data set; choose one of {DATA_NAMES}.")
  return ALIASES[plain].lower()


def find_home(root: str | Path, subset: str) -> Path:
  """The folder that holds the subset's csv: `root` itself or its published folder inside `root`.

  Raises:
    InputError: the csv is in neither.
  """
  root = Path(root).expanduser()
  for home in (root, root / HOMES[subset]):
    if (home / TABLES[subset]).is_file():
      return home
  what = "is not a folder" if not root.is_dir() else "has neither"
  raise InputError(
    f"{subset}: {root} {what} {TABLES[subset]}"
    + ("" if not root.is_dir() else f" nor {HOMES[subset]}/{TABLES[subset]}")
    + "; set data.root to the folder with the published layout (docs/data.md draws it)"
  )


def read_rows(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
  """The rows of a csv by column name.

  Raises:
    InputError: the csv cannot be read or lacks a column, or a value names no clip.
  """
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file)
      found = [name.strip() for name in reader.fieldnames or ()]
      missing = [name for name in columns if name not in found]
      if missing:
        raise InputError(
          f"{path}: no column {', '.join(missing)} (it has {', '.join(found) or 'none'});"
          " use the published csv"
        )
      reader.fieldnames = found
      rows = [{k: v.strip() for k, v in row.items() if k and isinstance(v, str)} for row in reader]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"{path}: not a readable csv ({error}); use the published one") from error
  for number, row in enumerate(rows, 2):
    for name in columns:
      value = row.get(name, "")
      if not value or value in (".", "..") or "/" in value or "\\" in value or "\0" in value:
        raise InputError(
          f"{path}: row {number} has {name}={value!r}, which names no clip; mend or remove the row"
        )
  return rows


def entries(home: Path, subset: str, split: str) -> list[Entry]:
  """The clips of a split in the order of the csv. Does not look whether their files exist.

  Raises:
    InputError: unknown split, broken csv, or no clip of the split.
  """
  if split not in SPLITS:
    raise InputError(f"{split!r} is no split of {subset}; choose train, val or test")
  table = home / TABLES[subset]
  rows = read_rows(table, COLUMNS[subset])
  key = COLUMNS[subset][0]
  chosen = {row[key]: row for row in rows if row["split"] == split}  # a row given twice counts once
  if not chosen:
    has = ", ".join(sorted({row["split"] for row in rows})) or "no rows"
    raise InputError(f"{table}: no row of the split {split!r} (it has {has}); use the published csv")
  heard = _objects_of_ms3(home, rows) if subset == "MS3" else {}
  make = {"S4": s4, "MS3": ms3, "AVSS": avss}[subset]
  return [
    make(home, split, row, heard.get(name, _listed(row.get("a_obj", "")))) for name, row in chosen.items()
  ]


def s4(home: Path, split: str, row: dict, _: frozenset) -> Entry:
  name, category = row["name"], row["category"]
  data, place = home / "s4_data", f"{split}/{category}/{name}"
  return Entry(
    name,
    category,
    frozenset((category,)),
    tuple(f"{data}/visual_frames/{place}/{name}_{k}.png" for k in range(1, 6)),
    tuple(f"{data}/gt_masks/{place}/{name}_{k}.png" for k in range(1, 2 if split == "train" else 6)),
    f"{data}/audio_wav/{place}.wav",
    f"{data}/audio_log_mel/{place}.pkl",
  )


def ms3(home: Path, split: str, row: dict, objects: frozenset) -> Entry:
  name, data = row["video_id"], home / "ms3_data"
  return Entry(
    name,
    "",
    objects,
    tuple(f"{data}/visual_frames/{name}/{name}.mp4_{k}.png" for k in range(1, 6)),
    tuple(f"{data}/gt_masks/{split}/{name}/{name}_{k}.png" for k in range(1, 6)),
    f"{data}/audio_wav/{split}/{name}.wav",
    f"{data}/audio_log_mel/{split}/{name}.pkl",
  )


def avss(home: Path, split: str, row: dict, objects: frozenset) -> Entry:
  """The clip of one row of AVSS's csv.

  Raises:
    InputError: the label is none of `AVSS_SECONDS`.
  """
  name, label = row["uid"], row["label"]
  if label not in AVSS_SECONDS:
    raise InputError(f"{home / TABLES['AVSS']}: {name} has label={label!r}, expected v1s, v1m or v2")
  data, seconds = home / label / name, AVSS_SECONDS[label]
  annotated = 1 if (label, split) == ("v1s", "train") else seconds
  return Entry(
    name,
    label,
    objects,
    tuple(f"{data}/frames/{k}.jpg" for k in range(seconds)),
    tuple(f"{data}/labels_rgb/{k}.png" for k in range(annotated)),
    f"{data}/audio.wav",
    "",
  )


def _listed(objects: str) -> frozenset[str]:
  return frozenset(part for part in objects.split("_") if part)


def _objects_of_ms3(home: Path, rows: list[dict]) -> dict[str, frozenset[str]]:
  """a_obj of each clip: from MS3's own csv where it has the column, else from AVSS's metadata.csv nearby."""
  if rows and "a_obj" in rows[0]:
    return {}
  for folder in (home, home.parent, home.parent / HOMES["AVSS"]):
    if (folder / TABLES["AVSS"]).is_file():
      known = read_rows(folder / TABLES["AVSS"], COLUMNS["AVSS"])
      return {row["uid"]: _listed(row.get("a_obj", "")) for row in known if row["label"] == "v1m"}
  return {}


def missing(files: Iterable[str], listing: dict[str, frozenset[str]] | None = None) -> list[str]:
  """Those of `files` that do not exist, by one listing a folder; `listing` keeps folders between calls."""
  listing = {} if listing is None else listing
  gone = []
  for file in files:
    folder, name = os.path.split(file)
    if folder not in listing:
      try:
        listing[folder] = frozenset(os.listdir(folder))
      except OSError:
        listing[folder] = frozenset()
    if name not in listing[folder]:
      gone.append(file)
  return gone


def class_names(home: Path) -> tuple[str, ...]:
  """AVSS's 71 names by class, background first, from label2idx.json.

  Raises:
    InputError: the file is missing or broken, or does not number 71 classes.
  """
  path = home / "label2idx.json"
  try:
    table = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise InputError(f"{path}: missing; it comes with AVSS and names its 71 classes") from error
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: not readable as JSON ({error}); copy it again") from error
  if not isinstance(table, dict) or sorted(map(str, table.values())) != sorted(map(str, range(AVSS_CLASSES))):
    raise InputError(f"{path}: expected an object of {AVSS_CLASSES} names valued 0 to 70; copy it again")
  return tuple(sorted(table, key=lambda name: int(table[name])))


def stand_in(home: Path) -> dict | None:
  """What the marker says of clips that are not the real data set's: titles by split, group by category.

  Raises:
    InputError: the marker is damaged.
  """
  path = home / MARKER
  if not path.exists():
    return None
  try:
    said = json.loads(path.read_text(encoding="utf-8"))
    return {"titles": dict(said["titles"]), "broad": dict(said["broad"])}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path}: the stand-in's marker is damaged ({error}); write the clips again") from error
