"""Contrastive alignment: groups that answer to the sound come nearer to it, the others go away from it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Scalar, Shaped

from avs_jax.errors import InputError
from avs_jax.types import AnyArray, Batch, Condition, Outputs

# RAVS, section 4.1, gives the threshold; scale and temperature are ours (docs/ravs.md).
THRESHOLD, SCALE, TEMPERATURE = 0.5, 10.0, 0.07


def response(agreement: Float[AnyArray, "*N P"], scale: float = SCALE) -> Float[Array, "*N P"]:
  """sigmoid(A s), how much each group answers to the sound: RAVS, equation 8."""
  return jax.nn.sigmoid(scale * jnp.asarray(agreement, jnp.float32))


def contrast(
  agreement: Float[AnyArray, "*N P"],
  threshold: float = THRESHOLD,
  scale: float = SCALE,
  temperature: float = TEMPERATURE,
  is_positive: Bool[AnyArray, "*N P"] | None = None,
) -> Float[Array, "*N"]:
  """-log(sum over P of exp(A/t) / sum over P and N of exp(A/t)): RAVS, equation 9, a value a frame.

  P are the groups whose response exceeds the threshold, N those that stay under it; one that meets it exactly
  is in neither. Where either is empty there is nothing to tell apart: 0, with zero gradient.

  Args:
    is_positive: P, where it is known; N are the others, and threshold and scale play no part.
  """
  agreement = jnp.asarray(agreement, jnp.float32)
  if is_positive is None:
    answers = jax.lax.stop_gradient(response(agreement, scale))
    positive, negative = answers > threshold, answers < threshold
  else:
    positive, negative = jnp.asarray(is_positive), ~jnp.asarray(is_positive)
  both = positive.any(-1) & negative.any(-1)

  def gathered(chosen: Bool[Array, "*N P"]) -> Float[Array, "*N"]:
    chosen = chosen | ~both[..., None]  # never nothing: no infinity, whose gradient is no number
    return jax.nn.logsumexp(agreement / temperature, axis=-1, where=chosen)

  return jnp.where(both, jax.nn.softplus(gathered(negative) - gathered(positive)), 0)


def _pooling(pixels: int, cells: int) -> Float[Array, "c p"]:
  """Mean over the pixels of each cell, along one side."""
  member = (jnp.arange(pixels) * cells // pixels)[None] == jnp.arange(cells)[:, None]
  return member / jnp.maximum(member.sum(1, keepdims=True), 1)


def sounding_groups(
  groups: Int[AnyArray, "*N h w"], count: int, masks: Shaped[AnyArray, "*N H W"]
) -> Bool[Array, "*N P"]:
  """Whether at least half of a group's area sounds by the masks; a cell's share is the mean over its pixels."""
  groups, sounds = jnp.asarray(groups), (jnp.asarray(masks) > 0).astype(jnp.float32)
  rows, cols = (_pooling(*sides) for sides in zip(sounds.shape[-2:], groups.shape[-2:], strict=True))
  share = jnp.einsum("hH,...HW,wW->...hw", rows, sounds, cols)  # [*N, h, w]
  member = groups[..., None] == jnp.arange(count).reshape((1,) * groups.ndim + (-1,))  # [*N, h, w, P]
  area = member.sum((-3, -2))
  return (member * share[..., None]).sum((-3, -2)) >= 0.5 * jnp.maximum(area, 1)


def alignment(outputs: Outputs, batch: Batch, *, truth: bool = False, **settings: float) -> Float[Scalar, ""]:
  """Mean of `contrast` over the real frames of clips that have their own sound; 0 where there are none.

  Masks play no part, empty or not: every frame counts, annotated or not. A sound that is not the picture's
  (`Batch.condition`) has no groups of its own there.

  Args:
    truth: masks say which groups are positive, and only annotated frames count: the ground-truth filter of RAVS's
      ablation, row 2 of its table 3.
    **settings: threshold, scale and temperature.

  Raises:
    InputError: the system makes no groups.
  """
  if outputs.group_agreement is None:
    raise InputError("loss.alignment: this system makes no groups; set it to 0 or choose 'ravs'.")
  own = (jnp.asarray(batch.condition) == int(Condition.POSITIVE)) & (jnp.asarray(batch.index) >= 0)
  counted, positive = jnp.asarray(batch.present) & own[:, None], None
  if truth:
    assert outputs.groups is not None  # comes with the agreement
    positive = sounding_groups(outputs.groups, outputs.group_agreement.shape[-1], batch.masks)
    counted = counted & jnp.asarray(batch.annotated)
  weight = counted.astype(jnp.float32)  # [B, T]
  found = contrast(outputs.group_agreement, is_positive=positive, **settings)
  return (found * weight).sum() / jnp.maximum(weight.sum(), 1)
