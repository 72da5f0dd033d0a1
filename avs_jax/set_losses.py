"""Losses of systems that predict a set: every query has a mask and a class, and some answer for a target each.

All of them are float32, take logits and weigh frames by `annotated & present`. Targets are matched to queries
layer by layer, see `matching.assign`. Frames are folded, N = B*T.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from avs_jax.deformable import sample_plain
from avs_jax.layers import resize_bilinear
from avs_jax.matching import assign
from avs_jax.types import Batch, Outputs

NOTHING_WEIGHT = 0.1  # of a query that answers for nothing, in the class loss (Mask2Former)
EASY_SHARE = 0.4  # of the matched pairs that count as well learned (released code; the paper gives no share)
POINTS = 12544  # at which the released form compares masks (Mask2Former: 112^2)
# Settings of `loss` that each form has of its own: bias_in_AVS weighs the last layer more and drops with p = .4; its
# released code weighs all alike and keeps 7 of 10.
OF_FORM = {
  "paper": {"queries_last": 2.0, "queries_drop": 0.4},
  "released": {"queries_last": 1.0, "queries_drop": 0.3},
}


class Targets(NamedTuple):
  """What the queries of each frame should find.

  Attributes:
    masks: 0 or 1, or means of them.
    labels: class of each mask.
    valid: False for slots that are not used.
    judged: frames that count.
  """

  masks: Float[Array, "N H W M"]
  labels: Int[Array, "N M"]
  valid: Bool[Array, "N M"]
  judged: Bool[Array, "N"]


class Draws(NamedTuple):
  """The random numbers of the released form for one layer, coordinates (x, y) in [0, 1] of the frame.

  Attributes:
    match: points at which costs are computed.
    candidates, extra: for each target the points from which the least certain are taken, and some more.
    luck: uniform in [0, 1); None: no pair is dropped.
  """

  match: Float[Array, "N _P 2"]
  candidates: Float[Array, "N M _C 2"]
  extra: Float[Array, "N M _E 2"]
  luck: Float[Array, "N M"] | None


def targets_of(batch: Batch, classes: int, limit: int) -> Targets:
  """One target a class that the mask holds, class 0 of a semantic mask (background) too; binary: what sounds.

  Args:
    classes: K; 1 for binary masks.
    limit: slots a frame; of more classes the largest are taken.
  """
  masks = jnp.asarray(batch.masks).reshape(-1, *batch.masks.shape[2:])  # [N, H, W]
  real = jnp.asarray(batch.present) & (jnp.asarray(batch.index) >= 0)[:, None]
  judged = (real & jnp.asarray(batch.annotated)).reshape(-1)  # [N]
  if classes == 1:
    found = (masks > 0)[..., None]
    labels, counts = jnp.zeros((len(masks), 1), jnp.int32), found.sum((1, 2))
  else:
    sizes = jax.vmap(lambda frame: jnp.bincount(frame.reshape(-1), length=classes))(masks)  # [N, K]
    counts, labels = jax.lax.top_k(sizes, min(limit, classes))
    found = masks[..., None] == labels[:, None, None]
  return Targets(found.astype(jnp.float32), labels, (counts > 0) & judged[:, None], judged)


def sample_points(maps: Float[Array, "N h w C"], points: Float[Array, "N P 2"]) -> Float[Array, "N P C"]:
  """Bilinear values at points (x, y) of the map, whose corners are 0 and 1; zero outside.

  The centre of the top-left cell is (0.5 / w, 0.5 / h).
  """
  count, rows, cols, channels = maps.shape
  value, places = maps.reshape(count, -1, 1, channels), points[:, :, None, None, None]  # one head, one level
  return sample_plain(value, ((rows, cols),), places, jnp.ones(places.shape[:-1]))[:, :, 0]


def pair_costs(
  masks: Float[Array, "N P Q"],
  classes: Float[Array, "N Q E"],
  targets: Float[Array, "N P M"],
  labels: Int[Array, "N M"],
  weights: tuple[float, float, float],
) -> Float[Array, "N Q M"]:
  """w0 cross entropy + w1 Dice - w2 chance of the target's class, of each query for each target.

  Cross entropy is a mean over the P places; Dice is 1 - (2 sum(p g) + 1) / (sum(p + g) + 1).
  """
  entropy = jnp.einsum("npq,npm->nqm", jax.nn.softplus(-masks), targets)
  entropy += jnp.einsum("npq,npm->nqm", jax.nn.softplus(masks), 1 - targets)
  p = jax.nn.sigmoid(masks)
  both = jnp.einsum("npq,npm->nqm", p, targets)
  dice = 1 - (2 * both + 1) / (p.sum(1)[:, :, None] + targets.sum(1)[:, None] + 1)
  chance = jnp.take_along_axis(jax.nn.softmax(classes, axis=-1), labels[:, None], axis=-1)  # [N, Q, M]
  return weights[0] * entropy / masks.shape[1] + weights[1] * dice - weights[2] * chance


def focal_and_dice(
  masks: Float[Array, "N M P"], targets: Float[Array, "N M P"], alpha: float, gamma: float
) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
  """Each pair's alpha (1 - exp(-b))^gamma b, mean over places, and its Dice (see `pair_costs`)."""
  b = jnp.maximum(masks, 0) - masks * targets + jnp.log1p(jnp.exp(-jnp.abs(masks)))
  focal = b if gamma == 0 else (1 - jnp.exp(-b)) ** gamma * b
  p = jax.nn.sigmoid(masks)
  dice = 1 - (2 * (p * targets).sum(-1) + 1) / (p.sum(-1) + targets.sum(-1) + 1)
  return alpha * focal.mean(-1), dice


