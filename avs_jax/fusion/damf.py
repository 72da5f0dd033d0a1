"""Picture and sound attend to each other over all seconds and cells, and keep what both hold active."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avs_jax.errors import check_choice
from avs_jax.fusion.snrp import keep_size
from avs_jax.layers import DepthwiseConv, Dtype, LayerNorm, attend

DIRECTIONS = ("both", "audio_to_visual", "visual_to_audio", "none")
INTERACTIONS = ("multiply", "add", "straight")
# Attention weights that may exist at once, over all clips and heads: 256 MiB of float32. Ours.
LIMIT = 2**26


class CAR(nn.Module):
  """Channel-wise adaptive recalibration: X * sigmoid(W2 relu(W1 mean(X))).

  SDAVS, section III-C, equation 6.
  Deviation: none known. Not given there, ours: the mean is over the cells of each second, as in equation 1,
    so that no second recalibrates another; W1 narrows by 16 as in squeeze-and-excitation, to no fewer than 8
    units, of which some are open; no biases.
  """

  reduction: int = 16
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B T h w D"]) -> Float[Array, "B T h w D"]:
    width = x.shape[-1]
    pooled = x.mean((2, 3), keepdims=True)  # [B, T, 1, 1, D]
    narrow = nn.Dense(max(8, width // self.reduction), use_bias=False, dtype=self.dtype, name="w1")
    wide = nn.Dense(width, use_bias=False, dtype=self.dtype, name="w2")
    return x * jax.nn.sigmoid(wide(nn.relu(narrow(pooled))))


class STC(nn.Module):
  """Spatial-temporal-channel enhancer: a depthwise 3-D convolution, CAR, layer norm.

  SDAVS, section III-C, equation 5.
  Deviation: keys and values are averaged over `stride` x `stride` cells first. The paper says that they are
    reduced and not how; a bare stride of 8 would skip most cells of a 3 x 3 kernel.

  Attributes:
    seconds: the kernel's length in time, 3 for queries, 1 for keys and values; it is 3 x 3 in space.
    stride: cells a side that become one.
  """

  seconds: int = 3
  stride: int = 1
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "B T h w D"]) -> Float[Array, "B T _h _w D"]:
    length = x.shape[1]
    if self.stride > 1:
      x = shrink(x, self.stride)
    # The taps in time are depthwise convolutions of the clip shifted by a second each.
    reach = self.seconds // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    taps = [
      DepthwiseConv(use_bias=False, dtype=self.dtype, name=f"conv_{tap}")(
        padded[:, tap : tap + length].reshape(-1, *x.shape[2:])  # [B*T, _h, _w, D]
      )
      for tap in range(self.seconds)
    ]
    y = functools.reduce(jnp.add, taps).reshape(x.shape)
    y = CAR(dtype=self.dtype, name="car")(y)
    return LayerNorm(dtype=self.dtype, name="norm")(y)


def shrink(x: Float[Array, "B T h w D"], stride: int) -> Float[Array, "B T _h _w D"]:
  """Means of blocks of stride x stride cells; at ragged ends of the cells that are there."""
  height, width = x.shape[2:4]
  if height % stride or width % stride:
    return nn.avg_pool(x, (stride, stride), (stride, stride), "SAME", count_include_pad=False)
  blocks = x.reshape(*x.shape[:2], height // stride, stride, width // stride, stride, x.shape[-1])
  return blocks.mean((3, 5))


class Guidance(nn.Module):
  """One direction of equation 4: every cell of one modality gathers what it needs of the other, over the clip.

  SDAVS, section III-C, equation 4: Attn(STC_q(to), STC_k(of), STC_v(of)).
  Deviation: none known. "Standard attention" is taken as M heads between four linear maps, which makes the
    parameters of table X come out.

  Attributes:
    stc: whether queries, keys and values are enhanced; without it they are the maps themselves, keys and values
      at full size.
    stride: see `STC`.
    limit: attention weights that may exist at once, see `attend_in_pieces`.
  """

  heads: int = 8
  stc: bool = True
  stride: int = 1
  limit: int = LIMIT
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    to: Float[Array, "B T h w D"],
    of: Float[Array, "B T h w D"],
    present: Bool[Array, "B T"] | None = None,
  ) -> Float[Array, "B T h w D"]:
    """Args: present: seconds that may be attended to; None: all."""
    clips, width = to.shape[0], to.shape[-1]

    def tokens(part: str, x: Float[Array, "B T h w D"], bias: bool = True) -> Float[Array, "B N M d"]:
      if self.stc:
        stride, seconds = (1, 3) if part == "q" else (self.stride, 1)
        x = STC(seconds, stride, dtype=self.dtype, name=f"stc_{part}")(x)
      # Linear map, then [B, T*h*w, M, d]. Adding one vector to all keys changes nothing, so they have no bias.
      x = nn.Dense(width, use_bias=bias, dtype=self.dtype, kernel_init=keep_size, name=part)(x)
      return x.reshape(clips, -1, self.heads, width // self.heads)

    query, key, value = tokens("q", to), tokens("k", of, bias=False), tokens("v", of)
    allowed = None
    if present is not None:
      allowed = jnp.repeat(present, key.shape[1] // present.shape[1], axis=1)[:, None]  # [B, 1, k]
    out = attend_in_pieces(query, key, value, allowed, self.limit).reshape(to.shape)  # [B, T, h, w, D]
    return nn.Dense(width, dtype=self.dtype, kernel_init=keep_size, name="out")(out)


class DAMF(nn.Module):
  """Discriminative audio-visual mutual fusion: both directions of guidance, then residual multiplication.

  SDAVS, section III-C, equations 4 and 7. As printed, F_a->v has the picture's queries over the sound's values
  and is multiplied by F'_a; F_v->a the sound's queries over the picture's values, multiplied by F'_v.
  Deviation: none known. Where a direction is left out (table VI), its stream is the modality as it came.

  Attributes:
    directions: "both", "audio_to_visual", "visual_to_audio" or "none" (table III, without DAMF).
    interaction: "multiply", "add" or "straight" (the attention's result alone), table VIII.
    stc, stride, limit: see `Guidance`.

  Raises:
    InputError: unknown `directions` or `interaction`.
  """

  heads: int = 8
  directions: str = "both"
  interaction: str = "multiply"
  stc: bool = True
  stride: int = 1
  limit: int = LIMIT
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    vis: Float[Array, "B T h w D"],
    aud: Float[Array, "B T h w D"],
    present: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T h w D"], Float[Array, "B T h w D"]]:
    """F'_a->v and F'_v->a of equation 7."""
    check_choice("model.damf", self.directions, DIRECTIONS)
    check_choice("model.interaction", self.interaction, INTERACTIONS)

    def stream(name: str, to: Array, of: Array) -> Array:
      if self.directions not in ("both", name):
        return of
      guide = Guidance(self.heads, self.stc, self.stride, self.limit, self.dtype, name=name)
      found = guide(to, of, present)
      return {"multiply": found * of, "add": found + of, "straight": found}[self.interaction]

    return stream("audio_to_visual", vis, aud), stream("visual_to_audio", aud, vis)


def attend_in_pieces(
  query: Float[Array, "B q M d"],
  key: Float[Array, "B k M d"],
  value: Float[Array, "B k M d"],
  allowed: Bool[Array, "B 1 k"] | None = None,
  limit: int = LIMIT,
) -> Float[Array, "B q M d"]:
  """`layers.attend`, so many queries at a time that no more than `limit` weights exist, backwards too.

  A piece's weights are made again in the backward pass. At 384 px, five seconds and four clips the finest stage
  has 46 080 queries a clip; all their weights over 720 keys would be 4.2 GB, over as many keys 272 GB.
  """
  clips, count, heads, size = query.shape
  known = clips if isinstance(clips, int) else 1  # exported for any number of clips: the limit is a clip's
  piece = max(1, limit // (known * heads * key.shape[1]))
  if piece >= count:
    return attend(query, key, value, allowed=allowed)
  pieces = -(-count // piece)
  query = jnp.pad(query, ((0, 0), (0, pieces * piece - count), (0, 0), (0, 0)))
  query = query.reshape(clips, pieces, piece, heads, size).swapaxes(0, 1)  # [pieces, B, piece, M, d]
  each = jax.checkpoint(lambda part: attend(part, key, value, allowed=allowed))
  out = jax.lax.map(each, query).swapaxes(0, 1)  # [B, pieces, piece, M, d]
  return out.reshape(clips, -1, heads, size)[:, :count]
