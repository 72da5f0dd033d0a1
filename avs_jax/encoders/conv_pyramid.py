"""A small convolutional pyramid of ours: learns coloured shapes from scratch in seconds on a CPU."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.encoders.imagenet import IMAGENET_MEAN, IMAGENET_STD
from avs_jax.errors import InputError
from avs_jax.layers import Conv, Dtype, he_fan_in, repeated


class ConvStage(nn.Module):
  """A strided convolution, and on a residual branch a group norm, a rectification and a 3 x 3 convolution."""

  width: int
  kernel: int
  stride: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
    conv = functools.partial(Conv, self.width, padding="SAME", dtype=self.dtype, kernel_init=he_fan_in)
    x = conv(kernel=self.kernel, stride=self.stride, name="down")(x)
    y = nn.GroupNorm(num_groups=2, dtype=self.dtype, name="norm")(x)
    return x + conv(kernel=3, name="mix")(jax.nn.relu(y))


class ConvPyramid(nn.Module):
  """Four stages of two convolutions each; for demonstrations and tests, not from any paper.

  Group norms, so that one clip and a hundred train alike and no running statistics travel.

  Attributes:
    width: channels of the finest map; the others have 2, 3 and 4 times as many. Even.
    remat: recompute each stage in the backward pass instead of storing its inside.

  Raises:
    InputError: `width` is odd or below 2.
  """

  width: int = 16
  dtype: Dtype = jnp.float32
  remat: bool = False

  MEAN = IMAGENET_MEAN
  STD = IMAGENET_STD

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of the maps, finest first."""
    return tuple(self.width * (i + 1) for i in range(4))

  def setup(self) -> None:
    if self.width < 2 or self.width % 2:
      raise InputError(f"conv_pyramid: width is {self.width}; give an even number.")
    stage = repeated(ConvStage, plain=self.is_initializing(), remat=self.remat)
    for i, channels in enumerate(self.channels):
      kernel, stride = (4, 4) if i == 0 else (2, 2)
      setattr(self, f"stage{i + 1}", stage(channels, kernel, stride, self.dtype))

  def stage(self, x: Float[Array, "N H W C"], i: int, *, train: bool = False) -> Float[Array, "N h w D"]:
    """Map `i` (0 finest) from the picture (i = 0) or from map i - 1, which a caller may have changed."""
    return getattr(self, f"stage{i + 1}")(x)

  def __call__(
    self, x: Float[Array, "N H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N _h _w _C"], ...]:
    """Four maps, strides 4, 8, 16, 32 (sides rounded up), from pictures that are already normalised."""
    maps = []
    for i in range(4):
      x = self.stage(x, i, train=train)
      maps.append(x)
    return tuple(maps)
