"""AVSegFormer: queries that heard the sound paint a mask feature that the sound has gated (AAAI 2024)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from avs_jax.decoders.pixel_decoder import CHANNELS_PER_GROUP, PixelDecoder
from avs_jax.decoders.query_decoder import QueryDecoder, QueryMaskHead
from avs_jax.errors import InputError
from avs_jax.fusion.query_mixer import CrossModalMixer, QueryGenerator
from avs_jax.initial import torch_default
from avs_jax.layers import resize_bilinear
from avs_jax.systems.system import System
from avs_jax.types import AnyArray, Outputs


class AVSegFormer(System):
  """AVSegFormer, binary (S4, MS3) and semantic (AVSS). Every frame stands alone; there is no time.

  Gao et al., AAAI 2024, arXiv 2307.01146, figure 2.
  Deviation: hidden widths are multiples of `width` (8, generator 4), the published ones at 256; biases of the
  head start at 0, not at PyTorch's small random values.

  Attributes:
    width: D; a multiple of 8 and of `heads`.
    dropout: of the pixel and the query decoder.
    mixer: "released" (gate) or "paper" (residual formula), see `CrossModalMixer`.
    sampling: "packed" or "plain", equal numbers, see `deformable.sample_packed`.
  """

  width: int = 256
  num_queries: int = 300
  generator_layers: int = 6
  encoder_layers: int = 6
  decoder_layers: int = 6
  heads: int = 8
  points: int = 4
  dropout: float = 0.1
  mixer: str = "released"
  sampling: str = "packed"

  def setup(self) -> None:
    if self.width % CHANNELS_PER_GROUP or self.width % self.heads:
      raise InputError(
        f"model.width={self.width}: avsegformer needs a multiple of {CHANNELS_PER_GROUP} and of its "
        f"{self.heads} heads."
      )
    self.build_encoders()
    compute = jnp.dtype(self.dtype)
    self.audio_proj = nn.Dense(self.width, dtype=compute, kernel_init=torch_default)
    self.query_generator = QueryGenerator(
      self.width, self.num_queries, self.generator_layers, self.heads, compute
    )
    self.pixel_decoder = PixelDecoder(
      self.width,
      self.encoder_layers,
      self.heads,
      self.points,
      self.dropout,
      self.sampling,
      compute,
      self.remat,
    )
    self.query_decoder = QueryDecoder(self.decoder_layers, self.heads, self.dropout, compute, self.remat)
    self.fusion_block = CrossModalMixer(self.heads, self.mixer, compute)
    self.mask_head = QueryMaskHead(self.num_classes, compute)

  def segment(
    self,
    frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"],
    audio: Float[AnyArray, "B T A"],
    *,
    train: bool = False,
    present: Bool[AnyArray, "B T"] | None = None,
  ) -> Outputs:
    """Mask logits of each frame, given the audio embedding of its second.

    Args:
      present: real frames; the semantic network zeroes the features and both masks of the others.
    """
    clips, seconds = frames.shape[:2]
    audio, keep = jnp.asarray(audio), None
    if present is not None and self.num_classes > 1:
      keep = jnp.asarray(present, jnp.dtype(self.dtype)).reshape(-1, 1, 1, 1)  # [B*T, 1, 1, 1]

    def kept(x: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
      return x if keep is None else x * keep

    def unfold(x: Float[Array, "N ..."]) -> Float[Array, "B T ..."]:
      return x.reshape(clips, seconds, *x.shape[1:])

    pyramid = self.see(frames, train=train)
    token = self.audio_proj(audio.reshape(clips * seconds, -1))  # [B*T, D]
    queries = self.query_generator(token[:, None])  # [B*T, Q, D]
    memory, feature = self.pixel_decoder([kept(level) for level in pyramid], train=train)
    queries = self.query_decoder(queries, memory, train=train)  # [B*T, Q, D]
    feature = self.fusion_block(feature, token)  # [B*T, h, w, D]
    logits = kept(self.mask_head(queries, feature))  # [B*T, H, W, K]
    feature = kept(feature)
    if logits.shape[1:3] != frames.shape[2:4]:  # an input whose sides are no multiples of 32
      logits = resize_bilinear(logits, frames.shape[2:4], align_corners=False)
    token = unfold(token)  # [B, T, D]
    return Outputs(
      logits=unfold(logits).astype(jnp.float32),
      visual_features=unfold(pyramid[-1]),
      audio_features=audio,
      projected_audio=token,
      fused_maps=(unfold(jax.nn.relu(feature)),),
      fused_audio=(token,),
      mix_mask=unfold(feature).astype(jnp.float32).mean(-1),  # [B, T, h, w]
    )
