"""What SNRP's gates and DAMF do to a clip: agreement of the two modalities, gate statistics, Grad-CAM.

SDAVS, section IV-C, table VII and figures 5, 6 and 8. The paper defines none of them; what is taken here, and why,
is in docs/sdavs.md. Nothing in the model changes for being looked at.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from avs_jax.errors import InputError
from avs_jax.fusion.damf import DAMF
from avs_jax.fusion.snrp import SNRP
from avs_jax.step import sound_of, told
from avs_jax.systems.system import innermost
from avs_jax.types import AnyArray, Batch

SMALL = 1e-8  # least share of a cell; keeps logarithms finite
Taps = dict[str, Array]


def linear_cka(
  x: Float[Array, "n p"], y: Float[Array, "n q"], counts: Bool[Array, "n"] | None = None
) -> Float[Array, ""]:
  """Linear centred kernel alignment of two descriptions of the same n things, 0 to 1.

  |Y'X|^2 / (|X'X| |Y'Y|), Frobenius norms of centred columns (Kornblith et al., 2019). Turning or scaling either
  changes nothing. A description that does not vary agrees with nothing: 0.

  Args:
    counts: the things that are looked at; None: all.
  """
  weight = (jnp.ones(x.shape[0]) if counts is None else counts.astype(jnp.float32))[:, None]  # [n, 1]
  x, y = (z.astype(jnp.float32) for z in (x, y))
  x, y = (weight * (z - _mean(z, weight, (0,), keepdims=True)) for z in (x, y))
  x, y = (z / jnp.maximum(jnp.sqrt((z**2).sum()), SMALL) for z in (x, y))  # squares of small things vanish
  own = jnp.sqrt(((x.T @ x) ** 2).sum()) * jnp.sqrt(((y.T @ y) ** 2).sum())
  return ((y.T @ x) ** 2).sum() / jnp.maximum(own, SMALL)


def attention(x: Float[Array, "*N h w D"]) -> Float[Array, "*N h w"]:
  """Where a map is active: the mean size of its channels, as shares of each picture's cells that add up to 1."""
  size = jnp.abs(x.astype(jnp.float32)).mean(-1) + SMALL  # [*N, h, w]
  return size / size.sum((-2, -1), keepdims=True)


def kl(p: Float[Array, "*N h w"], q: Float[Array, "*N h w"]) -> Float[Array, "*N"]:
  """Kullback-Leibler divergence of q from p in nats, sum p log(p / q) over the cells."""
  p, q = jnp.maximum(p, SMALL), jnp.maximum(q, SMALL)
  return (p * (jnp.log(p) - jnp.log(q))).sum((-2, -1))


def js(p: Float[Array, "*N h w"], q: Float[Array, "*N h w"]) -> Float[Array, "*N"]:
  """Jensen-Shannon divergence in nats: mean KL of both from their mean; 0 to log 2."""
  middle = (p + q) / 2
  return (kl(p, middle) + kl(q, middle)) / 2


def consistency(
  vis: Float[Array, "B T h w D"], aud: Float[Array, "B T h w D"], present: Bool[Array, "B T"]
) -> dict[str, Float[Array, "B"]]:
  """Table VII for each clip: CKA over all its cells, KL (sound from picture) and JS, means over its seconds.

  Seconds that are not `present` are in neither; a clip without any gets 0.
  """
  cells = [x.reshape(x.shape[0], -1, x.shape[-1]) for x in (vis, aud)]  # [B, T*h*w, D]
  counts = jnp.repeat(present, vis.shape[2] * vis.shape[3], axis=1)  # [B, T*h*w]
  p, q = attention(vis), attention(aud)  # [B, T, h, w]
  weight = present.astype(jnp.float32)
  means = {name: _mean(of(p, q), weight, (1,)) for name, of in (("kl", kl), ("js", js))}
  return {"cka": jax.vmap(linear_cka)(*cells, counts), **means}


