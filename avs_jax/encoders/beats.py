"""BEATs: a transformer over patches of a filterbank picture, pre-trained to predict its own tokens."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from avs_jax.encoders.raw_sound import windows
from avs_jax.errors import InputError
from avs_jax.initial import Initial, normal, ones, zeros
from avs_jax.layers import Conv, Dtype, LayerNorm, attend, gelu, repeated, torch_default
from avs_jax.mel import kaldi_matrix

# Kaldi's filterbank as the released code calls it: 25 ms every 10 ms at 16 kHz.
WINDOW, HOP, FFT = 400, 160, 512
BANDS = 128
MEL_RANGE_HZ = (20.0, 8000.0)
PRE_EMPHASIS = 0.97
POVEY = 0.85  # exponent of the window, a Hann window otherwise
SMALLEST = 2.0**-23  # below this there is no logarithm; Kaldi's float epsilon
FULL_SCALE = 2.0**15  # samples are 16-bit integers there
MEAN, STD = 15.41663, 6.55582  # of AudioSet's filterbanks; they are divided by two standard deviations

PATCH = 16  # frames and bands on a side
EPSILON = 1e-5  # of every norm
GATE_UNITS = 8  # two groups of four

# Fresh weights, as for deep norm (Wang et al., 2022); `_deep` adds its gain.
_xavier = Initial("normal", 2.0, "both")


def _deep(depth: int) -> Initial:
  return Initial("normal", 2.0 * (8 * depth) ** -0.5, "both")


def buckets(length: int, count: int, max_distance: int) -> np.ndarray:
  """Bucket [length, length] of every pair (query, key): exact near by, then logarithmic; later keys apart.

  Raffel et al., 2020 (T5), bidirectional.
  """
  distance = np.arange(length)[None] - np.arange(length)[:, None]
  half = count // 2
  exact = half // 2
  size = np.maximum(np.abs(distance), 1).astype(np.float32)
  growth = np.log(size / exact) / np.log(max_distance / exact) * (half - exact)
  far = np.minimum(exact + growth.astype(np.int32), half - 1)
  return half * (distance > 0) + np.where(np.abs(distance) < exact, np.abs(distance), far)


class PositionalConv(nn.Module):
  """A long grouped convolution over the tokens, whose kernel has one learned length for each tap.

  wav2vec 2.0 (Baevski et al., 2020), section 2; the even kernel's last output is dropped.
  """

  kernel: int
  groups: int
  dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "N n C"]) -> Float[Array, "N n C"]:
    width = x.shape[-1]
    length = self.param("weight_g", ones, (1, 1, self.kernel), jnp.float32)
    # The published start, N(0, 4 / (taps * channels)); only its direction matters.
    shape = (width, width // self.groups, self.kernel)
    direction = self.param("weight_v", normal((4 / (self.kernel * width)) ** 0.5), shape, jnp.float32)
    bias = self.param("bias", zeros, (width,), jnp.float32)
    norm = jnp.sqrt(jnp.square(direction).sum((0, 1), keepdims=True))
    weight = (direction * (length / norm)).transpose(2, 1, 0)  # [kernel, C/groups, C]
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      weight.astype(self.dtype),
      (1,),
      [(self.kernel // 2, (self.kernel - 1) // 2)],
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=self.groups,
    )
    return gelu(y + bias.astype(self.dtype)[None, None])


class Attention(nn.Module):
  """Self-attention with a bias for each relative position, which every query scales for itself.

  BEATs, section 3.1; the gate is WavLM's (Chen et al., 2022, section 3).

  Attributes:
    num_buckets, max_distance: of relative positions, see `buckets`.
  """

  heads: int
  depth: int
  num_buckets: int
  max_distance: int
  dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "N n C"],
    position: Float[Array, "1 M n n"] | None,
    allowed: Bool[Array, "N 1 n"] | None,
  ) -> tuple[Float[Array, "N n C"], Float[Array, "1 M n n"]]:
    """The tokens after attending to one another, and the bias of their positions.

    Args:
      position: bias that the first layer made, which all share; None: this is the first layer.
      allowed: tokens that are sound; None: all.
    """
    count, tokens, width = x.shape
    if position is None:
      place = buckets(tokens, self.num_buckets, self.max_distance)
      embed = nn.Embed(
        self.num_buckets, self.heads, embedding_init=normal(0.02), name="relative_attention_bias"
      )
      shared = embed(jnp.asarray(place)).transpose(2, 0, 1)[None]  # [1, M, n, n]
    else:
      shared = position

    def project(name: str, initial: Initial) -> Float[Array, "N n M d"]:
      y = nn.Dense(width, dtype=self.dtype, kernel_init=initial, name=name)(x)
      return y.reshape(count, tokens, self.heads, -1)

    query, key = project("q_proj", _xavier), project("k_proj", _xavier)
    value = project("v_proj", _deep(self.depth))
    units = nn.Dense(GATE_UNITS, dtype=self.dtype, kernel_init=normal(0.02), name="grep_linear")(query)
    units = units.astype(jnp.float32).reshape(count, tokens, self.heads, 2, -1).sum(-1)  # [N, n, M, 2]
    sigmoids = jax.nn.sigmoid(units).transpose(3, 0, 2, 1)[..., None]  # [2, N, M, n, 1]
    scale = self.param("grep_a", ones, (1, self.heads, 1, 1), jnp.float32)
    gate = sigmoids[0] * (sigmoids[1] * scale - 1) + 2  # [N, M, n, 1]
    out = attend(query, key, value, bias=gate * shared, allowed=allowed)
    dense = nn.Dense(width, dtype=self.dtype, kernel_init=_deep(self.depth), name="out_proj")
    return dense(out.reshape(count, tokens, width)), shared


class Layer(nn.Module):
  """Attention and two linear layers, each added to its enlarged input, then normed (deep norm)."""

  heads: int
  hidden: int
  depth: int
  num_buckets: int
  max_distance: int
  dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "N n C"],
    position: Float[Array, "1 M n n"] | None,
    allowed: Bool[Array, "N 1 n"] | None,
  ) -> tuple[Float[Array, "N n C"], Float[Array, "1 M n n"]]:
    """As of `Attention`; returns the bias of the positions too, for the layers that follow."""
    enlarge = (2 * self.depth) ** 0.25
    attention = Attention(
      self.heads, self.depth, self.num_buckets, self.max_distance, self.dtype, name="self_attn"
    )
    branch, position = attention(x, position, allowed)
    x = LayerNorm(EPSILON, self.dtype, name="self_attn_layer_norm")(x * enlarge + branch)
    dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_deep(self.depth))
    branch = dense(x.shape[-1], name="fc2")(gelu(dense(self.hidden, name="fc1")(x)))
    return LayerNorm(EPSILON, self.dtype, name="final_layer_norm")(x * enlarge + branch), position


class Encoder(nn.Module):
  """The positional convolution and the layers."""

  depth: int
  heads: int
  hidden: int
  num_buckets: int
  max_distance: int
  pos_kernel: int
  pos_groups: int
  dtype: Dtype
  remat: bool

  @nn.compact
  def __call__(self, x: Float[Array, "N n C"], padded: Bool[Array, "N n"] | None) -> Float[Array, "N n C"]:
    allowed = None
    if padded is not None:
      x = jnp.where(padded[..., None], jnp.zeros_like(x), x)
      allowed = ~padded[:, None]  # [N, 1, n]
    x = x + PositionalConv(self.pos_kernel, self.pos_groups, self.dtype, name="pos_conv_0")(x)
    x = LayerNorm(EPSILON, self.dtype, name="layer_norm")(x)
    layer = repeated(Layer, plain=self.is_initializing(), remat=self.remat)
    position = None
    for i in range(self.depth):
      one = layer(
        self.heads, self.hidden, self.depth, self.num_buckets, self.max_distance, self.dtype,
        name=f"layers_{i}",
      )  # fmt: skip
      x, position = one(x, position, allowed)
    return x


class BEATs(nn.Module):
  """Bidirectional encoder from audio transformers (Chen et al., 2023), at the released models' settings.

  Takes sound [N, S] at 16 kHz, or its front end's normed filterbank [N, time, 128].
  Deviation: no dropout, as the released models are run.

  Attributes:
    width, depth, heads: of the transformer; its hidden layers are four times as wide.
    patch_width: channels of a patch's embedding before it is widened.
    num_buckets, max_distance: of relative positions, see `buckets`.
    pos_kernel, pos_groups: of the positional convolution.
    num_classes: K, classes of `recognise`.
    with_classes: have the fine-tuned models' classifier, which the embedding does not need.
    remat: recompute the inside of each layer in the backward pass instead of storing it.

  Raises:
    InputError: no layer, or a width that is no multiple of `heads` and of `pos_groups`.
  """

  width: int = 768
  depth: int = 12
  heads: int = 12
  patch_width: int = 512
  num_buckets: int = 320
  max_distance: int = 800
  pos_kernel: int = 128
  pos_groups: int = 16
  num_classes: int = 527
  with_classes: bool = False
  dtype: Dtype = jnp.float32
  remat: bool = False

  sample_rate_hz = 16_000

  @property
  def dim(self) -> int:
    """Width of the embedding."""
    return self.width

  def setup(self) -> None:
    if self.depth < 1 or self.width % self.heads or self.width % self.pos_groups:
      raise InputError(
        f"beats: depth must be 1 or more and width a multiple of heads and pos_groups; given are depth "
        f"{self.depth}, width {self.width}, heads {self.heads}, pos_groups {self.pos_groups}."
      )
    self.patch_embedding = Conv(self.patch_width, PATCH, PATCH, use_bias=False, dtype=self.dtype)
    self.layer_norm = LayerNorm(EPSILON, self.dtype)
    self.post_extract_proj = nn.Dense(self.width, dtype=self.dtype, kernel_init=torch_default)
    self.encoder = Encoder(
      self.depth,
      self.heads,
      4 * self.width,
      self.num_buckets,
      self.max_distance,
      self.pos_kernel,
      self.pos_groups,
      self.dtype,
      self.remat,
    )
    if self.with_classes:
      self.predictor = nn.Dense(self.num_classes, dtype=self.dtype, kernel_init=torch_default)

  def front_end(self, waveform: Float[Array, "N S"]) -> Float[Array, "N time 128"]:
    """Log energies of 128 mel bands in frames of 25 ms every 10 ms, brought to AudioSet's mean and spread.

    Raises:
      InputError: the sound is shorter than a patch.
    """
    if waveform.shape[1] < WINDOW + (PATCH - 1) * HOP:
      raise InputError(
        f"beats: a sound of {waveform.shape[1]} samples is too short; give {WINDOW + (PATCH - 1) * HOP} or more "
        "at 16 kHz."
      )
    x = windows(FULL_SCALE * jnp.asarray(waveform, jnp.float32), WINDOW, HOP)  # [N, time, 400]
    x = x - x.mean(-1, keepdims=True)
    x = x - PRE_EMPHASIS * jnp.concatenate([x[..., :1], x[..., :-1]], -1)
    power = jnp.square(jnp.abs(jnp.fft.rfft(x * povey()[None, None], FFT)))  # [N, time, 257]
    bands = kaldi_matrix(self.sample_rate_hz, FFT, BANDS, *MEL_RANGE_HZ).astype(np.float32)
    energy = jnp.log(jnp.maximum(jnp.matmul(power, bands, precision="highest"), SMALLEST))
    return (energy - MEAN) / (2 * STD)

  def tokens(
    self, x: Float[Array, "N S"] | Float[Array, "N time mel"], padded: Bool[Array, "N n"] | None = None
  ) -> Float[Array, "N n A"]:
    """One token for each patch, 8 bands of a stretch of time after another; what fills no patch is dropped.

    Args:
      padded: tokens that are no sound; no other token sees them.

    Raises:
      InputError: the sound or the filterbank is smaller than a patch.
    """
    x = self.front_end(x) if x.ndim == 2 else x
    if min(x.shape[1:]) < PATCH:
      raise InputError(
        f"beats: a filterbank of {x.shape[1]} frames and {x.shape[2]} bands holds no patch; give {PATCH} or more "
        "of both."
      )
    x = self.patch_embedding(x[..., None])  # [N, t, f, C]
    x = self.post_extract_proj(self.layer_norm(x.reshape(x.shape[0], -1, x.shape[-1])))
    x = self.encoder(x, padded)
    if self.with_classes and self.is_initializing():
      self.predictor(x)  # brings its parameters to life
    return x

  def __call__(
    self, x: Float[Array, "N S"] | Float[Array, "N time mel"], *, train: bool = False
  ) -> Float[Array, "N A"]:
    """One embedding for each sound: the mean over its tokens; training changes nothing."""
    return self.tokens(x).astype(jnp.float32).mean(1)

  def recognise(
    self, x: Float[Array, "N S"] | Float[Array, "N time mel"], padded: Bool[Array, "N n"] | None = None
  ) -> tuple[Float[Array, "N A"], Float[Array, "N K"]]:
    """Embedding, and probabilities of the classes in the whole sound.

    Raises:
      InputError: the encoder was built without classes.
    """
    if not self.with_classes:
      raise InputError("beats: it has no classifier; build it with with_classes=True.")
    x = self.tokens(x, padded)
    heard = jnp.ones(x.shape[:2]) if padded is None else (~padded).astype(jnp.float32)
    share = (heard / heard.sum(1, keepdims=True))[..., None]  # [N, n, 1]
    logits = self.predictor(x).astype(jnp.float32)  # [N, n, K]
    return (x.astype(jnp.float32) * share).sum(1), jax.nn.sigmoid((logits * share).sum(1))


def povey() -> Float[np.ndarray, "length"]:
  """Kaldi's window: a symmetric Hann window to the power 0.85."""
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
  return (hann**POVEY).astype(np.float32)
