"""What a trained model would score at other thresholds, from per-frame counts alone: no model, no masks.

A recipe is not one point. Its mask threshold trades positive IoU against false alarms, and so does a gate
that empties every second in which the guide's similarity is low. Both are swept here after the fact, over
the split that was judged: the best point of a sweep is an upper bound, chosen with the answers at hand.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from avs_jax import metrics
from avs_jax.errors import InputError
from avs_jax.metrics import NEGATIVES

Statistics = Mapping[str, np.ndarray]  # of one sound: keys [N, 2], counted [N], counts [N] or [N, 255]

# Places in `metrics.THRESHOLDS` (k / 254): dense near both ends, where probabilities crowd.
PLACES = (
  *(1, 2, 3, 5, 8, 13, 20, 30, 50, 76, 102, 127),
  *(152, 178, 203, 216, 229, 239, 244, 247, 249, 251, 252, 253, 254),
)
GATES = 33  # levels of the gate, twice: at even shares of all similarities, and evenly between the extremes
LIMITS = (0.01, 0.02, 0.05, 0.1)  # of G-FPR, in `summary`


def save(path: str, statistics: Mapping[str, Statistics]) -> str:
  """Writes the statistics of all sounds as one NPZ. Returns `path`."""
  flat = {f"{sound}.{name}": np.asarray(a) for sound, each in statistics.items() for name, a in each.items()}
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  with open(path + ".part", "wb") as file:
    np.savez_compressed(file, **flat)
  os.replace(path + ".part", path)
  return path


def read(path: str) -> dict[str, dict[str, np.ndarray]]:
  """{sound: statistics} as `save` wrote them.

  Raises:
    InputError: no such file, or not one of these.
  """
  if not os.path.exists(path):
    raise InputError(f"{path} is not there; evaluate the run again (--mode=eval) to write it.")
  found: dict[str, dict[str, np.ndarray]] = {}
  try:
    with np.load(path) as file:
      for name in file.files:
        sound, _, field = name.rpartition(".")
        found.setdefault(sound, {})[field] = file[name]
  except Exception as error:
    raise InputError(f"{path} cannot be read ({error}); evaluate the run again to write it.") from None
  return found


def is_sweepable(statistics: Mapping[str, Statistics]) -> bool:
  """Whether there are binary masks under the clips' own sound and all three negatives."""
  needed = ("positive", *NEGATIVES)
  return all(name in statistics and "accepted" in statistics[name] for name in needed)


def masks_at(each: Statistics, place: int | None) -> tuple[np.ndarray, np.ndarray]:
  """IoU and active share of every counted frame, [N] each, with pixels on at p >= THRESHOLDS[place].

  None stands for the scoreboard's p > 0.5.
  """
  kept = each["counted"]
  truth, pixels = (each[name][kept].astype(np.float64) for name in ("truth", "pixels"))
  if place is None:
    active, overlap = (each[name][kept].astype(np.float64) for name in ("active", "overlap"))
  else:
    active, overlap = (each[name][kept, place].astype(np.float64) for name in ("accepted", "hits"))
  union = active + truth - overlap
  iou = np.where(truth == 0, (pixels - active) / (pixels + 1e-7), overlap / (union + 1e-7))
  return iou, active / (pixels + 1e-7)


def ungated(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, np.ndarray]]:
  """The statistics of the masks as they were before the guide's gate; as they are where nothing gates."""
  start = "ungated_"
  return {
    name: {**each, **{field.removeprefix(start): each[field] for field in each if field.startswith(start)}}
    for name, each in statistics.items()
  }


def point(statistics: Mapping[str, Statistics], place: int | None, gate: float | None) -> dict[str, Any]:
  """What the scoreboard would say with this mask threshold, seconds below the `gate` emptied.

  Returns: threshold, gate, iou_frame (own sound), g_iou, g_fpr, and the fpr of each negative sound.
  """
  rows = {}
  for name in ("positive", *NEGATIVES):
    each = statistics[name]
    iou, active = masks_at(each, place)
    if gate is not None:
      is_open = each["similarity"][each["counted"]] >= gate
      iou = np.where(is_open, iou, (each["truth"][each["counted"]] == 0).astype(np.float64))
      active = np.where(is_open, active, 0.0)
    rows[name] = {"iou": float(iou.mean()), "f": 0.0, "fpr": float(active.mean())}
  own = rows.pop("positive")
  scores = metrics.global_scores(own, rows)
  return {
    "threshold": 0.5 if place is None else round(float(metrics.THRESHOLDS[place]), 6),
    "gate": gate,
    "iou_frame": own["iou"],
    "g_iou": scores["g_iou"],
    "g_fpr": scores["g_fpr"],
    **{f"fpr_{name}": row["fpr"] for name, row in rows.items()},
  }


