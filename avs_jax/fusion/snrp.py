"""Sound gates the picture before the two meet: channel by channel, then cell by cell."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.errors import check_choice
from avs_jax.initial import Initial
from avs_jax.layers import Conv, Dtype, resize_bilinear

SELECTORS = ("both", "channel", "spatial")
CHANNEL_GATES = ("sigmoid", "linear")
# Normal with variance 1 / fan_in keeps the size of what passes a linear map; the paper names none.
keep_size = Initial("normal", 1.0, "in")


class SNRP(nn.Module):
  """Selective noise-resilient processor: what is heard decides which channels and cells of the picture pass.

  SDAVS, section III-B, equations 1 to 3. Every second by itself; no second hears another.
  Deviation: none known. Not given there, ours: kernels of 3 x 3, one spatial weight for all channels, the
    sigmoid at the end of the channel gate's MLP (`channel_gate="linear"` is equation 1 to the letter), and its
    hidden width, with which the module has as many parameters as table X gives it.

  The gates are functions of the sound alone. Of a sound whose map is zero they are the same for every picture and
  second, and constant but for the outermost cells, where the 3 x 3 kernel of the spatial gate meets the padding.

  Attributes:
    width: D, channels of picture and sound.
    selectors: "both", "channel" (without the spatial feature selector) or "spatial" (without the channel's).
    reduction: factor by which the channel gate's hidden layer is narrower.

  Raises:
    InputError: unknown `selectors` or `channel_gate`.
  """

  width: int = 256
  selectors: str = "both"
  channel_gate: str = "sigmoid"
  reduction: int = 2
  dtype: Dtype = jnp.float32

  def setup(self) -> None:
    for key, allowed in (("selectors", SELECTORS), ("channel_gate", CHANNEL_GATES)):
      check_choice(f"model.{key}", getattr(self, key), allowed)
    self.spread_conv = Conv(self.width, padding=1, dtype=self.dtype, kernel_init=keep_size)
    if self.selectors != "spatial":
      hidden = max(8, self.width // self.reduction)  # in narrow networks some units must be open
      self.channel_hidden = nn.Dense(hidden, dtype=self.dtype, kernel_init=keep_size)
      self.channel_out = nn.Dense(self.width, dtype=self.dtype, kernel_init=keep_size)
    if self.selectors != "channel":
      self.spatial = Conv(1, padding=1, dtype=self.dtype, kernel_init=keep_size)

  def spread(self, aud: Float[Array, "B T t m D"], size: Sequence[int]) -> Float[Array, "B T h w D"]:
    """F'_a of equation 1: the sound's map brought to the picture's size, then convolved."""
    return self.spread_conv(resize_bilinear(aud, size, align_corners=False))

  def channel_weights(self, aud: Float[Array, "B T h w D"]) -> Float[Array, "B T 1 1 D"]:
    """Equation 1's gate_c, from the mean of F'_a over the cells of each second."""
    pooled = aud.mean((2, 3), keepdims=True)  # [B, T, 1, 1, D]
    gate = self.channel_out(nn.relu(self.channel_hidden(pooled)))
    return jax.nn.sigmoid(gate) if self.channel_gate == "sigmoid" else gate

  def spatial_weights(self, aud: Float[Array, "B T h w D"]) -> Float[Array, "B T h w 1"]:
    """Equation 3's gate_s."""
    return jax.nn.sigmoid(self.spatial(aud))

  def gate(self, vis: Float[Array, "B T h w D"], aud: Float[Array, "B T h w D"]) -> Float[Array, "B T h w D"]:
    """Equations 2 and 3: `vis` times the weights that `aud`, already spread, gives."""
    if self.selectors != "spatial":
      vis = vis * self.channel_weights(aud)
    return vis if self.selectors == "channel" else vis * self.spatial_weights(aud)

  def __call__(
    self, vis: Float[Array, "B T h w D"], aud: Float[Array, "B T t m D"]
  ) -> tuple[Float[Array, "B T h w D"], Float[Array, "B T h w D"]]:
    """F'_v, the gated picture, and F'_a, the sound spread over it."""
    aud = self.spread(aud, vis.shape[2:4])
    return self.gate(vis, aud), aud
