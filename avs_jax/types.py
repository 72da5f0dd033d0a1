"""The two structures that travel through the program: `Batch` from the data, `Outputs` from a system.

Axis letters, whole project: B clips, T seconds (frames), H W pixels, h w feature cells, C channels,
D model width, A audio width, N tokens, Q queries, K classes, L levels, M heads, P points of
a map or groups of cells, G categories.
"""

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import flax.struct
import jaxtyping
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8, UInt32
from numpy import ndarray

AnyArray = Array | ndarray
SAMPLE_RATE_HZ = 16_000  # of a batch's waveform


@flax.struct.dataclass
class Stereo:
  """A sound and where it comes from, for systems with `stereo`.

  Attributes:
    mono: what the audio encoder is given.
    pan: right minus left log-mel of each second and band, 0 for what comes from the middle.
  """

  mono: Float[AnyArray, "B T 96 64"] | Float[AnyArray, "B T S"]
  pan: Float[AnyArray, "B T 64"]


# What `System.listen` is given: VGGish examples, or samples; with a direction, if it asks for one.
Sound = Float[AnyArray, "B T 96 64"] | Float[AnyArray, "B T S"] | Stereo


class Condition(IntEnum):
  """The sound a clip is judged under (Robust paper, section 3.1)."""

  POSITIVE = 0
  SILENCE = 1
  NOISE = 2
  OFFSCREEN = 3


@flax.struct.dataclass
class Batch:
  """A batch of clips. Arrays are numpy in the data pipeline and jax on the device.

  Attributes:
    frames: RGB in [0, 255], or float32 that is already normalised.
    log_mel: VGGish examples, one per second of the clip.
    masks: class id per pixel of what sounds, 0 background; binary sets use {0, 1}.
    annotated: frames whose mask is given (S4 trains on frame 0 only).
    present: real frames; False is padding (AVSS clips of five seconds).
    condition: a `Condition` per clip.
    index: position of the clip in its source's list of ids, -1 for a row that only pads the batch.
    waveform: mono samples in [-1, 1] at 16 kHz, a second a row, only where something takes raw sound.
    sounding: categories heard in each second, where the data set says so.
    visible: categories seen in the clip, where the data set says so.
    marks: 1 for the queries that each second's sound opens; added by avs_jax/perception.
    pan: where the sound comes from, only where the model is `stereo`; see `Stereo`.
    decoy: silence or noise beside each clip's sound, in the form the model hears, for `guide.decoy_loss`; only in
      training that asks for it.
  """

  frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"]
  log_mel: Float[AnyArray, "B T 96 64"]
  masks: Int32[AnyArray, "B T H W"]
  annotated: Bool[AnyArray, "B T"]
  present: Bool[AnyArray, "B T"]
  condition: Int[AnyArray, "B"]
  index: Int[AnyArray, "B"]
  waveform: Float[AnyArray, "B T S"] | None = None
  sounding: Bool[AnyArray, "B T G"] | None = None
  visible: Bool[AnyArray, "B G"] | None = None
  marks: Float[AnyArray, "B T Q"] | None = None
  pan: Float[AnyArray, "B T 64"] | None = None
  decoy: Float[AnyArray, "B T ..."] | None = None


@flax.struct.dataclass
class Outputs:
  """What a system says of a batch. A loss, a debias strategy and a picture read this and nothing else.

  Attributes:
    logits: per pixel and class, before any sigmoid or softmax; K = 1 for binary sets.
    visual_features: last map of the visual encoder (coarsest stage), before any fusion.
    audio_features: the audio embedding per second as the audio encoder gives it.
    projected_audio: the same after the system's own first linear map, which it feeds to all its parts.
    fused_maps: one map per fused stage, finest first, as the matching losses read them (rectified).
    fused_audio: the audio feature paired with each of `fused_maps`, None where the stage has no sound.
    similarity: agreement of sound and picture per frame, a logit; filled by debias/guide.
    seen_embedding: the guide's embedding of each cell of the picture, where its form has one.
    heard_embedding: the guide's embedding of each second of sound, to be multiplied with the former.
    decoy_embedding: the same of the sounds that belong to no picture, in training with `Batch.decoy`.
    aux_logits: logits of intermediate decoder layers, first layer first.
    query_masks: mask logits of every query [B T h w Q], before the decoder's first layer and after each.
    query_classes: its class logits [B T Q E], the last one "nothing", paired with `query_masks`.
    marks: how active each query is, 0 to 1; `systems.active_queries`.
    real: whether a frame is no padding, where a network's logits are zero on padding; `systems.active_queries`.
    draw: a random number for each frame, in training, for losses that draw at random.
    mix_mask: AVSegFormer's auxiliary mask logits.
    uncertainty: RAVS's per-pixel uncertainty in [0, 1].
    groups: group of each cell of the last map that RAVS groups.
    group_agreement: cosine of each of these groups and the second's sound; `alignment`.
    ungated: `logits` before a guide's gate, in inference; None where nothing gates.
    biased: outputs of a visual-only branch that has a loss of its own; filled by debias/contrast in training.
  """

  logits: Float[AnyArray, "B T H W K"]
  visual_features: Float[AnyArray, "B T h w C"] | None = None
  audio_features: Float[AnyArray, "B T A"] | None = None
  projected_audio: Float[AnyArray, "B T D"] | None = None
  fused_maps: tuple | None = None
  fused_audio: tuple | None = None
  similarity: Float[AnyArray, "B T"] | None = None
  seen_embedding: Float[AnyArray, "B T N E"] | None = None
  heard_embedding: Float[AnyArray, "B T E"] | None = None
  decoy_embedding: Float[AnyArray, "B T E"] | None = None
  aux_logits: tuple | None = None
  query_masks: tuple | None = None
  query_classes: tuple | None = None
  marks: Float[AnyArray, "B T Q"] | None = None
  real: Bool[AnyArray, "B T"] | None = None
  draw: UInt32[AnyArray, "B T"] | None = None
  mix_mask: Float[AnyArray, "..."] | None = None
  uncertainty: Float[AnyArray, "B T H W 1"] | None = None
  groups: Int[AnyArray, "B T _h _w"] | None = None
  group_agreement: Float[AnyArray, "B T P"] | None = None
  ungated: Float[AnyArray, "B T H W K"] | None = None
  biased: Any = None


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
  """Annotations are not checked in here: lowering fills batches with shapes, exporting gives sizes as symbols."""
  before = jaxtyping.config.jaxtyping_disable
  jaxtyping.config.update("jaxtyping_disable", True)
  try:
    yield
  finally:
    jaxtyping.config.update("jaxtyping_disable", before)
