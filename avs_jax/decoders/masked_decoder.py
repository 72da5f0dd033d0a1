"""Mask2Former's query decoder: each query reads a frame only where it expects its object, layer after layer."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avs_jax.attention import MultiHeadAttention
from avs_jax.decoders.multi_scale_decoder import Bottleneck
from avs_jax.decoders.pixel_decoder import sine_position
from avs_jax.initial import normal, xavier_uniform
from avs_jax.layers import Dtype, LayerNorm, attend, repeated, resize_bilinear


class SelfAttention(nn.Module):
  """Queries attend to one another; positions count for who looks where, not for what is seen."""

  heads: int
  adapters: bool
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N Q D"], position: Float[Array, "1 Q D"], allowed: Bool[Array, "N 1 Q"] | None
  ) -> Float[Array, "N Q D"]:
    width = x.shape[-1]

    def dense(x: Float[Array, "N Q D"], name: str) -> Float[Array, "N Q D"]:
      return nn.Dense(width, dtype=self.dtype, kernel_init=xavier_uniform, name=name)(x)

    parts = (dense(x + position, "q_proj"), dense(x + position, "k_proj"), dense(x, "v_proj"))
    parts = (part.reshape(*x.shape[:2], self.heads, -1) for part in parts)  # [N, Q, M, d]
    x = dense(attend(*parts, allowed=allowed).reshape(x.shape), "out_proj")
    return Bottleneck(xavier_uniform, self.dtype, name="avs_adapt")(x) if self.adapters else x


class MaskedLayer(nn.Module):
  """Masked cross-attention, self-attention, a two-layer network; norms follow the additions.

  bias_in_AVS, equations 7-8: with `active` given only active queries are keys of the self-attention and only
  they are updated; the others leave as they came, and no gradient reaches them.
  """

  heads: int
  adapters: bool
  dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "N Q D"],
    position: Float[Array, "1 Q D"],
    keys: Float[Array, "N S D"],
    values: Float[Array, "N S D"],
    allowed: Bool[Array, "N Q S"],
    active: Bool[Array, "N Q"] | None,
  ) -> Float[Array, "N Q D"]:
    width, came = x.shape[-1], x

    def norm(x: Float[Array, "N Q D"], name: str) -> Float[Array, "N Q D"]:
      return LayerNorm(1e-5, self.dtype, name=name)(x)

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    cross = MultiHeadAttention(self.heads, dtype=self.dtype, name="cross_attn")
    x = norm(x + cross(x + position, keys, values=values, allowed=allowed), "cross_attn_layer_norm")
    among = SelfAttention(self.heads, self.adapters, self.dtype, name="self_attn")
    x = norm(x + among(x, position, None if active is None else active[:, None]), "self_attn_layer_norm")
    x = norm(x + dense(width, "fc2")(nn.relu(dense(8 * width, "fc1")(x))), "final_layer_norm")
    return x if active is None else jnp.where(active[..., None], x, came)


class MaskedDecoder(nn.Module):
  """Queries, their layers, and what each query predicts before the first layer and after every one.

  Mask2Former (Cheng et al., 2022), section 3.2; bias_in_AVS, section 4.3.
  Deviation: the mask feature is resized to each level once, not every predicted mask; the same numbers,
  because both maps are linear.

  Attributes:
    num_outputs: class logits of a query, "nothing" included.
    adapters: put an adapter behind each self-attention.
    remat: recompute the inside of each layer in the backward pass instead of storing it.
  """

  num_outputs: int
  width: int = 256
  num_queries: int = 100
  layers: int = 9
  heads: int = 8
  adapters: bool = True
  dtype: Dtype = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    def table(name: str, rows: int) -> Float[Array, "R D"]:
      return jnp.asarray(self.param(name, normal(1.0), (rows, self.width), jnp.float32))

    self.queries_features = table("queries_features", self.num_queries)
    self.queries_embedder = table("queries_embedder", self.num_queries)
    self.level_embed = table("level_embed", 3)
    layer = repeated(MaskedLayer, plain=self.is_initializing(), remat=self.remat)
    for i in range(self.layers):
      setattr(self, f"layers_{i}", layer(self.heads, self.adapters, self.dtype))
    self.layernorm = LayerNorm(1e-5, self.dtype)
    for i in range(3):
      dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform)
      setattr(self, f"mask_embedder_{i}_0", dense)
    self.class_predictor = nn.Dense(self.num_outputs, dtype=self.dtype, kernel_init=xavier_uniform)

  def predict(self, x: Float[Array, "N Q D"]) -> tuple[Float[Array, "N Q D"], Float[Array, "N Q E"]]:
    """What each query's mask looks like in the mask feature, and its class logits."""
    x = self.layernorm(x)
    look = x
    for i in range(3):
      look = getattr(self, f"mask_embedder_{i}_0")(look)
      look = nn.relu(look) if i < 2 else look
    return look, self.class_predictor(x).astype(jnp.float32)

  def __call__(
    self,
    prompt: Float[Array, "N Q D"],
    feature: Float[Array, "N h w D"],
    levels: Sequence[Float[Array, "N _h _w D"]],
    active: Bool[Array, "N Q"] | None = None,
  ) -> tuple[tuple[Float[Array, "N h w Q"], ...], tuple[Float[Array, "N Q E"], ...]]:
    """Mask and class logits of every query, before the first layer and after each.

    Args:
      prompt: added to the learned content of the queries.
      levels: maps to read, coarsest first; layer i reads map i modulo their number.
      active: None lets all queries take part. Predictions of dormant queries are 0.
    """
    position = self.queries_embedder[None].astype(self.dtype)  # [1, Q, D]
    x = self.queries_features[None].astype(self.dtype) + prompt.astype(self.dtype)  # [N, Q, D]
    memory = []
    for i, level in enumerate(levels):
      count, rows, cols, width = level.shape
      value = level.reshape(count, -1, width) + self.level_embed[i : i + 1][None].astype(level.dtype)
      place = jnp.asarray(sine_position(rows, cols, width, normalised=True), level.dtype)
      small = jax.lax.stop_gradient(resize_bilinear(feature, (rows, cols), align_corners=False))
      memory.append((value + place.reshape(1, -1, width), value, small.reshape(count, -1, width)))

    def shown(values: Float[Array, "..."], on: Bool[Array, "..."] | None) -> Float[Array, "..."]:
      return values if on is None else jnp.where(on, values, 0)

    masks, classes = [], []
    for i in range(self.layers + 1):
      look, kinds = self.predict(x)
      drawn = jnp.einsum("nqd,nhwd->nhwq", look, feature, preferred_element_type=jnp.float32)
      masks.append(shown(drawn, None if active is None else active[:, None, None]))
      classes.append(shown(kinds, None if active is None else active[..., None]))
      if i < self.layers:
        key, value, small = memory[i % len(memory)]
        expected = jnp.einsum("nqd,nsd->nqs", look, small, preferred_element_type=jnp.float32)
        allowed = open_where(expected)
        x = getattr(self, f"layers_{i}")(x, position, key, value, allowed, active)
    return tuple(masks), tuple(classes)


def open_where(expected: Float[Array, "N Q S"]) -> Bool[Array, "N Q S"]:
  """Cells whose mask logit gives a probability of at least 0.5; a query without such a cell sees all.

  No gradient passes the threshold.
  """
  allowed = jax.nn.sigmoid(expected) >= 0.5
  return allowed | ~allowed.any(-1, keepdims=True)
