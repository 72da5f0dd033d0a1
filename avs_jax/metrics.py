"""How well masks follow the sound: per-frame counts first, figures afterwards.

A frame is reduced to counts of pixels (`counts.frame_counts`, on the device), the counts are kept under (clip,
second) in a `Tally` (numpy), and every figure is computed from the whole tally in data-set order. Batch size,
order and number of processes therefore cannot change a figure. `docs/metrics.md` says which figure stands in
which published table. `iou_frame` and `f_max_batch` are AVSBench's two figures on one call.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from avs_jax.counts import (
  THRESHOLDS,
  ClassCounts,
  FrameCounts,
  class_counts,
  frame_counts,
  label_counts,
  probability_counts,
)
from avs_jax.errors import InputError
from avs_jax.types import AnyArray

__all__ = [
  "BETA2", "GROUP_FRAMES", "NEGATIVES", "THRESHOLDS", "ClassCounts", "FrameCounts", "Tally", "class_counts",
  "f_max_batch", "frame_counts", "global_scores", "iou_frame", "label_counts", "probability_counts", "summarise",
  "summarise_classes",
]  # fmt: skip

# 1.3 P R / (0.3 P + R): AVSBench and all that followed. bias_in_AVS's released code has 0.1.
BETA2 = 0.3
# Frames in the calls whose F AVSBench's script averages: test batch 4, five seconds a clip.
GROUP_FRAMES = 20
NEGATIVES = ("silence", "noise", "offscreen")  # the sounds over which the G figures are averaged
OTHER_GROUPS = (5, 10, 40)  # frames of a call in other papers' code: batches of 1, 2 and 8 clips


class Tally:
  """Counts of many frames, kept under (clip, second). A frame given twice counts once (the last holds)."""

  def __init__(self) -> None:
    self._rows: dict[tuple[int, int], tuple[bool, tuple[np.ndarray, ...]]] = {}
    self._kind: type | None = None

  def __len__(self) -> int:
    return len(self._rows)

  def add(
    self,
    counts: FrameCounts | ClassCounts,
    index: Shaped[AnyArray, "B"],
    counted: Shaped[AnyArray, "B T"],
    second: Shaped[AnyArray, "B T"] | None = None,
  ) -> None:
    """Adds the frames of a batch, given clip-major (row b * T + t).

    Args:
      index: the clip's place in its data set; rows below 0 are ignored (they only fill the batch).
      counted: frames that are present and annotated; the others enter AVSS's published figures only.
      second: place of each frame in its clip; 0, 1, 2 ... if None.

    Raises:
      InputError: binary counts after counts of classes, or a prediction with values that are not numbers.
    """
    if self._kind not in (None, type(counts)):
      raise InputError("one evaluation mixes binary masks and classes; give either for all clips.")
    index, counted = np.asarray(index), np.asarray(counted, bool)
    if second is None:
      second = np.broadcast_to(np.arange(counted.shape[1]), counted.shape)
    self._kind = type(counts)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(counts)]
    for row, (b, t) in enumerate(np.ndindex(*counted.shape)):
      if index[b] < 0:
        continue
      values = tuple(np.array(leaf[row]) for leaf in leaves)
      key = (int(index[b]), int(np.asarray(second)[b, t]))
      if _has_holes(counts, row):
        raise InputError(
          f"the prediction for second {key[1]} of clip {key[0]} holds values that are not numbers; judge other"
          " weights, or in float32 (model.dtype) if these were trained so."
        )
      self._rows[key] = (bool(counted[b, t]), values)

  def merge(self, other: "Tally") -> None:
    """Takes over the frames of another tally; raises `InputError` if one counts binary masks and one classes."""
    if None not in (self._kind, other._kind) and self._kind is not other._kind:
      raise InputError("one evaluation mixes binary masks and classes; give either for all clips.")
    self._kind = self._kind or other._kind
    self._rows.update(other._rows)

  def stacked(self) -> tuple[np.ndarray, np.ndarray, Any]:
    """Keys [N, 2] (clip, second) in data-set order, counted [N], counts with N first; raises `InputError` if empty."""
    if not self._rows or self._kind is None:
      raise InputError("there is no frame to score: the evaluation set is empty.")
    keys = sorted(self._rows)
    counted = np.array([self._rows[key][0] for key in keys])
    leaves = [np.stack(column) for column in zip(*(self._rows[key][1] for key in keys), strict=True)]
    names = self._kind.__dataclass_fields__
    return np.array(keys), counted, self._kind(**dict(zip(names, leaves, strict=True)))


def _has_holes(counts: Any, row: int) -> bool:
  """Whether a frame's prediction holds values that are not numbers: they are counted nowhere."""
  if isinstance(counts, FrameCounts):
    return bool(np.asarray(counts.accepted)[row, 0] != np.asarray(counts.pixels)[row])
  return bool(np.asarray(counts.predicted)[row].sum() != np.asarray(counts.truth)[row].sum())


