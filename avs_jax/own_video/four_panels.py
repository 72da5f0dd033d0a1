"""The same pictures under four sounds, side by side: as a video of four panels, and as one picture."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from avs_jax.own_video.film import Film
from avs_jax.own_video.overlay import Sound, label, paint
from avs_jax.visualize import FALSE_ALARM, HIT, save

PANEL_WIDTH = 640  # pixels, most
COLUMNS = 6  # seconds in the picture, most


@dataclasses.dataclass(frozen=True)
class Moment:
  """One second: the mask, and the similarity if the model gives one, under each sound."""

  time_s: float
  until_s: float
  picture_s: float
  masks: Mapping[str, Bool[np.ndarray, "H W"]]
  similarity: Mapping[str, float | None]


class Grid:
  """The 2 x 2 video, with a sound track for each panel; used in a `with` statement."""

  def __init__(
    self, path: Path, footage: Any, sounds: Mapping[str, Any], names: Mapping[str, str], start: float
  ):
    height, width = footage.size
    scale = min(1.0, PANEL_WIDTH / width)
    self.panel = (max(2, round(height * scale)), max(2, round(width * scale)))
    self.footage, self.names, self.start = footage, names, start
    heard = {name: each for name, each in sounds.items() if each.has_sound}
    self.sounds = [Sound(each, start) for each in heard.values()]
    tracks = [(each.rate_hz, each.channels) for each in heard.values()]
    size = (2 * self.panel[0], 2 * self.panel[1])
    self.film = Film(path, size, footage.fps, tracks, titles=[names[name] for name in heard])
    self.shown: dict[str, UInt8[np.ndarray, "h w 3"]] = {}

  def __enter__(self) -> "Grid":
    self.film.__enter__()
    self.pictures = self.footage.pictures(self.start)
    self.ahead = next(self.pictures, None)
    return self

  def add(self, moment: Moment) -> None:
    """Adds all pictures of a second; `shown` are the panels of the one that was judged."""
    from data_pipelines.transforms import resize_frames, resize_mask

    masks = {name: resize_mask(mask, self.panel) for name, mask in moment.masks.items()}
    while self.ahead is not None and self.ahead.time_s < moment.until_s - 1e-6:
      frame = resize_frames(self.ahead.read()[None], self.panel)[0]
      panels = {name: self.panel_of(frame, masks.get(name), name) for name in self.names}
      if not self.shown or self.ahead.time_s <= moment.picture_s:
        self.shown = panels
      rows = [np.concatenate(list(panels.values())[i : i + 2], axis=1) for i in (0, 2)]
      self.film.picture(np.concatenate(rows), max(0.0, self.ahead.time_s - self.start))
      self.ahead = next(self.pictures, None)
    for track, sound in enumerate(self.sounds):
      for block in sound.until(moment.until_s - self.start):
        self.film.sound(block, track)

  def panel_of(
    self, frame: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None, name: str
  ) -> UInt8[np.ndarray, "h w 3"]:
    if mask is None:
      return label(np.zeros_like(frame), f"{self.names[name]}: no masks")
    is_own = name == "positive"
    marked = paint(frame, mask, HIT if is_own else FALSE_ALARM, stripes=not is_own)
    return label(marked, f"{self.names[name]}: {area(float(mask.mean()))}")

  def __exit__(self, *error: Any) -> None:
    self.film.__exit__(*error)


def area(share: float) -> str:
  """A share of the picture in words."""
  return f"{100 * share:.1f} % marked" if share else "nothing marked"


class Columns:
  """Keeps the panels of a few seconds, evenly spaced."""

  def __init__(self, footage: Any, start: float, end: float | None):
    until = min(t for t in (end, footage.duration_s, math.inf) if t is not None)
    count = max(1, math.ceil(until - start)) if math.isfinite(until) else COLUMNS
    self.wanted = {(2 * i + 1) * count // (2 * min(COLUMNS, count)) for i in range(min(COLUMNS, count))}
    self.kept: list[tuple[float, dict[str, np.ndarray]]] = []
    self.seen = 0

  def add(self, moment: Moment, panels: dict[str, np.ndarray]) -> None:
    if self.seen in self.wanted or not self.kept:
      self.kept = [*self.kept[-(COLUMNS - 1) :], (moment.time_s, dict(panels))]
    self.seen += 1


def picture(
  path: Path,
  columns: Sequence[tuple[float, Mapping[str, np.ndarray]]],
  names: Mapping[str, str],
  figures: Mapping[str, Mapping[str, float | None]],
  caption: str,
) -> None:
  """The kept seconds: a row a sound, a column a second."""
  from matplotlib.figure import Figure

  rows = [name for name in names if name in figures]
  height, width = columns[0][1][rows[0]].shape[:2]
  tall = 1.9 * height / width
  figure = Figure(figsize=(1.9 * len(columns) + 1.7, tall * len(rows) + 1.0), layout="constrained")
  axes = figure.subplots(len(rows), len(columns), squeeze=False)
  for r, name in enumerate(rows):
    for c, (time_s, panels) in enumerate(columns):
      axis = axes[r][c]
      axis.imshow(panels[name])
      axis.set_xticks([])
      axis.set_yticks([])
      if r == 0:
        axis.set_title(f"{time_s:.0f} s", fontsize=8)
    text = f"{names[name]}\n{area(figures[name]['area'] or 0.0)}"
    axes[r][0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
  figure.suptitle(textwrap.fill(caption, 24 * (len(columns) + 1)), fontsize=8)
  figure.supxlabel(
    "green: marked under the own sound   orange stripes: marked under another, a false alarm", fontsize=8
  )
  save(figure, str(path))
