"""What encoders that take samples, not pictures of sound, have in common."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

REACH = 32  # samples on each side that an upsampled one is made of; ours
TAPER = 9.0  # of the Kaiser window over them: images 90 dB down; ours


def windows(x: Float[Array, "N S"], length: int, hop: int) -> Float[Array, "N time length"]:
  """Overlapping stretches of `length` samples; what does not fill one is left out."""
  starts = np.arange(0, x.shape[1] - length + 1, hop)
  return x[:, starts[:, None] + np.arange(length)]


def hann(length: int) -> Float[np.ndarray, "length"]:
  """Periodic Hann window."""
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def upsample(x: Float[Array, "N S"], factor: int) -> Float[Array, "N S2"]:
  """`factor` times as many samples a second by a windowed sinc; the given samples stay, nothing is added above
  their band, and there is silence before and after."""
  if factor == 1:
    return x
  distance = np.arange(-REACH, REACH + 1)[:, None] - np.arange(factor)[None] / factor  # [taps, factor]
  taper = np.i0(TAPER * np.sqrt(np.maximum(1 - (distance / (REACH + 1)) ** 2, 0))) / np.i0(TAPER)
  kernel = (np.sinc(distance) * taper).astype(np.float32)[:, None]  # [taps, 1, factor]
  y = jax.lax.conv_general_dilated(
    x.astype(jnp.float32)[..., None],
    jnp.asarray(kernel),
    (1,),
    [(REACH, REACH)],
    dimension_numbers=("NWC", "WIO", "NWC"),
    precision="highest",
  )
  return y.reshape(x.shape[0], -1)  # [N, S * factor]
