"""Classifier-guided audio-visual similarity: does this sound belong to this picture?

"Do Audio-Visual Segmentation Models Truly Segment Sounding Objects?", section 4.2 and supplement D.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avs_jax import losses
from avs_jax.errors import InputError, check_choice
from avs_jax.initial import constant, torch_default, zeros
from avs_jax.types import AnyArray, Batch, Condition, Outputs, Sound

FORMS = ("cosine", "cosine_released", "cosine_calibrated", "localised", "euclidean", "concat")


class Agreement(NamedTuple):
  """What a guide says of a batch.

  Attributes:
    logits: of "this sound comes from this picture", a second each.
    seen, heard: embeddings of picture cells and of sounds, whose `compare` gives the logits; so every sound of
      a batch can be held against every picture. None where a guide is no such product.
    decoys: embeddings of sounds that belong to no picture, if there were any.
  """

  logits: Float[Array, "B T"]
  seen: Float[Array, "B T N E"] | None = None
  heard: Float[Array, "B T E"] | None = None
  decoys: Float[Array, "B T E"] | None = None


class Similarity(nn.Module):
  """A logit per second for "the sound comes from this picture".

  Robust paper, equation 5: cosine of the projected audio embedding and the average-pooled last visual map.
  `euclidean` and `concat`: its supplement, table 7. `cosine_calibrated` is ours: the cosine between two
  projections, times a learned scale plus a learned bias, because a plain cosine used as a logit spans only
  sigmoid 0.27 to 0.73 and its cross entropy can never fall below 0.31. `cosine_released` is `cosine` on the
  sound as the system itself has projected it (128 -> 256, shared with the masks' branch, then -> C), as the
  released AVSegFormer variant does; its weights load with `config.init.system`. `localised`, ours too, is
  `cosine_calibrated` cell by cell, pooled by log-mean-exp: an object that fills a corner is not diluted.
  Deviation: none for `cosine` and `cosine_released`.

  Attributes:
    form: one of `FORMS`.
    width: size of the common space of all but the two plain cosines.

  Raises:
    InputError: unknown `form`, or decoys for one that cannot take them (released, euclidean, concat).
  """

  form: str = "cosine"
  width: int = 256

  @nn.compact
  def __call__(
    self,
    aud: Float[Array, "B T A"],
    vis: Float[Array, "B T h w C"],
    *,
    train: bool = False,
    decoy: Float[Array, "B T A"] | None = None,
  ) -> Agreement:
    check_choice("debias.guide", self.form, FORMS)

    def linear(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, kernel_init=torch_default, name=name)

    if decoy is not None and self.form in ("cosine_released", "euclidean", "concat"):
      raise InputError(
        f"debias.decoys with debias.guide={self.form!r}: choose cosine, cosine_calibrated or localised."
      )
    clips = aud.shape[0]
    aud = aud if decoy is None else jnp.concatenate([aud, decoy])
    aud, vis = aud.astype(jnp.float32), vis.astype(jnp.float32)
    if self.form == "localised":
      cells = vis.reshape(*vis.shape[:2], -1, vis.shape[-1])  # [B, T, N, C]
    else:
      cells = vis.mean((2, 3))[:, :, None]  # [B, T, 1, C]
    if self.form in ("cosine", "cosine_released"):
      seen, heard = unit(cells), unit(linear(cells.shape[-1], "audio_proj")(aud))
      return agreement(seen, heard, clips)
    heard = linear(self.width, "audio_proj")(aud)  # [B, T, D]
    seen = linear(self.width, "visual_proj")(cells)  # [B, T, N, D]
    if self.form == "euclidean":
      return Agreement(-jnp.sqrt(jnp.square(heard - seen[:, :, 0]).sum(-1) + 1e-12))
    if self.form == "concat":
      joint = jnp.concatenate([heard, seen[:, :, 0]], -1)  # [B, T, 2D]
      for features in (self.width, self.width // 2):
        joint = nn.relu(linear(features, f"hidden_{features}")(joint))
        joint = nn.Dropout(0.1, deterministic=not train)(joint)
      return Agreement(linear(1, "out")(joint)[..., 0])
    scale = self.param("scale", constant(4.0), ())
    bias = self.param("bias", zeros, ())
    # The bias travels as one more component, so that a product of embeddings is the whole logit.
    seen = jnp.concatenate([scale * unit(seen), jnp.broadcast_to(bias, (*seen.shape[:3], 1))], -1)
    heard = jnp.concatenate([unit(heard), jnp.ones((*heard.shape[:2], 1))], -1)  # [B, T, D+1]
    return agreement(seen, heard, clips)


def agreement(seen: Float[Array, "B T N E"], heard: Float[Array, "_B T E"], clips: int) -> Agreement:
  """Of pictures and sounds; sounds beyond the first `clips` are decoys."""
  decoys = heard[clips:] if heard.shape[0] > clips else None
  heard = heard[:clips]
  return Agreement(compare(seen, heard), seen, heard, decoys)


def compare(seen: Float[Array, "... N E"], heard: Float[Array, "... E"]) -> Float[Array, "..."]:
  """Log-mean-exp over a picture's cells of their product with the sound; with one cell, the product."""
  products = (seen * heard[..., None, :]).sum(-1)  # [..., N]
  return jax.nn.logsumexp(products, -1) - np.log(products.shape[-1])


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
  """A vector divided by its norm, which is bounded below by 1e-8."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-16))


def cosine(a: Float[Array, "... D"], b: Float[Array, "... D"]) -> Float[Array, "..."]:
  """Cosine of two vectors, their norms bounded below by 1e-8."""
  return (unit(a) * unit(b)).sum(-1)


class Guided(nn.Module):
  """Any system with a similarity guide beside it, which touches the masks only where it is to `gate` them.

  Attributes:
    system: a module with the methods of `systems.system.System`.
    form: one of `FORMS`.
    gate: multiply the mask's probability by the similarity's, and empty the seconds whose sound is likelier to
      come from elsewhere (a switch for inference, reported apart: `Outputs.ungated`); see `gated` and `emptied`.
    gate_training: multiply in training too, so that the masks' loss reads the product. Where the guide says no,
      the masks need not learn to say it again, and keep what they know of shape.
    gate_level: the similarity, a logit, up to which a second is emptied; below 0 the gate refuses less. A trade: fewer
      own seconds refused for more false alarms (`frontier` sweeps it).

  Raises:
    InputError: `form` is "cosine_released", and the system does not project the sound.
  """

  system: Any
  form: str = "cosine"
  gate: bool = False
  gate_training: bool = False
  gate_level: float = 0.0

  def setup(self) -> None:
    self.guide = Similarity(self.form)

  def listen(self, sound: Sound, *, train: bool = False) -> Float[Array, "B T A"]:
    return self.system.listen(sound, train=train)

  def segment(
    self,
    frames: AnyArray,
    audio: Float[AnyArray, "B T A"],
    *,
    train: bool = False,
    present=None,
    decoy_audio: Float[AnyArray, "B T A"] | None = None,
    **told,
  ) -> Outputs:
    outputs = self.system.segment(frames, audio, train=train, present=present, **told)
    heard = outputs.audio_features
    if self.form == "cosine_released":
      heard = outputs.projected_audio
      if heard is None:
        raise InputError(
          "debias.guide='cosine_released' reads the sound as the system has projected it, and this system does "
          "not; choose 'cosine', or model.system='avsegformer'."
        )
    if decoy_audio is not None:  # what a system hears beside the embedding is not compared
      decoy_audio = decoy_audio[..., : heard.shape[-1]]
    found = self.guide(heard, outputs.visual_features, train=train, decoy=decoy_audio)
    logits = outputs.logits
    above = found.logits - self.gate_level
    if self.gate and (self.gate_training or not train):
      logits = gated(logits.astype(jnp.float32), above)
    if self.gate and not train:
      logits = emptied(logits, above)
    return outputs.replace(
      logits=logits,
      ungated=outputs.logits if self.gate and not train else None,
      similarity=found.logits,
      seen_embedding=found.seen,
      heard_embedding=found.heard,
      decoy_embedding=found.decoys,
    )

  def __call__(
    self,
    frames: AnyArray,
    sound: Sound,
    *,
    train: bool = False,
    present=None,
    decoy: Sound | None = None,
    **told,
  ) -> Outputs:
    audio = self.listen(sound, train=train)
    decoys = None if decoy is None else self.listen(decoy, train=train)
    return self.segment(frames, audio, train=train, present=present, decoy_audio=decoys, **told)


def gated(logits: Float[Array, "B T H W K"], similarity: Float[Array, "B T"]) -> Float[Array, "B T H W K"]:
  """Logits whose probability of anything sounding is multiplied by sigmoid(similarity).

  Of K > 1 classes, class 0 (background) takes what the others lose. Exact for logits of any size: 1 / p is
  (1 + e^-logit)(1 + e^-similarity), so the odds are 1 / (e^-logit + e^-similarity + e^-(logit + similarity)).
  """
  similarity = similarity[:, :, None, None, None]  # [B, T, 1, 1, 1]
  if logits.shape[-1] == 1:
    similarity = jnp.broadcast_to(similarity, logits.shape)
    return -jax.nn.logsumexp(jnp.stack([-logits, -similarity, -logits - similarity]), axis=0)
  log_p = jax.nn.log_softmax(logits, axis=-1) + jax.nn.log_sigmoid(similarity)  # [B, T, H, W, K]
  background = jnp.logaddexp(log_p[..., :1], jax.nn.log_sigmoid(-similarity))
  return jnp.concatenate([background, log_p[..., 1:]], axis=-1)


def emptied(logits: Float[Array, "B T H W K"], similarity: Float[Array, "B T"]) -> Float[Array, "B T H W K"]:
  """Logits that say "nothing" for certain in seconds of similarity 0 or less.

  After `gated` no pixel there exceeds one half, so masks stay the same; but a figure that looks for the best
  threshold would still find the object in what is left of it.
  """
  certain = 1e4
  nothing = jnp.full(logits.shape[-1:], -certain)
  if logits.shape[-1] > 1:
    nothing = nothing.at[0].set(certain)
  is_shut = (similarity <= 0)[:, :, None, None, None]
  return jnp.where(is_shut, nothing[None, None, None, None], logits)


def guide_loss(outputs: Outputs, batch: Batch) -> Float[Array, ""]:
  """Binary cross entropy of sigmoid(similarity) against "this pair is positive", mean over real frames.

  Robust paper, equation 6. Clips are positive or negative as a whole.
  """
  logits = outputs.similarity.astype(jnp.float32)
  is_positive = (batch.condition == int(Condition.POSITIVE)).astype(jnp.float32)[:, None]  # [B, 1]
  loss = jax.nn.softplus(logits) - logits * is_positive  # [B, T]
  weight = losses.presence(batch)
  return (loss * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def mismatch_loss(outputs: Outputs, batch: Batch, groups: Sequence[str]) -> Float[Array, ""]:
  """Every sound of the batch against every picture: cross entropy where they cannot belong together.

  Ours ("in-batch mismatches"): off-screen pairs for free, B - 1 of them for each clip. A sound and another
  clip's picture count as a mismatch if nothing heard in that second shares a group with anything seen
  (silence and noise match no picture); pairs that share a group are left out, not called a match. Mean over
  the mismatches, 0 where a batch has none.

  Args:
    groups: broad group of each category, in the order of `batch.visible`; categories themselves for a
      stricter rule.

  Raises:
    InputError: the guide gives no embeddings, or the data set names no categories.
  """
  if outputs.seen_embedding is None or outputs.heard_embedding is None:
    raise InputError(
      "debias.mismatch needs a guide that is a product of embeddings: cosine, cosine_calibrated or localised."
    )
  if batch.visible is None or batch.sounding is None:
    raise InputError("debias.mismatch: this data set names no categories; set it to 0, or add the metadata.")
  names = sorted(set(groups))
  member = jnp.asarray([[group == name for name in names] for group in groups], jnp.float32)  # [G, groups]
  seen = (batch.visible.astype(jnp.float32) @ member) > 0  # [B, groups]
  heard = jnp.einsum("jtg,gn->jtn", batch.sounding.astype(jnp.float32), member) > 0  # [B, T, groups]
  shares = jnp.einsum("in,jtn->ijt", seen.astype(jnp.float32), heard.astype(jnp.float32)) > 0  # [B, B, T]
  present = losses.presence(batch)  # [B, T]
  other = ~jnp.eye(seen.shape[0], dtype=bool)[:, :, None]
  weight = (~shares & other).astype(jnp.float32) * present[:, None] * present[None]  # [B, B, T]
  products = jnp.einsum("itnd,jtd->ijtn", outputs.seen_embedding, outputs.heard_embedding)
  logits = jax.nn.logsumexp(products, -1) - np.log(products.shape[-1])  # [B, B, T]
  return (jax.nn.softplus(logits) * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def decoy_loss(outputs: Outputs, batch: Batch) -> Float[Array, ""]:
  """Every decoy of the batch against every picture: cross entropy of "they do not belong together".

  Ours. Silence and noise as negatives without giving up a clip whose own sound would have taught a shape: B * B
  pairs for B sounds, and a picture is looked at once. Mean over the real frames.

  Raises:
    InputError: the batch has no decoys, or there is no guide to hold them against pictures.
  """
  if outputs.decoy_embedding is None:
    raise InputError("debias.decoys needs a debias.guide and training data that bring decoys; set it to 0.")
  products = jnp.einsum("itnd,jtd->ijtn", outputs.seen_embedding, outputs.decoy_embedding)
  logits = jax.nn.logsumexp(products, -1) - np.log(products.shape[-1])  # [B, B, T]
  weight = jnp.broadcast_to(losses.presence(batch)[:, None], logits.shape)
  return (jax.nn.softplus(logits) * weight).sum() / jnp.maximum(weight.sum(), 1.0)
