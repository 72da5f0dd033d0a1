"""PVT-v2 and MiT: one pyramid transformer whose tokens lie on a grid, four stages at strides 4, 8, 16, 32."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from avs_jax.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from avs_jax.errors import InputError
from avs_jax.layers import (
  Conv,
  DepthwiseConv,
  Dtype,
  LayerNorm,
  attend,
  gelu,
  he_fan_out,
  repeated,
  trunc_normal,
)

_SMALL, _LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
_DEPTHS = {
  "b0": (2, 2, 2, 2),
  "b1": (2, 2, 2, 2),
  "b2": (3, 4, 6, 3),
  "b3": (3, 4, 18, 3),
  "b4": (3, 8, 27, 3),
}

# Arguments of every published size. MiT-B5 and PVT-v2-B5 are one and the same network.
SIZES: dict[str, dict[str, Any]] = {
  f"{family}_{size}": {
    "dims": _SMALL if size == "b0" else _LARGE,
    "depths": depths,
    "mlp_ratios": ratios if size != "b5" else (4, 4, 4, 4),
  }
  for family, ratios in (("pvt_v2", (8, 8, 4, 4)), ("mit", (4, 4, 4, 4)))
  for size, depths in (*_DEPTHS.items(), ("b5", (3, 6, 40, 3)))
}

# Layer-norm epsilons of the blocks and stage ends, and of the patch embeddings and reduced keys.
EPSILONS = {"original": (1e-6, 1e-5), "hf_pvt": (1e-6, 1e-6), "hf_mit": (1e-5, 1e-5)}


class PatchEmbed(nn.Module):
  """Overlapping patches: a strided convolution, then a norm.  PVT-v2, section 3.2."""

  width: int
  kernel: int
  stride: int
  epsilon: float
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
    x = Conv(
      self.width,
      self.kernel,
      self.stride,
      self.kernel // 2,
      dtype=self.dtype,
      kernel_init=he_fan_out,
      name="proj",
    )(x)
    return LayerNorm(self.epsilon, self.dtype, name="norm")(x)


class Attention(nn.Module):
  """Multi-head attention whose keys and values come from a map reduced `sr_ratio` times in each direction.

  PVT-v2, section 3.1; SegFormer, section 3.1.
  Deviation: a map smaller than one reduction cell, on which the original fails, is padded with zeros to one.
  """

  heads: int
  sr_ratio: int
  epsilon: float  # of the norm after the reduction
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N h w D"]) -> Float[Array, "N h w D"]:
    count, rows, cols, width = x.shape
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=trunc_normal)
    query = dense(width, name="q")(x).reshape(count, rows * cols, self.heads, -1)  # [N, h*w, M, d]
    if self.sr_ratio > 1:
      missing = [(0, max(0, self.sr_ratio - side)) for side in (rows, cols)]
      x = jnp.pad(x, ((0, 0), *missing, (0, 0)))
      reduce = Conv(
        width, self.sr_ratio, self.sr_ratio, 0, dtype=self.dtype, kernel_init=he_fan_out, name="sr"
      )
      # Rows and columns left over are not seen.
      x = LayerNorm(self.epsilon, self.dtype, name="norm")(reduce(x))
    pair = dense(2 * width, name="kv")(x)
    pair = pair.reshape(count, -1, 2, self.heads, width // self.heads)  # [N, k, 2, M, d]
    out = attend(query, pair[:, :, 0], pair[:, :, 1])  # [N, h*w, M, d]
    return dense(width, name="proj")(out.reshape(count, rows, cols, width))


class DepthwiseStep(nn.Module):
  """The depthwise convolution of an MLP, one level down, where the published names have it."""

  form: str
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
    return DepthwiseConv(form=self.form, dtype=self.dtype, name="dwconv")(x)


class MLP(nn.Module):
  """Two linear layers, a depthwise 3 x 3 between: its zero padding is the only sense of position."""

  hidden: int
  depthwise: str
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N h w D"]) -> Float[Array, "N h w D"]:
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=trunc_normal)
    y = dense(self.hidden, name="fc1")(x)
    y = gelu(DepthwiseStep(self.depthwise, self.dtype, name="dwconv")(y))
    return dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
  """Pre-norm attention and MLP, each on a residual branch that training drops at random.

  `keep` holds the factor of either branch for each example (see `drawn`), None outside training; a value, so
  that equal blocks can share one trace.
  """

  heads: int
  sr_ratio: int
  mlp_ratio: int
  epsilons: tuple[float, float]
  depthwise: str
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N h w D"], keep: Float[Array, "2 N 1 1 1"] | None = None
  ) -> Float[Array, "N h w D"]:
    inner, outer = self.epsilons
    attention = Attention(self.heads, self.sr_ratio, outer, self.dtype, name="attn")
    mlp = MLP(self.mlp_ratio * x.shape[-1], self.depthwise, self.dtype, name="mlp")
    branch = attention(LayerNorm(inner, self.dtype, name="norm1")(x))
    x = x + (branch if keep is None else branch * keep[0])
    branch = mlp(LayerNorm(inner, self.dtype, name="norm2")(x))
    return x + (branch if keep is None else branch * keep[1])


def drawn(key: PRNGKeyArray, rates: Float[np.ndarray, "L"], count: int) -> Float[Array, "L 2 N 1 1 1"]:
  """What each branch of L blocks is multiplied by for each of `count` examples: 0 where it is dropped, else
  1 / (1 - rate). Drawn at once: generators in the 52 blocks of B5 are 260 small loops to compile."""
  kept = 1 - jnp.asarray(rates, jnp.float32).reshape(-1, 1, 1, 1, 1, 1)
  return jax.random.bernoulli(key, kept, (len(rates), 2, count, 1, 1, 1)) / kept


class MixTransformer(nn.Module):
  """Pyramid transformer of PVT-v2 (Wang et al., 2022) and SegFormer (Xie et al., 2021).

  Overlapping patches, reduced keys, convolutional MLP; each stage's normed map is both output and the next
  stage's input. Deviation: see `Attention`.

  Attributes:
    dims, depths, heads, sr_ratios, mlp_ratios: one number a stage.
    drop_path: rate of the last block; it rises from 0 linearly over all blocks.
    epsilons: a name in `EPSILONS`: whose weights are in use, by which library they were trained or run.
    dtype: compute dtype; parameters, norms and softmax stay float32.
    remat: recompute the inside of each block in the backward pass instead of storing it.
    scan: run the equal blocks of a stage as one scanned block, whose parameters are stacked (`stack_blocks`):
      a quicker compilation, a slower step.
    depthwise: form of the depthwise convolution, see `layers.DepthwiseConv`.

  Raises:
    InputError: unknown `epsilons`, not one number a stage each, or dims that are no multiples of their heads.
  """

  dims: tuple[int, ...] = _LARGE
  depths: tuple[int, ...] = (3, 6, 40, 3)
  heads: tuple[int, ...] = (1, 2, 5, 8)
  sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
  mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
  drop_path: float = 0.1
  epsilons: str = "original"
  dtype: Dtype = jnp.float32
  remat: bool = False
  scan: bool = False
  depthwise: str = "auto"

  MEAN = IMAGENET_MEAN
  STD = IMAGENET_STD

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of the maps, finest first."""
    return tuple(self.dims)

  def setup(self) -> None:
    if self.epsilons not in EPSILONS:
      raise InputError(f"encoder: epsilons is '{self.epsilons}'; give one of {', '.join(EPSILONS)}.")
    shape = (self.dims, self.depths, self.heads, self.sr_ratios, self.mlp_ratios)
    if len({len(numbers) for numbers in shape}) > 1 or any(
      dim % heads for dim, heads in zip(self.dims, self.heads, strict=False)
    ):
      raise InputError(
        "encoder: dims, depths, heads, sr_ratios and mlp_ratios must have one number a stage, each of dims a "
        f"multiple of its heads; given are {', '.join(str(tuple(numbers)) for numbers in shape)}."
      )
    inner, outer = EPSILONS[self.epsilons]
    for i, (dim, depth) in enumerate(zip(self.dims, self.depths, strict=True)):
      kernel, stride = (7, 4) if i == 0 else (3, 2)
      setattr(self, f"patch_embed{i + 1}", PatchEmbed(dim, kernel, stride, outer, self.dtype))
      setattr(self, f"norm{i + 1}", LayerNorm(inner, self.dtype))
      block = functools.partial(
        repeated(Block, plain=self.is_initializing(), remat=self.remat),
        heads=self.heads[i],
        sr_ratio=self.sr_ratios[i],
        mlp_ratio=self.mlp_ratios[i],
        epsilons=(inner, outer),
        depthwise=self.depthwise,
        dtype=self.dtype,
      )
      if self.scan:
        setattr(self, f"block{i + 1}", block())
      else:
        for j in range(depth):
          setattr(self, f"block{i + 1}_{j}", block())

  def stage(self, x: Float[Array, "N H W C"], i: int, *, train: bool = False) -> Float[Array, "N h w D"]:
    """Map `i` (0 finest) from the picture (i = 0) or from map i - 1, which a caller may have changed."""
    x = getattr(self, f"patch_embed{i + 1}")(x)
    depth, keep = self.depths[i], None
    if train and self.drop_path and depth:
      first = sum(self.depths[:i])
      ramp = np.linspace(0, self.drop_path, sum(self.depths), dtype=np.float32)[first : first + depth]
      keep = drawn(self.make_rng("dropout"), ramp, len(x)).astype(self.dtype)
    if self.scan:
      step = nn.scan(
        lambda block, x, keep: (block(x, keep), None),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
      )
      x, _ = step(getattr(self, f"block{i + 1}"), x, keep)
    else:
      for j in range(depth):
        x = getattr(self, f"block{i + 1}_{j}")(x, None if keep is None else keep[j])
    return getattr(self, f"norm{i + 1}")(x)

  def __call__(
    self, x: Float[Array, "N H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N _h _w _C"], ...]:
    """Four normed maps, strides 4, 8, 16, 32 (sides rounded up), from pictures already normalised."""
    maps = []
    for i in range(len(self.dims)):
      x = self.stage(x, i, train=train)
      maps.append(x)
    return tuple(maps)


def stack_blocks(params: Mapping[str, Any]) -> dict[str, Any]:
  """An unrolled `MixTransformer`'s parameters as `scan=True` has them: block{i}_{j} stacked in block{i}."""
  stages: dict[str, dict[int, Any]] = {}
  stacked = {}
  for name, value in params.items():
    found = re.fullmatch(r"(block\d+)_(\d+)", name)
    if found:
      stages.setdefault(found[1], {})[int(found[2])] = value
    else:
      stacked[name] = value
  for name, blocks in stages.items():
    ordered = [blocks[j] for j in range(len(blocks))]
    stacked[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
  return stacked
