"""TPAVI: temporal pixel-wise audio-visual interaction, AVSBench's fusion block."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.initial import torch_default, zeros
from avs_jax.layers import BatchNorm, Dtype


class TPAVI(nn.Module):
  """Every pixel of every frame attends to the sound of all frames of the clip.

  AVSBench (Zhou et al., ECCV 2022), section 4.2, equation 2: a dot-product non-local block whose query is
  visual, key is audio (or visual, mode "vv") and value is visual, divided by T*h*w in place of a softmax,
  then residual and LayerNorm over channels.
  Deviation: the product is reassociated. There is no softmax, so theta^T (phi g^T) equals (theta^T phi) g^T
  exactly and the THW x THW matrix never exists. Audio keys do not vary over a frame and g is linear, so the
  audio form needs g only of each frame's mean pixel.

  Attributes:
    width: channels of the visual map, C.
    align_bias: bias of the audio projection; AVSS has none.
  """

  width: int = 256
  align_bias: bool = True
  dtype: Dtype = jnp.float32

  def setup(self) -> None:
    def linear(features: int, use_bias: bool = True) -> nn.Dense:
      return nn.Dense(features, use_bias=use_bias, dtype=self.dtype, kernel_init=torch_default)

    inner = self.width // 2
    self.align_channel = linear(self.width, self.align_bias)
    self.theta, self.phi, self.g = linear(inner), linear(inner), linear(inner)
    self.W_z_0 = linear(self.width)
    # Zeros: the block starts as LayerNorm of its input.
    self.W_z_1 = BatchNorm(scale_init=zeros, bias_init=zeros, dtype=self.dtype)
    self.norm_layer = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)

  def __call__(
    self, vis: Float[Array, "B T h w C"], aud: Float[Array, "B T A"] | None, *, train: bool = False
  ) -> tuple[Float[Array, "B T h w C"], Float[Array, "B T C"] | None]:
    """Returns the fused map and the projected audio; `aud` None is the audio-free mode "vv"."""
    if aud is None:
      key, value = self.phi(vis), self.g(vis)  # [B, T, h, w, C/2]
      positions = vis.shape[1] * vis.shape[2] * vis.shape[3]
      mixing = jnp.einsum("bthwi,bthwj->bij", key, value) / positions  # [B, C/2, C/2]
    else:
      aud = self.align_channel(aud)  # [B, T, C]
      key = self.phi(aud)  # [B, T, C/2]
      value = self.g(vis.mean((2, 3)))  # [B, T, C/2]
      mixing = jnp.einsum("bti,btj->bij", key, value) / vis.shape[1]  # [B, C/2, C/2]
    mixed = jnp.einsum("bthwi,bij->bthwj", self.theta(vis), mixing)  # [B, T, h, w, C/2]
    fused = self.W_z_1(self.W_z_0(mixed), train=train) + vis
    return self.norm_layer(fused), aud
