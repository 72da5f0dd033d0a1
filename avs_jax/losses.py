"""What training minimises: segmentation losses on the masks, and the sum of all parts.

Every loss is float32, takes logits (never probabilities), and weighs frames by `annotated & present`. All
reductions are plain sums and means, so a batch sharded over a mesh gives the value of the whole batch.
`objective(weights)` composes them and those of audio_visual_matching.py, alignment.py and set_losses.py; the papers'
weights are in configs/.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar, Shaped

from avs_jax import alignment, audio_visual_matching, set_losses
from avs_jax.class_losses import class_dice, class_iou
from avs_jax.errors import InputError, check_choice
from avs_jax.types import AnyArray, Batch, Outputs

Logits = Float[AnyArray, "B T H W"]
Masks = Shaped[AnyArray, "B T H W"]
Weight = Shaped[AnyArray, "B T"]


def _f32(x: AnyArray) -> Array:
  return jnp.asarray(x, jnp.float32)


def presence(batch: Batch) -> Float[Array, "B T"]:
  """1 for real frames, 0 for padding and for rows that only fill the batch."""
  return (jnp.asarray(batch.present) & (jnp.asarray(batch.index) >= 0)[:, None]).astype(jnp.float32)


def frame_weight(batch: Batch) -> Float[Array, "B T"]:
  """1 for frames that are present and annotated, 0 for the others."""
  return presence(batch) * _f32(batch.annotated)


def _weighted_mean(per_frame: Float[Array, "B T"], weight: Weight) -> Float[Scalar, ""]:
  """Mean over the frames of weight 1; 0 where there are none."""
  weight = _f32(weight)
  return (per_frame * weight).sum() / jnp.maximum(weight.sum(), 1)


def _pixel_bce(logits: Array, target: Array) -> Array:
  """-(g log p + (1 - g) log(1 - p)) per pixel, p = sigmoid(logit), without ever forming p."""
  return -(target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits))


@jax.custom_jvp
def _clamped_bce(logits: Array, target: Array) -> Array:
  """The same through a float32 p, logarithms held above -100: a wrong logit beyond about 17 costs 100."""
  p = jax.nn.sigmoid(logits)
  log_p, log_not_p = jnp.maximum(jnp.log(p), -100), jnp.maximum(jnp.log1p(-p), -100)
  return -(target * log_p + (1 - target) * log_not_p)


@_clamped_bce.defjvp
def _clamped_bce_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  logits, target = primals
  p = jax.nn.sigmoid(logits)
  slope = p * (1 - p)
  # A saturated p has no slope: pixels that are wrong beyond about 17 learn nothing. Targets have no tangent.
  return _clamped_bce(logits, target), (p - target) * slope / jnp.maximum(slope, 1e-12) * tangents[0]


def bce(logits: Logits, masks: Masks, weight: Weight, *, clamp: bool = False) -> Float[Scalar, ""]:
  """Binary cross entropy, mean over pixels, then over weighted frames. Logits; soft targets allowed.

  An empty mask gives -mean log(1 - p), with gradient: it teaches silence to be empty.

  Args:
    clamp: the published form (float32 sigmoid, then logarithms held above -100): a pixel costs 100 at most,
      one that is wrong by a logit beyond about 17 gets no gradient; elsewhere nothing differs.
  """
  function = _clamped_bce if clamp else _pixel_bce
  return _weighted_mean(function(_f32(logits), _f32(masks)).mean((-2, -1)), weight)


def focal(
  logits: Logits, masks: Masks, weight: Weight, *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Scalar, ""]:
  """alpha (1 - exp(-b))^gamma b of the per-pixel cross entropy b, mean over pixels, then weighted frames.

  `alpha` scales both classes alike (bias_in_AVS's released form). An empty mask has gradient.
  """
  b = _pixel_bce(_f32(logits), _f32(masks))
  return _weighted_mean((alpha * (1 - jnp.exp(-b)) ** gamma * b).mean((-2, -1)), weight)


def dice(logits: Logits, masks: Masks, weight: Weight) -> Float[Scalar, ""]:
  """1 - 2 sum(p g) / (sum p^2 + sum g^2 + 0.002) per frame, mean over weighted frames; p = sigmoid(logits).

  AVSegFormer's segmentation loss. An empty mask gives exactly 1 and exactly zero gradient, whatever is
  predicted: frames without a sounding object, and so every negative, teach NOTHING. Use `soft_iou` there.
  """
  p, target = jax.nn.sigmoid(_f32(logits)), _f32(masks)
  top = 2 * (p * target).sum((-2, -1))
  bottom = jnp.square(p).sum((-2, -1)) + jnp.square(target).sum((-2, -1)) + 0.002
  return _weighted_mean(1 - top / bottom, weight)


def soft_iou(logits: Logits, masks: Masks, weight: Weight) -> Float[Scalar, ""]:
  """1 - half the sum of object's and background's soft IoU, per frame; mean over weighted frames.

  Soft IoU = (sum(p g) + 1) / (sum(p + g - p g) + 1). With an empty mask the object's is 1 / (sum p + 1) and
  the background's nearly 1 - mean p: both have gradient; an empty prediction reaches 0.
  Ours; the form follows from the metric.
  """
  p, target = jax.nn.sigmoid(_f32(logits)), _f32(masks)

  def overlap(a: Array, b: Array) -> Array:
    both = (a * b).sum((-2, -1))
    return (both + 1) / (a.sum((-2, -1)) + b.sum((-2, -1)) - both + 1)

  return _weighted_mean(1 - 0.5 * (overlap(p, target) + overlap(1 - p, 1 - target)), weight)


def cross_entropy(logits: Float[AnyArray, "B T H W K"], labels: Masks, weight: Weight) -> Float[Scalar, ""]:
  """-log softmax(logits)[label], mean over pixels, then weighted frames (AVSS). Class 0: background."""
  log_p = jax.nn.log_softmax(_f32(logits), axis=-1)
  picked = jnp.take_along_axis(log_p, jnp.asarray(labels, jnp.int32)[..., None], axis=-1)[
    ..., 0
  ]  # [B, T, H, W]
  return _weighted_mean(-picked.mean((-2, -1)), weight)


def mix_dice(mix_mask: Float[AnyArray, "B T h w *C"], masks: Masks, weight: Weight) -> Float[Scalar, ""]:
  """`dice` of AVSegFormer's auxiliary mask against what sounds (label > 0); an empty mask teaches nothing.

  `mix_mask` is a logit, or features whose channel mean is one; it is enlarged bilinearly to the mask's size,
  pixels being squares (the centre of the top-left one is (0.5, 0.5)), borders repeated.
  """
  mix = _f32(mix_mask)
  mix = mix.mean(-1) if mix.ndim == 5 else mix
  mix = jax.image.resize(mix, masks.shape, "bilinear", antialias=False)
  return dice(mix, masks > 0, weight)


_PIXEL_PARTS = {"bce": bce, "dice": dice, "soft_iou": soft_iou, "focal": focal}
_CLASS_PARTS = {"cross_entropy": cross_entropy, "class_dice": class_dice, "class_iou": class_iou}
_PARTS = ("bce", *_CLASS_PARTS, "dice", "soft_iou", "focal", "mix_dice")
_MATCHING = ("none", "kl", "euclidean", "cosine")
_DEFAULTS: dict[str, Any] = {
  **dict.fromkeys(_PARTS, 0.0),
  "clamp": False,
  "matching": "none",
  "matching_weight": 0.0,
  "matching_normalise": False,
  "matching_threshold": False,
  "matching_pooling": "avg",
  "matching_target": "audio",
  "alignment": 0.0,
  "alignment_threshold": alignment.THRESHOLD,
  "alignment_scale": alignment.SCALE,
  "alignment_temperature": alignment.TEMPERATURE,
  "alignment_truth": False,
  "queries": 0.0,
  "queries_form": "paper",
  "queries_weights": (5.0, 5.0, 2.0),
  "queries_last": None,  # of `set_losses.OF_FORM`, where not given
  "queries_drop": None,
  "queries_targets": 8,
}


def settings(weights: Mapping[str, Any]) -> dict[str, Any]:
  """The complete settings of `objective`: what is not given is off, or at its default.

  Raises: InputError for an unknown name or choice.
  """
  unknown = sorted(set(weights) - set(_DEFAULTS))
  if unknown:
    raise InputError(f"loss: unknown setting {', '.join(unknown)}; known are {', '.join(sorted(_DEFAULTS))}.")
  chosen = {**_DEFAULTS, **weights}
  choices = {
    "matching": _MATCHING,
    "matching_pooling": ("avg", "max"),
    "matching_target": ("audio", "neighbour"),
    "queries_form": ("paper", "released"),
  }
  for key, allowed in choices.items():
    check_choice(f"loss.{key}", chosen[key], allowed)
  for key, value in set_losses.OF_FORM[chosen["queries_form"]].items():
    chosen[key] = value if chosen[key] is None else chosen[key]
  return chosen


def _pixel_part(name: str, outputs: Outputs, batch: Batch, clamp: bool) -> Array:
  classes = outputs.logits.shape[-1]
  if classes != 1:
    raise InputError(f"loss.{name}: the system has {classes} classes; use cross_entropy for them.")
  extra = {"clamp": clamp} if name == "bce" else {}
  masks = jnp.minimum(jnp.asarray(batch.masks), 1)  # whatever class it is, it sounds
  return _PIXEL_PARTS[name](outputs.logits[..., 0], masks, frame_weight(batch), **extra)


def _class_part(name: str, outputs: Outputs, batch: Batch) -> Array:
  if outputs.logits.shape[-1] == 1:
    raise InputError(f"loss.{name}: the system has one class; use bce, or build it with num_classes > 1.")
  return _CLASS_PARTS[name](outputs.logits, jnp.asarray(batch.masks), frame_weight(batch))


def _mix_part(outputs: Outputs, batch: Batch) -> Array:
  if outputs.mix_mask is None:
    raise InputError("loss.mix_dice: this system gives no mix mask; set it to 0 or choose 'avsegformer'.")
  return mix_dice(outputs.mix_mask, jnp.asarray(batch.masks), frame_weight(batch))


def _matching_part(outputs: Outputs, batch: Batch, chosen: Mapping[str, Any]) -> Array:
  if chosen["matching"] == "cosine":
    return audio_visual_matching.masked_cosine(outputs, presence(batch), pooling=chosen["matching_pooling"])
  keys = ("normalise", "threshold", "pooling", "target")
  options = {key: chosen[f"matching_{key}"] for key in keys}
  return audio_visual_matching.matching(
    outputs, presence(batch), frame_weight(batch), form=chosen["matching"], **options
  )


def _alignment_part(outputs: Outputs, batch: Batch, chosen: Mapping[str, Any]) -> Array:
  keys = ("threshold", "scale", "temperature", "truth")
  return alignment.alignment(outputs, batch, **{key: chosen[f"alignment_{key}"] for key in keys})


def _set_parts(outputs: Outputs, batch: Batch, chosen: Mapping[str, Any]) -> dict[str, Array]:
  if outputs.query_masks is None:
    raise InputError("loss.queries: this system predicts no set; set it to 0 or choose 'active_queries'.")
  return set_losses.set_loss(outputs, batch, chosen)


def objective(weights: Mapping[str, Any]) -> Callable[[Outputs, Batch], tuple[Array, dict[str, Array]]]:
  """The weighted sum of parts: (outputs, batch) -> (total, its parts, weighted so that they add up to it).

  Args:
    weights: any of: weights of the parts bce, cross_entropy, class_dice, class_iou, dice, soft_iou, focal, mix_dice
      (0 or absent: off); `clamp` (see `bce`); `matching` (none, kl, euclidean, cosine) with `matching_weight`,
      `matching_normalise`, `matching_threshold`, `matching_pooling` (avg, max), `matching_target` (audio,
      neighbour); `alignment`, the weight of `alignment.alignment`, with its threshold, scale, temperature and truth
      under `alignment_...`; `queries`, the weight of `set_losses.set_loss`, with `queries_form` (paper, released),
      `queries_weights` (focal, Dice, class), `queries_last` (weight of the last layer, the others have 1),
      `queries_drop` (chance that a well learned pair is dropped; both: the form's own where None),
      `queries_targets` (most targets a frame).
      Which weights make up a paper's recipe is said in configs/.

  Raises: InputError for an unknown name or choice; when computed, for no part, or one not made for such outputs.
  """
  chosen = settings(weights)
  calls: dict[str, Callable[[Outputs, Batch], Array]] = {
    **{name: functools.partial(_pixel_part, name, clamp=chosen["clamp"]) for name in _PIXEL_PARTS},
    **{name: functools.partial(_class_part, name) for name in _CLASS_PARTS},
    "mix_dice": _mix_part,
    "matching": functools.partial(_matching_part, chosen=chosen),
    "alignment": functools.partial(_alignment_part, chosen=chosen),
  }
  matched = chosen["matching_weight"] if chosen["matching"] != "none" else 0.0
  weight_of = {
    **{name: chosen[name] for name in _PARTS},
    "matching": matched,
    "alignment": chosen["alignment"],
  }

  def compute(outputs: Outputs, batch: Batch) -> tuple[Array, dict[str, Array]]:
    parts = {name: weight * calls[name](outputs, batch) for name, weight in weight_of.items() if weight}
    if chosen["queries"]:
      parts.update(_set_parts(outputs, batch, chosen))
    if not parts:
      raise InputError(
        "loss: every part has weight 0; give at least one of " + ", ".join((*_PARTS, "queries")) + "."
      )
    return jnp.stack(list(parts.values())).sum(), parts

  return compute