def _mean(
  x: Float[Array, "..."], weight: Float[Array, "..."], axes: tuple[int, ...], keepdims: bool = False
) -> Float[Array, "..."]:
  """The weighted mean over some axes; 0 where nothing weighs."""
  weight = jnp.broadcast_to(weight, x.shape)
  total = weight.sum(axes, keepdims=keepdims)
  return (x * weight).sum(axes, keepdims=keepdims) / jnp.maximum(total, SMALL)


def grad_cam(x: Float[Array, "*N h w D"], slope: Float[Array, "*N h w D"]) -> Float[Array, "*N h w"]:
  """Grad-CAM: relu of the channels' sum, each times its mean slope over the cells; scaled to a greatest 1.

  Args:
    slope: of what is explained by `x`.
  """
  weight = slope.astype(jnp.float32).mean((-3, -2), keepdims=True)  # [*N, 1, 1, D]
  cam = nn.relu((weight * x.astype(jnp.float32)).sum(-1))  # [*N, h, w]
  return cam / jnp.maximum(cam.max((-2, -1), keepdims=True), SMALL)


def inside(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
  """SDAVS itself, without the debias strategies that wrap it, and its variables.

  Raises:
    InputError: it is another system, or recomputes its stages (what they hold cannot be seen then).
  """
  model, own = innermost(model, variables)
  if type(model).__name__ != "SDAVS":
    raise InputError(
      f"the run is of {type(model).__name__}, which has no SNRP and DAMF; analyse a run with model.system=sdavs."
    )
  return model.clone(parent=None, name=None, remat=False), own


def traced(
  model: nn.Module, variables: Mapping[str, Any], batch: Batch, added: Mapping[str, Array] | None = None
) -> tuple[Float[Array, "B T H W K"], Taps]:
  """The model's logits, and what its stages held, "stage1/NAME" (1 finest).

  Of SNRP: "unfiltered", the picture before; "channel" and "spatial", the gates; "filtered", behind them. Of DAMF:
  "visual_before", "audio_before", and "visual_after" (F'_a->v), "audio_after" (F'_v->a).

  Args:
    added: is added to the arrays of these names on their way, so that slopes by them can be taken.
  """
  taps: Taps = {}
  extra = added or {}

  def keep(name: str, value: Array) -> Array:
    value = value + extra[name] if name in extra else value
    taps[name] = value
    return value

  def tap(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
    module, method = context.module, context.method_name
    if not isinstance(module, SNRP | DAMF):
      return call(*args, **kwargs)
    stage = module.path[-2]
    if isinstance(module, DAMF) and method == "__call__":
      names = (f"{stage}/visual_before", f"{stage}/audio_before")
      before = [keep(name, value) for name, value in zip(names, args, strict=False)]
      after = call(*before, *args[2:], **kwargs)
      return tuple(
        keep(f"{stage}/{name}", value)
        for name, value in zip(("visual_after", "audio_after"), after, strict=True)
      )
    if isinstance(module, SNRP) and method == "gate":
      keep(f"{stage}/unfiltered", args[0])
      return keep(f"{stage}/filtered", call(*args, **kwargs))
    found = call(*args, **kwargs)
    if isinstance(module, SNRP) and method in ("channel_weights", "spatial_weights"):
      keep(f"{stage}/{method.removesuffix('_weights')}", found)
    return found

  with nn.intercept_methods(tap):
    outputs = model.apply(variables, batch.frames, sound_of(model, batch), train=False, **told(batch))
  return outputs.logits, taps  # type: ignore[union-attr]


def score(logits: Float[Array, "B T H W K"]) -> Float[Array, ""]:
  """What Grad-CAM explains: the mean logit over the pixels that each second's mask holds; over all, if it is empty.

  Of classes, the likeliest one's over the background's.
  """
  height = logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1:].max(-1) - logits[..., 0]
  active = (height > 0).astype(jnp.float32)  # [B, T, H, W]
  active = jnp.where(active.sum((2, 3), keepdims=True) > 0, active, 1.0)
  return ((height * active).sum((2, 3)) / active.sum((2, 3))).sum()


def explained(
  model: nn.Module, variables: Mapping[str, Any], batch: Batch
) -> tuple[Float[Array, "B T H W K"], Taps, Taps]:
  """Logits, taps, and the Grad-CAM of each of them: of the picture before SNRP, behind the channel gate
  ("channel_filtered") and behind both, and of both modalities before and after DAMF."""
  shapes = jax.eval_shape(lambda: traced(model, variables, batch)[1])
  ends = ("filtered", "visual_before", "audio_before", "visual_after", "audio_after")
  added = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items() if name.split("/")[1] in ends}

  def explain(added: Mapping[str, Array]) -> tuple[Array, tuple[Array, Taps]]:
    logits, taps = traced(model, variables, batch, added)
    return score(logits), (logits, taps)

  slopes, (logits, taps) = jax.grad(explain, has_aux=True)(added)
  cams = {name: grad_cam(taps[name], slope) for name, slope in slopes.items()}
  for stage in sorted({name.split("/")[0] for name in taps}):
    if f"{stage}/unfiltered" not in taps:
      continue
    # What is filtered is the picture times both gates, which hear the sound alone: slopes by the chain rule.
    x, slope = taps[f"{stage}/unfiltered"], slopes[f"{stage}/filtered"]
    channel = taps.get(f"{stage}/channel", jnp.ones((1,) * x.ndim, x.dtype))
    slope = slope * taps.get(f"{stage}/spatial", jnp.ones((1,) * x.ndim, x.dtype))
    cams[f"{stage}/channel_filtered"] = grad_cam(x * channel, slope)
    cams[f"{stage}/unfiltered"] = grad_cam(x, slope * channel)
  return logits, taps, cams


