"""The video itself with the masks painted over it, in step with its own sound."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from avs_jax.own_video.film import Film
from avs_jax.own_video.prediction import Prediction

COLOUR = (0, 158, 115)  # of a binary mask; classes have PASCAL VOC's colours
OPACITY = 0.45
STRIPE = 0.8  # opacity of a stripe
EDGE = (255, 255, 255)


def paint(
  frame: UInt8[np.ndarray, "H W 3"],
  mask: Bool[np.ndarray, "H W"],
  colour: tuple[int, int, int] | UInt8[np.ndarray, "H W 3"] = COLOUR,
  *,
  stripes: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
  """The frame with the mask tinted and its edge drawn in white.

  Args:
    colour: RGB, or one for each pixel.
    stripes: tint every second diagonal stripe alone, and strongly: no object looks like that by itself.
  """
  picture = frame.copy()
  if not mask.any():
    return picture
  width = max(1, min(frame.shape[:2]) // 360)
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))  # only there is anything to do
  box = tuple(slice(max(0, line[0] - width), line[-1] + 1 + width) for line in (rows, columns))
  inside, area = mask[box], picture[box]
  tint = np.asarray(colour, np.uint8) if isinstance(colour, tuple) else colour[box][inside]
  share = np.full(inside.shape, OPACITY)
  if stripes:
    y, x = np.indices(inside.shape)
    share = np.where((x + y) // (4 * width + 2) % 2, STRIPE, 0.0)
  share = share[inside][:, None]
  area[inside] = ((1 - share) * area[inside] + share * tint).astype(np.uint8)
  area[edge(inside, width)] = EDGE
  return picture


def edge(mask: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
  """Pixels of the mask within `width` of its outside; a picture's border is no outside."""
  inner = mask
  for _ in range(width):
    wide = np.pad(inner, 1, mode="edge")
    inner = inner & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
  return mask & ~inner


def label(picture: UInt8[np.ndarray, "H W 3"], text: str, *, height: int = 0) -> UInt8[np.ndarray, "H W 3"]:
  """The picture with a line of white text on black in its upper left corner."""
  image = Image.fromarray(picture)
  draw, size = ImageDraw.Draw(image), height or max(10, picture.shape[0] // 24)
  font = ImageFont.load_default(size)
  left, top, right, bottom = draw.textbbox((size // 3, size // 4), text, font=font)
  draw.rectangle((0, 0, right + size // 3, bottom + size // 4), fill=(0, 0, 0))
  draw.text((size // 3, size // 4), text, fill=(255, 255, 255), font=font)
  return np.asarray(image)


def painted(frame: UInt8[np.ndarray, "H W 3"], said: Prediction) -> UInt8[np.ndarray, "H W 3"]:
  """A frame with what was predicted; classes in their own colours, named."""
  if said.classes is None:
    return paint(frame, said.mask)
  from data_pipelines.transforms import PALETTE

  colours = PALETTE[said.classes % len(PALETTE)]
  picture = paint(frame, said.mask, colours)
  named = ", ".join(f"{name} {score:.2f}" for name, score in zip(said.labels, said.scores, strict=True))
  return label(picture, named) if named else picture


class Overlay:
  """Writes the overlay while predictions come in, in order; used in a `with` statement.

  The footage is read a second time here, so that whole frames need not be kept until their masks are known.

  Args:
    path: of the mp4.
    footage: `data_pipelines.video.Footage`, with the sound that is to be heard.
    start: second from which predictions come; the overlay's 0.
  """

  def __init__(self, path: str | Path, footage: Any, start: float = 0.0):
    self.footage, self.start = footage, start
    sounds = [(footage.rate_hz, footage.channels)] if footage.has_sound else []
    self.film = Film(path, footage.size, footage.fps, sounds)

  def __enter__(self) -> "Overlay":
    self.film.__enter__()
    self.pictures = self.footage.pictures(self.start)
    self.ahead = next(self.pictures, None)
    self.sound = Sound(self.footage, self.start)
    return self

  def add(self, said: Prediction) -> None:
    """Adds the pictures, and the sound, of the time in which the prediction holds."""
    while self.ahead is not None and self.ahead.time_s < said.until_s - 1e-6:
      time_s = max(0.0, self.ahead.time_s - self.start)
      self.film.picture(painted(self.ahead.read(), said), time_s)
      self.ahead = next(self.pictures, None)
    for block in self.sound.until(said.until_s - self.start):
      self.film.sound(block)

  def __exit__(self, *error: Any) -> None:
    self.film.__exit__(*error)


class Sound:
  """A footage's sound from `start` on, given out piece by piece up to a time."""

  def __init__(self, footage: Any, start: float):
    self.rate_hz = footage.rate_hz
    self.blocks: Iterator[np.ndarray] = footage.blocks(start)
    self.kept, self.given = None, 0

  def until(self, time_s: float) -> Iterator[Float[np.ndarray, "n channels"]]:
    """What has not been given out before `time_s`, counted from `start`."""
    wanted = round(time_s * self.rate_hz)
    while self.given < wanted:
      block = self.kept if self.kept is not None else next(self.blocks, None)
      if block is None:
        return
      piece = block[: wanted - self.given]
      self.kept = block[len(piece) :] if len(piece) < len(block) else None
      self.given += len(piece)
      yield piece


def write(path: str | Path, footage: Any, predictions: Iterable[Prediction], start: float = 0.0) -> None:
  """Writes the overlay of a whole prediction."""
  with Overlay(path, footage, start) as overlay:
    for said in predictions:
      overlay.add(said)
