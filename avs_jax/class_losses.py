"""Region losses of semantic masks: what binary Dice and IoU losses are for two classes, for any number.

Float32, logits in, frames weighed by `annotated & present`. Both look at the classes that a frame's mask holds,
background among them: a softmax has its mass elsewhere only at their cost.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar, Shaped

from avs_jax.types import AnyArray

Labels = Shaped[AnyArray, "B T H W"]
Weight = Shaped[AnyArray, "B T"]


def _areas(logits: AnyArray, labels: AnyArray) -> tuple[Array, Array, Array]:
  """Pixels in common, predicted and true, by frame and class: [B, T, K] each."""
  p = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
  true = jax.nn.one_hot(jnp.asarray(labels, jnp.int32), p.shape[-1], dtype=jnp.float32)
  return (p * true).sum((2, 3)), p.sum((2, 3)), true.sum((2, 3))


def _mean(loss: Array, true: Array, weight: AnyArray) -> Float[Scalar, ""]:
  """Over the classes that a frame holds, then over frames of weight 1; 0 where there are none."""
  held = (true > 0).astype(jnp.float32)
  per_frame = (loss * held).sum(-1) / jnp.maximum(held.sum(-1), 1)
  weight = jnp.asarray(weight, jnp.float32)
  return (per_frame * weight).sum() / jnp.maximum(weight.sum(), 1)


def class_dice(logits: Float[AnyArray, "B T H W K"], labels: Labels, weight: Weight) -> Float[Scalar, ""]:
  """1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1), mean over a frame's classes, then over weighted frames.

  A frame of background alone holds class 0 and has gradient.
  """
  both, predicted, true = _areas(logits, labels)
  return _mean(1 - (2 * both + 1) / (predicted + true + 1), true, weight)


def class_iou(logits: Float[AnyArray, "B T H W K"], labels: Labels, weight: Weight) -> Float[Scalar, ""]:
  """1 - (sum(p g) + 1) / (sum(p + g - p g) + 1), mean over a frame's classes, then over weighted frames.

  A frame of background alone holds class 0 and has gradient.
  """
  both, predicted, true = _areas(logits, labels)
  return _mean(1 - (both + 1) / (predicted + true - both + 1), true, weight)