def class_loss(
  classes: Float[Array, "N Q E"],
  query: Int[Array, "N M"],
  labels: Int[Array, "N M"],
  matched: Bool[Array, "N M"],
  counts: Float[Array, "N Q"],
) -> Float[Array, ""]:
  """-log softmax(classes)[label]: weighted mean over queries, whose label is "nothing" where they are unmatched.

  Args:
    query: of each target.
    counts: 0 for queries that are left out.
  """
  num_queries, outputs = classes.shape[1:]
  hit = (query[..., None] == jnp.arange(num_queries)[None, None]) & matched[..., None]  # [N, M, Q]
  wanted = jnp.where(hit.any(1), (hit * labels[..., None]).sum(1), outputs - 1)  # [N, Q]
  log_p = jnp.take_along_axis(jax.nn.log_softmax(classes, axis=-1), wanted[..., None], axis=-1)[..., 0]
  weight = counts * jnp.where(wanted == outputs - 1, NOTHING_WEIGHT, 1.0)
  return -(weight * log_p).sum() / jnp.maximum(weight.sum(), 1e-6)


def easy_pairs(focal: Float[Array, "N M"], matched: Bool[Array, "N M"]) -> Bool[Array, "N M"]:
  """The `EASY_SHARE` of the whole batch's matched pairs whose masks are learned best."""
  order = jnp.argsort(jnp.where(matched, jax.lax.stop_gradient(focal), jnp.inf).reshape(-1))
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype)).reshape(focal.shape)
  return matched & (rank < jnp.floor(EASY_SHARE * matched.sum() + 1e-4))


def paper_layer(
  masks: Float[Array, "N h w Q"],
  classes: Float[Array, "N Q E"],
  active: Bool[Array, "N Q"],
  targets: Targets,
  weights: tuple[float, float, float],
  drop: float,
  luck: Float[Array, "N M"] | None,
) -> dict[str, Float[Array, ""]]:
  """Focal, Dice and class loss of one layer; only active queries are matched, and only they are classified.

  bias_in_AVS, section 4.5. Masks are compared on all cells of the predicted map, with targets averaged over
  each cell. A well learned pair is dropped from all three losses with probability `drop`.
  Ours, where the paper is silent: active queries that answer for nothing learn "nothing" with weight 0.1, or a
  silent frame would teach nothing; which pairs count as well learned; the focal loss's 0.25 and 2.
  """
  count, rows, cols, _ = masks.shape
  cells = shrink(targets.masks, (rows, cols)).reshape(count, rows * cols, -1)  # [N, P, M]
  drawn = masks.reshape(count, rows * cols, -1)  # [N, P, Q]
  cost = pair_costs(drawn, classes, cells, targets.labels, weights)
  query, matched = assign(cost, active, targets.valid)
  own = jnp.take_along_axis(drawn, query[:, None], axis=-1)  # [N, P, M]
  focal, dice = focal_and_dice(own.swapaxes(1, 2), cells.swapaxes(1, 2), 0.25, 2.0)
  kept = matched
  if luck is not None and drop:
    kept = matched & ~(easy_pairs(focal, matched) & (luck < drop))
  counts = active & targets.judged[:, None]
  dropped = (query[..., None] == jnp.arange(active.shape[1])[None, None]) & (matched & ~kept)[..., None]
  counts = (counts & ~dropped.any(1)).astype(jnp.float32)
  pairs = jnp.maximum(matched.sum(), 1)
  return {
    "focal": weights[0] * (focal * kept).sum() / pairs,
    "dice": weights[1] * (dice * kept).sum() / pairs,
    "class": weights[2] * class_loss(classes, query, targets.labels, matched, counts),
  }