def _frame_iou(counts: FrameCounts) -> np.ndarray:
  """[N]. A frame without object is scored by its background: pixels empty in both over all pixels."""
  overlap, union, active, truth, pixels = (
    np.asarray(x, np.float64)
    for x in (counts.overlap, counts.union, counts.active, counts.truth, counts.pixels)
  )
  return np.where(truth == 0, (pixels - active) / (pixels + 1e-7), overlap / (union + 1e-7))


def _f(hits: np.ndarray, accepted: np.ndarray, truth: np.ndarray, beta2: float = BETA2) -> np.ndarray:
  """F of counts, 0 where nothing was hit."""
  hits, accepted, truth = (np.asarray(x, np.float64) for x in (hits, accepted, truth))
  precision, recall = hits / (accepted + 1e-20), hits / (truth + 1e-20)
  bottom = beta2 * precision + recall
  return np.where(bottom > 0, (1 + beta2) * precision * recall / np.where(bottom > 0, bottom, 1), 0.0)


def _group_maxima(curves: np.ndarray, truth: np.ndarray, size: int) -> list[float | None]:
  """max over thresholds of the mean F curve of each run of `size` frames; None where all masks are empty."""
  maxima = []
  for start in range(0, len(curves), size):
    met = curves[start : start + size][truth[start : start + size] > 0]
    maxima.append(float(met.mean(0).max()) if len(met) else None)
  return maxima


def _check_call(logits: Any, masks: Any) -> None:
  """Refuses what would give a figure that means nothing; arrays that are being traced hold no values to check."""
  if isinstance(logits, jax.core.Tracer) or isinstance(masks, jax.core.Tracer):
    return
  logits, masks = np.asarray(logits), np.asarray(masks)
  if not masks.size:
    raise InputError(f"there is no frame to score: the masks are {list(masks.shape)}.")
  if not np.isfinite(logits.astype(np.float32)).all():
    raise InputError("the logits hold values that are not finite numbers; judge other weights or logits.")
  low, high = masks.min(), masks.max()
  if not (low >= 0 and high <= 1):  # so written, it is true of NaN
    raise InputError(
      f"masks must lie in [0, 1] but reach from {low:g} to {high:g}; divide pictures of 0 and 255 by 255."
    )


def iou_frame(
  logits: Float[AnyArray, "N H W"], masks: Shaped[AnyArray, "N H W"], threshold: float = 0.5
) -> float:
  """mean over frames of |P and G| / |P or G|, P = sigmoid(logits) > 0.5; AVSBench's "mIoU" (J) on one call.

  A frame whose mask is empty is scored by its background: the share of pixels left off.

  Raises: InputError for masks outside [0, 1] and for logits that are not finite.
  """
  _check_call(logits, masks)
  counts = jax.device_get(frame_counts(logits, masks, threshold))
  return float(_frame_iou(counts).mean())


def f_max_batch(
  logits: Float[AnyArray, "N H W"], masks: Shaped[AnyArray, "N H W"], beta2: float = BETA2
) -> float:
  """max over 255 thresholds of the mean over frames of F; AVSBench's F on one call.

  Frames whose mask is empty are left out; 0 when all are. The maximum is taken after averaging over the
  frames of THIS call, so the value of a data set depends on how it is cut into calls. Soft masks count in steps of
  1/255, as pictures hold them.

  Raises: as `iou_frame`.
  """
  _check_call(logits, masks)
  counts = jax.device_get(frame_counts(logits, masks))
  curves = _f(counts.hits, counts.accepted, counts.truth[:, None], beta2)
  return _group_maxima(curves, counts.truth, len(curves))[0] or 0.0


