"""RAVS: the sound pulls groups of alike tokens together between encoder stages; doubtful places weigh less."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from avs_jax import encoders
from avs_jax.decoders.fpn import ASPP, FeatureFusion
from avs_jax.decoders.uncertainty import UncertaintyDecoder
from avs_jax.errors import InputError, check_choice
from avs_jax.fusion.group_merge import CrossMerge, GroupMerge, agreement
from avs_jax.systems.system import Scene, System
from avs_jax.types import AnyArray, Outputs


@flax.struct.dataclass
class Seen:
  """What the picture gives without sound beside the first stage's map.

  Attributes:
    last: the encoder's last map; nothing but a guide reads it, and a compiled program without one has it not.
    encoder: goes on from the first stage. A branch that is given another system's scene goes on with that
      system's encoder, and so shares all that is seen.
  """

  last: Float[Array, "N h w C"]
  encoder: nn.Module = flax.struct.field(pytree_node=False)


class RAVS(System):
  """RAVS, binary (S4, MS3) and semantic (AVSS).

  "Robust Audio-Visual Segmentation via Audio-Guided Visual Convergent Alignment" (Liu et al., CVPR 2025),
  figure 2. There is no public code. Every choice where the paper is silent: docs/ravs.md.
  Deviation: see `GroupMerge` and `UncertaintyDecoder`.

  Attributes:
    width: channels of the decoder.
    merge: "groups", or "cells": the ablation's baseline, which neither groups nor merges.
    merge_of: what groups are merged of: tokens after ("heard") or before ("seen") they have met the sound.
    groups: groups of a frame at strides 4, 8 and 16.
    neighbours: tokens that make up a token's density.
    merge_layers: updates of the groups at each stride.
    heads: of both kinds of attention; where they do not divide a width, the most that do both.
    temporal: seconds look at one another before the masks.
    uncertainty_form: "paper", "discount" or "none", see `decoders.uncertainty.weigh`.
    uncertainty_span: scaled to [0, 1] in each "frame" or over a "clip".
  """

  width: int = 256
  merge: str = "groups"
  merge_of: str = "heard"
  groups: Sequence[int] = (14, 7, 5)
  neighbours: int = 5
  merge_layers: int = 2
  heads: int = 8
  temporal: bool = True
  uncertainty_form: str = "paper"
  uncertainty_span: str = "frame"

  def __post_init__(self) -> None:
    if len(self.groups) != 3 or min(self.groups) < 1:
      raise InputError(
        f"model.groups={tuple(self.groups)}: give three numbers from 1, for strides 4, 8 and 16."
      )
    for key, least in (("neighbours", 1), ("merge_layers", 0), ("heads", 1)):
      if getattr(self, key) < least:
        raise InputError(f"model.{key}={getattr(self, key)} is too small; give at least {least}.")
    for key, allowed in (("merge", ("groups", "cells")), ("merge_of", ("heard", "seen"))):
      check_choice(f"model.{key}", getattr(self, key), allowed)
    super().__post_init__()

  def setup(self) -> None:
    self.build_encoders()
    compute = jnp.dtype(self.dtype)
    merges: dict[str, nn.Module] = {}
    for stage, groups in enumerate(self.groups, start=1):
      merge = GroupMerge(groups, self.neighbours, self.merge_layers, self.heads, self.merge_of, compute)
      merges[str(stage)] = merge if self.merge == "groups" else CrossMerge(self.heads, compute)
    self.group_merge = merges
    self.aspp = {str(stage): ASPP(self.width, dtype=compute) for stage in (1, 2, 3, 4)}
    self.topdown = {str(stage): FeatureFusion(dtype=compute, enlarge=stage > 1) for stage in (1, 2, 3, 4)}
    how = (self.uncertainty_form, self.uncertainty_span, compute, self.temporal)
    self.uncertainty = UncertaintyDecoder(self.num_classes, self.width, self.heads, *how)

  def see(
    self, frames: UInt8[AnyArray, "B T H W 3"] | Float[AnyArray, "B T H W 3"], *, train: bool = False
  ) -> tuple[Float[Array, "N h w C"], ...]:
    """What the first stage hands on: the later ones see what the sound has made of it."""
    return (self.visual_encoder.stage(self.normalise(frames), 0, train=train),)

  def prepare(self, scene: Scene, *, train: bool = False) -> Seen:
    """The last map as it would be without sound, which must not move an encoder's running statistics."""
    x = scene.pyramid[0]
    for i in (1, 2, 3):
      x = self.visual_encoder.stage(x, i)
    return Seen(encoders.as_map(self.visual_encoder, x, 3), self.visual_encoder)

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T A"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Encoder stages with the sound between them, top-down decoder, masks and uncertainty. No `marks` here."""
    present = None
    if scene.keep is not None:
      present = scene.keep.reshape(scene.shape) > 0  # [B, T]
      audio, projected = (x * present[:, :, None].astype(x.dtype) for x in (audio, projected))
    heard = projected.reshape(-1, projected.shape[-1])  # [B*T, A]
    encoder: Any = scene.features.encoder
    x, maps, merged = scene.pyramid[0], [], []
    for i in range(4):
      if i:
        x = encoder.stage(x, i, train=train)
      if i < len(self.groups):
        found = self.group_merge[str(i + 1)](x, heard)
        x = found.map
        merged.append(found)
      maps.append(scene.kept(encoders.as_map(encoder, x, i)))

    top = None
    for stage in (4, 3, 2, 1):
      step, neck = self.topdown[str(stage)], scene.kept(self.aspp[str(stage)](maps[stage - 1]))
      top = scene.kept(step(neck) if top is None else step(top, neck))
    logits, doubt = self.uncertainty(scene.unfold(top), present)
    last = merged[-1]
    return Outputs(
      logits=scene.logits(logits.reshape(-1, *logits.shape[2:])),
      visual_features=scene.unfold(scene.features.last),
      audio_features=audio,
      fused_maps=tuple(scene.unfold(jax.nn.relu(scene.kept(found.map))) for found in merged),
      fused_audio=tuple(scene.unfold(found.audio) for found in merged),
      uncertainty=scene.logits(doubt.reshape(-1, *doubt.shape[2:])),
      groups=scene.unfold(last.groups),
      group_agreement=scene.unfold(agreement(last.compact, last.audio)),
    )
