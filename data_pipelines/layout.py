"""Writes any source of clips in AVSBench's published layout, so that the real reader meets real files.

The drawing is in `avsbench_index`. Beside the csv goes a marker that names the source: what was not AVSBench
does not become it by lying in its folders, and the reader's title keeps saying so.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import avsbench_index as files
from data_pipelines import transforms
from data_pipelines.audio import write_wav
from data_pipelines.clips import Clip, Source

JPEG_QUALITY = 95


def write_layout(source: Source, root: str | Path, subset: str, split: str) -> Path:
  """Writes every clip of `source` as `split` of `subset` under `root`; returns the folder with the csv.

  Frames as PNG (AVSS: JPEG, so not exact), masks as PNG, sound as 16 kHz 16-bit WAV. Rows of other clips that
  the csv has already are kept, rows of the same name and split replaced. S4 needs one category a clip: the
  first by name of `source.objects`. In S4's training split and AVSS's v1s only the first mask is written, as
  published.

  Raises:
    InputError: a clip that the layout cannot hold (its length, classes, no sound, a name taken), or a folder
      that holds the real data set, another source's clips or the clips that are read.
  """
  subset = files.subset_name(subset)
  if split not in files.SPLITS:
    raise InputError(f"{split!r} is no split of {subset}; choose train, val or test")
  home = Path(root) / files.HOMES[subset]
  read_from = getattr(source, "home", None)  # of a source that has files
  if read_from and home.resolve() == Path(read_from).resolve():
    raise InputError(f"{home}: writing there would replace what is read; give another folder.")
  _mark(home, source, subset, split)
  kept = _kept_rows(home, source, subset, split)
  rows = []
  for index in range(len(source)):
    clip = source.clip(index)
    row = _row(clip, sorted(source.objects(index)), subset, split)
    _write_clip(clip, row, home, subset, split)
    rows.append(row)
  with (home / files.TABLES[subset]).open("w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows([*kept, *rows])
  return home


def _row(clip: Clip, objects: list[str], subset: str, split: str) -> dict[str, str]:
  name = file_name(clip.id)
  if subset == "S4":
    return {
      "name": name,
      "start": "0",
      "category": file_name(objects[0] if objects else "any"),
      "split": split,
    }
  heard = "_".join(_plain(one) for one in objects)
  if subset == "MS3":
    return {"video_id": name, "split": split, "a_obj": heard}
  first_only = clip.annotated[0] and not clip.annotated[1:].any()
  label = "v2" if len(clip.frames) == 10 else "v1s" if first_only and split == "train" else "v1m"
  return {"uid": name, "label": label, "split": split, "a_obj": heard}


def _write_clip(clip: Clip, row: dict[str, str], home: Path, subset: str, split: str) -> None:
  made = {"S4": files.s4, "MS3": files.ms3, "AVSS": files.avss}[subset](home, split, row, frozenset())
  if len(clip.frames) != len(made.frames):
    lengths = "5 or 10" if subset == "AVSS" else "5"
    raise InputError(f"clip {clip.id} has {len(clip.frames)} seconds; {subset} holds clips of {lengths}")
  if clip.waveform is None:
    raise InputError(f"clip {clip.id} has no sound to write; read its source with data.audio=wav")
  if not clip.annotated[: len(made.masks)].all():
    raise InputError(
      f"clip {clip.id} lacks masks which {subset} {split} needs; write it as the training split"
    )
  for path, frame in zip(made.frames, clip.frames, strict=True):
    _save(path, frame, quality=JPEG_QUALITY, subsampling=0)
  for path, mask in zip(made.masks, clip.masks, strict=False):
    if subset != "AVSS":
      _save(path, (mask > 0).astype(np.uint8) * 255)
    elif mask.min() >= 0 and mask.max() < transforms.AVSS_CLASSES:
      _save(path, transforms.PALETTE[mask])
    else:
      raise InputError(f"clip {clip.id} has class {mask.max()}; AVSS holds classes 0 to 70")
  Path(made.wav).parent.mkdir(parents=True, exist_ok=True)
  write_wav(made.wav, clip.waveform)


def _save(path: str, pixels: np.ndarray, **options) -> None:
  Path(path).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)


def _mark(home: Path, source: Source, subset: str, split: str) -> None:
  """Refuses to mix sources, then writes what tells this folder from the real data set."""
  plain = file_name if subset == "S4" else _plain
  names = [plain(name) for name in source.categories]
  broad = dict(zip(names, source.broad, strict=True))
  present = files.stand_in(home)
  if present is None and (home / files.TABLES[subset]).exists():
    raise InputError(f"{home} holds a data set that was not written here; choose an empty folder")
  if present is not None and present["broad"] != broad:
    others = ", ".join(present["titles"].values())
    raise InputError(f"{home} holds clips of {others}; choose an empty folder for {source.title}")
  home.mkdir(parents=True, exist_ok=True)
  marker = {"titles": {**(present["titles"] if present else {}), split: source.title}, "broad": broad}
  (home / files.MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
  if subset == "AVSS":
    names = ["background", *names][: transforms.AVSS_CLASSES]
    names += [f"class-{k}" for k in range(len(names), transforms.AVSS_CLASSES)]
    table = {name: k for k, name in enumerate(names)}
    (home / "label2idx.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def _kept_rows(home: Path, source: Source, subset: str, split: str) -> list[dict[str, str]]:
  """The rows that stay in the csv. Refuses names that would share files."""
  names = {file_name(name) for name in source.ids}
  if len(names) < len(source.ids) or not names:
    raise InputError(f"{source.title} has no clips, or two with the same file name; give them unique ids")
  table, key = home / files.TABLES[subset], files.COLUMNS[subset][0]
  rows = files.read_rows(table, ()) if table.exists() else []
  taken = {row[key] for row in rows if row["split"] != split} & names
  if taken and subset != "S4":  # MS3's frames and AVSS's clips lie outside any split's folder
    raise InputError(f"{table}: {min(taken)} belongs to another split already; give the clips unique ids")
  return [row for row in rows if row["split"] != split or row[key] not in names]


def file_name(name: str) -> str:
  """`name` with every character that is not a letter, digit or one of ._+- turned into _."""
  return re.sub(r"[^\w.+-]", "_", name).strip(".") or "_"


def _plain(name: str) -> str:
  """A category for a_obj, where _ parts the categories."""
  return file_name(name).replace("_", "-")
