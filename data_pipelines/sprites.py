"""Drawn objects with exact mattes: eight shapes made of ellipses, boxes and polygons, anti-aliased.

An object lives in its own plane: x to the right, y down, about [-1.1, 1.1] both ways. A part is a signed
distance (negative inside) and a colour; parts are laid over each other in order. The object's matte is the
union of its parts, so a mask is exact at any resolution. The centre of the top-left pixel is (0.5, 0.5).
"""

import dataclasses
import functools

import numpy as np

BROAD = {
  "guitar": "music",
  "drum": "music",
  "speaker": "human",
  "baby": "human",
  "bird": "animal",
  "cat": "animal",
  "car": "device",
  "siren": "device",
}
CATEGORIES = tuple(BROAD)

OUTLINE = 0.07  # width of the dark rim of a part, in units of the object's plane
REACH = 1.3  # nothing of an object lies further from its centre, along either axis


@dataclasses.dataclass(frozen=True)
class Look:
  """How one instance differs from the others of its category; every number is in [0, 1)."""

  hue: float = 0.5
  light: float = 0.5
  wide: float = 0.5
  detail: float = 0.5
  second_hue: float = 0.5


class Points:
  """Colour and cover at scattered points of the object's plane, built up part by part."""

  def __init__(self, x, y, pixels_per_unit):
    self.x, self.y = x, y
    self.pixels_per_unit = pixels_per_unit
    self.colour = np.zeros((len(x), 3), np.float32)
    self.alpha = np.zeros(len(x), np.float32)

  def lay(self, distance, colour, *, shade=0.25, rim=0.55):
    """Lays a part over what is there; light falls from the upper left, the rim is darkened."""
    cover = np.clip(0.5 - distance * self.pixels_per_unit, 0, 1)
    at = np.flatnonzero(cover)
    cover, inside = cover[at, None], np.clip(-distance[at] / OUTLINE, 0, 1)
    light = (1 - rim * (1 - inside)) * (1 - shade * (0.6 * self.x[at] + 0.8 * self.y[at]))
    self.colour[at] += cover * (light[:, None] * np.asarray(colour, np.float32) - self.colour[at])
    self.alpha[at] += cover[:, 0] * (1 - self.alpha[at])

  def ellipse(self, x, y, rx, ry, turn=0.0):
    """Distance to an ellipse, exact on its edge and close to it (first order elsewhere)."""
    dx, dy = self.x - x, self.y - y
    if turn:
      c, s = np.cos(turn), np.sin(turn)
      dx, dy = c * dx + s * dy, c * dy - s * dx
    k0 = np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2) + 1e-6
    k1 = np.sqrt((dx / rx**2) ** 2 + (dy / ry**2) ** 2) + 1e-6
    return k0 * (k0 - 1) / k1

  def box(self, x, y, hx, hy, corner=0.05):
    """Distance to a box of half sides hx, hy with rounded corners."""
    dx, dy = np.abs(self.x - x) - hx + corner, np.abs(self.y - y) - hy + corner
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - corner

  def polygon(self, *corners):
    """Distance to a convex polygon, corners clockwise on the screen; exact along its sides."""
    distance = None
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
      length = np.hypot(x1 - x0, y1 - y0)
      side = ((y1 - y0) * (self.x - x0) - (x1 - x0) * (self.y - y0)) / length
      distance = side if distance is None else np.maximum(distance, side)
    return distance


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
  """Colour in [0, 255] from hue (in turns), saturation and value (in [0, 1])."""
  channel = np.array([5, 3, 1]) + 6 * (hue % 1)
  k = channel % 6
  return (255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


def _tint(look, hue, saturation, value, spread=0.07):
  return rgb(hue + spread * (2 * look.hue - 1), saturation, value * (0.88 + 0.22 * look.light))


def _guitar(p, look):
  wood = _tint(look, 0.075, 0.78, 0.86, 0.045)
  dark = wood * 0.42
  w = 0.9 + 0.2 * look.wide
  p.lay(p.box(0, -0.62, 0.15, 0.5), dark)
  p.lay(p.box(0, -1.02, 0.22, 0.17, 0.08), wood * 0.62)
  p.lay(np.minimum(p.ellipse(0, 0.52, 0.62 * w, 0.5), p.ellipse(0, -0.06, 0.46 * w, 0.38)), wood)
  p.lay(p.ellipse(0, 0.14, 0.21, 0.2), wood * 0.16, rim=0.2)
  p.lay(p.box(0, 0.64, 0.27, 0.07), dark, rim=0.3)
  p.lay(p.box(0, -0.34, 0.13, 0.36), dark, rim=0.2)
  for fret in range(3):
    p.lay(p.box(0, -0.88 + 0.24 * fret, 0.14, 0.03, 0.01), (214, 205, 180), rim=0)
  p.lay(p.ellipse(-0.3 * w, 0.42, 0.1, 0.2, 0.5), wood * 1.18, rim=0)


def _drum(p, look):
  shell = _tint(look, 0.985, 0.82, 0.82)
  gold = rgb(0.13, 0.62, 0.95)
  w = 0.78 + 0.12 * look.wide
  p.lay(np.minimum(p.box(0, 0.16, w, 0.42, 0.02), p.ellipse(0, 0.56, w, 0.3)), shell)
  x, count = p.x / w, 3 + int(3 * look.detail)
  wave = np.abs((x * count) % 2 - 1) * 0.42 - 0.05
  body = np.minimum(p.box(0, 0.2, w * 0.97, 0.4, 0.02), p.ellipse(0, 0.56, w * 0.97, 0.27))
  p.lay(np.maximum(np.abs(p.y - wave - 0.12) - 0.055, body), gold, rim=0)
  lower = np.maximum(p.ellipse(0, 0.56, w, 0.3), -p.ellipse(0, 0.42, w, 0.3))
  p.lay(lower, gold, rim=0.4)
  p.lay(p.ellipse(0, -0.28, w * 1.06, 0.37), gold)
  p.lay(p.ellipse(0, -0.31, w * 0.95, 0.29), (247, 243, 230), rim=0.3)
  p.lay(p.ellipse(0.1, -0.27, w * 0.42, 0.12), (226, 219, 200), rim=0)


def _speaker(p, look):
  skin = rgb(0.065, 0.32 + 0.3 * look.second_hue, 0.95 - 0.35 * look.second_hue)
  hair = rgb(0.06, 0.5, 0.14 + 0.25 * look.light)
  shirt = _tint(look, 0.6, 0.62, 0.72, 0.1)
  w = 0.92 + 0.16 * look.wide
  p.lay(np.maximum(p.ellipse(0, 1.02, 0.86 * w, 0.62), p.y - 1.05), shirt)
  p.lay(p.box(0, 0.42, 0.2, 0.22), skin * 0.82, rim=0.2)
  p.lay(p.polygon((-0.26, 0.5), (0.26, 0.5), (0, 0.86)), skin * 0.9, rim=0.2)
  p.lay(p.ellipse(0, -0.36, 0.58 * w, 0.6), hair)
  p.lay(np.minimum(p.ellipse(-0.5 * w, -0.08, 0.12, 0.16), p.ellipse(0.5 * w, -0.08, 0.12, 0.16)), skin * 0.9)
  p.lay(p.ellipse(0, -0.1, 0.47 * w, 0.56), skin)
  fringe = np.maximum(
    p.ellipse(0, -0.36, 0.56 * w, 0.56), -p.ellipse(0.2 - 0.4 * look.detail, 0.1, 0.62, 0.58)
  )
  p.lay(fringe, hair, rim=0.2)
  for side in (-0.19, 0.19):
    p.lay(p.ellipse(side, -0.12, 0.1, 0.075), (250, 248, 244), rim=0.2)
    p.lay(p.ellipse(side, -0.12, 0.055, 0.065), (38, 28, 30), rim=0)
  p.lay(p.ellipse(0, 0.2, 0.16, 0.1), (140, 30, 42), rim=0.3)
  p.lay(p.ellipse(0, 0.03, 0.055, 0.09), skin * 0.8, rim=0)


def _baby(p, look):
  skin = rgb(0.045, 0.22 + 0.22 * look.second_hue, 0.98 - 0.22 * look.second_hue)
  cloth = _tint(look, 0.86, 0.36, 0.98, 0.09)
  w = 0.94 + 0.12 * look.wide
  p.lay(p.ellipse(0, 0.82, 0.5, 0.32), cloth * 0.8)
  scallops = 0.045 * np.cos(12 * np.arctan2(p.y + 0.08, p.x))
  p.lay(p.ellipse(0, -0.08, 0.94 * w, 0.92) - scallops, cloth)
  p.lay(p.ellipse(0, 0.04, 0.72 * w, 0.68), skin)
  p.lay(p.ellipse(0.02, -0.54, 0.13, 0.09, 0.6), rgb(0.1, 0.6, 0.5), rim=0)
  for side in (-1, 1):
    p.lay(p.ellipse(0.44 * side, 0.2, 0.17, 0.14), skin * (1, 0.76, 0.76), rim=0)
    eye = np.maximum(p.ellipse(0.27 * side, -0.08, 0.14, 0.12), -p.ellipse(0.27 * side, 0.0, 0.14, 0.12))
    p.lay(eye, (46, 30, 34), rim=0)
  p.lay(p.ellipse(0, 0.34, 0.25, 0.2 + 0.05 * look.detail), (122, 22, 38), rim=0.2)
  p.lay(p.ellipse(0, 0.45, 0.15, 0.09), (226, 108, 112), rim=0)


def _bird(p, look):
  plume = _tint(look, 0.56, 0.74, 0.88)
  belly = rgb(0.11, 0.3 + 0.3 * look.second_hue, 0.98)
  w = 0.94 + 0.14 * look.wide
  p.lay(p.polygon((-1.12, 0.02), (-0.45, 0.1), (-0.45, 0.42), (-1.0, 0.52)), plume * 0.62)
  p.lay(p.polygon((0.72, -0.52), (1.14, -0.32), (0.72, -0.18)), (247, 160, 32))
  p.lay(np.minimum(p.ellipse(-0.04, 0.22, 0.72, 0.5 * w, 0.12), p.ellipse(0.46, -0.36, 0.4, 0.38)), plume)
  p.lay(p.ellipse(0.22, 0.36, 0.42, 0.3 * w, -0.5), belly, rim=0.1)
  p.lay(p.ellipse(-0.24, 0.1, 0.46, 0.25 * w, 0.3), plume * 0.6)
  p.lay(p.ellipse(-0.18, 0.02, 0.32, 0.1, 0.3), plume * 0.85, rim=0)
  p.lay(p.ellipse(0.56, -0.44, 0.1, 0.1), (252, 250, 246), rim=0)
  p.lay(p.ellipse(0.59, -0.44, 0.06, 0.065), (20, 18, 24), rim=0)


def _cat(p, look):
  fur = _tint(look, 0.085, 0.66 - 0.5 * (look.second_hue > 0.6), 0.9, 0.03)
  w = 0.92 + 0.16 * look.wide
  for side in (-1, 1):
    corners = [(side * 0.74, -0.98), (side * 0.82, -0.1), (side * 0.1, -0.45)]
    inner = [(side * 0.68, -0.76), (side * 0.7, -0.26), (side * 0.3, -0.46)]
    turn = 1 if side > 0 else -1
    p.lay(p.polygon(*corners[::turn]), fur * 0.94)
    p.lay(p.polygon(*inner[::turn]), (236, 160, 158), rim=0.2)
  p.lay(p.ellipse(0, 0.14, 0.88 * w, 0.72), fur)
  for stripe in (-0.24, 0, 0.24):
    p.lay(p.ellipse(stripe, -0.4 + 0.3 * abs(stripe), 0.06, 0.17), fur * 0.5, rim=0)
  for side in (-1, 1):
    p.lay(p.ellipse(0.7 * side * w, 0.2, 0.15, 0.05, 0.2 * side), fur * 0.5, rim=0)
    p.lay(p.ellipse(0.34 * side, 0.02, 0.19, 0.16), rgb(0.2 + 0.18 * look.detail, 0.75, 0.92), rim=0.35)
    p.lay(p.ellipse(0.34 * side, 0.02, 0.055, 0.14), (18, 18, 20), rim=0)
    p.lay(p.ellipse(0.16 * side, 0.48, 0.24, 0.19), (250, 243, 232), rim=0.12)
  p.lay(p.polygon((-0.13, 0.28), (0.13, 0.28), (0, 0.42)), (214, 92, 106), rim=0.2)


def _car(p, look):
  paint = _tint(look, 0.37, 0.74, 0.74, 0.09)
  glass = rgb(0.55, 0.3, 0.9)
  top = -0.5 - 0.14 * look.wide
  p.lay(p.polygon((-0.42, top), (0.34, top), (0.72, -0.02), (-0.74, -0.02)), paint * 0.88)
  p.lay(p.polygon((-0.37, top + 0.1), (-0.05, top + 0.1), (-0.05, -0.06), (-0.56, -0.06)), glass, rim=0.3)
  p.lay(p.polygon((0.06, top + 0.1), (0.28, top + 0.1), (0.54, -0.06), (0.06, -0.06)), glass, rim=0.3)
  p.lay(p.box(0, 0.2, 1.08, 0.31, 0.17), paint)
  p.lay(p.box(0, 0.12, 0.98, 0.045, 0.02), paint * 1.2, rim=0)
  p.lay(p.ellipse(0.98, 0.12, 0.1, 0.1), (255, 240, 170), rim=0.2)
  p.lay(p.ellipse(-1.0, 0.12, 0.07, 0.11), (214, 40, 40), rim=0.2)
  for x in (-0.58, 0.58):
    p.lay(p.ellipse(x, 0.48, 0.29, 0.29), (36, 36, 42), rim=0.4)
    p.lay(p.ellipse(x, 0.48, 0.14, 0.14), (196, 198, 206), rim=0.4)


def _siren(p, look):
  glow = _tint(look, 0.02 if look.second_hue < 0.5 else 0.64, 0.85, 0.95, 0.03)
  w = 0.92 + 0.16 * look.wide
  p.lay(p.box(0, 0.82, 0.92 * w, 0.22, 0.08), (98, 102, 114))
  p.lay(p.box(0, 0.52, 0.74 * w, 0.16, 0.06), (172, 176, 186))
  dome = np.maximum(p.ellipse(0, 0.4, 0.66 * w, 1.3), p.y - 0.42)
  p.lay(dome, glow)
  spin = 0.36 * (2 * look.detail - 1)
  p.lay(np.maximum(p.ellipse(spin, 0.1, 0.2, 0.5), dome), glow * 0.4 + np.float32(150), rim=0)
  p.lay(np.maximum(np.abs(p.y - 0.0) - 0.05, dome), glow * 0.6, rim=0)
  p.lay(p.ellipse(-0.3 * w, -0.3, 0.1, 0.3, 0.25), glow * 0.3 + np.float32(178), rim=0)


DRAW = {
  "guitar": _guitar,
  "drum": _drum,
  "speaker": _speaker,
  "baby": _baby,
  "bird": _bird,
  "cat": _cat,
  "car": _car,
  "siren": _siren,
}


@functools.cache
def area(category: str) -> float:
  """Area of a category's middling instance in its own plane, in square units."""
  steps = 120
  axis = ((np.arange(steps, dtype=np.float32) + 0.5) / steps * 2 - 1) * REACH
  y, x = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
  points = Points(x, y, steps / (2 * REACH))
  DRAW[category](points, Look())
  return float(points.alpha.mean()) * (2 * REACH) ** 2


def draw(
  frames: np.ndarray,
  owner: np.ndarray,
  number: int,
  category: str,
  look: Look,
  *,
  centre: np.ndarray,
  scale: np.ndarray,
  aspect: float,
  turn: np.ndarray,
  flip: bool,
) -> None:
  """Draws one object into every frame, in place, over whatever is there.

  Args:
    frames: float32 [T, H, W, 3] in [0, 255].
    owner: int32 [T, H, W]; set to `number` where the object covers more than half a pixel.
    number: the object's number, from 1.
    category: one of `CATEGORIES`.
    look: the instance.
    centre: [T, 2], (x, y) as a share of the frame's width and height.
    scale: [T], length of one unit of the object's plane as a share of the frame's height.
    aspect: width over height, times the shape's own.
    turn: [T], rotation in radians, clockwise on the screen.
    flip: mirrored left to right.
  """
  seconds, height, width = owner.shape
  shape = (-1, 1, 1)
  dx = (np.arange(width, dtype=np.float32) + 0.5)[None, None, :] - (centre[:, 0] * width).reshape(shape)
  dy = (np.arange(height, dtype=np.float32) + 0.5)[None, :, None] - (centre[:, 1] * height).reshape(shape)
  cos, sin = np.cos(turn).reshape(shape), np.sin(turn).reshape(shape)
  unit = (scale * height).reshape(shape)
  stretch = np.sqrt(aspect)
  x = (cos * dx + sin * dy) / (unit * stretch) * (-1 if flip else 1)
  y = (cos * dy - sin * dx) / (unit / stretch)
  at = np.nonzero((np.abs(x) < REACH) & (np.abs(y) < REACH + 0.1))
  points = Points(x[at].astype(np.float32), y[at].astype(np.float32), float(np.mean(unit)))
  shadow = 0.42 * np.exp(-((points.x / 0.8) ** 2) - ((points.y - 1.0) / 0.16) ** 2)
  DRAW[category](points, look)
  cover = points.alpha[:, None]
  seen = frames[at] * (1 - shadow[:, None])
  # The colour sum already holds its own cover (parts were laid over black): take the rest from the scene.
  frames[at] = points.colour + (1 - cover) * seen
  solid = points.alpha > 0.5
  owner[tuple(axis[solid] for axis in at)] = number
