"""Pixels of a frame counted on the device: what every figure of `metrics` is computed from."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, Shaped

from avs_jax.types import AnyArray


def _thresholds() -> np.ndarray:
  """255 float32 values from 0 to exactly 1, 1/254 apart; the upper half counted down from 1 (as torch)."""
  step, k = np.float32(1 / 254), np.arange(255, dtype=np.float32)
  return np.where(k < 127, step * k, np.float32(1) - step * (254 - k)).astype(np.float32)


THRESHOLDS = _thresholds()


@flax.struct.dataclass
class FrameCounts:
  """Sums over the pixels of each frame; whole numbers for masks of 0 and 1, exact in float32.

  Attributes:
    overlap: sum of target where the prediction is on (p > 0.5).
    union: sum of max(prediction, target).
    active: pixels that are on.
    accepted: pixels with p >= threshold, for each of `THRESHOLDS`.
    hits: sum of target over the accepted pixels.
    truth: sum of target.
    pixels: H * W.
  """

  overlap: Float[AnyArray, "N"]
  union: Float[AnyArray, "N"]
  active: Float[AnyArray, "N"]
  accepted: Float[AnyArray, "N 255"]
  hits: Float[AnyArray, "N 255"]
  truth: Float[AnyArray, "N"]
  pixels: Float[AnyArray, "N"]


@flax.struct.dataclass
class ClassCounts:
  """Pixels of each class in each frame: predicted and true, predicted, true."""

  overlap: Float[AnyArray, "N K"]
  predicted: Float[AnyArray, "N K"]
  truth: Float[AnyArray, "N K"]


@functools.partial(jax.jit, static_argnames="threshold")
def probability_counts(
  probabilities: Float[AnyArray, "N H W"], masks: Shaped[AnyArray, "N H W"], threshold: float = 0.5
) -> FrameCounts:
  """Counts of each frame. One pass: pixels are sorted into the 255 steps, then summed from the top.

  Masks are 0 and 1, or soft targets in steps of 1/255 (as image files hold them), up to 2900 x 2900 pixels.
  A pixel that is not a number is accepted by no threshold; `Tally.add` refuses such frames.
  """
  count, height, width = probabilities.shape
  pixels = height * width
  p = probabilities.astype(jnp.float32).reshape(count, pixels)
  target = masks.astype(jnp.float32).reshape(count, pixels)
  lower = jnp.asarray(THRESHOLDS)
  upper = jnp.append(lower[1:], jnp.inf)
  # The product may round across a step, so it is a guess, put right by comparing with the steps themselves.
  guess = jnp.clip((p * 254).astype(jnp.int32), 0, 254)
  passed = guess + 1 - (p < lower[guess]) + (p >= upper[guess])  # number of thresholds <= p
  passed = jnp.where(jnp.isnan(p), 0, passed)
  slot = (passed + 256 * jnp.arange(count)[:, None]).reshape(-1)
  # Whole numbers, because a running float32 sum of soft targets drifts by 2e-4 over a frame of 224 x 224.
  shares = jnp.round(target * 255).astype(jnp.int32)
  values = jnp.stack([jnp.ones_like(shares), shares], axis=-1).reshape(-1, 2)
  histogram = jnp.zeros((count * 256, 2), jnp.int32).at[slot].add(values).reshape(count, 256, 2)
  at_least = jnp.cumsum(histogram[:, ::-1], axis=1)[:, ::-1][:, 1:]  # [N, 255, 2]
  accepted, shares = at_least[..., 0], at_least[..., 1]
  on = (p > threshold).astype(jnp.float32)
  return FrameCounts(
    overlap=(on * target).sum(-1),
    union=jnp.maximum(on, target).sum(-1),
    active=on.sum(-1),
    accepted=accepted.astype(jnp.float32),
    hits=(shares // 255).astype(jnp.float32) + (shares % 255).astype(jnp.float32) / 255,
    truth=target.sum(-1),
    pixels=jnp.full((count,), pixels, jnp.float32),
  )


@functools.partial(jax.jit, static_argnames="threshold")
def frame_counts(
  logits: Float[AnyArray, "N H W"], masks: Shaped[AnyArray, "N H W"], threshold: float = 0.5
) -> FrameCounts:
  """`probability_counts` of sigmoid(logits) in float32.

  Where the probabilities are also saved, compute them once and call `probability_counts`.
  """
  return probability_counts(jax.nn.sigmoid(logits.astype(jnp.float32)), masks, threshold)


@jax.jit
def class_counts(logits: Float[AnyArray, "N H W K"], labels: Num[AnyArray, "N H W"]) -> ClassCounts:
  """Counts of the most likely class (`likeliest`) against the labels."""
  return label_counts(likeliest(logits), labels, logits.shape[-1])


def likeliest(logits: Float[AnyArray, "*N K"]) -> Int[Array, "*N"]:
  """The most likely class, the lowest of equals; -1 where a logit is not a number."""
  return jnp.where(jnp.isnan(logits).any(-1), -1, jnp.argmax(logits, axis=-1))


def activity(logits: Float[AnyArray, "*N K"]) -> Float[Array, "*N"]:
  """Probability that a pixel sounds: the sigmoid of binary logits; of classes, the likeliest against the background.

  So it is above one half exactly where the likeliest class is not the background.
  """
  logits = logits.astype(jnp.float32)
  if logits.shape[-1] == 1:
    return jax.nn.sigmoid(logits[..., 0])
  return jax.nn.sigmoid(logits[..., 1:].max(-1) - logits[..., 0])


@functools.partial(jax.jit, static_argnames="classes")
def label_counts(chosen: Num[AnyArray, "N H W"], labels: Num[AnyArray, "N H W"], classes: int) -> ClassCounts:
  """Counts of a predicted class per pixel against the labels; a class below 0 is counted nowhere."""
  count = chosen.shape[0]
  chosen, labels = (jnp.asarray(x, jnp.int32).reshape(count, -1) for x in (chosen, labels))
  frame = jnp.arange(count)[:, None]

  def histogram(ids: Array, value: Array) -> Array:
    ids = jnp.where(ids < 0, classes, ids)  # one that is too large is dropped
    whole = jnp.zeros((count, classes), jnp.int32).at[frame, ids].add(value, mode="drop")
    return whole.astype(jnp.float32)

  one, same = jnp.ones_like(chosen), (chosen == labels).astype(jnp.int32)
  return ClassCounts(
    overlap=histogram(labels, same), predicted=histogram(chosen, one), truth=histogram(labels, one)
  )