def _mean(values: Any) -> float | None:
  values = [v for v in np.asarray(values, object).tolist() if v is not None]
  return float(np.mean(np.array(values, np.float64))) if values else None


def summarise(tally: Tally) -> dict[str, float | int | None]:
  """All figures of one sound condition, as fractions; None where a figure is not defined.

  Returns:
    iou_frame, iou_frame_nonempty: mean over frames (frames with an object) of intersection over union.
    f_max_batch20, f_max_batch20_nonempty: mean over runs of 20 frames of what `f_max_batch` gives; a run
      without any object scores 0, as published (is left out). f_max_batch5, 10 and 40: runs of so many frames.
    iou_dataset: sum of intersections over sum of unions; f_max_dataset: `f_max_batch` of all frames at once.
    f_at_half: mean over frames with an object of F of p > 0.5.
    fpr: mean share of active pixels; iou_frame_empty: of the others, i.e. IoU against the empty mask.
    iou_frame_floor, f_max_batch20_floor, f_max_dataset_floor: what an all-empty prediction gets;
    f_max_batch20_ceiling: what a perfect one gets, the share of runs that hold an object.
    quiet_frames: share of frames without any active pixel; frames, clips: how many were counted.

  Raises: InputError where no frame has a mask.
  """
  keys, counted, counts = tally.stacked()
  if not counted.any():
    raise InputError(
      "there is no frame to score: no frame of the evaluation set has a mask (annotated, present)."
    )
  keys, counts = keys[counted], jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[counted], counts)
  iou, met = _frame_iou(counts), counts.truth > 0
  curves = _f(counts.hits, counts.accepted, counts.truth[:, None])
  half = _f(counts.overlap, counts.active, counts.truth)
  groups = _group_maxima(curves, counts.truth, GROUP_FRAMES)
  floors = _group_maxima(curves[:, :1], counts.truth, GROUP_FRAMES)  # threshold 0 accepts every pixel
  whole = _group_maxima(curves, counts.truth, len(curves))[0]
  others = {
    f"f_max_batch{size}": _mean([value or 0.0 for value in _group_maxima(curves, counts.truth, size)])
    for size in OTHER_GROUPS
  }
  activity = counts.active / (counts.pixels + 1e-7)
  union = counts.union.sum()
  return {
    "iou_frame": _mean(iou),
    "iou_frame_nonempty": _mean(iou[met]),
    "f_max_batch20": _mean([value or 0.0 for value in groups]),
    "f_max_batch20_nonempty": _mean(groups),
    **others,
    "iou_dataset": float(counts.overlap.sum() / union) if union else None,
    "f_max_dataset": whole,
    "f_at_half": _mean(half[met]),
    "fpr": _mean(activity),
    "iou_frame_empty": _mean(1 - counts.active / counts.pixels),
    "quiet_frames": _mean(counts.active == 0),
    "iou_frame_floor": _mean(~met),
    "f_max_batch20_floor": _mean([value or 0.0 for value in floors]),
    "f_max_batch20_ceiling": _mean([value is not None for value in groups]),
    "f_max_dataset_floor": _mean(curves[met, 0]),
    "frames": len(keys),
    "clips": len(set(keys[:, 0].tolist())),
  }


