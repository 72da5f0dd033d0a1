"""SDAVS: sound gates the picture, both guide each other, and four stages refine the mask (Peng et al.)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.decoders.progressive import PLACES, FullyConnectedHead, ProgressiveDecoder
from avs_jax.errors import InputError, check_choice
from avs_jax.fusion.damf import DIRECTIONS, INTERACTIONS
from avs_jax.fusion.snrp import CHANNEL_GATES, SELECTORS, keep_size
from avs_jax.layers import Conv, he_fan_in
from avs_jax.systems.system import Scene, System
from avs_jax.types import AnyArray, Outputs

# Rows and columns of the sound's map: the VGGish features of 96 x 64 log-mels, the embedding, the log-mel.
SOUND_MAPS = {"features": (6, 4), "embedding": (1, 1), "log_mel": (96, 64)}


class SDAVS(System):
  """SDAVS, binary (S4, MS3) and semantic (AVSS).

  "Selective Noise Suppression and Discriminative Mutual Interaction for Robust Audio-Visual Segmentation",
  figure 2. There is no public code; docs/sdavs.md lists every choice that the paper leaves open.
  Deviation: none known.

  Attributes:
    width: D of the decoder; a multiple of `heads`.
    sound_map: what is brought to the stages: "embedding", "features" (the recipes' word: VGGish's last map; an encoder
      without maps gives its embedding), or "log_mel". With a map `listen` gives more than the encoder's embedding.
    snrp: "before" the fusion, "after" it (table V), "none" (table III).
    selectors: "both", "channel", "spatial" (table IV).
    channel_gate: "sigmoid" or "linear", see `SNRP`.
    damf: "both", "audio_to_visual", "visual_to_audio" (table VI), "none" (table III).
    stc: whether DAMF has its enhancer (table VI).
    interaction: "multiply", "add", "straight" (table VIII).

  Raises:
    InputError: `sound_map` is "log_mel" for an encoder that hears samples, or a map, while sounds are `stereo`.
  """

  width: int = 256
  heads: int = 8
  sound_map: str = "embedding"
  snrp: str = "before"
  selectors: str = "both"
  channel_gate: str = "sigmoid"
  damf: str = "both"
  stc: bool = True
  interaction: str = "multiply"

  def __post_init__(self) -> None:
    for key, allowed in (
      ("sound_map", tuple(SOUND_MAPS)),
      ("snrp", PLACES),
      ("selectors", SELECTORS),
      ("channel_gate", CHANNEL_GATES),
      ("damf", DIRECTIONS),
      ("interaction", INTERACTIONS),
    ):
      check_choice(f"model.{key}", getattr(self, key), allowed)
    if self.width % self.heads:
      raise InputError(f"model.width={self.width}: sdavs needs a multiple of its {self.heads} heads.")
    super().__post_init__()

  def setup(self) -> None:
    self.build_encoders()
    if self.sound_map == "log_mel" and self.takes_waveform:
      raise InputError(
        f"model.sound_map='log_mel': model.audio={self.audio!r} hears samples; choose features or embedding."
      )
    if self.stereo and self.has_map:
      raise InputError(
        f"model.stereo=True: the cells of model.sound_map={self.sound_map!r} have no direction; choose 'embedding'."
      )
    compute = jnp.dtype(self.dtype)
    self.lateral = {
      str(stage): Conv(self.width, padding=1, dtype=compute, kernel_init=he_fan_in) for stage in (1, 2, 3, 4)
    }
    self.audio_proj = nn.Dense(self.width, dtype=compute, kernel_init=keep_size)
    own = ("heads", "snrp", "selectors", "channel_gate", "damf", "interaction", "stc")
    stage = tuple((key, getattr(self, key)) for key in own)
    self.decoder = ProgressiveDecoder(self.width, stage, compute, self.remat)
    self.head = FullyConnectedHead(self.num_classes, compute)

  @property
  def has_map(self) -> bool:
    """Whether the sound has cells beside its embedding."""
    chosen = self.sound_map
    return chosen == "log_mel" or (chosen == "features" and hasattr(self.audio_encoder, "features"))

  def encode_sound(self, sound: Float[Array, "N ..."], *, train: bool = False) -> Float[Array, "N A"]:
    """The embedding of each second and behind it, where it has one, the map that the stages are brought."""
    if not self.has_map:
      return super().encode_sound(sound, train=train)
    if self.sound_map == "features":
      cells = self.audio_encoder.features(sound)  # [B*T, t, m, C]
      embedding = self.audio_encoder.embed(cells)  # of the same map: the convolutions run once
    else:
      cells, embedding = sound, super().encode_sound(sound, train=train)
    cells = cells.reshape(embedding.shape[0], -1)  # [B*T, t*m*C]
    return jnp.concatenate([embedding, cells.astype(embedding.dtype)], axis=-1)

  def prepare(self, scene: Scene, *, train: bool = False) -> tuple[Float[Array, "N _h _w D"], ...]:
    """The maps at the decoder's width, finest first."""
    return tuple(
      scene.kept(nn.relu(self.lateral[str(stage)](level)))
      for stage, level in enumerate(scene.pyramid, start=1)
    )

  def project(self, audio: Float[Array, "B T A"]) -> Float[Array, "B T D"]:
    """F_a at the decoder's width, its cells side by side.

    Args:
      audio: what `listen` gives, A numbers a second: the audio encoder's embedding (VGGish: 128) and, where the
        system `has_map`, behind it that map's cells, time by frequency by channels (VGGish's last map: 6 * 4 * 512).

    Raises:
      InputError: a second holds another number of values.
    """
    embedding = self.audio_encoder.dim
    rows, cols = SOUND_MAPS[self.sound_map] if self.has_map else (1, 1)
    channels = 1 if self.sound_map == "log_mel" else getattr(self.audio_encoder, "map_channels", 0)
    wanted = embedding + (rows * cols * channels if self.has_map else 64 * self.stereo)
    if audio.shape[-1] != wanted:
      raise InputError(
        f"sdavs with model.sound_map={self.sound_map!r} hears {wanted} numbers a second, {embedding} of the embedding"
        f" and {wanted - embedding} behind it; it was given {audio.shape[-1]}: give what its `listen` returns."
      )
    cells = audio[..., embedding:] if self.has_map else audio
    cells = cells.reshape(*audio.shape[:2], rows * cols, -1)  # [B, T, t*m, C]
    return self.audio_proj(cells).reshape(*audio.shape[:2], -1)  # [B, T, t*m*D]

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T D"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Gates, fuses and paints from coarse to fine. `marks` have no place here."""
    rows, cols = SOUND_MAPS[self.sound_map] if self.has_map else (1, 1)
    cells = projected.reshape(*scene.shape, rows, cols, self.width)  # [B, T, t, m, D]
    present = None if scene.keep is None else scene.keep.reshape(scene.shape) > 0
    total, fused, heard = self.decoder(tuple(scene.unfold(level) for level in scene.features), cells, present)
    logits = self.head(total)  # [B, T, h, w, K]
    return Outputs(
      logits=scene.logits(logits.reshape(-1, *logits.shape[2:])),
      visual_features=scene.unfold(scene.pyramid[-1]),
      audio_features=audio[..., : self.audio_encoder.dim] if self.has_map else audio,
      projected_audio=projected,
      fused_maps=tuple(jax.nn.relu(level) for level in fused),
      fused_audio=heard,
    )
