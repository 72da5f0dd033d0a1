"""ResNet-50 as torchvision has it: the stride of a bottleneck sits on its 3 x 3 convolution (v1.5)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from avs_jax.layers import BatchNorm, Conv, Dtype, he_fan_out, repeated

EXPANSION = 4  # output channels of a bottleneck per inner channel (He et al., 2016, table 1)


class Bottleneck(nn.Module):
  """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut, which is projected where the shape changes."""

  inner: int
  stride: int
  project: bool
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N H W C"], batch_norms: bool) -> Float[Array, "N h w D"]:
    """`batch_norms`: normalise with the batch's own statistics and move the running ones."""
    conv = functools.partial(Conv, use_bias=False, dtype=self.dtype, kernel_init=he_fan_out)

    def norm(x: Float[Array, "N h w C"], name: str) -> Float[Array, "N h w C"]:
      return BatchNorm(dtype=self.dtype, name=name)(x, train=batch_norms)

    y = jax.nn.relu(norm(conv(self.inner, 1, name="conv1")(x), "bn1"))
    y = jax.nn.relu(norm(conv(self.inner, 3, self.stride, 1, name="conv2")(y), "bn2"))
    y = norm(conv(EXPANSION * self.inner, 1, name="conv3")(y), "bn3")
    if self.project:
      x = norm(conv(EXPANSION * self.inner, 1, self.stride, name="downsample_0")(x), "downsample_1")
    return jax.nn.relu(x + y)


class ResNet(nn.Module):
  """Residual network of bottlenecks (He et al., 2016).  Deviation: none from torchvision's.

  Attributes:
    depths: bottlenecks a stage.
    width: channels of the stem; map i (0 finest) has 4 * width * 2**i.
    frozen_norm: in training too, normalise with the running statistics and leave them as they are.
    remat: recompute the inside of each bottleneck in the backward pass instead of storing it.
  """

  depths: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  frozen_norm: bool = False
  dtype: Dtype = jnp.float32
  remat: bool = False

  MEAN = IMAGENET_MEAN
  STD = IMAGENET_STD

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of the maps, finest first."""
    return tuple(EXPANSION * self.width * 2**i for i in range(len(self.depths)))

  def setup(self) -> None:
    self.conv1 = Conv(self.width, 7, 2, 3, use_bias=False, dtype=self.dtype, kernel_init=he_fan_out)
    self.bn1 = BatchNorm(dtype=self.dtype)
    block = repeated(Bottleneck, plain=self.is_initializing(), remat=self.remat, static=(2,))
    for i, depth in enumerate(self.depths):
      for j in range(depth):
        stride = 2 if i > 0 and j == 0 else 1
        setattr(self, f"layer{i + 1}_{j}", block(self.width * 2**i, stride, j == 0, self.dtype))

  def stage(self, x: Float[Array, "N H W C"], i: int, *, train: bool = False) -> Float[Array, "N h w D"]:
    """Map `i` (0 finest) from the picture (i = 0) or from map i - 1, which a caller may have changed."""
    batch_norms = train and not self.frozen_norm
    if i == 0:
      x = jax.nn.relu(self.bn1(self.conv1(x), train=batch_norms))
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for j in range(self.depths[i]):
      x = getattr(self, f"layer{i + 1}_{j}")(x, batch_norms)
    return x

  def __call__(
    self, x: Float[Array, "N H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N _h _w _C"], ...]:
    """Four rectified maps, strides 4, 8, 16, 32 (sides rounded up), from pictures already normalised."""
    maps = []
    for i in range(len(self.depths)):
      x = self.stage(x, i, train=train)
      maps.append(x)
    return tuple(maps)
