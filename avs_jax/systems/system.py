"""What every audio-visual segmentation system here is: `segment(frames, listen(sound))`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from avs_jax import encoders
from avs_jax.encoders.raw_sound import upsample
from avs_jax.errors import InputError, check_choice
from avs_jax.layers import resize_bilinear
from avs_jax.types import SAMPLE_RATE_HZ, AnyArray, Outputs, Sound, Stereo


@flax.struct.dataclass
class Scene:
  """A batch as a system sees it before it hears anything; made once, however many sounds are tried on it.

  Attributes:
    pyramid: the visual encoder's maps, N = B*T.
    features: whatever else the system computes without sound.
    keep: 1 for real frames, 0 for padding, [N, 1, 1, 1]; None where padding is left alone.
    shape: clips and seconds.
    size: height and width of the frames.
  """

  pyramid: tuple
  features: Any
  keep: Float[Array, "N 1 1 1"] | None
  shape: tuple[int, int] = flax.struct.field(pytree_node=False)
  size: tuple[int, int] = flax.struct.field(pytree_node=False)

  def kept(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
    """Zero where the frame is padding."""
    return x if self.keep is None else x * self.keep

  def unfold(self, x: Shaped[Array, "N ..."]) -> Shaped[Array, "B T ..."]:
    return x.reshape(*self.shape, *x.shape[1:])

  def logits(self, x: Float[Array, "N h w K"]) -> Float[Array, "B T H W K"]:
    """A head's output as float32 logits of the frames' size, zero on padding."""
    x = self.kept(x)
    if x.shape[1:3] != self.size:  # an input whose sides are no multiples of 32
      x = resize_bilinear(x, self.size, align_corners=False)
    return self.unfold(x).astype(jnp.float32)


def innermost(model: Any, variables: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
  """The system inside the debias strategies that wrap it, and its own of their variables."""
  own = dict(variables or {})
  while hasattr(model, "system"):
    model = model.system
    own = {name: tree.get("system", {}) for name, tree in own.items()}
  return model, own


class System(nn.Module):
  """A visual encoder and an audio encoder, named by the config; subclasses add what joins them.

  A subclass calls `build_encoders` in its `setup` and has `decode`; where it can, it does the work that needs
  no sound in `prepare`, and gives the sound its first linear map in `project`.

  Attributes:
    visual, audio: names that `encoders.build` knows.
    visual_args, audio_args: overrides handed to `encoders.build`.
    num_classes: K; 1 gives a binary mask.
    dtype: compute dtype, "float32" or "bfloat16"; parameters, norms, softmax and losses stay float32.
    remat: recompute the visual encoder's blocks in the backward pass instead of storing them.
    stereo: sounds are `Stereo`; their direction, 64 numbers a second, stands behind the audio embedding.
    READS_MARKS: whether `decode` has queries that marks open.
  """

  READS_MARKS = False

  visual: str = "pvt_v2_b5"
  audio: str = "vggish"
  visual_args: Mapping = FrozenDict()
  audio_args: Mapping = FrozenDict()
  num_classes: int = 1
  dtype: str = "float32"
  remat: bool = False
  stereo: bool = False

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
      check_choice(f"model.{key}", getattr(self, key), allowed)
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

  @property
  def takes_waveform(self) -> bool:
    """Whether `listen` wants samples; else VGGish examples."""
    return encoders.takes_waveform(self.audio)

  def listen(self, sound: Sound, *, train: bool = False) -> Float[Array, "B T A"]:
    """One embedding a second.

    Args:
      sound: VGGish examples or, for an encoder that takes them, samples at 16 kHz; both with a direction
        where the system is `stereo`.

    Raises:
      InputError: a direction where the system has no use for it, or none where it has; or as `hear`.
    """
    if self.stereo != isinstance(sound, Stereo):
      raise InputError(
        f"model.stereo={self.stereo}: this system hears {'sounds with' if self.stereo else 'no sounds with'} a"
        " direction (avs_jax.types.Stereo); give it such, or change model.stereo."
      )
    if isinstance(sound, Stereo):
      heard = self.hear(sound.mono, train=train)
      return jnp.concatenate([heard, jnp.asarray(sound.pan, heard.dtype)], axis=-1)  # [B, T, A + 64]
    return self.hear(sound, train=train)

  def hear(self, sound: Sound, *, train: bool = False) -> Float[Array, "B T A"]:
    """The audio encoder's embedding of each second of a mono sound.

    Raises:
      InputError: not what the encoder takes, or its sample rate is no multiple of 16 kHz.
    """
    flat = jnp.asarray(sound)
    clips, seconds = flat.shape[:2]
    if self.takes_waveform != (flat.ndim == 3):
      wanted = "samples [B, T, S]" if self.takes_waveform else "VGGish examples [B, T, 96, 64]"
      raise InputError(f"model.audio={self.audio!r} hears {wanted}; it was given {list(flat.shape)}.")
    if self.takes_waveform:
      factor, rest = divmod(self.audio_encoder.sample_rate_hz, SAMPLE_RATE_HZ)
      if rest:
        raise InputError(
          f"model.audio_args.sample_rate_hz={self.audio_encoder.sample_rate_hz} is no multiple of"
          f" {SAMPLE_RATE_HZ} Hz, at which sounds are kept; give one that is."
        )
      flat = upsample(flat.reshape(clips, -1), factor).reshape(clips * seconds, -1)  # [B*T, S]
    else:
      flat = flat.reshape(-1, *flat.shape[2:])  # [B*T, 96, 64]
    return self.encode_sound(flat, train=train).reshape(clips, seconds, -1)  # [B, T, A]

  def encode_sound(self, sound: Float[Array, "N ..."], *, train: bool = False) -> Float[Array, "N A"]:
    """What `hear` keeps of each second, clips and seconds folded; here the audio encoder's embedding."""
    return self.audio_encoder(sound, train=train)

  def see(
    self, frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N h w C"], ...]:
    """The visual encoder's four maps, finest first, clips and seconds folded into N = B*T.

    uint8 frames are normalised with the encoder's own statistics; float frames are taken as normalised.
    """
    return self.visual_encoder(self.normalise(frames), train=train)

  def normalise(
    self, frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"]
  ) -> Float[Array, "N H W 3"]:
    """Pictures as the visual encoder wants them, clips and seconds folded."""
    flat = jnp.asarray(frames).reshape(-1, *frames.shape[2:])  # [B*T, H, W, 3]
    if flat.dtype == jnp.uint8:
      mean, std = (
        jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 3)
        for values in (self.visual_encoder.MEAN, self.visual_encoder.STD)
      )
      flat = (flat.astype(jnp.float32) - mean) / std
    return flat

  def prepare(self, scene: Scene, *, train: bool = False) -> Any:
    """What `decode` needs of the picture beside the pyramid; here nothing."""
    return None

  def project(self, audio: Float[Array, "B T A"]) -> Float[Array, "B T D"]:
    """The sound as all parts of the system hear it; here the embedding itself."""
    return audio

  def opened(self, marks: Float[AnyArray, "B T Q"]) -> Float[Array, "B T Q"]:
    """How far the marks open each query; here as they are."""
    return jnp.asarray(marks, jnp.float32)

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T D"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Everything after seeing and hearing, in a subclass; without one nothing is segmented.

    Raises:
      InputError: the class has no `decode` of its own.
    """
    raise InputError(f"{type(self).__name__} only sees and hears; build one of the systems by name.")

  def paint(self, outputs: Outputs) -> Outputs:
    """`outputs` with logits made anew from those of its queries, which others may have changed; here as it is."""
    return outputs

  def look(
    self,
    frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"],
    *,
    train: bool = False,
    present: Bool[AnyArray, "B T"] | None = None,
  ) -> Scene:
    """All that needs no sound. Semantic networks zero the features of frames that are not `present`."""
    keep = None
    if present is not None and self.num_classes > 1:
      keep = jnp.asarray(present, jnp.dtype(self.dtype)).reshape(-1, 1, 1, 1)  # [B*T, 1, 1, 1]
    scene = Scene(self.see(frames, train=train), None, keep, frames.shape[:2], frames.shape[2:4])
    return scene.replace(features=self.prepare(scene, train=train))

  def segment(
    self,
    frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"],
    audio: Float[AnyArray, "B T A"],
    *,
    train: bool = False,
    present: Bool[AnyArray, "B T"] | None = None,
    marks: Float[AnyArray, "B T Q"] | None = None,
    scene: Scene | None = None,
    projected: Float[AnyArray, "B T D"] | None = None,
  ) -> Outputs:
    """Mask logits of each frame, given the audio embedding of its second.

    Args:
      present: real frames; a semantic network zeroes the features and logits of the others.
      marks: queries that each second makes active, where the system has such.
      scene: `look` at these frames, where it is at hand.
      projected: takes the place of `project(audio)`.
    """
    audio = jnp.asarray(audio)
    scene = self.look(frames, train=train, present=present) if scene is None else scene
    projected = self.project(audio) if projected is None else jnp.asarray(projected)
    return self.decode(scene, audio, projected, train=train, marks=marks)

  def __call__(
    self,
    frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"],
    sound: Sound,
    *,
    train: bool = False,
    present: Bool[AnyArray, "B T"] | None = None,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    audio = self.listen(sound, train=train)
    return self.segment(frames, audio, train=train, present=present, marks=marks)
