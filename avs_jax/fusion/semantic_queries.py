"""What sounds decides which queries speak: semantic marks, and audio spread over the queries they open."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avs_jax.initial import torch_default
from avs_jax.layers import Dtype, LayerNorm, attend

FLOOR = 1e-6  # of a mark in the released code, which never has exact zeros and ones


def dilate(marks: Float[Array, "N Q"], factor: int, first: bool = True) -> Float[Array, "N Q"]:
  """Each mark opens `factor` neighbouring queries, query 0 is always active.

  bias_in_AVS, equation 1 and supplement B.1: mark 1 + r opens queries 1 + factor * r + j for j < factor.
  Marks whose queries would lie beyond the last one are lost.

  Args:
    first: without it (table 2) query 0 is active only where no other is.
  """
  count = marks.shape[-1]
  wide = jnp.repeat(marks[:, 1:], factor, axis=-1)[:, : count - 1]  # [N, Q-1]
  lonely = (wide <= 0.5).all(-1, keepdims=True).astype(marks.dtype)
  return jnp.concatenate([jnp.ones_like(lonely) if first else lonely, wide], -1)


def released_marks(marks: Float[Array, "N Q"]) -> Float[Array, "N Q"]:
  """The released code's reading of marks: a lone one means query 0, whatever it is; clamped to [1e-6, 1 - 1e-6].

  Nothing else opens query 0 there.
  """
  first = (jnp.arange(marks.shape[-1]) == 0).astype(marks.dtype)[None]
  alone = (marks > 0.5).sum(-1, keepdims=True) == 1
  return jnp.clip(jnp.where(alone, first, marks), FLOOR, 1 - FLOOR)


def place_codes(count: int, width: int) -> np.ndarray:
  """[count, width] sines (even channels) and cosines (odd ones) of the place, counted from 0."""
  angle = np.arange(count)[:, None] / 10000 ** (2 * (np.arange(width) // 2) / width)[None]
  return np.where(np.arange(width)[None] % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class PerceptionBlock(nn.Module):
  """The target attends to the source, then a two-layer network; norms follow the additions."""

  heads: int
  dropout: float
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N Q D"], source: Float[Array, "N Q D"], train: bool
  ) -> Float[Array, "N Q D"]:
    width = x.shape[-1]

    def dense(x: Float[Array, "N Q C"], features: int, name: str) -> Float[Array, "N Q E"]:
      return nn.Dense(features, dtype=self.dtype, kernel_init=torch_default, name=name)(x)

    def heads(x: Float[Array, "N Q D"], name: str) -> Float[Array, "N Q M d"]:
      return dense(x, width, name).reshape(*x.shape[:2], self.heads, -1)

    def drop(x: Float[Array, "N Q D"]) -> Float[Array, "N Q D"]:
      return nn.Dropout(self.dropout, deterministic=not train)(x)

    query, key, value = (
      heads(part, f"t2a_{name}_embedding")
      for part, name in ((x, "query"), (source, "key"), (source, "value"))
    )
    heard = dense(attend(query, key, value).reshape(x.shape), width, "t2a_out_projection")
    x = LayerNorm(1e-5, self.dtype, name="layer_norm1")(x + drop(heard))
    hidden = nn.relu(dense(x, 4 * width, "feed_forward_0"))
    return LayerNorm(1e-5, self.dtype, name="layer_norm2")(x + drop(dense(hidden, width, "feed_forward_2")))


class Perception(nn.Module):
  """Self-attention over the marked audio vectors of a frame; the learned queries are added to what it gives.

  bias_in_AVS, equation 4, in the released shape of a module that the released code never calls: three blocks
  that all read the unchanged source, positions on both sides, a last linear map.  Deviation: none.
  """

  heads: int = 4
  layers: int = 3
  dropout: float = 0.1
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, heard: Float[Array, "N Q D"], *, train: bool = False) -> Float[Array, "N Q D"]:
    width = heard.shape[-1]
    source = heard + jnp.asarray(place_codes(heard.shape[1], width), heard.dtype)[None]
    x = source
    for i in range(self.layers):
      block = PerceptionBlock(self.heads, self.dropout, self.dtype, name=f"transformer_blocks_{i}")
      x = block(x, source, train)
    return nn.Dense(width, dtype=self.dtype, kernel_init=torch_default, name="output_layer")(x)
