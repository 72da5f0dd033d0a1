"""AVSBench: pyramid encoder, TPAVI at chosen stages, top-down decoder (Zhou et al., ECCV 2022 and AVSS)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.decoders.fpn import ASPP, FeatureFusion, MaskHead
from avs_jax.errors import InputError
from avs_jax.fusion.tpavi import TPAVI
from avs_jax.systems.system import Scene, System
from avs_jax.types import AnyArray, Outputs


class AVSBench(System):
  """AVSBench's network ("TPAVI"), binary (S4, MS3) and semantic (AVSS).

  AVSBench section 4.1 and figure 3; semantic form: "Audio-Visual Segmentation with Semantics", section 4.
  Deviation: TPAVI's product is reassociated (same numbers); T is free where AVSS groups frames by five.

  Attributes:
    width: channels of the decoder.
    head_channels: of the head's last hidden layer; 0: an eighth of the width. Narrow decoders want more.
    tpavi_stages: stages that hear, 1 finest to 4 coarsest; () is the visual-only network.
    tpavi_modes: "va" (sound), "vv" (no sound, same weights), or both, averaged.
    group_seconds: TPAVI sees groups of so many frames; 0, and clips that do not divide into such groups, is
      the whole clip. The released AVSS weights were trained with groups of five: the default where
      num_classes > 1.
  """

  width: int = 256
  head_channels: int = 0
  tpavi_stages: Sequence[int] = (1, 2, 3, 4)
  tpavi_modes: Sequence[str] = ("va",)
  group_seconds: int | None = None

  def __post_init__(self) -> None:
    for key, allowed in (("tpavi_stages", (1, 2, 3, 4)), ("tpavi_modes", ("va", "vv"))):
      value = tuple(getattr(self, key))
      if not set(value) <= set(allowed) or len(set(value)) < len(value):
        known = ", ".join(map(repr, allowed))
        raise InputError(f"model.{key}={value!r}: give each of {known} at most once.")
    if self.tpavi_stages and not self.tpavi_modes:
      raise InputError(
        "model.tpavi_modes is empty; give 'va', 'vv' or both, or set model.tpavi_stages to ()."
      )
    if self.group_seconds is not None and self.group_seconds < 0:
      raise InputError(f"model.group_seconds={self.group_seconds} is negative; give 0 for the whole clip.")
    super().__post_init__()

  def setup(self) -> None:
    self.build_encoders()
    compute = jnp.dtype(self.dtype)
    semantic = self.num_classes > 1
    stages = ("1", "2", "3", "4")
    self.aspp = {stage: ASPP(self.width, dtype=compute) for stage in stages}
    self.tpavi = {
      str(stage): TPAVI(self.width, align_bias=not semantic, dtype=compute) for stage in self.tpavi_stages
    }
    self.topdown = {stage: FeatureFusion(dtype=compute) for stage in stages}
    self.head = MaskHead(self.num_classes, self.width, self.head_channels, dtype=compute)
    default_group = 5 if semantic else 0
    self.group = default_group if self.group_seconds is None else self.group_seconds

  def fuse(
    self, stage: int, vis: Float[Array, "B T h w D"], aud: Float[Array, "B T A"], *, train: bool
  ) -> tuple[Float[Array, "B T h w D"], Float[Array, "B T D"] | None]:
    """TPAVI at one stage, over groups of `group` seconds."""
    block = self.tpavi[str(stage)]
    clips, seconds = vis.shape[:2]
    group = self.group if self.group and seconds % self.group == 0 else seconds
    vis = vis.reshape(-1, group, *vis.shape[2:])  # [B*T/G, G, h, w, D]
    aud = aud.reshape(-1, group, aud.shape[-1])  # [B*T/G, G, A]
    results = [block(vis, aud if mode == "va" else None, train=train) for mode in self.tpavi_modes]
    fused = sum(fused for fused, _ in results) / len(results)
    heard = next((heard for _, heard in results if heard is not None), None)
    if heard is not None:
      heard = heard.reshape(clips, seconds, -1)  # [B, T, D]
    return fused.reshape(clips, seconds, *fused.shape[2:]), heard

  def prepare(self, scene: Scene, *, train: bool = False) -> tuple[Float[Array, "N _h _w D"], ...]:
    """The maps at the decoder's width, finest first."""
    return tuple(
      scene.kept(self.aspp[str(stage)](level)) for stage, level in enumerate(scene.pyramid, start=1)
    )

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T A"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Fuses the sound at the chosen stages, then paints top-down. `marks` have no place here."""
    if scene.keep is not None:
      real = scene.keep.reshape(*scene.shape, 1)  # [B, T, 1]
      audio, projected = audio * real.astype(audio.dtype), projected * real.astype(projected.dtype)
    maps, heard = [], []
    for stage, vis in enumerate(scene.features, start=1):
      aud = None
      if stage in self.tpavi_stages:
        vis, aud = self.fuse(stage, scene.unfold(vis), projected, train=train)
        vis = scene.kept(vis.reshape(-1, *vis.shape[2:]))  # [B*T, h, w, D]
      maps.append(vis)
      heard.append(aud)

    top = None
    for stage in (4, 3, 2, 1):
      step = self.topdown[str(stage)]
      top = scene.kept(step(maps[stage - 1]) if top is None else step(top, maps[stage - 1]))
    return Outputs(
      logits=scene.logits(self.head(top)),
      visual_features=scene.unfold(scene.pyramid[-1]),
      audio_features=audio,
      # The published matching losses see the maps after the decoder rectified them in place.
      fused_maps=tuple(scene.unfold(jax.nn.relu(x)) for x in maps),
      fused_audio=tuple(heard),
    )
