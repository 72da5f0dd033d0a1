"""Group merge: a frame falls into a few groups of alike tokens, and what of each answers to the sound is kept."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from avs_jax.attention import MultiHeadAttention
from avs_jax.initial import normal, torch_default
from avs_jax.layers import Dtype, LayerNorm, attend, gelu

ROWS = 64  # tokens whose distances to all others exist at a time; ours
# Squared distances below this share of the two tokens' squared lengths (their mean token taken out) are what
# float32 leaves of equal tokens, and count as 0; ours.
ROUNDING = 2.0**-18


class Merged(NamedTuple):
  """What the sound has made of a frame.

  Attributes:
    map: the tokens with their group's feature added.
    compact: the groups' features.
    groups: group of each token; 0 has the highest peak.
    audio: the sound at the map's width.
  """

  map: Float[Array, "n h w C"]
  compact: Float[Array, "n P C"]
  groups: Int[Array, "n h w"]
  audio: Float[Array, "n C"]


def distances(some: Float[Array, "n R D"], tokens: Float[Array, "n N D"]) -> Float[Array, "n R N"]:
  """Euclidean distances in float32; exactly 0 between equal tokens."""
  product = jnp.einsum("nrd,nsd->nrs", some, tokens, precision=jax.lax.Precision.HIGHEST)
  lengths = jnp.square(some).sum(-1)[:, :, None] + jnp.square(tokens).sum(-1)[:, None]  # [n, R, N]
  square = lengths - 2 * product
  return jnp.sqrt(jnp.where(square > ROUNDING * lengths, square, 0))


def by_rows(body: Callable[..., Any], tokens: Float[Array, "n N D"], rows: int) -> Any:
  """`body(distances [n, R, N] of some tokens to all, their places [R])` for every token, in turn.

  Each array [n, R] that `body` gives is one of [n, N] here; the N x N matrix never exists.
  """
  frames, count = tokens.shape[:2]
  rows = min(rows, count)
  steps = -(-count // rows)
  padded = jnp.pad(tokens, ((0, 0), (0, steps * rows - count), (0, 0)))

  def step(start: Int[Array, ""]) -> Any:
    some = jax.lax.dynamic_slice_in_dim(padded, start, rows, axis=1)  # [n, R, D]
    return body(distances(some, tokens), start + jnp.arange(rows))

  found = jax.lax.map(step, rows * jnp.arange(steps))  # each [steps, n, R]
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(frames, -1)[:, :count], found)


def log_density(tokens: Float[Array, "n N D"], neighbours: int, rows: int = ROWS) -> Float[Array, "n N"]:
  """log of the sum of exp(-distance) over a token's nearest others: RAVS, equation 3.

  Its logarithm orders tokens as it does, and does not vanish where wide tokens lie a hundred apart.
  """
  frames, count = tokens.shape[:2]
  nearest = min(neighbours, count - 1)
  if nearest == 0:
    return jnp.zeros((frames, count))

  def body(distance: Float[Array, "n R N"], place: Int[Array, "R"]) -> Float[Array, "n R"]:
    itself = place[:, None] == jnp.arange(count)[None]  # [R, N]
    near, _ = jax.lax.top_k(jnp.where(itself[None], -jnp.inf, -distance), nearest)  # [n, R, k]
    return jax.nn.logsumexp(near, -1)

  return by_rows(body, tokens, rows)


def peaks(
  tokens: Float[Array, "n N D"], density: Float[Array, "n N"], rows: int = ROWS
) -> tuple[Float[Array, "n N"], Int[Array, "n N"]]:
  """Distance to the nearest token of higher density, and its place: RAVS, equation 4.

  Of equal densities the earlier token's is the higher; of equally near tokens the first is taken. The highest
  token of all has none above it: its distance is infinite.
  """
  place_of_all = jnp.arange(tokens.shape[1])

  def body(distance: Float[Array, "n R N"], place: Int[Array, "R"]) -> tuple[Array, Array]:
    own = jnp.take(density, place, axis=1, mode="clip")[:, :, None]  # [n, R, 1]
    is_earlier = place_of_all[None] < place[:, None]  # [R, N]
    is_higher = (density[:, None] > own) | ((density[:, None] == own) & is_earlier[None])
    above = jnp.where(is_higher, distance, jnp.inf)
    return above.min(-1), above.argmin(-1)

  return by_rows(body, tokens, rows)


def group_tokens(
  tokens: Float[Array, "n N D"], groups: int, neighbours: int = 5, rows: int = ROWS
) -> Int[Array, "n N"]:
  """DPC-KNN: the group of each token, below min(groups, N); RAVS, equations 3 and 4. It has no gradient.

  The tokens with the highest product of density and distance to a denser token head a group each, group 0 that
  of the highest; every other token belongs where its nearest denser token does. Ties go to the earlier token.
  Deviation: as printed, equation 4 ends every token's way at the one densest token, which is one group; heads
    are chosen as in the method it cites (Du et al., 2016).

  Args:
    neighbours: k, tokens that make up a density; the token itself is none of them.
    rows: tokens whose distances to all others are held at a time.
  """
  tokens = jax.lax.stop_gradient(tokens.astype(jnp.float32))
  tokens = tokens - tokens.mean(1, keepdims=True)  # distances stay; products of what is left round less
  frames, count = tokens.shape[:2]
  groups = min(groups, count)
  density = log_density(tokens, neighbours, rows)
  gap, above = peaks(tokens, density, rows)
  # The densest comes first, its gap is infinite.
  _, heads = jax.lax.top_k(density + jnp.log(gap), groups)  # [n, P]
  heads_here = heads[:, :, None] == jnp.arange(count)[None, None]  # [n, P, N]
  above = jnp.where(heads_here.any(1), jnp.arange(count)[None], above)
  # Each round doubles the length of the ways walked.
  above = jax.lax.fori_loop(
    0, math.ceil(math.log2(max(count, 2))), lambda _, x: jnp.take_along_axis(x, x, axis=1), above
  )
  return jnp.take_along_axis(heads_here.argmax(1), above, axis=1)


def membership(groups: Int[Array, "n N"], count: int) -> Bool[Array, "n P N"]:
  return groups[:, None] == jnp.arange(count)[None, :, None]


def merge(
  tokens: Float[Array, "n N C"], relevance: Float[Array, "n N"], member: Bool[Array, "n P N"]
) -> Float[Array, "n P C"]:
  """Mean of each group's tokens, weighted by the exponential of their relevance: RAVS, equation 6."""
  logits = jnp.where(member, relevance.astype(jnp.float32)[:, None], jnp.finfo(jnp.float32).min)
  weights = jax.nn.softmax(logits, -1)  # [n, P, N], exactly 0 outside the group
  return jnp.einsum("npt,ntc->npc", weights.astype(tokens.dtype), tokens)


