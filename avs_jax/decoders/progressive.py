"""Four stages from coarse to fine, each gating and fusing; every stage also paints the last map directly."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avs_jax.errors import check_choice
from avs_jax.fusion.damf import DAMF, LIMIT
from avs_jax.fusion.snrp import SNRP
from avs_jax.layers import Conv, Dtype, he_fan_in, resize_bilinear

PLACES = ("before", "after", "none")


class Stage(nn.Module):
  """SNRP, then DAMF, at one size.

  SDAVS, section III-A and tables III to VI and VIII.
  Deviation: none known. "after" (table V) gates the sum of the two fused streams, which is all that leaves a
    stage; without SNRP the sound is brought to the picture's size and not convolved.

  Attributes:
    snrp: "before" the fusion, "after" it, or "none".
    selectors, channel_gate: see `SNRP`.
    damf, interaction, stc, stride, limit: see `DAMF`.

  Raises:
    InputError: unknown `snrp`.
  """

  width: int = 256
  heads: int = 8
  snrp: str = "before"
  selectors: str = "both"
  channel_gate: str = "sigmoid"
  damf: str = "both"
  interaction: str = "multiply"
  stc: bool = True
  stride: int = 1
  limit: int = LIMIT
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    vis: Float[Array, "B T h w D"],
    aud: Float[Array, "B T t m D"],
    present: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T h w D"], Float[Array, "B T h w D"]]:
    """What the stage has fused, F'_a->v + F'_v->a, and F'_a; both zero where a second is not `present`."""
    check_choice("model.snrp", self.snrp, PLACES)
    keep = None if present is None else present[:, :, None, None, None].astype(vis.dtype)
    if self.snrp == "none":
      heard = resize_bilinear(aud, vis.shape[2:4], align_corners=False)  # [B, T, h, w, D]
      gates = None
    else:
      gates = SNRP(self.width, self.selectors, self.channel_gate, dtype=self.dtype, name="gates")
      heard = gates.spread(aud, vis.shape[2:4])  # [B, T, h, w, D]
    heard = heard if keep is None else heard * keep
    if gates is not None and self.snrp == "before":
      vis = gates.gate(vis, heard)
    fusion = DAMF(
      self.heads,
      self.damf,
      self.interaction,
      self.stc,
      self.stride,
      self.limit,
      self.dtype,
      name="fusion",
    )
    streams = fusion(vis, heard, present)
    fused = streams[0] + streams[1]
    if gates is not None and self.snrp == "after":
      fused = gates.gate(fused, heard)
    return fused if keep is None else fused * keep, heard


class ProgressiveDecoder(nn.Module):
  """Stage by stage to the finest map: direct connections feed the next stage, skip connections the result.

  SDAVS, section III-D, equation 8, read as: the next picture is a convolution of what was fused, enlarged, and
  the encoder's map of that size; the next sound is F'_a, enlarged there; the result is the sum over the stages
  of a convolution of what each has fused, enlarged to the finest size.
  Deviation: none known. Not given there, ours: kernels of 3 x 3, rectification of the next picture, bilinear
    enlargement (pixels are squares), concatenation in the direct connection.

  Attributes:
    stage: settings of every `Stage`.
    remat: recompute each stage in the backward pass instead of storing its inside.
  """

  width: int = 256
  stage: tuple[tuple[str, object], ...] = ()
  dtype: Dtype = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self,
    maps: Sequence[Float[Array, "B T _h _w D"]],
    aud: Float[Array, "B T t m D"],
    present: Bool[Array, "B T"] | None = None,
  ) -> tuple[
    Float[Array, "B T h w D"], tuple[Float[Array, "B T _h _w D"], ...], tuple[Float[Array, "B T D"], ...]
  ]:
    """The sum of the skip connections at the finest size; per stage, finest first, what it fused and heard.

    Args:
      maps: the visual encoder's at the decoder's width, finest first.
      aud: F_a of the first stage.
    """
    kind = nn.remat(Stage) if self.remat else Stage
    vis, fused_maps, heard, skips = maps[-1], [], [], []
    for place in range(len(maps), 0, -1):  # 4 coarsest to 1 finest
      # Keys and values of every stage are as many as the coarsest map has cells.
      stage = kind(
        width=self.width,
        stride=2 ** (len(maps) - place),
        dtype=self.dtype,
        name=f"stage{place}",
        **dict(self.stage),
      )
      fused, aud = stage(vis, aud, present)
      fused_maps.insert(0, fused)
      heard.insert(0, aud.mean((2, 3)))
      skip = Conv(self.width, padding=1, dtype=self.dtype, kernel_init=he_fan_in, name=f"skip{place}")(fused)
      skips.append(resize_bilinear(skip, maps[0].shape[2:4], align_corners=False))  # [B, T, h, w, D]
      if place > 1:
        finer = maps[place - 2]
        wide = resize_bilinear(fused, finer.shape[2:4], align_corners=False)
        joint = jnp.concatenate([wide, finer], axis=-1)  # [B, T, h, w, 2 D]
        direct = Conv(self.width, padding=1, dtype=self.dtype, kernel_init=he_fan_in, name=f"direct{place}")
        vis = nn.relu(direct(joint))
        if present is not None:
          vis = vis * present[:, :, None, None, None].astype(vis.dtype)
    return functools.reduce(jnp.add, skips), tuple(fused_maps), tuple(heard)


class FullyConnectedHead(nn.Module):
  """Mask logits cell by cell: FC(MLP(x)), equation 9, with one hidden layer as wide as its input (ours)."""

  num_classes: int = 1
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*N h w D"]) -> Float[Array, "*N h w K"]:
    x = nn.relu(nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=he_fan_in, name="mlp")(x))
    return nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=he_fan_in, name="fc")(x)
