"""What a prediction leaves on disk: an overlay, mask pictures, COCO masks, a timeline, arrays.

FOLDER/overlay.mp4       the video with its masks and its own sound
FOLDER/masks/<k>.png     0 and 255, k the number of the prediction; of classes a palette picture of class ids
FOLDER/masks.json        COCO RLE of every mask, schema avs_jax.masks/1
FOLDER/timeline.csv      what sounds when
FOLDER/arrays.npz        time_s, until_s, probability [N, h, w] at the model's size, size (H, W) of the video, and
                         similarity, uncertainty, classes where the model has them

Every writer holds one prediction at a time, and writes the same bytes for the same predictions.
"""

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from avs_jax.errors import InputError
from avs_jax.own_video import rle
from avs_jax.own_video.overlay import Overlay
from avs_jax.own_video.prediction import Prediction

SCHEMA = "avs_jax.masks/1"
FILES = {
  "overlay": "overlay.mp4", "masks": "masks", "rle": "masks.json", "csv": "timeline.csv", "npz": "arrays.npz"
}  # fmt: skip
HEADER = (
  *("start_s", "end_s", "sounds", "area", "score", "similarity", "uncertainty"),
  *("class", "class_name", "class_score", "class_area"),
)


def chosen(names: str) -> tuple[str, ...]:
  """The writers that a comma-separated list names. Raises `InputError` for another word."""
  words = tuple(dict.fromkeys(word.strip() for word in names.split(",") if word.strip()))
  unknown = [word for word in words if word not in WRITERS]
  if unknown or not words:
    raise InputError(f"--write={names}: {unknown[0] if unknown else 'nothing'!r} cannot be written; choose from"
                     f" {', '.join(WRITERS)}.")  # fmt: skip
  return words


class Masks:
  """A PNG a prediction, in the folder and form that --mode=score and --mode=listen read."""

  def __init__(self, folder: Path, footage: Any, facts: Mapping[str, Any], start: float):
    del footage, facts, start
    self.folder = folder / FILES["masks"]

  def __enter__(self) -> "Masks":
    self.folder.mkdir()
    return self

  def add(self, said: Prediction) -> None:
    if said.classes is None:
      image = Image.fromarray(said.mask.astype(np.uint8) * 255)
    else:
      from data_pipelines.transforms import PALETTE

      image = Image.fromarray(said.classes.astype(np.uint8), mode="P")
      image.putpalette(PALETTE.reshape(-1).tolist())
    image.save(self.folder / f"{said.number:05d}.png")

  def __exit__(self, *error: Any) -> None:
    pass


class Rle:
  """masks.json; one line a prediction."""

  def __init__(self, folder: Path, footage: Any, facts: Mapping[str, Any], start: float):
    del start
    self.path, self.footage, self.facts = folder / FILES["rle"], footage, facts

  def __enter__(self) -> "Rle":
    self.file, self.count = open(self.path, "w", encoding="utf-8"), 0
    head = {"schema": SCHEMA, **self.facts}
    self.file.write(json.dumps(head, sort_keys=True)[:-1] + ', "predictions": [')
    return self

  def add(self, said: Prediction) -> None:
    entry: dict[str, Any] = {**figures(said), "segmentation": rle.encode(said.mask)}
    if said.classes is not None:
      entry["classes"] = [
        {"id": k, "name": name, "score": round(score, 6), "area": round(area, 6),
         "segmentation": rle.encode(said.classes == k)}
        for k, name, score, area in said.sounding
      ]  # fmt: skip
    self.file.write((",\n" if self.count else "\n") + json.dumps(entry))
    self.count += 1

  def __exit__(self, *error: Any) -> None:
    self.file.write('\n], "notes": ' + json.dumps(self.footage.notes) + "}\n")
    self.file.close()