def gates(statistics: Mapping[str, Statistics]) -> list[float]:
  """Levels at even shares of all similarities, and as many evenly between the extremes; none without a guide.

  A good guide's similarities lie in two heaps; what a gate trades is decided by the few between them.
  """
  names = ("positive", *NEGATIVES)
  if not all("similarity" in statistics[name] for name in names):
    return []
  found = np.concatenate([statistics[name]["similarity"][statistics[name]["counted"]] for name in names])
  shares = np.linspace(0, 1, GATES)
  levels = np.concatenate([np.quantile(found, shares), found.min() + (found.max() - found.min()) * shares])
  return sorted({float(level) for level in levels})


def sweep(statistics: Mapping[str, Statistics]) -> dict[str, Any]:
  """All that a record keeps of a run's frontier.

  A run judged with its gate is swept without it: what is refused at one level must be there at another.

  Returns:
    operating: the scoreboard's own point (p > 0.5, with the gate if the run has one).
    mask: points of the mask threshold alone, nothing refused, rising.
    gate: points of the gate alone at p > 0.5, rising; [] without a guide.
    best: of both together, the points that no other beats in both positive IoU and G-FPR, by rising G-FPR.

  Raises:
    InputError: a sound is missing, or the masks are of classes.
  """
  if not is_sweepable(statistics):
    raise InputError(
      "a frontier needs binary masks under positive, silence, noise and offscreen; evaluate all four."
    )
  levels = gates(statistics)
  operating, bare = point(statistics, None, None), ungated(statistics)
  masks = [point(bare, place, None) for place in PLACES]
  gated = [point(bare, None, level) for level in levels]
  both = [point(bare, place, level) for place, level in itertools.product(PLACES, levels)]
  return {
    "operating": rounded(operating),
    "mask": [rounded(each) for each in masks],
    "gate": [rounded(each) for each in gated],
    "best": [rounded(each) for each in undominated([operating, *masks, *gated, *both])],
  }


def undominated(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The points with the highest positive IoU at their G-FPR or below, by rising G-FPR."""
  chosen: list[dict[str, Any]] = []
  for each in sorted(points, key=lambda p: (p["g_fpr"], -p["iou_frame"])):
    if not chosen or each["iou_frame"] > chosen[-1]["iou_frame"]:
      chosen.append(dict(each))
  return chosen


def highest_iou(points: Sequence[Mapping[str, Any]], limit: float) -> float | None:
  """The highest positive IoU among the points whose G-FPR is at most `limit`; None where there is none."""
  return max((p["iou_frame"] for p in points if p["g_fpr"] <= limit), default=None)


def rounded(each: Mapping[str, Any]) -> dict[str, Any]:
  return {name: round(value, 5) if isinstance(value, float) else value for name, value in each.items()}


def histogram(values: Float[np.ndarray, "N"], low: float, high: float, bins: int = 40) -> list[int]:
  """Counts of values in `bins` equal steps from low to high; what lies beyond falls into the outer ones."""
  return np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))[0].tolist()


def similarities(statistics: Mapping[str, Statistics], guide: str) -> dict[str, Any] | None:
  """The Robust paper's figure 4 as numbers; None without a guide.

  A plain cosine is kept as it is, other similarities become probabilities by a sigmoid.

  Args:
    guide: `config.debias.guide`.

  Returns: scale ("cosine" or "probability"), low, high, and per sound the histogram and the mean.
  """
  found = {
    name: each["similarity"][each["counted"]].astype(np.float64)
    for name, each in statistics.items()
    if "similarity" in each
  }
  if not found:
    return None
  is_cosine = guide in ("cosine", "cosine_released")
  low = -1.0 if is_cosine else 0.0
  shown = {name: values if is_cosine else 1 / (1 + np.exp(-values)) for name, values in found.items()}
  return {
    "scale": "cosine" if is_cosine else "probability",
    "low": low,
    "high": 1.0,
    "sounds": {
      name: {"counts": histogram(values, low, 1.0), "mean": round(float(values.mean()), 5)}
      for name, values in shown.items()
    },
  }