def _class_frame_means(counts: ClassCounts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sum over frames of the per-frame IoU and F of each class, and number of frames that met it; all [K]."""
  overlap, predicted, truth = (np.asarray(x) for x in (counts.overlap, counts.predicted, counts.truth))
  union = predicted + truth - overlap
  iou = overlap / (union + 2.2e-16)
  return iou.sum(0), _f(overlap, predicted, truth).sum(0), (union > 0).sum(0)


def summarise_classes(tally: Tally) -> dict[str, float | int | None]:
  """Figures of AVSS (K classes, 0 is background), as fractions.

  Returns:
    *_class_frame: each frame gives an IoU (F) to every class it holds or is said to hold; averaged over those
      frames, then over the classes met anywhere. *_no_background: class 0 left out.
    *_class_dataset: intersections and unions (areas) of a class are summed over all frames first.
    *_class_frame_published: as AVSBench-semantic's code has it: padded and unannotated frames counted,
      classes never met counted as 0; *_published_no_last: its "without background", which lacks the LAST class.
    fpr: mean share of pixels that are not background; quiet_frames: share of frames wholly background.
    classes_met: foreground classes met; frames, clips: how many were counted.

  Raises: InputError where no frame has a mask.
  """
  keys, counted, counts = tally.stacked()
  if not counted.any():
    raise InputError(
      "there is no frame to score: no frame of the evaluation set has a mask (annotated, present)."
    )
  counts = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), counts)
  figures: dict[str, float | int | None] = {}
  kept = jax.tree.map(lambda leaf: leaf[counted], counts)
  *sums, met = _class_frame_means(kept)
  overlap, predicted, truth = (leaf.sum(0) for leaf in (kept.overlap, kept.predicted, kept.truth))
  pooled = overlap / np.maximum(predicted + truth - overlap, 1)
  pooled_f = _f(overlap, predicted, truth)
  foreground = (met > 0) & (np.arange(len(met)) > 0)
  for name, frame_sum, dataset in (("iou", sums[0], pooled), ("f", sums[1], pooled_f)):
    per_class = frame_sum / np.maximum(met, 1)
    figures[f"{name}_class_frame"] = _mean(per_class[met > 0])
    figures[f"{name}_class_frame_no_background"] = _mean(per_class[foreground])
    figures[f"{name}_class_dataset"] = _mean(dataset[met > 0])
    figures[f"{name}_class_dataset_no_background"] = _mean(dataset[foreground])
  *sums, met = _class_frame_means(counts)
  for name, frame_sum in zip(("iou", "f"), sums, strict=True):
    per_class = frame_sum / np.maximum(met, 1)
    figures[f"{name}_class_frame_published"] = float(per_class.mean())
    figures[f"{name}_class_frame_published_no_last"] = float(per_class[:-1].mean())
  pixels = kept.truth.sum(1)
  figures["fpr"] = _mean(1 - kept.predicted[:, 0] / (pixels + 1e-7))
  figures["quiet_frames"] = _mean(kept.predicted[:, 0] == pixels)
  figures["classes_met"] = int((foreground).sum())
  figures["frames"], figures["clips"] = int(counted.sum()), len(set(keys[counted, 0].tolist()))
  return figures


def _checked(figures: Mapping[str, Any], needed: tuple[str, ...], whose: str) -> list[float]:
  for name in needed:
    value = figures.get(name)
    if value is None or not np.isfinite(value) or value < 0:
      raise InputError(
        f"{whose}: the figure '{name}' must be a number >= 0, got {value!r}; give {', '.join(needed)}."
      )
  return [float(figures[name]) for name in needed]


def global_scores(
  positive: Mapping[str, Any], negatives: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
  """G-mIoU, G-F and G-FPR (`g_iou`, `g_f`, `g_fpr`) of the Robust paper, over all sounds at once.

  The negatives are averaged first: N = mean of their iou (f); G = 2 P (1 - N) / (P + 1 - N), 0 where P = 0
  and N = 1; G-FPR = mean of their fpr. On negatives iou and f are against the OBJECT'S mask: low is good.

  Args:
    positive: `iou`, `f` with the clip's own sound.
    negatives: {condition: {`iou`, `f`, `fpr`}}; published with silence, noise and offscreen.
      Fractions; any iou or f above 1 means that all iou and f are per cent, and so are `g_iou`, `g_f` then.

  Raises: InputError for no negatives, a figure that is missing or no number >= 0, or two units.
  """
  if not negatives:
    raise InputError("global scores need at least one negative condition; give silence, noise and offscreen.")
  own = _checked(positive, ("iou", "f"), "positive")
  rows = np.array([_checked(figures, ("iou", "f", "fpr"), name) for name, figures in negatives.items()])
  whole = 100.0 if max(*own, rows[:, :2].max()) > 1 + 1e-6 else 1.0
  if whole == 100.0 and max(own) <= 1:
    raise InputError("positive: iou and f look like fractions while a negative's are per cent; use one unit.")
  result = {}
  for column, name in enumerate(("iou", "f")):
    rejected = whole - rows[:, column].mean()
    bottom = own[column] + rejected
    result[f"g_{name}"] = float(2 * own[column] * rejected / bottom) if bottom > 0 else 0.0
  return {**result, "g_fpr": float(rows[:, 2].mean())}
