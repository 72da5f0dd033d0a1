"""Convolution of channels-last maps whose gradient stays fast on CPU when the map is large."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Cells of one map from which a kernel's gradient is a sum of matrix products (measured on 2 cores).
MANY_CELLS = 2**11


def convolve(
  x: Float[Array, "N H W C"],
  kernel: Float[Array, "k k c F"],
  *,
  stride: int,
  padding: int | str,
  dilation: int,
  groups: int,
) -> Float[Array, "N h w F"]:
  """A plain convolution; `padding` is rows and columns of zeros on each side, or "SAME" (TensorFlow's rule).

  XLA differentiates by the kernel with a convolution whose window is the whole map: on CPU a third of the
  speed of a matrix product at 112 x 112. There, large maps take one matrix product for each tap.
  """
  simple = stride == groups == 1 and not isinstance(padding, str) and padding <= dilation * (len(kernel) - 1)
  if simple and x.shape[1] * x.shape[2] >= MANY_CELLS and jax.default_backend() == "cpu":
    return _by_taps(x, kernel, padding, dilation)
  pads = padding if isinstance(padding, str) else [(padding, padding)] * 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=pads,
    rhs_dilation=(dilation, dilation),
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _plain(x: Array, kernel: Array, padding: int, dilation: int) -> Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(padding, padding)] * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_taps(x, kernel, padding, dilation):
  return _plain(x, kernel, padding, dilation)


def _by_taps_forward(x, kernel, padding, dilation):
  return _plain(x, kernel, padding, dilation), (x, kernel)


def _by_taps_backward(padding, dilation, kept, slope):
  x, kernel = kept
  (to_x,) = jax.vjp(lambda x: _plain(x, kernel, padding, dilation), x)[1](slope)
  size, channels, features = kernel.shape[0], x.shape[-1], slope.shape[-1]
  taps = range(0, size * dilation, dilation)
  reach = (size - 1) * dilation - padding

  # The narrower of the two is shifted to every tap and laid side by side; one picture at a time stays in cache.
  def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
    x, slope = pair
    if channels <= features:
      (rows, cols), x = slope.shape[:2], jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
      wide, other = [x[i : i + rows, j : j + cols] for i in taps for j in taps], slope
    else:
      (rows, cols), slope = x.shape[:2], jnp.pad(slope, ((reach, reach), (reach, reach), (0, 0)))
      wide, other = [slope[i : i + rows, j : j + cols] for i in taps[::-1] for j in taps[::-1]], x
    wide = jnp.concatenate(wide, axis=-1).reshape(rows * cols, -1)  # [h*w, k*k*C] or [h*w, k*k*F]
    other = other.reshape(rows * cols, -1)
    return total + jnp.matmul(other.T, wide, preferred_element_type=jnp.float32), None

  shape = (features, size**2 * channels) if channels <= features else (channels, size**2 * features)
  total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), (x, slope))
  total = total.reshape(shape[0], size, size, -1)
  to_kernel = total.transpose(1, 2, 3, 0) if channels <= features else total.transpose(1, 2, 0, 3)
  return to_x, to_kernel.astype(kernel.dtype)


_by_taps.defvjp(_by_taps_forward, _by_taps_backward)


Padding = tuple[int, int]
# Elements of a map from which the gradient of a depthwise kernel is summed row by row (measured on 2 cores).
LARGE_MAP = 2**19


def depthwise_shifted(
  x: Float[Array, "N H W C"],
  kernel: Float[Array, "k k 1 C"],
  stride: int,
  pad: Padding | tuple[Padding, Padding],
) -> Float[Array, "N h w C"]:
  """Depthwise convolution as k*k shifted multiply-adds.

  Grouped convolutions are 6 to 16 times slower than this on CPU (jax issue 23713), forward and backward.

  Args:
    pad: zeros before and after, on both axes, or one such pair for each axis.
  """
  pads = pad if isinstance(pad[0], tuple) else (pad, pad)
  return _depthwise_unit(x, kernel, pads) if stride == 1 else _shifted_sum(x, kernel, stride, pads)


def _shifts(
  x: Float[Array, "N H W C"], size: int, stride: int, pads: tuple[Padding, Padding]
) -> list[Float[Array, "N h w C"]]:
  """What each of size * size taps, row by row, sees of the padded `x`."""
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  rows, cols = ((x.shape[i] - size) // stride * stride + 1 for i in (1, 2))
  return [x[:, i : i + rows : stride, j : j + cols : stride] for i in range(size) for j in range(size)]


def _shifted_sum(
  x: Float[Array, "N H W C"], kernel: Float[Array, "k k 1 C"], stride: int, pads: tuple[Padding, Padding]
) -> Float[Array, "N h w C"]:
  taps = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])  # [k*k, 1, 1, 1, C]
  return functools.reduce(
    jnp.add, (seen * taps[i] for i, seen in enumerate(_shifts(x, kernel.shape[0], stride, pads)))
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_unit(x, kernel, pads):
  """Stride 1. Its gradient is again a depthwise convolution, which is half the time (and half the compile
  time) of what differentiating the sum of shifts gives: nine padded copies of the gradient."""
  return _shifted_sum(x, kernel, 1, pads)


def _depthwise_unit_forward(x, kernel, pads):
  return _shifted_sum(x, kernel, 1, pads), (x, kernel)


def _depthwise_unit_backward(pads, kept, slope):
  x, kernel = kept
  size = kernel.shape[0]
  flipped = tuple((size - 1 - before, size - 1 - after) for before, after in pads)
  to_x = _depthwise_unit(slope, kernel[::-1, ::-1], flipped)
  if slope.size >= LARGE_MAP:
    products = _summed_rows(x, slope, size, pads)
  else:
    products = [seen * slope.astype(jnp.float32) for seen in _shifts(x, size, 1, pads)]
  # All k*k sums in one pass over the data: one by one they take twice as long.
  to_kernel = jax.lax.reduce(
    products,
    [jnp.float32(0)] * len(products),
    lambda a, b: [i + j for i, j in zip(a, b, strict=True)],
    tuple(range(products[0].ndim - 1)),
  )
  return to_x, jnp.stack(to_kernel).reshape(kernel.shape).astype(kernel.dtype)


def _summed_rows(
  x: Float[Array, "N H W C"], slope: Float[Array, "N h w C"], size: int, pads: tuple[Padding, Padding]
) -> list[Float[Array, "N w C"]]:
  """What each tap sees of the padded `x` times `slope`, summed over the rows, one row after another.

  XLA's reductions over leading axes run on one CPU core, an element at a time; a loop over rows of plain
  sums takes a quarter of the time. It takes half a second more to compile, so small maps go without.
  """
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  count, rows, cols, channels = slope.shape

  def add(sums: list[Array], row: Array) -> tuple[list[Array], None]:
    seen = jax.lax.dynamic_slice_in_dim(x, row, size, axis=1)  # [N, k, W, C]
    here = jax.lax.dynamic_slice_in_dim(slope, row, 1, axis=1)[:, 0].astype(jnp.float32)  # [N, w, C]
    taps = [(i, j) for i in range(size) for j in range(size)]
    return [total + seen[:, i, j : j + cols] * here for total, (i, j) in zip(sums, taps, strict=True)], None

  zero = jnp.zeros((count, cols, channels), jnp.float32)
  return jax.lax.scan(add, [zero] * size**2, jnp.arange(rows))[0]


_depthwise_unit.defvjp(_depthwise_unit_forward, _depthwise_unit_backward)
