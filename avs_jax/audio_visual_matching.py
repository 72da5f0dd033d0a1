"""Matching losses of AVSBench (section 3.4): the sounding region's visual feature should look like the sound's.

Float32, over the fused stages of a system that has some; frames are weighed as losses.py says. Pixel losses are in
losses.py, which composes both.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar, Shaped

from avs_jax.errors import InputError
from avs_jax.types import AnyArray, Outputs

Weight = Shaped[AnyArray, "B T"]


def _f32(x: AnyArray) -> Array:
  return jnp.asarray(x, jnp.float32)


def _pool(x: Float[Array, "B T H W"], size: tuple[int, int], reduce: str) -> Float[Array, "B T h w"]:
  """Means (maxima) of equal blocks; the stage sizes divide the frame for every size divisible by 32.

  Where they do not, blocks go from floor(i H / h) to ceil((i + 1) H / h), as torch's adaptive pools do.
  """
  function = jnp.mean if reduce == "avg" else jnp.max
  for axis, out in ((2, size[0]), (3, size[1])):
    full = x.shape[axis]
    if full % out == 0:
      shape = (*x.shape[:axis], out, full // out, *x.shape[axis + 1 :])
      x = function(x.reshape(shape), axis=axis + 1)
    else:
      edges = [(i * full // out, -(-(i + 1) * full // out)) for i in range(out)]
      x = jnp.stack(
        [function(jax.lax.slice_in_dim(x, *edge, axis=axis), axis=axis) for edge in edges], axis=axis
      )
  return x


def _masked_mean(maps: Float[Array, "B T h w C"], on: Bool[Array, "B T h w"]) -> Float[Array, "B T C"]:
  chosen = _f32(on)[..., None]
  return (maps * chosen).sum((2, 3)) / (chosen.sum((2, 3)) + 1e-6)


def _unit(x: Array) -> Array:
  """x / max(|x|, 1e-12) over the channels; the zero vector stays zero and has zero gradient."""
  square = jnp.square(x).sum(-1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(square, 1e-24))


def _kl(target: Array, x: Array) -> Array:
  """KL(softmax(target) || softmax(x)), summed over channels: [B, T]."""
  log_target, log_x = jax.nn.log_softmax(target, axis=-1), jax.nn.log_softmax(x, axis=-1)
  return (jnp.exp(log_target) * (log_target - log_x)).sum(-1)


def _distance(a: Array, b: Array) -> Array:
  """|a - b + 1e-6| over channels (torch's pairwise distance): [B, T]."""
  return jnp.sqrt(jnp.square(a - b + 1e-6).sum(-1))


def _neighbour(audio: Float[Array, "N C"], present: Float[Array, "N"]) -> Array:
  """Index of the other present frame of the whole batch with the nearest audio feature: [N]."""
  audio = jax.lax.stop_gradient(audio)
  square = jnp.square(audio).sum(-1)
  product = jnp.matmul(audio, audio.T, precision=jax.lax.Precision.HIGHEST)
  distance = jnp.sqrt(jnp.maximum(square[:, None] + square[None] - 2 * product, 0))
  distance = jnp.where(present[None] > 0, distance, jnp.inf)
  # 10 on the diagonal is the published constant; it keeps a frame from choosing itself only while another
  # lies within a distance of 10.
  return jnp.argmin(distance + 10 * jnp.eye(len(audio)), axis=-1)


def _stages(outputs: Outputs) -> list[tuple[Any, Any]]:
  fused: Any = zip(outputs.fused_maps or (), outputs.fused_audio or (), strict=True)
  pairs = [(_f32(m), _f32(a)) for m, a in fused if a is not None]
  if not pairs:
    raise InputError(
      "loss: a matching loss needs a system that fuses sound at some stage (fused_maps, fused_audio); "
      "set loss.matching to 'none' or choose the system 'avsbench'."
    )
  return pairs


def matching(
  outputs: Outputs,
  present: Weight,
  weight: Weight,
  *,
  form: str = "kl",
  normalise: bool = False,
  threshold: bool = False,
  pooling: str = "avg",
  target: str = "audio",
) -> Float[Scalar, ""]:
  """AVSBench's regulariser: the sounding region's visual feature should look like the audio feature.

  AVSBench, section 3.4. Per fused stage, the frame's own predicted mask is pooled to the stage and v = mean
  over h, w of map * mask (not divided by the mask's sum). Averaged over the stages.
    Binary: mask = sigmoid(pooled logits). "kl" is SUMMED over the B T present frames, as published: the term
      grows with the batch, so its weight belongs to a batch of 4 clips; "euclidean" is a mean over them.
    K classes: mask = pooled (argmax != 0), without gradient; mean over the annotated frames, both forms.
  The true mask plays no part here, empty or not.

  Args:
    present: 1 for the frames of a clip that are real.
    weight: 1 for those that are annotated too.
    form: "kl", KL(softmax(target) || softmax(v)), or "euclidean", |v - target|.
    normalise: scale v and the target to unit length first.
    threshold: v is the mean of the map where the pooled mask exceeds 0.5 (no gradient through the mask).
    target: "audio" (AVM-AV), or "neighbour" (AVM-VV): v of the frame with the nearest audio feature.
  """
  binary = outputs.logits.shape[-1] == 1
  if binary:
    weight, mask = present, _f32(outputs.logits[..., 0])
  else:
    mask = (jnp.argmax(outputs.logits, axis=-1) != 0).astype(jnp.float32)
  total = jnp.zeros(())
  stages = _stages(outputs)
  for maps, audio in stages:
    small = _pool(mask, maps.shape[2:4], pooling)
    small = jax.nn.sigmoid(small) if binary else small
    seen = (
      _masked_mean(maps, small > 0.5) if threshold else (maps * small[..., None]).mean((2, 3))
    )  # [B, T, C]
    if normalise:
      seen, audio = _unit(seen), _unit(audio)
    wanted = audio
    if target == "neighbour":
      flat = audio.reshape(-1, audio.shape[-1])
      wanted = seen.reshape(flat.shape[0], -1)[_neighbour(flat, present.reshape(-1))].reshape(seen.shape)
    per_frame = _kl(wanted, seen) if form == "kl" else _distance(seen, wanted)
    kept = (per_frame * weight).sum()
    total += kept if binary and form == "kl" else kept / jnp.maximum(weight.sum(), 1)
  return total / len(stages)


def masked_cosine(outputs: Outputs, present: Weight, *, pooling: str = "avg") -> Float[Scalar, ""]:
  """AVSBench's S4 regulariser: -log(max(cos(v, a), 0) + 1e-6), mean over present frames, then stages.

  v = mean of the stage's map over the pixels where the pooled sigmoid(logits) exceeds 0.5 (no gradient
  through the mask); a frame without such pixels gives v = 0 and so the constant -log(1e-6).
  Off in the published run.
  """
  p = jax.nn.sigmoid(_f32(outputs.logits[..., 0]))
  total = jnp.zeros(())
  stages = _stages(outputs)
  for maps, audio in stages:
    seen = _masked_mean(maps, _pool(p, maps.shape[2:4], pooling) > 0.5)
    cosine = (_unit(seen) * _unit(audio)).sum(-1)
    per_frame = -jnp.log(jnp.maximum(cosine, 0) + 1e-6)
    total += (per_frame * present).sum() / jnp.maximum(present.sum(), 1)
  return total / len(stages)