def spread(compact: Float[Array, "n P C"], member: Bool[Array, "n P N"]) -> Float[Array, "n N C"]:
  """Each token's group feature. A product: the gradient of a gather would be a scatter."""
  return jnp.einsum("npt,npc->ntc", member.astype(compact.dtype), compact)


def agreement(compact: Float[Array, "n P C"], audio: Float[Array, "n C"]) -> Float[Array, "n P"]:
  """Cosine of each group's feature and the sound, A of RAVS's equation 8; 0 for a vector of zeros."""
  compact, audio = (x.astype(jnp.float32) for x in (compact, audio))
  compact, audio = (
    x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12)) for x in (compact, audio)
  )
  return (compact * audio[:, None]).sum(-1)


def against_nothing(
  module: nn.Module, heard: Float[Array, "n C"]
) -> tuple[Float[Array, "n C"], Float[Array, "n 2 C"]]:
  """The sound, and the sound beside a learned "nothing" of `module`, which is what tokens attend to in equation 5."""
  nothing = module.param("nothing", normal(0.02), heard.shape[-1:], jnp.float32).astype(heard.dtype)
  return heard, jnp.stack([heard, jnp.broadcast_to(nothing[None], heard.shape)], axis=1)


class GroupUpdate(nn.Module):
  """Groups read the frame, relevant tokens first, and pass a two-layer network.

  RAVS, equation 7: G + softmax(G f^T / sqrt(D) + S) f.
  Deviation: with the norms, linear maps and second half of a transformer's decoder layer, which the text names
    and the equation leaves out.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    compact: Float[Array, "n P C"],
    tokens: Float[Array, "n N C"],
    relevance: Float[Array, "n N"],
  ) -> Float[Array, "n P C"]:
    """`tokens` are normed already: they are the same for every layer."""
    width = compact.shape[-1]
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=torch_default)
    norm = functools.partial(LayerNorm, 1e-5, self.dtype)
    query = dense(width, name="q")(norm(name="norm1")(compact))
    # Both softmaxes that read relevance, and keys, are blind to what is added to all tokens alike: no bias.
    key, value = dense(width, use_bias=False, name="k")(tokens), dense(width, name="v")(tokens)
    bias = jnp.broadcast_to(
      relevance.astype(jnp.float32)[:, None, None], (compact.shape[0], 1, compact.shape[1], tokens.shape[1])
    )
    read = attend(*(x[:, :, None] for x in (query, key, value)), bias=bias)  # [n, P, 1, C]
    compact = compact + read[:, :, 0]
    hidden = gelu(dense(2 * width, name="fc1")(norm(name="norm2")(compact)))
    return compact + dense(width, name="fc2")(hidden)


class GroupMerge(nn.Module):
  """Audio-guided modality alignment of one stage: group, merge by the sound, update, put back onto the map.

  RAVS (Liu et al., CVPR 2025), section 3.2, equations 3 to 7.
  Deviation: equation 5's attention has one key, the second's sound, so that its softmax would be 1 for every
    token and its result the same vector everywhere. Here tokens may also attend to a learned "nothing" and keep
    their own feature beside what they hear. Choices where the paper is silent: docs/ravs.md.

  Attributes:
    groups: P, most groups of a frame.
    neighbours: k of the densities.
    layers: updates of the groups.
    heads: of equation 5's attention; where they do not divide the width, the most that do both.
    of: what equation 6 merges: "heard", the tokens after equation 5, or "seen", those before it. With "seen" the
      sound is in no value, only in weights that add up to 1: silence and a sound that all tokens answer alike are
      the same to it.
  """

  groups: int
  neighbours: int = 5
  layers: int = 2
  heads: int = 8
  of: str = "heard"
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, vis: Float[Array, "n h w C"], aud: Float[Array, "n A"]) -> Merged:
    """A stage's map and the sound of the same second."""
    frames, *size, width = vis.shape
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=torch_default)
    tokens = vis.reshape(frames, -1, width)  # [n, N, C]
    groups = group_tokens(tokens, self.groups, self.neighbours)  # [n, N]
    member = membership(groups, min(self.groups, tokens.shape[1]))  # [n, P, N]

    heard, source = against_nothing(self, dense(width, name="audio_proj")(aud))
    normed = LayerNorm(1e-5, self.dtype, name="norm_tokens")(tokens)
    cross = MultiHeadAttention(math.gcd(width, self.heads), dtype=self.dtype, name="cross_attn")
    mixed = tokens + cross(normed, source)  # equation 5
    hidden = gelu(dense(width, name="relevance_in")(LayerNorm(1e-5, self.dtype, name="norm_mixed")(mixed)))
    relevance = dense(1, use_bias=False, name="relevance_out")(hidden)[..., 0]  # [n, N], S

    compact = merge(mixed if self.of == "heard" else tokens, relevance, member)
    for i in range(self.layers):
      compact = GroupUpdate(self.dtype, name=f"layers_{i}")(compact, normed, relevance)
    tokens = tokens + spread(compact, member)
    return Merged(tokens.reshape(vis.shape), compact, groups.reshape(frames, *size), heard)


