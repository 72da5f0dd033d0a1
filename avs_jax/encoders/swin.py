"""Swin Transformer: attention inside windows that move by half a window from block to block."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from avs_jax.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from avs_jax.errors import InputError
from avs_jax.initial import normal
from avs_jax.layers import Conv, Dtype, LayerNorm, attend, drop_path, gelu, repeated, trunc_normal

# Arguments of the sizes that published segmenters use.
SIZES: dict[str, dict[str, Any]] = {"swin_base_w7": {"window": 7}, "swin_base_w12": {"window": 12}}

PATCH = 4  # pixels on a side (Liu et al., 2021, section 3.1)
EPSILON = 1e-5  # of every norm
APART = -100.0  # added to the logits of tokens that rolling has made neighbours; the original's number
ADAPTER_RATIO = 4  # channels per hidden channel of an adapter (bias_in_AVS)

WINDOW_RULES = ("dense", "classic")
DROP_RULES = ("ramp", "constant")


def adapt(x: Float[Array, "*N C"], name: str, dtype: Dtype) -> Float[Array, "*N C"]:
  """A bottleneck with a skip, x + up(relu(down(x))), near identity at the start; bias_in_AVS, released code.

  Its two layers belong to the module that calls it, under the published names.
  """
  dense = functools.partial(nn.Dense, dtype=dtype, kernel_init=normal(0.02))
  hidden = jax.nn.relu(dense(x.shape[-1] // ADAPTER_RATIO, name=f"{name}_0")(x))
  return x + dense(x.shape[-1], name=f"{name}_2")(hidden)


class WindowAttention(nn.Module):
  """Multi-head attention among the tokens of a window, with a learned bias for each relative position.

  Swin, section 3.2, equation 4.  Deviation: none.

  Attributes:
    window: cells on a side for which the table of biases was made.
  """

  heads: int
  window: int
  adapters: bool
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N n C"], regions: Int[np.ndarray, "W n"] | None = None
  ) -> Float[Array, "N n C"]:
    """Tokens of the same window attend to one another.

    Args:
      x: the windows' tokens, row by row; the W windows of one picture follow one another.
      regions: tokens with different numbers are kept apart; None keeps none apart.
    """
    count, tokens, width = x.shape
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=trunc_normal)
    shape = ((2 * self.window - 1) ** 2, self.heads)
    table = self.param("relative_position_bias_table", trunc_normal, shape, jnp.float32)
    side = round(tokens**0.5)
    bias = jnp.asarray(table)[relative_positions(side, self.window)]  # [n, n, M]
    bias = bias.transpose(2, 0, 1)[None]  # [1, M, n, n]
    if regions is not None:
      apart = jnp.asarray(regions[:, :, None]) != jnp.asarray(regions[:, None])  # [W, n, n]
      bias = bias + jnp.where(apart, APART, 0.0)[:, None]  # [W, M, n, n]
    qkv = dense(3 * width, name="qkv")(x).reshape(count, tokens, 3, self.heads, -1)  # [N, n, 3, M, d]
    out = attend(*(qkv[:, :, part] for part in range(3)), bias=bias)  # [N, n, M, d]
    y = dense(width, name="proj")(out.reshape(count, tokens, width))
    return adapt(y, "swin_adapt_1", self.dtype) if self.adapters else y


@functools.cache
def relative_positions(side: int, window: int) -> Int[np.ndarray, "n n"]:
  """Row of the table [(2 * window - 1)**2] for every pair (query, key) of a window of side x side cells."""
  rows, cols = np.divmod(np.arange(side * side), side)
  down, right = (place[:, None] - place[None] + window - 1 for place in (rows, cols))
  return down * (2 * window - 1) + right


def partition(x: Float[Array, "N h w C"], window: int) -> Float[Array, "N2 n C"]:
  """The tokens of every window, windows row by row."""
  count, rows, cols, width = x.shape
  x = x.reshape(count, rows // window, window, cols // window, window, width)
  return x.swapaxes(2, 3).reshape(-1, window * window, width)  # [N*W, n, C]


def assemble(x: Float[Array, "N2 n C"], rows: int, cols: int) -> Float[Array, "N h w C"]:
  """The reverse of `partition`."""
  window, width = round(x.shape[1] ** 0.5), x.shape[-1]
  x = x.reshape(-1, rows // window, cols // window, window, window, width)
  return x.swapaxes(2, 3).reshape(-1, rows, cols, width)  # [N, h, w, C]


@functools.cache
def shifted_regions(rows: int, cols: int, window: int, shift: int) -> Int[np.ndarray, "W n"]:
  """Which cells of a grid, rolled by `shift` up and left, were neighbours before: equal numbers."""

  def part(size: int) -> np.ndarray:
    place = np.arange(size)
    return (place >= size - window).astype(np.int32) + (place >= size - shift)

  grid = 3 * part(rows)[:, None] + part(cols)  # [rows, cols]
  windows = grid.reshape(rows // window, window, cols // window, window).swapaxes(1, 2)
  return windows.reshape(-1, window * window)


class MLP(nn.Module):
  """Two linear layers with a GELU between."""

  hidden: int
  adapters: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=trunc_normal)
    y = dense(x.shape[-1], name="fc2")(gelu(dense(self.hidden, name="fc1")(x)))
    return adapt(y, "swin_adapt_3", self.dtype) if self.adapters else y


class SwinBlock(nn.Module):
  """Pre-norm window attention and MLP, each on a residual branch that training may drop at random.

  Swin, section 3.2, equation 3. A map whose sides are no multiples of the window is filled up with zeros at
  the right and the bottom, AFTER the norm and unmasked, as the published dense backbones do.

  `rate` is None outside training; a value, not an attribute, so that equal blocks can share one trace.
  """

  heads: int
  window: int
  shift: int
  is_classic: bool
  mlp_ratio: int
  adapters: bool
  drop_mlp: bool  # the MLP's branch is dropped like the attention's
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N h w C"], rate: Float[Array, ""] | None = None
  ) -> Float[Array, "N h w C"]:
    branch = self.attention(LayerNorm(EPSILON, self.dtype, name="norm1")(x))
    x = x + (branch if rate is None else drop_path(branch, rate, self.make_rng("dropout")))
    mlp = MLP(self.mlp_ratio * x.shape[-1], self.adapters, self.dtype, name="mlp")
    branch = mlp(LayerNorm(EPSILON, self.dtype, name="norm2")(x))
    drops = rate is not None and self.drop_mlp
    return x + (drop_path(branch, rate, self.make_rng("dropout")) if drops else branch)

  def attention(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
    """Attention inside the windows of the map, moved by the block's shift."""
    rows, cols = x.shape[1:3]
    window, shift = self.window, self.shift
    if self.is_classic and min(rows, cols) <= window:
      window, shift = min(rows, cols), 0
    x = jnp.pad(x, ((0, 0), (0, -rows % window), (0, -cols % window), (0, 0)))
    full = x.shape[1:3]
    regions = None
    if shift:
      x = jnp.roll(x, (-shift, -shift), (1, 2))
      regions = shifted_regions(*full, window, shift)
    attention = WindowAttention(self.heads, self.window, self.adapters, self.dtype, name="attn")
    x = assemble(attention(partition(x, window), regions), *full)
    if shift:
      x = jnp.roll(x, (shift, shift), (1, 2))
    return x[:, :rows, :cols]


