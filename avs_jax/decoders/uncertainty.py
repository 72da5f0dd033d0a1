"""Uncertainty decoder: a clip's maps look at one another in time, and doubtful places weigh less in the masks."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avs_jax.attention import MultiHeadAttention
from avs_jax.decoders.fpn import MaskHead
from avs_jax.errors import check_choice
from avs_jax.layers import Dtype, LayerNorm

EPSILON = 1e-6  # RAVS, equation 11
FORMS = ("paper", "discount", "none")
SPANS = ("frame", "clip")


def evidence(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """Parameters of a Dirichlet distribution, softplus and never 0 (ours: 1e-6 more)."""
  return jax.nn.softplus(x.astype(jnp.float32)) + 1e-6


def dirichlet_variance(alpha: Float[Array, "*N E"]) -> Float[Array, "*N E"]:
  """alpha (s - alpha) / (s^2 (s + 1)), s their sum: RAVS, equation 10."""
  total = alpha.sum(-1, keepdims=True)
  # Summed, not taken from the total: a class that has nearly all of it would leave nothing but rounding.
  others = jnp.matmul(alpha, 1 - jnp.eye(alpha.shape[-1]), precision="highest")
  return (alpha / total) * (others / total) / (total + 1)


def scale(
  x: Float[Array, "B T h w E"],
  span: str = "frame",
  present: Bool[Array, "B T"] | None = None,
  flat: float = 0.0,
) -> Float[Array, "B T h w E"]:
  """Linear, least to 0 and most to 1; class by class, each frame for itself or all of a clip together.

  Args:
    flat: what there is where nothing is more doubtful than anything else, and in padding.
  """
  axes = (2, 3) if span == "frame" else (1, 2, 3)
  real = jnp.ones(x.shape[:2], bool) if present is None else present
  real = real[:, :, None, None, None]
  least = x.min(axes, keepdims=True, where=real, initial=jnp.inf)
  most = x.max(axes, keepdims=True, where=real, initial=-jnp.inf)
  spans = most - least > 1e-12  # of variances, which are at most 1/4
  low, width = jnp.where(spans, least, 0), jnp.where(spans, most - least, 1)
  return jnp.where(spans & real, jnp.clip((x - low) / width, 0, 1), flat)


def weigh(
  logits: Float[Array, "*N K"], uncertainty: Float[Array, "*N K"], form: str = "paper"
) -> Float[Array, "*N K"]:
  """Logits that decide as RAVS's equation 11, probability / (uncertainty + 1e-6), does: docs/ravs.md.

  K classes: m - log(u + e), whose softmax is that quotient made to add up to 1. One class: m - logit((u + e) / 2),
  positive exactly where the quotient exceeds one half, and m where the uncertainty is 1.

  Args:
    form: "paper"; "discount" (ours), whose probabilities of objects are p / (1 + u), background takes the rest;
      "none", the logits alone.
  """
  logits = logits.astype(jnp.float32)
  if form == "none":
    return logits
  if form == "discount":
    return _discount(logits, uncertainty)
  doubt = jnp.log(uncertainty + EPSILON)
  if logits.shape[-1] == 1:
    doubt = doubt - jnp.log(2 - jnp.minimum(uncertainty + EPSILON, 1))
  return logits - doubt


def _discount(logits: Array, uncertainty: Array) -> Array:
  if logits.shape[-1] == 1:
    # odds = p / (1 + u - p) = 1 / (e^-m + u (1 + e^-m))
    doubt = jnp.log(uncertainty + EPSILON) + jax.nn.softplus(-logits)
    return -jnp.logaddexp(-logits, doubt)
  log_p = jax.nn.log_softmax(logits, axis=-1)
  less = jnp.log1p(uncertainty[..., 1:])
  given = log_p[..., 1:] + jnp.log(uncertainty[..., 1:] + EPSILON) - less
  rest = jnp.concatenate([log_p[..., :1], given], axis=-1)
  background = jax.nn.logsumexp(rest, axis=-1, keepdims=True)
  return jnp.concatenate([background, log_p[..., 1:] - less], axis=-1)


class UncertaintyDecoder(nn.Module):
  """A second's map attends to the same place in all seconds; two heads give masks and how sure they are.

  RAVS (Liu et al., CVPR 2025), section 3.3, equations 10 and 11.
  Deviation: with one class equation 10 is 0 everywhere; a binary system has two evidences, background and
    object, of equal variance. Choices where the paper is silent: docs/ravs.md.

  Attributes:
    num_classes: K.
    width: channels of the maps.
    heads: of the attention; where they do not divide the width, the most that do both.
    form: see `weigh`.
    span: what uncertainty is scaled over, "frame" or "clip".
    temporal: False leaves out the attention in time, for ablations.

  Raises:
    InputError: unknown `form` or `span`.
  """

  num_classes: int = 1
  width: int = 256
  heads: int = 8
  form: str = "paper"
  span: str = "frame"
  dtype: Dtype = jnp.float32
  temporal: bool = True

  def setup(self) -> None:
    check_choice("model.uncertainty_form", self.form, FORMS)
    check_choice("model.uncertainty_span", self.span, SPANS)
    if self.temporal:
      self.norm = LayerNorm(1e-5, self.dtype)
      self.temporal_attn = MultiHeadAttention(math.gcd(self.width, self.heads), dtype=self.dtype)
    self.mask_head = MaskHead(self.num_classes, self.width, dtype=self.dtype)
    self.uncertainty_head = MaskHead(max(self.num_classes, 2), self.width, dtype=self.dtype)

  def remember(
    self, fused: Float[Array, "B T h w D"], present: Bool[Array, "B T"] | None = None
  ) -> Float[Array, "B T h w D"]:
    """The maps after each place has looked at itself in all real seconds of its clip."""
    clips, seconds, *size, width = fused.shape
    x = jnp.moveaxis(fused, 1, 3).reshape(-1, seconds, width)  # [B*h*w, T, D]
    allowed = None
    if present is not None:
      allowed = jnp.repeat(present, math.prod(size), axis=0)[:, None]  # [B*h*w, 1, T]
    x = x + self.temporal_attn(self.norm(x), allowed=allowed)
    return jnp.moveaxis(x.reshape(clips, *size, seconds, width), 3, 1)  # [B, T, h, w, D]

  def __call__(
    self, fused: Float[Array, "B T h w D"], present: Bool[Array, "B T"] | None = None
  ) -> tuple[Float[Array, "B T h2 w2 K"], Float[Array, "B T h2 w2 1"]]:
    """Weighed mask logits, and the uncertainty of all classes together in [0, 1]."""
    shape = fused.shape[:2]
    remembered = self.remember(fused, present) if self.temporal else fused
    maps = remembered.reshape(-1, *fused.shape[2:])  # [B*T, h, w, D]
    logits, alpha = self.mask_head(maps), evidence(self.uncertainty_head(maps))  # [B*T, h2, w2, K or 2]
    variance = dirichlet_variance(alpha)
    variance = variance.reshape(*shape, *variance.shape[1:])  # [B, T, h2, w2, K or 2]
    logits = logits.reshape(*shape, *logits.shape[1:])  # [B, T, h2, w2, K]
    flat = 1.0 if self.form == "paper" else 0.0  # where `weigh` leaves the logits alone
    each = scale(variance[..., -self.num_classes :], self.span, present, flat)
    together = scale(variance.sum(-1, keepdims=True), self.span, present)
    return weigh(logits, each, self.form), jax.lax.stop_gradient(together)