class CrossMerge(nn.Module):
  """What RAVS is without its groups: every token hears the sound by itself, through a usual transformer layer.

  RAVS (Liu et al., CVPR 2025), section 4.4: the cross-attention of the ablation's baseline, of which it says no more.
  Equation 5 as `GroupMerge` has it, then a norm and a network twice as wide. Each token is a group of its own.

  Attributes:
    heads: of the attention; where they do not divide the width, the most that do both.
  """

  heads: int = 8
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, vis: Float[Array, "n h w C"], aud: Float[Array, "n A"]) -> Merged:
    """A stage's map and the sound of the same second."""
    frames, *size, width = vis.shape
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=torch_default)
    tokens = vis.reshape(frames, -1, width)  # [n, N, C]
    heard, source = against_nothing(self, dense(width, name="audio_proj")(aud))
    normed = LayerNorm(1e-5, self.dtype, name="norm_tokens")(tokens)
    cross = MultiHeadAttention(math.gcd(width, self.heads), dtype=self.dtype, name="cross_attn")
    mixed = tokens + cross(normed, source)  # equation 5
    hidden = gelu(dense(2 * width, name="fc1")(LayerNorm(1e-5, self.dtype, name="norm_mixed")(mixed)))
    tokens = mixed + dense(width, name="fc2")(hidden)
    own = jnp.broadcast_to(jnp.arange(tokens.shape[1]).reshape(1, *size), (frames, *size))
    return Merged(tokens.reshape(vis.shape), tokens, own, heard)