def gate_statistics(
  taps: Taps, masks: Float[Array, "B T H W"], present: Bool[Array, "B T"]
) -> dict[str, dict[str, Array]]:
  """Figure 8 in numbers, {stage: {name: value}}; a stage lacks those of a selector that it has not.

  channel_mean; channel_spread: deviation over the channels of their mean weights (do channels differ?);
  channel_selectivity: mean over the channels of the deviation over clips and seconds (does the sound matter?);
  spatial_inside, spatial_outside: mean weight of the cells in and out of what sounds; others_inside,
  others_outside: the same under the next clip's masks, at least two clips given; spatial_spread: deviation over the
  cells of a second. Only seconds that are `present` count, under the next clip's masks those of both.

  The others are the control: what lies in the middle of most pictures has greater weights under any clip's masks
  where weights are greater in the middle.
  """
  found: dict[str, dict[str, Array]] = {}
  real = present.astype(jnp.float32)
  for name, gate in taps.items():
    stage, kind = name.split("/")
    own = found.setdefault(stage, {})
    if kind == "channel":
      flat, weight = gate.reshape(-1, gate.shape[-1]), real.reshape(-1, 1)  # [B*T, D], [B*T, 1]
      mean = _mean(flat, weight, (0,))
      own["channel_mean"], own["channel_spread"] = mean.mean(), mean.std()
      own["channel_selectivity"] = jnp.sqrt(_mean((flat - mean[None]) ** 2, weight, (0,))).mean()
    if kind == "spatial":
      weight = gate[..., 0]  # [B, T, h, w]
      share = jax.image.resize(masks, weight.shape, "linear", antialias=True)  # of each cell that sounds
      looks = {"spatial": (share, real)}
      if len(masks) > 1:
        looks["others"] = (next_clips(share), real * next_clips(real))
      for whose, (part, counts) in looks.items():
        for where, chosen in (("inside", part), ("outside", 1 - part)):
          own[f"{whose}_{where}"] = _mean(weight, chosen * counts[..., None, None], (0, 1, 2, 3))
      own["spatial_spread"] = _mean(weight.std((2, 3)), real, (0, 1))
  return {stage: own for stage, own in found.items() if own}


def next_clips(x: Shaped[AnyArray, "B *rest"]) -> Shaped[AnyArray, "B *rest"]:
  """Each clip is given what belongs to the next one, the last what belongs to the first."""
  return x[(np.arange(len(x)) + 1) % len(x)]
