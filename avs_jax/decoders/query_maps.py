"""From each query's mask and class to one map of the frame."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.layers import resize_bilinear
from avs_jax.types import Outputs

CANVAS = 384  # rows and columns to which the released code enlarges masks, whatever the frame


def chances(classes: Float[Array, "N Q E"], count: int) -> Float[Array, "N Q K"]:
  """Probabilities of the first `count` classes among themselves and "nothing", which is the last output."""
  chosen = jnp.concatenate([classes[..., :count], classes[..., -1:]], -1)  # [N, Q, K+1]
  return jax.nn.softmax(chosen, axis=-1)[..., :-1]


def covered(
  masks: Float[Array, "N h w Q"], classes: Float[Array, "N Q E"], marks: Float[Array, "N Q"]
) -> Float[Array, "N h w 1"]:
  """Logit of "an object of some query covers this cell": 1 - prod(1 - mark p sigmoid(mask)) over the queries.

  p: chance that the query has found anything. bias_in_AVS multiplies masks and classes and does not say how a
  product becomes a binary map; this form is ours: it stays below 1, and queries that found nothing add nothing.
  """
  chance = (chances(classes, 1)[..., 0] * marks)[:, None, None]  # [N, 1, 1, Q]
  free = jnp.log1p(-jnp.minimum(chance * jax.nn.sigmoid(masks), 1 - 1e-6)).sum(-1, keepdims=True)
  return jnp.log(jnp.maximum(-jnp.expm1(free), 1e-6)) - free


def named(
  masks: Float[Array, "N h w Q"], classes: Float[Array, "N Q E"], marks: Float[Array, "N Q"], count: int
) -> Float[Array, "N h w K"]:
  """log sum(mark p sigmoid(mask)) over the queries, p the chance of each class.

  bias_in_AVS, section 4.5, and Mask2Former's semantic map; the logarithm, ours, makes scores logits.
  """
  chance = chances(classes, count) * marks[..., None]  # [N, Q, K]
  return jnp.log(jnp.einsum("nhwq,nqk->nhwk", jax.nn.sigmoid(masks), chance) + 1e-6)


def released_binary(
  masks: Float[Array, "N h w Q"],
  classes: Float[Array, "N Q E"],
  marks: Float[Array, "N Q"],
  size: tuple[int, int],
  count: int = 22,
) -> Float[Array, "N H W 1"]:
  """The released binary map: sum(mark p mask) over the queries and over all classes but the first.

  Mask LOGITS are added up, so a dormant query says "undecided", not "absent". Enlarging comes last here, which
  gives the same numbers, since everything is linear.

  Args:
    count: slots of the class head that the released code reads.
  """
  weight = chances(classes, count)[..., 1:].sum(-1) * marks  # [N, Q]
  summed = jnp.einsum("nhwq,nq->nhw", masks, weight)[..., None]  # [N, h, w, 1]
  summed = resize_bilinear(summed, (CANVAS, CANVAS), align_corners=False)
  return resize_bilinear(summed, size, align_corners=False)


def released_semantic(
  masks: Float[Array, "N h w Q"], classes: Float[Array, "N Q E"], size: tuple[int, int], count: int
) -> Float[Array, "N H W K"]:
  """The released scores: sum(p sigmoid(mask)) over all queries, active or not. Their order alone counts."""

  def paint(frame: tuple[Float[Array, "h w Q"], Float[Array, "Q K"]]) -> Float[Array, "H W K"]:
    wide = resize_bilinear(frame[0], (CANVAS, CANVAS), align_corners=False)  # [384, 384, Q]
    scores = jnp.einsum("hwq,qk->hwk", jax.nn.sigmoid(wide), frame[1])
    return resize_bilinear(scores, size, align_corners=False)

  return jax.lax.map(paint, (masks, chances(classes, count)))  # frame by frame: all at once is 60 MB each


def paint(outputs: Outputs, count: int, mode: str) -> Outputs:
  """`outputs` with its logits made anew from the last masks and classes of its queries and their marks; 0 on padding.

  Args:
    count: K; 1 for a binary map.
    mode: "paper" or "released".
  """
  parts = (outputs.query_masks or ())[-1:] + (outputs.query_classes or ())[-1:] + (outputs.marks,)
  masks, classes, marks = (x.reshape(-1, *x.shape[2:]) for x in parts)  # [B*T, ...]
  size = outputs.logits.shape[2:4]
  if mode == "released":
    drawn = (
      released_binary(masks, classes, marks, size)
      if count == 1
      else released_semantic(masks, classes, size, count)
    )
  else:
    drawn = covered(masks, classes, marks) if count == 1 else named(masks, classes, marks, count)
    drawn = resize_bilinear(drawn, size, align_corners=False)
  logits = drawn.reshape(outputs.logits.shape).astype(jnp.float32)
  if outputs.real is not None:
    logits = logits * outputs.real[..., None, None, None]
  return outputs.replace(logits=logits)
