"""VGGish: an image network on log-mel pictures of 0.96 s, the ear of nearly every audio-visual segmenter."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from avs_jax.errors import InputError
from avs_jax.layers import Conv, Dtype, he_fan_in
from avs_jax.types import AnyArray

# Output channels of the convolutions by their place in the original's list; "pool" between.
_FEATURES = ((0, 64), "pool", (3, 128), "pool", (6, 256), (8, 256), "pool", (11, 512), (13, 512), "pool")


class VGGish(nn.Module):
  """Six 3 x 3 convolutions with four poolings, then three linear layers (Hershey et al., 2017).

  Deviation: initialised after He, not with the original's normal of 0.01, with which the sound's differences
  fade to nothing over nine layers unless training is as long as the original's.

  Attributes:
    width: factor on the channels and on the two hidden linear layers.
    out_dim: A, width of the embedding.
    last_relu: rectify the embedding, as the PyTorch port does and all systems here expect; TF-slim does not.

  Raises:
    InputError: `width` or `out_dim` is not above 0.
  """

  width: float = 1.0
  out_dim: int = 128
  last_relu: bool = True
  dtype: Dtype = jnp.float32

  @property
  def dim(self) -> int:
    """Width of the embedding."""
    return self.out_dim

  @property
  def map_channels(self) -> int:
    """Channels of the last map, which `features` gives."""
    return max(1, round(512 * self.width))

  def setup(self) -> None:
    if self.width <= 0 or self.out_dim < 1:
      raise InputError(f"vggish: width is {self.width} and out_dim {self.out_dim}; both must be above 0.")
    for step in _FEATURES:
      if step != "pool":
        place, channels = step
        conv = Conv(max(1, round(channels * self.width)), padding=1, dtype=self.dtype, kernel_init=he_fan_in)
        setattr(self, f"features_{place}", conv)
    hidden = max(1, round(4096 * self.width))
    for place, channels in ((0, hidden), (2, hidden), (4, self.out_dim)):
      setattr(self, f"embeddings_{place}", nn.Dense(channels, dtype=self.dtype, kernel_init=he_fan_in))

  def features(self, x: Float[Array, "N time mel"]) -> Float[Array, "N t m C"]:
    """The last pooled map: 16 times coarser in time and in frequency."""
    x = x[..., None].astype(self.dtype)  # [N, time, mel, 1]
    for step in _FEATURES:
      pool = step == "pool"
      x = nn.max_pool(x, (2, 2), (2, 2)) if pool else jax.nn.relu(getattr(self, f"features_{step[0]}")(x))
    return x

  def __call__(self, x: Float[Array, "N 96 64"], *, train: bool = False) -> Float[Array, "N A"]:
    """One embedding for each log-mel example; training changes nothing."""
    return self.embed(self.features(x))

  def embed(self, features: Float[Array, "N t m C"]) -> Float[Array, "N A"]:
    """The embedding that the three linear layers make of `features`."""
    x = features.reshape(features.shape[0], -1)  # [N, t*m*C]
    x = jax.nn.relu(self.embeddings_0(x))
    x = jax.nn.relu(self.embeddings_2(x))
    x = self.embeddings_4(x)
    return jax.nn.relu(x) if self.last_relu else x


def postprocess(
  embeddings: Float[AnyArray, "N A"], eigenvectors: Float[AnyArray, "A A"], means: Float[AnyArray, "A"]
) -> UInt8[Array, "N A"]:
  """Embeddings as AudioSet keeps them: P (e - mean), cut to [-2, 2], which become 0 and 255; halves to even.

  No audio-visual segmenter has this on. P and mean: `weights.postprocessing_from_torch`.
  Deviation: rounds, as the PyTorch port; TF-slim cuts the fraction off.
  """
  centred = jnp.asarray(embeddings, jnp.float32) - jnp.asarray(means, jnp.float32)[None]
  # In full float32 on every device: a fast product would change whole numbers.
  turned = jnp.matmul(centred, jnp.asarray(eigenvectors, jnp.float32).T, precision="highest")  # [N, A]
  return jnp.round((jnp.clip(turned, -2, 2) + 2) * (255 / 4)).astype(jnp.uint8)