class Timeline:
  """timeline.csv; a row a prediction, or a row for each class that sounds in it."""

  def __init__(self, folder: Path, footage: Any, facts: Mapping[str, Any], start: float):
    del footage, facts, start
    self.path = folder / FILES["csv"]

  def __enter__(self) -> "Timeline":
    self.file = open(self.path, "w", newline="", encoding="utf-8")
    self.rows = csv.writer(self.file, lineterminator="\n")
    self.rows.writerow(HEADER)
    return self

  def add(self, said: Prediction) -> None:
    own = figures(said)
    row = [own["time_s"], own["until_s"], int(own["area"] > 0), own["area"], own["score"]]
    row += [own.get("similarity", ""), own.get("uncertainty", "")]
    for k, name, score, area in said.sounding or [("", "", "", "")]:
      numbers = [x if x == "" else round(x, 6) for x in (score, area)]
      self.rows.writerow([*row, k, name, *numbers])

  def __exit__(self, *error: Any) -> None:
    self.file.close()


class Arrays:
  """arrays.npz; large arrays are collected on disk."""

  def __init__(self, folder: Path, footage: Any, facts: Mapping[str, Any], start: float):
    del facts, start
    self.path, self.size = folder / FILES["npz"], footage.size

  def __enter__(self) -> "Arrays":
    self.columns: dict[str, Column] = {}
    return self

  def add(self, said: Prediction) -> None:
    values = {
      "time_s": said.time_s,
      "until_s": said.until_s,
      "probability": said.coarse,
      "similarity": said.similarity,
      "uncertainty": said.coarse_uncertainty,
      "classes": said.coarse_classes,
    }
    for name, value in values.items():
      if value is None:
        continue
      if name not in self.columns:
        self.columns[name] = Column(self.path.with_name(f".{name}.raw"))
      self.columns[name].add(np.asarray(value))

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      if kind is None:
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED) as archive:
          for name, column in self.columns.items():
            column.write(archive, name)
          with archive.open(entry_named("size"), "w") as file:
            np.lib.format.write_array(file, np.array(self.size))
    finally:
      for column in self.columns.values():
        column.path.unlink(missing_ok=True)


class Column:
  """Arrays of one shape, appended to a file until their number is known."""

  def __init__(self, path: Path):
    self.path, self.count = path, 0
    path.unlink(missing_ok=True)

  def add(self, value: np.ndarray) -> None:
    self.shape, self.dtype = value.shape, value.dtype
    with open(self.path, "ab") as file:
      file.write(np.ascontiguousarray(value).tobytes())
    self.count += 1

  def write(self, archive: zipfile.ZipFile, name: str) -> None:
    head = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
    with archive.open(entry_named(name), "w", force_zip64=True) as file, open(self.path, "rb") as raw:
      np.lib.format.write_array_header_1_0(file, head)
      while piece := raw.read(1 << 20):
        file.write(piece)


def entry_named(name: str) -> zipfile.ZipInfo:
  """An entry of an npz that does not say when it was written."""
  info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
  info.compress_type = zipfile.ZIP_DEFLATED
  return info


def figures(said: Prediction) -> dict[str, Any]:
  """The numbers of a prediction, as JSON and CSV hold them."""
  found = {
    "number": said.number,
    "time_s": said.time_s,
    "until_s": said.until_s,
    "picture_s": said.picture_s,
    "area": said.area,
    "score": said.score,
  }
  if said.similarity is not None:
    found["similarity"] = said.similarity
  if said.coarse_uncertainty is not None:
    found["uncertainty"] = float(said.coarse_uncertainty.mean())
  return {name: round(value, 6) for name, value in found.items()}


class OverlayFile(Overlay):
  """overlay.mp4."""

  def __init__(self, folder: Path, footage: Any, facts: Mapping[str, Any], start: float):
    del facts
    super().__init__(folder / FILES["overlay"], footage, start)


WRITERS: dict[str, Any] = {
  "overlay": OverlayFile,
  "masks": Masks,
  "rle": Rle,
  "csv": Timeline,
  "npz": Arrays,
}
