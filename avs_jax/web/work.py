"""What a job of the page does: a video under the chosen sound through the model, and files of what it says."""

import contextlib
import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax import export
from avs_jax.errors import InputError
from avs_jax.own_video import products
from avs_jax.web.app import SOUNDS
from avs_jax.web.jobs import Limits

MOST_PIXELS = 3840 * 2160  # of a frame
WRITTEN = ("overlay", "csv", "rle", "masks")
FILES = {
  "overlay.mp4": "Video with masks",
  "timeline.csv": "Timeline (CSV)",
  "masks.json": "Masks (COCO RLE)",
  "masks.zip": "Masks (PNG)",
}
FOUR_FILES = {
  "listen.mp4": "Four sounds (video)",
  "listen.png": "Four sounds (picture)",
  "listen.json": "Four sounds (figures)",
}

Tell = Callable[[float, str], None]


class Work:
  """Applies one predictor to one job after the other."""

  def __init__(self, predictor: Any, limits: Limits):
    self.predictor, self.limits = predictor, limits

  def __call__(
    self, ask: Mapping[str, Any], outbox: Path, tell: Tell
  ) -> tuple[dict[str, Any], dict[str, str]]:
    """Raises `InputError` for files that cannot be read or are too long."""
    tell(0.0, "Reading the video …")
    footage = self.open(ask)
    heard = under(footage, ask)
    length_s = min(footage.duration_s or self.limits.seconds, self.limits.seconds)
    share = 0.3 if ask["four"] else 1.0
    facts = {
      "model": {"name": self.predictor.name, "weights": self.predictor.weights_digest},
      "source": ask["name"],
      "sound": ask["sound"],
      "settings": {"every": ask["every"]},
    }
    rows = []
    with contextlib.ExitStack() as stack:
      writers = [stack.enter_context(products.WRITERS[name](outbox, heard, facts, 0.0)) for name in WRITTEN]
      for said in self.predictor.predict(heard, every=ask["every"], end=self.limits.seconds):
        for writer in writers:
          writer.add(said)
        rows.append(row(said))
        done_s = min(said.until_s, length_s)
        tell(share * done_s / length_s, f"Second {done_s:.0f} of {length_s:.0f}")
      rename(heard.notes, ask)
    zip_folder(outbox / "masks", outbox / "masks.zip")
    summary = summarise(rows, ask, heard.notes)
    if ask["four"]:
      summary["four"] = self.four_sounds(
        footage,
        ask,
        outbox,
        lambda done_s: tell(share + (1 - share) * done_s / length_s, "The four sounds …"),
      )
    return summary, {
      name: title for name, title in {**FILES, **FOUR_FILES}.items() if (outbox / name).is_file()
    }

  def four_sounds(
    self, footage: Any, ask: Mapping[str, Any], outbox: Path, tell: Callable[[float], None]
  ) -> dict[str, Any]:
    """Listen mode's files beside the others, and its verdict."""
    from avs_jax.own_video import listen
    from data_pipelines import foreign_sounds

    sounds = {name: foreign_sounds.under(footage, name) for name in foreign_sounds.SOUNDS}
    names = {
      "positive": "own sound",
      "silence": "silence",
      "noise": "noise",
      "offscreen": f"off-screen ({foreign_sounds.OFFSCREEN})",
    }
    limit_s = self.limits.seconds

    def moments() -> Iterator[Any]:
      for moment in listen.predicted(self.predictor, footage, sounds, start=0.0, end=limit_s):
        tell(min(moment.until_s, footage.duration_s or limit_s))
        yield moment
      rename(footage.notes, ask)

    folder = outbox / "four"
    verdict = listen.judge(
      folder, footage, sounds, names, moments(), start=0.0, end=limit_s, who=self.predictor.name
    )
    for name in FOUR_FILES:
      (folder / name).rename(outbox / name)
    return {"video": "listen.mp4", "verdict": verdict}

  def open(self, ask: Mapping[str, Any]) -> Any:
    """The video, if it is not too long or too large.

    Raises:
      InputError: it cannot be read, or is too long or too large.
    """
    from data_pipelines import video

    # The visitor's name of the file is what figures and pictures are to say.
    footage = dataclasses.replace(video.open_footage(ask["video"]), path=ask["name"])
    height, width = footage.size
    if height * width > MOST_PIXELS:
      raise InputError(
        f"{ask['name']} is {width} x {height} pixels; at most 3840 x 2160 are taken here: scale it down."
      )
    most_s, lasts = self.limits.seconds + 1, f"{footage.duration_s or 0:.0f} s"
    too_long = (footage.duration_s or 0) > most_s
    if footage.duration_s is None:  # a recording that was never closed does not say
      too_long = any(picture.time_s > most_s for picture in footage.pictures(most_s))
      lasts = f"more than {most_s:g} s"
    if too_long:
      raise InputError(
        f"{ask['name']} lasts {lasts}; at most {self.limits.seconds:g} s are taken here: cut"
        " it, or use run.py --mode=predict, which takes any length."
      )
    return footage


def under(footage: Any, ask: Mapping[str, Any]) -> Any:
  """The video under the sound that was asked for."""
  from data_pipelines import foreign_sounds, video

  if ask["sound"] == "own":
    return footage
  if ask["sound"] in ("file", "recorded"):
    return video.with_sound(footage, ask["sound_file"])
  return foreign_sounds.under(footage, ask["sound"])


def rename(notes: list[str], ask: Mapping[str, Any]) -> None:
  """Notes name files as the visitor does."""
  for path, name in ((ask["video"], ask["name"]), (ask.get("sound_file"), ask.get("sound_name"))):
    if path:
      notes[:] = [note.replace(path, name) for note in notes]


def row(said: Any) -> dict[str, Any]:
  """A step of the page's timeline."""
  return {
    "start_s": round(said.time_s, 3),
    "end_s": round(said.until_s, 3),
    "area": round(said.area, 4),
    "score": round(said.score, 4),
    "similarity": None if said.similarity is None else round(said.similarity, 4),
    "labels": list(said.labels),
  }


def summarise(rows: list[dict[str, Any]], ask: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
  """What the page shows beside the video; means are weighted by time."""
  lengths = np.array([each["end_s"] - each["start_s"] for each in rows])
  areas = np.array([each["area"] for each in rows])
  similar = [each["similarity"] for each in rows]
  has_similarity = similar[0] is not None
  return {
    "name": ask["name"],
    "sound": SOUNDS[ask["sound"]].lower(),
    "overlay": "overlay.mp4",
    "four": None,
    "timeline": rows,
    "seconds": round(float(lengths.sum()), 3),
    "sounding_s": round(float(lengths[areas > 0].sum()), 3),
    "mean_area": round(float(np.average(areas, weights=lengths)), 4),
    "mean_similarity": round(float(np.average(similar, weights=lengths)), 4) if has_similarity else None,
    "notes": list(notes),
  }


def zip_folder(folder: Path, path: Path) -> None:
  """Pictures are packed as they are: they are compressed already."""
  with zipfile.ZipFile(path, "w") as archive:
    for each in sorted(folder.iterdir()):
      archive.write(each, f"masks/{each.name}")
      each.unlink()


def about(predictor: Any) -> dict[str, Any]:
  """What the page says of the model."""
  trained_on, is_stand_in = export.training_data(predictor.config)
  return {
    "title": predictor.name,
    "trained_on": predictor.card.get("trained_on", trained_on),
    "is_stand_in": predictor.card.get("is_stand_in", is_stand_in),
    "weights": predictor.weights_digest,
    "seconds": predictor.seconds,
  }
