"""Queries read the tokens of a frame, and together paint its mask."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.attention import MultiHeadAttention
from avs_jax.initial import xavier_uniform
from avs_jax.layers import Conv, Dtype, LayerNorm, gelu, resize_bilinear


class DecoderLayer(nn.Module):
  """Queries attend to one another, then to all tokens; norms follow the additions."""

  heads: int
  dropout: float
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N Q D"], memory: Float[Array, "N S D"], train: bool
  ) -> Float[Array, "N Q D"]:
    width = x.shape[-1]

    def drop(x: Float[Array, "N Q C"]) -> Float[Array, "N Q C"]:
      return nn.Dropout(self.dropout, deterministic=not train)(x)

    def norm(x: Float[Array, "N Q D"], name: str) -> Float[Array, "N Q D"]:
      return LayerNorm(1e-5, self.dtype, name=name)(x)

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    def attention(name: str) -> MultiHeadAttention:
      return MultiHeadAttention(self.heads, dropout=self.dropout, dtype=self.dtype, name=name)

    x = norm(x + drop(attention("self_attn")(x, train=train)), "norm1")
    x = norm(x + drop(attention("cross_attn")(x, memory, train=train)), "norm2")
    hidden = drop(gelu(dense(8 * width, "linear1")(x)))
    return norm(x + drop(dense(width, "linear2")(hidden)), "norm3")


class QueryDecoder(nn.Module):
  """Transformer decoder over the tokens of all levels; they carry no code of position here.

  AVSegFormer, section "Transformer Decoder".  Deviation: none; the last layer alone is supervised.

  Attributes:
    remat: recompute the inside of each layer in the backward pass instead of storing it.
  """

  layers: int = 6
  heads: int = 8
  dropout: float = 0.1
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, queries: Float[Array, "N Q D"], memory: Float[Array, "N S D"], *, train: bool = False
  ) -> Float[Array, "N Q D"]:
    layer = nn.remat(DecoderLayer, static_argnums=(3,)) if self.remat else DecoderLayer
    if not self.is_initializing():  # equal layers are traced once, but each one's start is drawn by itself
      layer = nn.jit(layer, static_argnums=(3,))
    for i in range(self.layers):
      queries = layer(self.heads, self.dropout, self.dtype, name=f"layers_{i}")(queries, memory, train)
    return queries


class PixelMLP(nn.Module):
  """Three linear layers on every pixel, rectified between."""

  width: int
  hidden: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N h w Q"]) -> Float[Array, "N h w D"]:
    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    for i in range(2):
      x = nn.relu(dense(self.hidden, f"layers_{i}")(x))
    return dense(self.width, "layers_2")(x)


class QueryMaskHead(nn.Module):
  """Every query's likeness to every pixel, mixed back into the map, then two convolutions to logits.

  AVSegFormer, section "Transformer Decoder", last equation.  Deviation: none. No rectifier stands between the
  first convolution and the enlargement, and the last one has no bias.

  Attributes:
    num_classes: K.
    head_channels: of the last hidden layer; 0: an eighth of D, as published. Narrow decoders want more.
  """

  num_classes: int = 1
  head_channels: int = 0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, queries: Float[Array, "N Q D"], feature: Float[Array, "N h w D"]
  ) -> Float[Array, "N h4 w4 K"]:
    """Logits at four times the size of `feature`."""
    width = feature.shape[-1]

    def conv(features: int, kernel: int, name: str, use_bias: bool = True) -> Conv:
      return Conv(
        features,
        kernel,
        padding=kernel // 2,
        use_bias=use_bias,
        dtype=self.dtype,
        kernel_init=xavier_uniform,
        name=name,
      )

    likeness = jnp.einsum("nqd,nhwd->nhwq", queries, feature)  # [N, h, w, Q]
    x = PixelMLP(width, 8 * width, self.dtype, name="mlp")(likeness) + feature  # [N, h, w, D]
    x = conv(width // 2, 3, "fc_0")(x)
    x = resize_bilinear(x, [4 * n for n in x.shape[1:3]], align_corners=False)
    x = nn.relu(conv(self.head_channels or width // 8, 3, "fc_2")(x))
    return conv(self.num_classes, 1, "fc_4", use_bias=False)(x)
