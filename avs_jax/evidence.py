"""What a system that groups and doubts answers with, on the picture: who hears the sound, and where it is unsure.

RAVS (Liu et al., CVPR 2025), figures 5 and 6: the groups that answer to the sound are blue, the others red, and
the darker the more surely so; uncertainty goes from blue (none) to red, second by second.
"""

import dataclasses
import textwrap
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from avs_jax import visualize
from avs_jax.alignment import SCALE, THRESHOLD, response
from avs_jax.types import AnyArray, Outputs

# Of outputs, what is drawn here.
_DRAWN = ("groups", "group_agreement", "uncertainty")
POSITIVE, NEGATIVE = (10, 40, 160), (150, 10, 20)
GRID = (255, 255, 255)


def gather(outputs: Outputs) -> dict[str, AnyArray]:
  """What of a batch's outputs can be drawn; empty for a system without groups and uncertainty."""
  found = {name: getattr(outputs, name) for name in _DRAWN}
  return {name: value for name, value in found.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Maps:
  """One clip's evidence; either half is None where the system has it not.

  Attributes:
    groups: group of each cell.
    surety: of each cell's group, from -1 (surely silent) to 1 (surely heard), 0 at the threshold.
    uncertainty: of each pixel, 0 to 1.
  """

  groups: Int[np.ndarray, "T h w"] | None
  surety: Float[np.ndarray, "T h w"] | None
  uncertainty: Float[np.ndarray, "T H W"] | None

  @classmethod
  def of(cls, found: Mapping[str, np.ndarray], scale: float = SCALE, threshold: float = THRESHOLD) -> "Maps":
    """From what `gather` found, of one clip; `scale` and `threshold` are those of the alignment (equation 8)."""
    doubt = found.get("uncertainty")
    doubt = None if doubt is None else np.asarray(doubt, np.float32)[..., 0]
    if "groups" not in found or "group_agreement" not in found:
      return cls(None, None, doubt)
    groups = np.asarray(found["groups"])
    answers = np.asarray(response(found["group_agreement"], scale))  # [T, P]
    above = np.where(answers > threshold, 1 - threshold, threshold)
    surety = (answers - threshold) / np.maximum(above, 1e-9)
    flat = np.take_along_axis(surety, groups.reshape(len(groups), -1), axis=1)  # [T, h*w]
    return cls(groups, flat.reshape(groups.shape).astype(np.float32), doubt)


def enlarged(cells: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """[h, w] as [H, W], every pixel as the cell it lies in."""
  rows, columns = (np.arange(side) * count // side for side, count in zip(size, cells.shape, strict=True))
  return cells[rows][:, columns]


def group_picture(
  frame: UInt8[np.ndarray, "H W 3"], groups: Int[np.ndarray, "h w"], surety: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "H W 3"]:
  """A frame under its groups (figure 5): blue those that answer to the sound, red the others, white lines between."""
  strength = enlarged(surety, frame.shape[:2])[..., None]
  grey = frame.astype(np.float32).mean(-1, keepdims=True)
  colour = np.where(strength > 0, np.float32(POSITIVE), np.float32(NEGATIVE))
  share = 0.3 + 0.5 * np.abs(strength)
  picture = (1 - share) * (0.5 * grey + 127) + share * colour
  label = enlarged(groups, frame.shape[:2])
  border = np.zeros(label.shape, bool)
  border[1:] |= label[1:] != label[:-1]
  border[:, 1:] |= label[:, 1:] != label[:, :-1]
  picture[border] = 0.3 * picture[border] + 0.7 * np.float32(GRID)
  return np.clip(picture, 0, 255).astype(np.uint8)


def doubt_picture(uncertainty: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
  """Uncertainty from blue (0) over white (0.5) to red (1)."""
  x = np.clip(uncertainty, 0, 1)[..., None]
  low, high, middle = np.float32((40, 70, 190)), np.float32((190, 30, 30)), np.float32((245, 245, 245))
  picture = np.where(x < 0.5, low + 2 * x * (middle - low), middle + (2 * x - 1) * (high - middle))
  return picture.astype(np.uint8)


def draw(
  path: str,
  frames: UInt8[np.ndarray, "T H W 3"],
  truth: Bool[np.ndarray, "T H W"],
  probabilities: Float[np.ndarray, "T H W"],
  maps: Maps,
  *,
  caption: str,
) -> str:
  """Writes a clip's seconds with what sounds, what was segmented, the groups and the uncertainty. Returns `path`."""
  from matplotlib.figure import Figure

  pairs = list(zip(frames, truth, strict=True))
  rows = [("what sounds", [visualize.overlay(frame, mask, mask) for frame, mask in pairs])]
  masks = [
    visualize.overlay(frame, chance > 0.5, mask)
    for (frame, mask), chance in zip(pairs, probabilities, strict=True)
  ]
  rows.append(("mask", masks))
  if maps.groups is not None and maps.surety is not None:
    shown = [group_picture(*three) for three in zip(frames, maps.groups, maps.surety, strict=True)]
    rows.append(("groups", shown))
  if maps.uncertainty is not None:
    rows.append(("uncertainty", [doubt_picture(each) for each in maps.uncertainty]))
  figure = Figure(figsize=(1.6 * len(frames) + 1.2, 1.6 * len(rows) + 0.7), layout="constrained")
  axes = figure.subplots(len(rows), len(frames), squeeze=False)
  for r, (name, pictures) in enumerate(rows):
    for t, picture in enumerate(pictures):
      axes[r][t].imshow(picture, interpolation="nearest")
      axes[r][t].set_xticks([])
      axes[r][t].set_yticks([])
      if r == 0:
        axes[r][t].set_title(f"second {t + 1}", fontsize=8)
    axes[r][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
  figure.suptitle(textwrap.fill(caption, 18 * (len(frames) + 1)), fontsize=9)
  legend = "groups: blue answer to the sound, red do not\nuncertainty: red high, blue low"
  figure.supxlabel(legend, fontsize=8)
  return visualize.save(figure, path)
