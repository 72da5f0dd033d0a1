"""What every audio-visual segmentation system here is: `segment(frames, listen(log_mel))`."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, UInt8

from avs_jax import encoders
from avs_jax.errors import InputError
from avs_jax.types import AnyArray, Outputs


class System(nn.Module):
  """A visual encoder and an audio encoder, named by the config; subclasses add what joins them.

  Attributes:
    visual, audio: names that `encoders.build` knows.
    visual_args, audio_args: overrides handed to `encoders.build`.
    num_classes: K; 1 gives a binary mask.
    dtype: compute dtype, "float32" or "bfloat16"; parameters, norms, softmax and losses stay float32.
    remat: recompute the visual encoder's blocks in the backward pass instead of storing them.
  """

  visual: str = "pvt_v2_b5"
  audio: str = "vggish"
  visual_args: Mapping = FrozenDict()
  audio_args: Mapping = FrozenDict()
  num_classes: int = 1
  dtype: str = "float32"
  remat: bool = False

  def __post_init__(self) -> None:
    """Refuses settings that no system can be built with.

    Raises:
      InputError: names the setting and what it may be.
    """
    for key, allowed in (
      ("visual", encoders.VISUAL),
      ("audio", encoders.AUDIO),
      ("dtype", ("float32", "bfloat16")),
    ):
      value = getattr(self, key)
      if value not in allowed:
        raise InputError(f"model.{key}={value!r} is not known; choose one of {', '.join(allowed)}.")
    if self.num_classes < 1:
      raise InputError(
        f"model.num_classes={self.num_classes} is not a number of classes; give 1 for binary masks."
      )
    super().__post_init__()

  def build_encoders(self) -> None:
    """Makes the two encoders; a subclass calls it first thing in `setup`."""
    compute = jnp.dtype(self.dtype)
    visual_args = dict(self.visual_args)
    if self.remat:
      visual_args["remat"] = True
    self.visual_encoder = encoders.build(self.visual, dtype=compute, **visual_args)
    self.audio_encoder = encoders.build(self.audio, dtype=compute, **dict(self.audio_args))

  def listen(self, log_mel: Float[AnyArray, "B T 96 64"], *, train: bool = False) -> Float[Array, "B T A"]:
    """One embedding a second."""
    clips, seconds = log_mel.shape[:2]
    flat = jnp.asarray(log_mel).reshape(clips * seconds, *log_mel.shape[2:])  # [B*T, 96, 64]
    return self.audio_encoder(flat, train=train).reshape(clips, seconds, -1)  # [B, T, A]

  def see(
    self, frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N h w C"], ...]:
    """The visual encoder's four maps, finest first, clips and seconds folded into N = B*T.

    uint8 frames are normalised with the encoder's own statistics; float frames are taken as normalised.
    """
    flat = jnp.asarray(frames).reshape(-1, *frames.shape[2:])  # [B*T, H, W, 3]
    if flat.dtype == jnp.uint8:
      mean, std = (
        jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3)
        for values in (self.visual_encoder.MEAN, self.visual_encoder.STD)
      )
      flat = (flat.astype(jnp.float32) - mean) / std
    return self.visual_encoder(flat, train=train)

  def __call__(
    self,
    frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"],
    log_mel: Float[AnyArray, "B T 96 64"],
    *,
    train: bool = False,
    present: Bool[AnyArray, "B T"] | None = None,
  ) -> Outputs:
    return self.segment(frames, self.listen(log_mel, train=train), train=train, present=present)
