"""AVSegFormer's two places where sound enters: queries that have heard it, and a gate on the mask feature."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.attention import MultiHeadAttention
from avs_jax.errors import check_choice
from avs_jax.initial import xavier_uniform
from avs_jax.layers import Dtype, LayerNorm, attend, gelu

MIXERS = ("released", "paper")


class GeneratorLayer(nn.Module):
  """Queries attend to one another, then to the sound; norms follow the additions."""

  heads: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N Q D"], aud: Float[Array, "N k D"]) -> Float[Array, "N Q D"]:
    width = x.shape[-1]

    def norm(x: Float[Array, "N Q D"], name: str) -> Float[Array, "N Q D"]:
      return LayerNorm(1e-5, self.dtype, name=name)(x)

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    def attention(name: str) -> MultiHeadAttention:
      return MultiHeadAttention(self.heads, use_bias=False, dtype=self.dtype, name=name)

    x = norm(x + attention("self_attn")(x), "norm1")
    x = norm(x + attention("cross_attn")(x, aud), "norm2")
    return norm(x + dense(width, "ffn_2")(gelu(dense(4 * width, "ffn_0")(x))), "norm3")


class QueryGenerator(nn.Module):
  """Learned queries that listen, plus learned queries that do not: the same for every frame but for its sound.

  AVSegFormer, section "Query Generator".  Deviation: none. With one token of sound per frame its softmax is
  always 1, so queries and keys of the cross-attention have no effect and no gradient, there as here.

  Attributes:
    width: D.
  """

  width: int = 256
  num_queries: int = 300
  layers: int = 6
  heads: int = 8
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, aud: Float[Array, "N k D"]) -> Float[Array, "N Q D"]:
    """Queries of each frame from its tokens of sound."""
    query = self.param("query", xavier_uniform, (self.num_queries, self.width), jnp.float32)
    x = jnp.broadcast_to(query.astype(self.dtype), (aud.shape[0], *query.shape))  # [N, Q, D]
    # Equal layers are traced once, but each one's start is drawn by itself.
    layer = GeneratorLayer if self.is_initializing() else nn.jit(GeneratorLayer)
    for i in range(self.layers):
      x = layer(self.heads, self.dtype, name=f"layers_{i}")(x, aud)
    learnable = self.param("learnable_query", xavier_uniform, (self.num_queries, self.width), jnp.float32)
    return x + learnable.astype(self.dtype)[None]


class CrossModalMixer(nn.Module):
  """Sound scales the channels of a map: it attends over the pixels, and what it finds becomes the scale w.

  AVSegFormer, section "Audio-Visual Mixer".  form "released": F * sigmoid(w), which the published weights were
  trained with; "paper": F + F * w, as printed there and in the Robust paper (supplement, equation 10).
  Deviation: none for "released"; "paper" keeps the released linear map after the attention, which the
  formula leaves out.

  Raises:
    InputError: unknown form.
  """

  heads: int = 8
  form: str = "released"
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, vis: Float[Array, "N h w D"], aud: Float[Array, "N D"]) -> Float[Array, "N h w D"]:
    check_choice("model.mixer", self.form, MIXERS)
    count, rows, cols, width = vis.shape

    def dense(features: int, name: str, use_bias: bool) -> nn.Dense:
      return nn.Dense(features, use_bias=use_bias, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    query = dense(width, "q_proj", False)(aud).reshape(count, 1, self.heads, -1)  # [N, 1, M, d]
    pair = dense(2 * width, "kv_proj", False)(vis.reshape(count, rows * cols, width))  # [N, h*w, 2*D]
    pair = pair.reshape(count, rows * cols, 2, self.heads, -1)  # [N, h*w, 2, M, d]
    pooled = attend(query, pair[:, :, 0], pair[:, :, 1]).reshape(count, 1, 1, width)  # [N, 1, 1, D]
    scale = dense(width, "proj", True)(pooled)
    return vis * jax.nn.sigmoid(scale) if self.form == "released" else vis + vis * scale
