"""AVSBench's decoder: dilated-convolution necks, top-down fusion with residual units, mask head."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.initial import normal
from avs_jax.layers import Conv, Dtype, resize_bilinear

_NARROW = normal(0.01)  # AVSBench's initial neck weights


class ASPP(nn.Module):
  """Neck of one stage: parallel dilated 3x3 convolutions, summed.

  AVSBench, section 4.1 (its released form: no norm, no activation, no global pooling).
  Deviation: none.
  """

  width: int = 256
  dilations: Sequence[int] = (3, 6, 12, 18)
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w D"]:
    branches = [
      Conv(
        self.width,
        padding=rate,
        dilation=rate,
        kernel_init=_NARROW,
        dtype=self.dtype,
        name=f"conv2d_list_{i}",
      )(x)
      for i, rate in enumerate(self.dilations)
    ]
    return sum(branches[1:], branches[0])


class ResidualUnit(nn.Module):
  """Two 3x3 convolutions around a RECTIFIED skip path.

  Deviation: none; the published unit rectifies its input in place, so its skip carries ReLU(x), not x.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "N h w D"]) -> Float[Array, "N h w D"]:
    width = x.shape[-1]
    x = nn.relu(x)
    y = nn.relu(Conv(width, padding=1, dtype=self.dtype, name="conv1")(x))
    return Conv(width, padding=1, dtype=self.dtype, name="conv2")(y) + x


class FeatureFusion(nn.Module):
  """One top-down step: adds the finer map, refines, doubles the size (corners aligned).

  Deviation: the coarsest step takes no second map; the published checkpoints carry weights for it that
  nothing reads, and `weights.from_torch` drops them.

  Attributes:
    enlarge: double the size; False leaves it.
  """

  dtype: Dtype = jnp.float32
  enlarge: bool = True

  @nn.compact
  def __call__(
    self, coarse: Float[Array, "N h1 w1 D"], fine: Float[Array, "N h w D"] | None = None
  ) -> Float[Array, "N h2 w2 D"]:
    if fine is not None:
      if coarse.shape[1:3] != fine.shape[1:3]:  # a stage of odd size: doubling overshoots by one
        coarse = resize_bilinear(coarse, fine.shape[1:3], align_corners=True)
      coarse = coarse + ResidualUnit(dtype=self.dtype, name="resConfUnit1")(fine)
    coarse = ResidualUnit(dtype=self.dtype, name="resConfUnit2")(coarse)
    if not self.enlarge:
      return coarse
    return resize_bilinear(coarse, [2 * n for n in coarse.shape[1:3]], align_corners=True)


class MaskHead(nn.Module):
  """Two 3x3 convolutions around a doubling, then a linear map to one logit per class.

  Attributes:
    num_classes: K.
    width: channels of the input; the hidden layers have a half and an eighth of it.
    hidden: channels of the last, rectified layer; 0: that eighth. Two or three of them may all die in training.
  """

  num_classes: int = 1
  width: int = 256
  hidden: int = 0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "N h w D"]) -> Float[Array, "N h2 w2 K"]:
    x = Conv(self.width // 2, padding=1, dtype=self.dtype, name="output_conv_0")(x)
    x = resize_bilinear(x, [2 * n for n in x.shape[1:3]], align_corners=False)
    hidden = self.hidden or self.width // 8
    x = nn.relu(Conv(hidden, padding=1, dtype=self.dtype, name="output_conv_2")(x))
    return Conv(self.num_classes, kernel=1, dtype=self.dtype, name="output_conv_4")(x)
