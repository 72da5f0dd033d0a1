"""AVSegFormer: queries that heard the sound paint a mask feature that the sound has gated (AAAI 2024)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.decoders.pixel_decoder import CHANNELS_PER_GROUP, PixelDecoder
from avs_jax.decoders.query_decoder import QueryDecoder, QueryMaskHead
from avs_jax.errors import InputError
from avs_jax.fusion.query_mixer import CrossModalMixer, QueryGenerator
from avs_jax.initial import torch_default
from avs_jax.systems.system import Scene, System
from avs_jax.types import AnyArray, Outputs


class AVSegFormer(System):
  """AVSegFormer, binary (S4, MS3) and semantic (AVSS). Every frame stands alone; there is no time.

  Gao et al., AAAI 2024, arXiv 2307.01146, figure 2.
  Deviation: hidden widths are multiples of `width` (8, generator 4), the published ones at 256; biases of the
  head start at 0, not at PyTorch's small random values.

  Attributes:
    width: D; a multiple of 8 and of `heads`.
    head_channels: of the head's last hidden layer; 0: an eighth of the width. Narrow decoders want more.
    dropout: of the pixel and the query decoder.
    mixer: "released" (gate) or "paper" (residual formula), see `CrossModalMixer`.
    sampling: "packed" or "plain", equal numbers, see `deformable.sample_packed`.

  Raises:
    InputError: `width` is no such multiple.
  """

  width: int = 256
  head_channels: int = 0
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
    self.mask_head = QueryMaskHead(self.num_classes, self.head_channels, compute)

  def prepare(
    self, scene: Scene, *, train: bool = False
  ) -> tuple[Float[Array, "N S D"], Float[Array, "N h w D"]]:
    """The pixel decoder's tokens and mask feature: the picture alone makes them."""
    return self.pixel_decoder([scene.kept(level) for level in scene.pyramid], train=train)

  def project(self, audio: Float[Array, "B T A"]) -> Float[Array, "B T D"]:
    """The one token of each second, which makes the queries and gates the mask feature."""
    return self.audio_proj(audio)

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T D"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Queries made of the sound paint the gated mask feature. `marks` have no place here."""
    memory, feature = scene.features
    token = projected.reshape(-1, projected.shape[-1])  # [B*T, D]
    queries = self.query_generator(token[:, None])  # [B*T, Q, D]
    queries = self.query_decoder(queries, memory, train=train)  # [B*T, Q, D]
    feature = self.fusion_block(feature, token)  # [B*T, h, w, D]
    logits = scene.logits(self.mask_head(queries, feature))  # [B, T, H, W, K]
    feature = scene.unfold(scene.kept(feature))  # [B, T, h, w, D]
    return Outputs(
      logits=logits,
      visual_features=scene.unfold(scene.pyramid[-1]),
      audio_features=audio,
      projected_audio=projected,
      fused_maps=(jax.nn.relu(feature),),
      fused_audio=(projected,),
      mix_mask=feature.astype(jnp.float32).mean(-1),  # [B, T, h, w]
    )
