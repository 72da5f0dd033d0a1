"""Mask2Former's pixel decoder: three coarse maps exchange features, and a mask feature at stride 4 comes out."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.decoders.pixel_decoder import CHANNELS_PER_GROUP, cell_centres, sine_position
from avs_jax.deformable import MSDeformAttn, Sizes
from avs_jax.initial import Initial, normal, xavier_uniform
from avs_jax.layers import Conv, Dtype, LayerNorm, repeated, resize_bilinear


class Bottleneck(nn.Module):
  """An adapter: linear to a quarter of the width, rectified, linear back. It has no skip of its own.

  bias_in_AVS, `avs_adapt`: what it gives REPLACES the output of the attention before it.
  """

  start: Initial
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "N q D"]) -> Float[Array, "N q D"]:
    width = x.shape[-1]
    hidden = nn.relu(nn.Dense(width // 4, dtype=self.dtype, kernel_init=self.start, name="0")(x))
    return nn.Dense(width, dtype=self.dtype, kernel_init=self.start, name="2")(hidden)


class MultiScaleLayer(nn.Module):
  """Deformable self-attention over all levels, an adapter, a two-layer network; norms follow the additions."""

  heads: int
  points: int
  adapters: bool
  sampling: str
  dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "N S D"],
    position: Float[Array, "1 S D"],
    reference: Float[Array, "1 S L 2"],
    sizes: Sizes,
  ) -> Float[Array, "N S D"]:
    width = x.shape[-1]

    def norm(x: Float[Array, "N S D"], name: str) -> Float[Array, "N S D"]:
      return LayerNorm(1e-5, self.dtype, name=name)(x)

    def dense(features: int, name: str) -> nn.Dense:
      return nn.Dense(features, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    attention = MSDeformAttn(
      width, len(sizes), self.heads, self.points, self.sampling, self.dtype, name="self_attn"
    )
    seen = attention(x + position, reference, x, sizes)
    if self.adapters:
      seen = Bottleneck(normal(0.02), self.dtype, name="avs_adapt")(seen)
    x = norm(x + seen, "self_attn_layer_norm")
    return norm(x + dense(width, "fc2")(nn.relu(dense(4 * width, "fc1")(x))), "final_layer_norm")


class MultiScaleDecoder(nn.Module):
  """Projects three maps, lets them look at one another, and adds the finest of them to the map at stride 4.

  Mask2Former (Cheng et al., 2022), section 3.2.3, with bias_in_AVS's adapters.
  Deviation: group norms have 8 channels a group at every width (32 groups of the published 256).

  Attributes:
    width: D, a multiple of 8 and of `heads`.
    adapters: put an adapter behind each attention.
    sampling: form of the deformable attention's gather, see `deformable.FORMS`.
    remat: recompute the inside of each layer in the backward pass instead of storing it.
  """

  width: int = 256
  layers: int = 6
  heads: int = 8
  points: int = 4
  adapters: bool = True
  sampling: str = "packed"
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, pyramid: Sequence[Float[Array, "N _h _w _C"]]
  ) -> tuple[Float[Array, "N h w D"], tuple[Float[Array, "N _h _w D"], ...]]:
    """The mask feature, and the three exchanged maps, COARSEST first, from four maps, finest first."""

    def norm(x: Float[Array, "N h w D"], name: str) -> Float[Array, "N h w D"]:
      return nn.GroupNorm(
        num_groups=None,
        group_size=CHANNELS_PER_GROUP,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=self.dtype,
        name=name,
      )(x)

    def dense(features: int, name: str, use_bias: bool = True) -> nn.Dense:
      return nn.Dense(features, use_bias, dtype=self.dtype, kernel_init=xavier_uniform, name=name)

    fine, *coarse = pyramid
    levels = [
      norm(dense(self.width, f"input_projections_{i}_0")(x), f"input_projections_{i}_1")
      for i, x in enumerate(reversed(coarse))
    ]
    sizes = tuple((level.shape[1], level.shape[2]) for level in levels)
    tokens = jnp.concatenate([x.reshape(x.shape[0], -1, self.width) for x in levels], axis=1)  # [N, S, D]
    level_embed = self.param("level_embed", normal(1.0), (len(levels), self.width), jnp.float32)
    position = jnp.concatenate(
      [
        jnp.asarray(sine_position(*size, self.width, normalised=True)).reshape(-1, self.width)
        + level_embed[i : i + 1]
        for i, size in enumerate(sizes)
      ]
    )[None].astype(self.dtype)  # [1, S, D]
    centres = jnp.asarray(cell_centres(sizes))[None, :, None]  # [1, S, 1, 2]
    reference = jnp.broadcast_to(centres, (1, tokens.shape[1], len(levels), 2))
    layer = repeated(MultiScaleLayer, plain=self.is_initializing(), remat=self.remat, static=(4,))
    for i in range(self.layers):
      tokens = layer(self.heads, self.points, self.adapters, self.sampling, self.dtype, name=f"layers_{i}")(
        tokens, position, reference, sizes
      )

    maps, start = [], 0
    for rows, cols in sizes:
      cells = tokens[:, start : start + rows * cols]
      maps.append(cells.reshape(-1, rows, cols, self.width))  # [N, h, w, D]
      start += rows * cols
    lateral = norm(dense(self.width, "lateral_0", use_bias=False)(fine), "lateral_1")
    feature = lateral + resize_bilinear(maps[-1], fine.shape[1:3], align_corners=False)
    conv = Conv(
      self.width, padding=1, use_bias=False, dtype=self.dtype, kernel_init=xavier_uniform, name="smooth_0"
    )
    feature = nn.relu(norm(conv(feature), "smooth_1"))
    return dense(self.width, "mask_projection")(feature), tuple(maps)
