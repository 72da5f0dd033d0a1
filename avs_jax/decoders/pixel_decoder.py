"""Multi-scale deformable encoder: three levels of tokens look at one another; the finest becomes a mask feature."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avs_jax.deformable import MSDeformAttn, Sizes
from avs_jax.initial import normal, xavier_uniform
from avs_jax.layers import Conv, Dtype, LayerNorm, gelu, resize_bilinear

CHANNELS_PER_GROUP = 8  # of every group norm: 32 groups of the published 256 channels


def sine_position(rows: int, cols: int, width: int, *, normalised: bool = False) -> np.ndarray:
  """[rows, cols, width] sines and cosines: the first half of the channels tells the row, the second the column.

  DETR's code: rows and columns count from 1. Channel i of a half of length n has the angle
  count / 10000^(2 floor(i / 2) / n); even ones are sines, odd ones cosines.

  Args:
    normalised: counts are scaled so that the last row and the last column have 2 pi whatever the size.
  """
  half = width // 2
  period = 10000 ** (2 * (np.arange(half) // 2) / half)

  def code(count: int) -> np.ndarray:
    place = np.arange(1, count + 1) * (2 * np.pi / (count + 1e-6) if normalised else 1)
    angle = place[:, None] / period[None]  # [count, half]
    return np.where(np.arange(half)[None] % 2 == 0, np.sin(angle), np.cos(angle))

  row, col = np.broadcast_arrays(code(rows)[:, None], code(cols)[None])  # [rows, cols, half]
  return np.concatenate([row, col], -1).astype(np.float32)


def cell_centres(sizes: Sizes) -> np.ndarray:
  """[S, 2]: centre (x, y) of every cell of every level, in [0, 1] of the picture."""
  centres = []
  for rows, cols in sizes:
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(cols) + 0.5) / cols, indexing="ij")
    centres.append(np.stack([x, y], -1).reshape(-1, 2))
  return np.concatenate(centres).astype(np.float32)


class EncoderLayer(nn.Module):
  """Deformable self-attention over all levels, then a two-layer network; norms follow the additions."""

  heads: int
  points: int
  dropout: float
  sampling: str
  dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "N S D"],
    position: Float[Array, "1 S D"],
    reference: Float[Array, "1 S L 2"],
    sizes: Sizes,
    train: bool,
  ) -> Float[Array, "N S D"]:
    width = x.shape[-1]

    def drop(x: Float[Array, "N S C"]) -> Float[Array, "N S C"]:
      return nn.Dropout(self.dropout, deterministic=not train)(x)

    def norm(x: Float[Array, "N S D"], name: str) -> Float[Array, "N S D"]:
      return LayerNorm(1e-5, self.dtype, name=name)(x)

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    attention = MSDeformAttn(
      width, len(sizes), self.heads, self.points, self.sampling, self.dtype, name="self_attn"
    )
    x = norm(x + drop(attention(x + position, reference, x, sizes)), "norm1")
    hidden = drop(gelu(dense(8 * width, "linear1")(x)))
    return norm(x + drop(dense(width, "linear2")(hidden)), "norm2")


class PixelDecoder(nn.Module):
  """Projects four maps, lets the three coarser ones exchange features, and builds a mask feature at stride 4.

  AVSegFormer, section "Transformer Encoder"; Deformable DETR, section 4.2.
  Deviation: group norms have 8 channels a group at every width (32 groups of the published 256).

  Attributes:
    width: D, a multiple of 8 and of `heads`.
    sampling: form of the deformable attention's gather, see `deformable.FORMS`.
    remat: recompute the inside of each layer in the backward pass instead of storing it.
  """

  width: int = 256
  layers: int = 6
  heads: int = 8
  points: int = 4
  dropout: float = 0.1
  sampling: str = "packed"
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, pyramid: Sequence[Float[Array, "N _h _w _C"]], *, train: bool = False
  ) -> tuple[Float[Array, "N S D"], Float[Array, "N h w D"]]:
    """Tokens of the levels, stride 8 first, and the rectified mask feature, from four maps, finest first."""

    def norm(x: Float[Array, "N h w D"], name: str) -> Float[Array, "N h w D"]:
      return nn.GroupNorm(
        num_groups=None,
        group_size=CHANNELS_PER_GROUP,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=self.dtype,
        name=name,
      )(x)

    def project(x: Float[Array, "N h w C"], name: str) -> Float[Array, "N h w D"]:
      dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform, name=f"{name}_0")
      return norm(dense(x), f"{name}_1")

    fine, *levels = (project(x, f"in_proj_{i}") for i, x in enumerate(pyramid))
    sizes = tuple((level.shape[1], level.shape[2]) for level in levels)
    tokens = jnp.concatenate([x.reshape(x.shape[0], -1, self.width) for x in levels], axis=1)  # [N, S, D]
    level_embed = self.param("level_embed", normal(1.0), (len(levels), self.width), jnp.float32)
    position = jnp.concatenate(
      [
        jnp.asarray(sine_position(*size, self.width)).reshape(-1, self.width) + level_embed[i : i + 1]
        for i, size in enumerate(sizes)
      ]
    )[None].astype(self.dtype)  # [1, S, D]
    centres = jnp.asarray(cell_centres(sizes))[None, :, None]  # [1, S, 1, 2]
    reference = jnp.broadcast_to(centres, (1, tokens.shape[1], len(levels), 2))
    layer = nn.remat(EncoderLayer, static_argnums=(4, 5)) if self.remat else EncoderLayer
    if not self.is_initializing():  # equal layers are traced once, but each one's start is drawn by itself
      layer = nn.jit(layer, static_argnums=(4, 5))
    for i in range(self.layers):
      tokens = layer(self.heads, self.points, self.dropout, self.sampling, self.dtype, name=f"layers_{i}")(
        tokens, position, reference, sizes, train
      )

    rows, cols = sizes[0]
    finest = tokens[:, : rows * cols].reshape(-1, rows, cols, self.width)  # [N, h/2, w/2, D]
    feature = resize_bilinear(finest, fine.shape[1:3], align_corners=False) + project(fine, "lateral_conv")
    conv = Conv(self.width, padding=1, dtype=self.dtype, kernel_init=xavier_uniform, name="out_conv_0")
    return tokens, nn.relu(norm(conv(feature), "out_conv_1"))