class PatchMerging(nn.Module):
  """Four neighbours become one token of twice the channels; odd sides get a row or column of zeros."""

  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h2 w2 D"]:
    count, rows, cols, width = x.shape
    x = jnp.pad(x, ((0, 0), (0, rows % 2), (0, cols % 2), (0, 0)))
    x = x.reshape(count, -(-rows // 2), 2, -(-cols // 2), 2, width)  # [N, h2, row, w2, col, C]
    # The published order of the four: down the first column, then down the second.
    x = x.transpose(0, 1, 3, 4, 2, 5).reshape(*x.shape[:2], x.shape[3], 4 * width)  # [N, h2, w2, 4C]
    x = LayerNorm(EPSILON, self.dtype, name="norm")(x)
    return nn.Dense(2 * width, False, self.dtype, kernel_init=trunc_normal, name="reduction")(x)


class PatchEmbed(nn.Module):
  """Patches that do not overlap, filled up with zeros at the right and the bottom, each one token."""

  width: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % PATCH), (0, -x.shape[2] % PATCH), (0, 0)))
    x = Conv(self.width, PATCH, PATCH, dtype=self.dtype, name="proj")(x)
    return LayerNorm(EPSILON, self.dtype, name="norm")(x)


class SwinStage(nn.Module):
  """Blocks of one resolution, every second one with shifted windows; and the merging that follows them."""

  depth: int
  heads: int
  window: int
  window_rule: str = "dense"
  mlp_ratio: int = 4
  adapters: bool = False
  drop_mlp: bool = True
  dtype: Dtype = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    block = functools.partial(
      repeated(SwinBlock, plain=self.is_initializing(), remat=self.remat),
      heads=self.heads,
      window=self.window,
      is_classic=self.window_rule == "classic",
      mlp_ratio=self.mlp_ratio,
      adapters=self.adapters,
      drop_mlp=self.drop_mlp,
      dtype=self.dtype,
    )
    for j in range(self.depth):
      setattr(self, f"blocks_{j}", block(shift=self.window // 2 if j % 2 else 0))
    self.downsample = PatchMerging(self.dtype)

  def __call__(
    self, x: Float[Array, "N h w C"], rates: Float[Array, "depth"] | None = None
  ) -> Float[Array, "N h w C"]:
    """The blocks; `rates` of drop path, None for none."""
    for j in range(self.depth):
      x = getattr(self, f"blocks_{j}")(x, None if rates is None else rates[j])
    return x

  def merge(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h2 w2 D"]:
    """What the next stage starts from."""
    return self.downsample(x)


class Swin(nn.Module):
  """Hierarchical transformer with shifted windows (Liu et al., 2021), as a dense backbone.

  Each map is taken before the merging and through a norm of its own; the next stage receives it un-normed.
  Deviation: a classic window smaller than the table, which the original could not be given, uses its middle.

  Attributes:
    width: channels of the finest map; they double from map to map.
    depths, heads: one number a stage.
    window: cells on a side.
    window_rule: "dense" (Mask2Former, Hugging Face's SwinBackbone): always `window`, shifted in every second
      block. "classic" (the ImageNet classifier): a map not larger than the window is one window, unshifted.
    adapters: bias_in_AVS's two bottlenecks a block.
    drop_path: rate at which training drops branches.
    drop_path_rule: "ramp" (the original, Mask2Former): from 0 in the first block linearly to `drop_path` in
      the last, both branches. "constant" (Hugging Face 4.30, so bias_in_AVS): every block, attention only.
    dtype: compute dtype; parameters, norms and softmax stay float32.
    remat: recompute the inside of each block in the backward pass instead of storing it.

  Raises:
    InputError: an unknown rule, or a shape that no network can have.
  """

  width: int = 128
  depths: tuple[int, ...] = (2, 2, 18, 2)
  heads: tuple[int, ...] = (4, 8, 16, 32)
  window: int = 12
  window_rule: str = "dense"
  mlp_ratio: int = 4
  adapters: bool = False
  drop_path: float = 0.3  # Mask2Former's configuration of this size
  drop_path_rule: str = "ramp"
  dtype: Dtype = jnp.float32
  remat: bool = False

  MEAN = IMAGENET_MEAN
  STD = IMAGENET_STD

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of the maps, finest first."""
    return tuple(self.width * 2**i for i in range(len(self.depths)))

  def setup(self) -> None:
    check_shape("swin", self.width, self.depths, self.heads, self.window)
    for key, allowed in (("window_rule", WINDOW_RULES), ("drop_path_rule", DROP_RULES)):
      if getattr(self, key) not in allowed:
        raise InputError(f"swin: {key} is '{getattr(self, key)}'; give one of {', '.join(allowed)}.")
    self.patch_embed = PatchEmbed(self.width, self.dtype)
    for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
      stage = SwinStage(
        depth=depth,
        heads=heads,
        window=self.window,
        window_rule=self.window_rule,
        mlp_ratio=self.mlp_ratio,
        adapters=self.adapters,
        drop_mlp=self.drop_path_rule == "ramp",
        dtype=self.dtype,
        remat=self.remat,
      )
      setattr(self, f"layers_{i}", stage)
      setattr(self, f"norm{i}", LayerNorm(EPSILON, self.dtype))

  def stage(self, x: Float[Array, "N H W C"], i: int, *, train: bool = False) -> Float[Array, "N h w D"]:
    """Tokens of stage `i` (0 finest) from the picture (i = 0) or from stage i - 1's, which a caller may have
    changed. They are not normed yet: `as_map` makes the map of them."""
    x = self.patch_embed(x) if i == 0 else getattr(self, f"layers_{i - 1}").merge(x)
    rates = None
    if train and self.drop_path:
      ramp = np.linspace(0, self.drop_path, sum(self.depths), dtype=np.float32)
      ramp = ramp if self.drop_path_rule == "ramp" else np.full_like(ramp, self.drop_path)
      first = sum(self.depths[:i])
      rates = jnp.asarray(ramp[first : first + self.depths[i]])
    x = getattr(self, f"layers_{i}")(x, rates)
    if self.is_initializing():
      self.as_map(x, i)  # brings the norm to life for callers of `stage` alone
    return x

  def as_map(self, x: Float[Array, "N h w C"], i: int) -> Float[Array, "N h w C"]:
    """Map `i` as a decoder reads it, from what `stage` gave."""
    return getattr(self, f"norm{i}")(x)

  def __call__(
    self, x: Float[Array, "N H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N _h _w _C"], ...]:
    """Four normed maps, strides 4, 8, 16, 32 (sides rounded up), from pictures already normalised."""
    maps = []
    for i in range(len(self.depths)):
      x = self.stage(x, i, train=train)
      maps.append(self.as_map(x, i))
    return tuple(maps)


def check_shape(name: str, width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> None:
  """Refuses settings that no network can have.

  Raises:
    InputError: names them.
  """
  is_odd = any(width * 2**i % count for i, count in enumerate(heads))
  if len(depths) != len(heads) or not depths or is_odd or window < 1:
    raise InputError(
      f"{name}: depths and heads must have one number a stage, each stage's channels (width, doubled from stage "
      f"to stage) be a multiple of its heads, and window be 1 or more; given are width {width}, depths "
      f"{tuple(depths)}, heads {tuple(heads)}, window {window}."
    )