def released_layer(
  masks: Float[Array, "N h w Q"],
  classes: Float[Array, "N Q E"],
  marks: Float[Array, "N Q"],
  targets: Targets,
  weights: tuple[float, float, float],
  drop: float,
  draws: Draws,
  focal: tuple[float, float] = (0.5, 2.0),
) -> dict[str, Float[Array, ""]]:
  """The same as the released code does it, for checkpoint parity.

  Masks are multiplied by the marks for the matching alone. A dormant query so shows a logit of 0, which is
  cheaper than a confidently wrong active one: dormant queries ARE matched and learn. A dropped pair loses
  its focal loss only.

  Args:
    focal: alpha and gamma; (1, 0) is plain cross entropy.
  """
  count, slots = targets.labels.shape
  seen = sample_points(masks * marks[:, None, None], draws.match)  # [N, P, Q]
  goal = sample_points(targets.masks, draws.match)
  cost = pair_costs(seen, classes, goal, targets.labels, (weights[0], weights[1], 1.0))
  query, matched = assign(cost, None, targets.valid)

  def fold(x: Float[Array, "N h w M"]) -> Float[Array, "K h w 1"]:
    return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3], 1)  # [N*M, h, w, 1]

  own = fold(jnp.take_along_axis(masks, query[:, None, None], axis=-1))
  candidates = draws.candidates.reshape(count * slots, -1, 2)
  doubt = -jnp.abs(sample_points(jax.lax.stop_gradient(own), candidates))[..., 0]  # [N*M, C]
  _, place = jax.lax.top_k(doubt, 3 * draws.extra.shape[2])
  points = jnp.take_along_axis(candidates, place[..., None], axis=1)
  points = jnp.concatenate([points, draws.extra.reshape(count * slots, -1, 2)], 1)  # [N*M, P, 2]
  got = sample_points(own, points).reshape(count, slots, -1)  # [N, M, P]
  goal = sample_points(fold(targets.masks), points).reshape(count, slots, -1)
  entropy, dice = focal_and_dice(got, goal, *focal)
  kept = matched
  if draws.luck is not None and drop:
    kept = matched & ~(easy_pairs(entropy, matched) & (draws.luck < drop))
  counts = jnp.broadcast_to(targets.judged[:, None], classes.shape[:2]).astype(jnp.float32)
  pairs = jnp.maximum(targets.valid.sum(), 1)
  return {
    "focal": weights[0] * (entropy * kept).sum() / pairs,
    "dice": weights[1] * (dice * matched).sum() / pairs,
    "class": weights[2] * class_loss(classes, query, targets.labels, matched, counts),
  }


def shrink(masks: Float[Array, "N H W M"], size: tuple[int, int]) -> Float[Array, "N h w M"]:
  """Means over equal blocks; bilinear values where the size does not divide."""
  count, rows, cols, slots = masks.shape
  if rows % size[0] or cols % size[1]:
    return resize_bilinear(masks, size, align_corners=False)
  return masks.reshape(count, size[0], rows // size[0], size[1], cols // size[1], slots).mean((2, 4))


def set_loss(outputs: Outputs, batch: Batch, chosen: dict[str, Any]) -> dict[str, Float[Array, ""]]:
  """Focal, Dice and class loss summed over the predictions before the decoder's first layer and after each.

  Args:
    chosen: `losses.settings`; those whose names begin with `queries` count here.

  Returns:
    The three parts, weighted so that they add up to the loss.
  """
  layers: list[Any] = list(zip(outputs.query_masks or (), outputs.query_classes or (), strict=True))
  marks: Any = outputs.marks
  marks = jnp.asarray(marks, jnp.float32).reshape(-1, marks.shape[-1])  # [N, Q]
  targets = targets_of(batch, outputs.logits.shape[-1], chosen["queries_targets"])
  keys = None if outputs.draw is None else jax.vmap(jax.random.key)(jnp.asarray(outputs.draw).reshape(-1))
  parts = {"focal": jnp.float32(0), "dice": jnp.float32(0), "class": jnp.float32(0)}
  for i, (masks, classes) in enumerate(layers):
    masks, classes = (jnp.asarray(x, jnp.float32).reshape(-1, *x.shape[2:]) for x in (masks, classes))
    weights, drop = tuple(chosen["queries_weights"]), chosen["queries_drop"]
    if chosen["queries_form"] == "paper":
      luck = None if keys is None else _uniform(keys, i, targets.labels.shape[1:])
      values = paper_layer(masks, classes, marks > 0.5, targets, weights, drop, luck)
    else:
      draws = _points(keys, i, targets.labels.shape)
      values = released_layer(masks, classes, marks, targets, weights, drop, draws)
    share = chosen["queries_last"] if i == len(layers) - 1 else 1.0
    parts = {name: parts[name] + share * value for name, value in values.items()}
  return {f"queries_{name}": chosen["queries"] * value for name, value in parts.items()}


def _uniform(keys: Array, number: int, shape: tuple[int, ...]) -> Float[Array, "N ..."]:
  """Uniform numbers in [0, 1), their own for each frame."""
  return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, number), shape))(keys)


def _points(keys: Array | None, layer: int, shape: tuple[int, ...]) -> Draws:
  """The released form's random points; outside training the same ones every time."""
  count, slots = shape
  luck = None if keys is None else _uniform(keys, 4 * layer, (slots,))
  own = jax.vmap(jax.random.key)(jnp.arange(count)) if keys is None else keys
  match = _uniform(own, 4 * layer + 1, (POINTS, 2))
  candidates = _uniform(own, 4 * layer + 2, (slots, 3 * POINTS, 2))
  extra = _uniform(own, 4 * layer + 3, (slots, POINTS // 4, 2))
  return Draws(match, candidates, extra, luck)
