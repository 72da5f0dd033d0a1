"""Active queries: what a second sounds like opens some of Mask2Former's queries, and only those are asked."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from avs_jax import encoders
from avs_jax.decoders import query_maps
from avs_jax.decoders.masked_decoder import MaskedDecoder
from avs_jax.decoders.multi_scale_decoder import MultiScaleDecoder
from avs_jax.decoders.pixel_decoder import CHANNELS_PER_GROUP
from avs_jax.errors import InputError, check_choice
from avs_jax.fusion.semantic_queries import Perception, dilate, released_marks
from avs_jax.initial import torch_default
from avs_jax.systems.system import Scene, System
from avs_jax.types import AnyArray, Outputs

MODES = ("paper", "released")
INTERACTIONS = ("active", "all")


class ActiveQueries(System):
  """Semantic-aware active queries, binary and semantic. Every frame stands alone; there is no time.

  "Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024), sections 4.2, 4.3.
  Deviation of "paper": see `query_maps` (how products become a map) and `set_losses`. "released" is what the
  published code does instead: no self-attention before the decoder, dormant queries at 1e-6 that take part
  everywhere, Mask2Former's ADE head of which some slots are read.

  Attributes:
    width: D; a multiple of 8 and of `heads`.
    mode: "paper" or "released".
    dilation: queries that one mark opens (paper).
    interaction: "active" (paper: dormant queries take no part) or "all" (table 2 without it).
    first_query: query 0 is always active; without it (table 2) only where no mark opens another. Paper mode.
    perception_layers, dropout: of the self-attention over the marked sound (paper).
    adapters: bottlenecks in both decoders, and in the visual encoder where it can have them.
    head_classes: classes of the head, "nothing" not counted; 0: `num_classes`, released 150.
    sampling: "packed" or "plain", equal numbers, see `deformable.sample_packed`.

  Raises:
    InputError: unknown `mode` or `interaction`, or a `width` that is no such multiple.
  """

  READS_MARKS = True

  visual: str = "swin_base_w12"
  width: int = 256
  num_queries: int = 100
  mode: str = "paper"
  dilation: int = 2
  interaction: str = "active"
  first_query: bool = True
  perception_layers: int = 3
  encoder_layers: int = 6
  decoder_layers: int = 9
  heads: int = 8
  points: int = 4
  dropout: float = 0.1
  adapters: bool = True
  head_classes: int = 0
  sampling: str = "packed"

  def __post_init__(self) -> None:
    if self.adapters and encoders.has_setting(self.visual, "adapters"):
      self.visual_args = FrozenDict({"adapters": True, **self.visual_args})
    super().__post_init__()

  def setup(self) -> None:
    for key, allowed in (("mode", MODES), ("interaction", INTERACTIONS)):
      check_choice(f"model.{key}", getattr(self, key), allowed)
    if self.width % CHANNELS_PER_GROUP or self.width % self.heads:
      needs = f"a multiple of {CHANNELS_PER_GROUP} and of its {self.heads} heads"
      raise InputError(f"model.width={self.width}: active_queries needs {needs}.")
    self.build_encoders()
    compute, is_paper = jnp.dtype(self.dtype), self.mode == "paper"
    self.audio_proj_0 = nn.Dense(2 * self.width, dtype=compute, kernel_init=torch_default)
    self.audio_proj_2 = nn.Dense(self.width, dtype=compute, kernel_init=torch_default)
    if is_paper:
      self.cross_a2t = Perception(layers=self.perception_layers, dropout=self.dropout, dtype=compute)
    self.pixel_decoder = MultiScaleDecoder(
      self.width,
      self.encoder_layers,
      self.heads,
      self.points,
      self.adapters,
      self.sampling,
      compute,
      self.remat,
    )
    self.query_decoder = MaskedDecoder(
      1 + (self.head_classes or (self.num_classes if is_paper else 150)),
      self.width,
      self.num_queries,
      self.decoder_layers,
      self.heads,
      self.adapters,
      compute,
      self.remat,
    )

  def prepare(self, scene: Scene, *, train: bool = False) -> tuple[Float[Array, "N h w D"], tuple]:
    """The pixel decoder's mask feature and its three maps, coarsest first."""
    return self.pixel_decoder([scene.kept(level) for level in scene.pyramid])

  def project(self, audio: Float[Array, "B T A"]) -> Float[Array, "B T D"]:
    """The sound of a second as the queries hear it."""
    return self.audio_proj_2(jax.nn.relu(self.audio_proj_0(audio)))

  def opened(self, marks: Float[AnyArray, "B T Q"]) -> Float[Array, "B T Q"]:
    """How far the marks open each query, as `mode` reads them.

    Raises:
      InputError: `marks` are not one a query.
    """
    _check_marks(marks, (*marks.shape[:-1], self.num_queries))
    flat = jnp.asarray(marks, jnp.float32).reshape(-1, self.num_queries)  # [B*T, Q]
    is_paper = self.mode == "paper"
    flat = dilate(flat, self.dilation, self.first_query) if is_paper else released_marks(flat)
    return flat.reshape(marks.shape)

  def decode(
    self,
    scene: Scene,
    audio: Float[Array, "B T A"],
    projected: Float[Array, "B T D"],
    *,
    train: bool = False,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Queries that the marks open hear the sound, read the frame and paint it.

    Args:
      marks: 1 where a second holds the class or cluster of a query, else 0; None opens all queries.

    Raises:
      InputError: `marks` has another shape.
    """
    shape = (*projected.shape[:2], self.num_queries)
    marks = jnp.ones(shape, jnp.float32) if marks is None else marks
    _check_marks(marks, shape)
    opened = self.opened(marks)
    opened = opened.reshape(-1, self.num_queries)  # [B*T, Q]
    is_paper = self.mode == "paper"
    heard = projected.reshape(-1, 1, projected.shape[-1]) * opened[..., None]  # [B*T, Q, D], equation 3
    prompt = self.cross_a2t(heard, train=train) if is_paper else heard  # equation 4
    feature, levels = scene.features
    taking_part = opened > 0.5 if is_paper and self.interaction == "active" else None
    masks, classes = self.query_decoder(prompt, feature, levels, taking_part)
    drawn = Outputs(
      logits=jnp.zeros((*shape[:2], *scene.size, self.num_classes), jnp.float32),
      visual_features=scene.unfold(scene.pyramid[-1]),
      audio_features=audio,
      projected_audio=projected,
      query_masks=tuple(scene.unfold(x) for x in masks),
      query_classes=tuple(scene.unfold(x) for x in classes),
      marks=scene.unfold(opened),
      real=None if scene.keep is None else scene.keep.reshape(scene.shape) > 0,
      draw=jax.random.bits(self.make_rng("dropout"), shape[:2]) if train else None,
    )
    return self.paint(drawn)

  def paint(self, outputs: Outputs) -> Outputs:
    """`outputs` with the map of its queries' last masks and classes, which others may have changed."""
    return query_maps.paint(outputs, self.num_classes, self.mode)


def _check_marks(marks: AnyArray, shape: tuple[int, ...]) -> None:
  if marks.shape != shape:
    raise InputError(f"marks are {list(marks.shape)}; give one a query and second, {list(shape)}.")
