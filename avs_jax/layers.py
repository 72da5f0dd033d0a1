"""Building blocks shared by encoders, fusion and decoders.

All maps are channels-last. Norms and softmax run in float32 whatever the compute dtype. Convolutions pad
symmetrically as PyTorch's do, so that published weights give published numbers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from avs_jax.convolution import convolve, depthwise_shifted
from avs_jax.errors import InputError
from avs_jax.initial import (  # noqa: F401  layers and their initial values are used together
  he_fan_in,
  he_fan_out,
  he_fan_out_depthwise,
  ones,
  torch_default,
  trunc_normal,
  zeros,
)

Dtype = Any
Initializer = Callable[..., Any]


class Conv(nn.Module):
  """Convolution over the two axes before the channels, any leading axes; padding as PyTorch writes it.

  Deviation: none. `padding` is rows and columns of zeros on each side, or "SAME" (TensorFlow's rule).
  """

  features: int
  kernel: int = 3
  stride: int = 1
  padding: int | str = 0
  dilation: int = 1
  groups: int = 1
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  kernel_init: Initializer = torch_default
  bias_init: Initializer = zeros

  @nn.compact
  def __call__(self, x: Float[Array, "*N H W C"]) -> Float[Array, "*N h w F"]:
    shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    lead = x.shape[:-3]
    y = convolve(
      x.reshape(-1, *x.shape[-3:]).astype(self.dtype),  # [N, H, W, C]
      jnp.asarray(kernel, self.dtype),
      stride=self.stride,
      padding=self.padding,
      dilation=self.dilation,
      groups=self.groups,
    )
    if self.use_bias:
      bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
      # In float32, because the bias's gradient is a sum over all pixels, which bfloat16 cannot hold.
      y = (y.astype(jnp.float32) + bias.reshape((1,) * (y.ndim - 1) + (-1,))).astype(self.dtype)
    return y.reshape(*lead, *y.shape[1:])


class DepthwiseConv(nn.Module):
  """One k x k filter per channel, in either of two forms with the same parameters and results.

  Attributes:
    form: "shift" (k*k multiply-adds, fast on CPU), "grouped" (XLA's grouped convolution), or "auto":
      shift on CPU, grouped elsewhere.
    padding: zeros on each side, or "SAME" (TensorFlow's rule).

  Raises:
    InputError: unknown `form`.
  """

  kernel: int = 3
  stride: int = 1
  padding: int | str = 1
  use_bias: bool = True
  form: str = "auto"
  dtype: Dtype = jnp.float32
  kernel_init: Initializer = he_fan_out_depthwise

  @nn.compact
  def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    channels = x.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, 1, channels), jnp.float32)
    x, kernel = x.astype(self.dtype), jnp.asarray(kernel, self.dtype)
    if isinstance(self.padding, str):
      pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (self.stride,) * 2, self.padding)
    else:
      pads = [(self.padding, self.padding)] * 2
    form = self.form if self.form != "auto" else ("shift" if jax.default_backend() == "cpu" else "grouped")
    if form not in ("shift", "grouped"):
      raise InputError(f"depthwise convolution: form is '{form}'; give auto, shift or grouped.")
    if form == "shift":
      y = depthwise_shifted(x, kernel, self.stride, (tuple(pads[0]), tuple(pads[1])))
    else:
      y = jax.lax.conv_general_dilated(
        x, kernel, (self.stride,) * 2, pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=channels,
      )  # fmt: skip
    if self.use_bias:
      bias = self.param("bias", zeros, (channels,), jnp.float32)
      y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
    return y


class BatchNorm(nn.Module):
  """Batch normalisation over all axes but the last, with PyTorch's running statistics.

  In training the batch's own statistics are used and the running ones move by `momentum` towards them, the
  variance unbiased (N - 1), as PyTorch does and Flax does not. Under jit over a mesh the statistics are
  those of the global batch. Running statistics live in the collection "batch_stats".
  """

  epsilon: float = 1e-5
  momentum: float = 0.1
  scale_init: Initializer = ones
  bias_init: Initializer = zeros
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*N C"], *, train: bool) -> Float[Array, "*N C"]:
    channels = x.shape[-1]
    scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
    bias = self.param("bias", self.bias_init, (channels,), jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    if train:
      axes = tuple(range(x.ndim - 1))
      values = x.astype(jnp.float32)
      mean = values.mean(axes)
      var = jnp.square(values - mean.reshape((1,) * (x.ndim - 1) + (-1,))).mean(axes)
      if not self.is_initializing():
        count = x.size // channels
        keep = 1 - self.momentum
        running_mean.value = keep * running_mean.value + self.momentum * mean
        running_var.value = keep * running_var.value + self.momentum * var * count / max(count - 1, 1)
    else:
      mean, var = running_mean.value, running_var.value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    offset = bias - mean * factor
    wide = (1,) * (x.ndim - 1) + (channels,)
    return (x.astype(jnp.float32) * factor.reshape(wide) + offset.reshape(wide)).astype(self.dtype)


class LayerNorm(nn.Module):
  """Layer normalisation over the last axis, in float32 whatever the compute dtype."""

  epsilon: float = 1e-6
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
    channels = x.shape[-1]
    scale = self.param("scale", ones, (channels,), jnp.float32)
    bias = self.param("bias", zeros, (channels,), jnp.float32)
    return _normalise(x, scale, bias, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x, scale, bias, epsilon):
  """Its gradient is written out: differentiating gives, and compiles, many more operations."""
  return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(x, scale, bias, epsilon):
  wide = (1,) * (x.ndim - 1) + (-1,)
  centred = x.astype(jnp.float32)
  mean = centred.mean(-1, keepdims=True)
  centred = centred - mean
  factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
  return centred * factor * scale.reshape(wide) + bias.reshape(wide), (x, mean, factor, scale)


def _normalise_backward(epsilon, kept, slope):
  del epsilon
  x, mean, factor, scale = kept
  axes = tuple(range(x.ndim - 1))
  unit = (x.astype(jnp.float32) - mean) * factor
  to_unit = slope * scale.reshape((1,) * (x.ndim - 1) + (-1,))
  along = (to_unit * unit).mean(-1, keepdims=True)
  to_x = factor * (to_unit - to_unit.mean(-1, keepdims=True) - unit * along)
  return to_x.astype(x.dtype), (slope * unit).sum(axes), slope.sum(axes)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def attend(
  query: Float[Array, "N q M D"],
  key: Float[Array, "N k M D"],
  value: Float[Array, "N k M D"],
  drop: Callable[[Array], Array] | None = None,
  bias: Float[Array, "n M q k"] | None = None,
  allowed: Bool[Array, "N #q k"] | None = None,
) -> Float[Array, "N q M D"]:
  """softmax(query key^T / sqrt(D) + bias) value for each of M heads; logits and softmax in float32.

  Args:
    drop: applied to the attention weights [N, M, q, k] (dropout).
    bias: example i gets row i modulo n of it.
    allowed: the keys that a query may see, the same for all heads; one that may see none sees all alike.
  """
  logits = jnp.einsum(
    "nqmd,nkmd->nmqk", query * query.shape[-1] ** -0.5, key, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits = (logits.reshape(-1, *bias.shape) + bias[None]).reshape(logits.shape)  # [N, M, q, k]
  if allowed is not None:
    logits = jnp.where(allowed[:, None], logits, jnp.finfo(jnp.float32).min)
  attention = jax.nn.softmax(logits, axis=-1).astype(value.dtype)  # [N, M, q, k]
  attention = attention if drop is None else drop(attention)
  return jnp.einsum("nmqk,nkmd->nqmd", attention, value)


def drop_path(
  x: Float[Array, "N ..."], rate: float | Float[Array, ""], key: PRNGKeyArray
) -> Float[Array, "N ..."]:
  """Drops a residual branch per example with probability `rate` and divides the kept ones by 1 - rate."""
  keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
  return jnp.where(keep, (x / (1 - rate)).astype(x.dtype), jnp.zeros_like(x))


@functools.cache  # a class made anew would be traced and compiled anew
def _traced_once(block: type[nn.Module], remat: bool, static: tuple[int, ...]) -> Any:
  return nn.jit(nn.remat(block, static_argnums=static) if remat else block, static_argnums=static)


def repeated(block: type[nn.Module], *, plain: bool, remat: bool, static: tuple[int, ...] = ()) -> Any:
  """`block` as a network that has many equal ones should use it: traced once, not once for each.

  A B5 backbone traces in a tenth of the time, and called without jit it compiles a program for each stage
  and not one for each operation.

  Args:
    plain: leave it as it is; while variables are made nothing may come from an earlier trace.
    remat: recompute its inside in the backward pass instead of storing it.
    static: positions of arguments that are Python values, self counted as 0.
  """
  return block if plain else _traced_once(block, remat, static)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """x/2 (1 + erf(x / sqrt 2)): the exact form, which all published backbones use, computed in float32.

  Not jax.nn.gelu, whose default is the tanh form and whose exact form goes through erfc: on CPU that is
  three passes over the widest array of a transformer instead of one.
  """
  wide = x.astype(jnp.float32)
  return (0.5 * wide * (1 + jax.lax.erf(wide * np.float32(np.sqrt(0.5))))).astype(x.dtype)


def _taps(size: int, out: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lower neighbour, upper neighbour and weight of the upper one for each output position of one axis."""
  position = np.arange(out, dtype=np.float64)
  if align_corners:
    position = position * ((size - 1) / (out - 1) if out > 1 else 0.0)
  else:
    position = np.clip((position + 0.5) * size / out - 0.5, 0, None)
  low = np.minimum(np.floor(position).astype(np.int32), size - 1)
  high = np.minimum(low + 1, size - 1)
  return low, high, (position - low).astype(np.float32)


def _double(x: Float[Array, "..."], axis: int, align_corners: bool) -> Float[Array, "..."]:
  """Twice as long along `axis`: each output mixes a cell with the one before or after it.

  Shifts and an interleaving; a gather's backward pass is a scatter, slow on CPU and TPU alike.
  """
  size = x.shape[axis]
  place = np.arange(size, dtype=np.float64)
  back = place / (2 * size - 1) if align_corners else np.full(size, 0.25)
  ahead = (size - 1 - place) / (2 * size - 1) if align_corners else np.full(size, 0.25)
  wide = [1] * x.ndim
  wide[axis] = size
  back, ahead = (jnp.asarray(weight.reshape(wide), x.dtype) for weight in (back, ahead))
  first, last = (jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, size - 1))
  before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
  after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
  pair = jnp.stack([x + (before - x) * back, x + (after - x) * ahead], axis + 1)
  return pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def resize_bilinear(
  x: Float[Array, "*N H W C"], size: Sequence[int], *, align_corners: bool
) -> Float[Array, "*N H2 W2 C"]:
  """Bilinear resize of the two axes before the channels, without antialiasing (PyTorch's `interpolate`).

  align_corners False: pixels are squares, the centre of the top-left one is (0.5, 0.5) in both sizes and
  positions outside are clamped to the border. True: the centres of the corner pixels coincide.
  """
  for axis, out in ((x.ndim - 3, size[0]), (x.ndim - 2, size[1])):
    if x.shape[axis] == out:
      continue
    if out == 2 * x.shape[axis]:
      x = _double(x, axis, align_corners)
      continue
    low, high, weight = _taps(x.shape[axis], out, align_corners)
    shape = [1] * x.ndim
    shape[axis] = out
    weight = jnp.asarray(weight, x.dtype).reshape(shape)
    lower, upper = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    x = lower + (upper - lower) * weight
  return x
