"""HTS-AT: a Swin Transformer that sees ten seconds of log-mel, folded to a square; also the ear of LAION-CLAP."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avs_jax.encoders.raw_sound import hann, windows
from avs_jax.encoders.swin import EPSILON, PATCH, PatchEmbed, SwinStage, check_shape
from avs_jax.errors import InputError
from avs_jax.layers import BatchNorm, Dtype, LayerNorm, torch_default
from avs_jax.mel import slaney_matrix

BANDS = 64  # mel bands
FFT = 1024  # samples of a window
FLOOR = 1e-10  # power; -100 dB
CUBIC = -0.75  # PyTorch's bicubic kernel; jax.image's has -0.5


class HTSAT(nn.Module):
  """Hierarchical token-semantic audio transformer (Chen et al., 2022), at the authors' AudioSet settings.

  Takes sound [N, S] at `sample_rate_hz`, or its front end's decibels [N, time, 64]. Up to `frames` frames
  (10.24 s) are stretched to just so many; of a longer sound, as there, the mean over crops of half its length.
  Deviation: in training, too, where the original takes one crop at random. Spectrogram masking and mixing of
  training sounds are left to the data.

  Attributes:
    width, depths, heads, window: as of `swin.Swin`; channels double from stage to stage.
    side: pixels on a side of the square that the log-mel is folded to, a multiple of 64.
    num_classes: K, classes of `recognise` and `frames`.
    with_classes: have the classifier, which the embedding does not need.
    repeat: repeat a short sound as often as it fits before it is stretched, as the original's inference on
      sounds of any length does; its plain forward pass, and this default, only stretch.
    drop_path: rate of the last block; it rises from 0 linearly over all blocks.
    sample_rate_hz, hop, low_hz, high_hz: of the front end. LAION-CLAP: 48000, 480, 50, 14000.
    remat: recompute the inside of each block in the backward pass instead of storing it.

  Raises:
    InputError: a shape that no network can have, or a `side` that does not fit the bands or the last stage's cells.
  """

  width: int = 96
  depths: tuple[int, ...] = (2, 2, 6, 2)
  heads: tuple[int, ...] = (4, 8, 16, 32)
  window: int = 8
  side: int = 256
  num_classes: int = 527
  with_classes: bool = False
  repeat: bool = False
  drop_path: float = 0.1
  sample_rate_hz: int = 32_000
  hop: int = 320
  low_hz: float = 50.0
  high_hz: float = 14_000.0
  dtype: Dtype = jnp.float32
  remat: bool = False

  @property
  def dim(self) -> int:
    """Width of the embedding."""
    return self.width * 2 ** (len(self.depths) - 1)

  @property
  def pieces(self) -> int:
    """Pieces of time that lie one below the other in the square."""
    return self.side // BANDS

  @property
  def frames(self) -> int:
    """Frames of sound that fill the square."""
    return self.pieces * self.side

  def setup(self) -> None:
    check_shape("htsat", self.width, self.depths, self.heads, self.window)
    cell = PATCH * 2 ** (len(self.depths) - 1)
    if self.side < BANDS or self.side % BANDS or BANDS % cell:
      raise InputError(
        f"htsat: side is {self.side} and the last stage's cells are {cell} pixels wide; side must be a multiple "
        f"of {BANDS} and {BANDS} one of the cells: give another side or fewer depths."
      )
    self.bn0 = BatchNorm(EPSILON, dtype=self.dtype)
    self.patch_embed = PatchEmbed(self.width, self.dtype)
    for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
      stage = SwinStage(depth, heads, self.window, "classic", dtype=self.dtype, remat=self.remat)
      setattr(self, f"layers_{i}", stage)
    self.norm = LayerNorm(EPSILON, self.dtype)
    if self.with_classes:
      self.tscam_conv = nn.Conv(
        self.num_classes,
        (BANDS // cell, 3),
        padding=((0, 0), (1, 1)),
        dtype=self.dtype,
        kernel_init=torch_default,
      )

  def front_end(self, waveform: Float[Array, "N S"]) -> Float[Array, "N time 64"]:
    """Decibels of 64 mel bands, a frame every `hop` samples, the first and last centred on the ends.

    Raises:
      InputError: the sound is not longer than half a window.
    """
    if waveform.shape[1] <= FFT // 2:
      raise InputError(
        f"htsat: a sound of {waveform.shape[1]} samples is too short; give more than {FFT // 2} at "
        f"{self.sample_rate_hz} Hz."
      )
    padded = jnp.pad(jnp.asarray(waveform, jnp.float32), ((0, 0), (FFT // 2,) * 2), mode="reflect")
    power = jnp.square(jnp.abs(jnp.fft.rfft(windows(padded, FFT, self.hop) * hann(FFT)[None, None])))
    bands = slaney_matrix(self.sample_rate_hz, FFT, BANDS, self.low_hz, self.high_hz).astype(np.float32)
    mel = jnp.matmul(power, bands, precision="highest")  # [N, time, 64]
    return 10 / np.log(10) * jnp.log(jnp.maximum(mel, FLOOR))

  def fold(self, x: Float[Array, "N time 64"]) -> Float[Array, "N side side 1"]:
    """The square picture of up to `frames` frames: time from left to right, piece below piece."""
    time = x.shape[1]
    if self.repeat and 0 < time < self.frames:
      x = jnp.tile(x, (1, self.frames // time, 1))
    if x.shape[1] != self.frames:
      stretch = jnp.asarray(bicubic(x.shape[1], self.frames))
      x = jnp.einsum("st,ntm->nsm", stretch, x.astype(jnp.float32), precision="highest")  # [N, frames, 64]
    x = x.reshape(-1, self.pieces, self.side, BANDS).swapaxes(2, 3)  # [N, pieces, 64, side]
    return x.reshape(-1, self.side, self.side, 1).astype(self.dtype)

  def tokens(self, x: Float[Array, "N time 64"], *, train: bool = False) -> Float[Array, "N bands steps C"]:
    """The last normed map of up to `frames` frames: a few bands of frequency, time unfolded again."""
    x = self.patch_embed(self.fold(self.bn0(x, train=train)))
    ramp = np.linspace(0, self.drop_path, sum(self.depths), dtype=np.float32)
    for i, depth in enumerate(self.depths):
      if i:
        x = getattr(self, f"layers_{i - 1}").merge(x)
      first = sum(self.depths[:i])
      rates = jnp.asarray(ramp[first : first + depth]) if train and self.drop_path else None
      x = getattr(self, f"layers_{i}")(x, rates)
    x = self.norm(x)
    count, rows, cols, width = x.shape
    x = x.reshape(count, self.pieces, rows // self.pieces, cols, width).swapaxes(1, 2)
    x = x.reshape(count, rows // self.pieces, self.pieces * cols, width)  # [N, bands, steps, C]
    if self.with_classes and self.is_initializing():
      self.tscam_conv(x)  # brings its parameters to life
    return x

  def crops(self, x: Float[Array, "N S"] | Float[Array, "N time mel"]) -> list[Float[Array, "N time2 mel"]]:
    """Decibels of the sound, in crops of half its length where it does not fit the square.

    Raises:
      InputError: the sound is too short for `front_end`, or has more than 2 * `frames` + 2 frames.
    """
    x = self.front_end(x) if x.ndim == 2 else x
    time = x.shape[1]
    if time <= self.frames:
      return [x]
    half, step = (time - 1) // 2, (time - 1) // 4
    if half > self.frames:
      raise InputError(
        f"htsat: a sound of {time} frames is too long; give at most {2 * self.frames + 2} at once."
      )
    return [x[:, first : first + half] for first in range(0, time - half - 1, step)]

  def __call__(
    self, x: Float[Array, "N S"] | Float[Array, "N time mel"], *, train: bool = False
  ) -> Float[Array, "N A"]:
    """One embedding for each sound: the mean over the last map."""
    maps = [self.tokens(crop, train=train) for crop in self.crops(x)]
    return average([y.mean((1, 2), jnp.float32) for y in maps])

  def recognise(
    self, x: Float[Array, "N S"] | Float[Array, "N time mel"]
  ) -> tuple[Float[Array, "N A"], Float[Array, "N K"], Float[Array, "N steps K"]]:
    """Embedding; probabilities of the classes in the whole sound; and in each of its equal steps of time.

    Raises:
      InputError: the encoder was built without classes.
    """
    if not self.with_classes:
      raise InputError("htsat: it has no classifier; build it with with_classes=True.")
    maps = [self.tokens(crop) for crop in self.crops(x)]
    logits = [self.tscam_conv(y)[:, 0].astype(jnp.float32) for y in maps]  # [N, steps, K]
    return (
      average([y.mean((1, 2), jnp.float32) for y in maps]),
      average([jax.nn.sigmoid(y.mean(1)) for y in logits]),
      average([jax.nn.sigmoid(y) for y in logits]),
    )


def average(values: list[Float[Array, "*N"]]) -> Float[Array, "*N"]:
  """The mean of equal arrays."""
  return functools.reduce(jnp.add, values[1:], values[0]) / len(values)


@functools.cache
def bicubic(size: int, out: int) -> Float[np.ndarray, "out size"]:
  """Bicubic interpolation along one axis as a matrix; both ends stay where they are, outside is the border."""
  position = np.arange(out) * ((size - 1) / (out - 1))
  first = np.floor(position).astype(int)
  matrix = np.zeros((out, size))
  for tap in range(-1, 3):
    distance = np.abs(position - first - tap)
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    place = np.clip(first + tap, 0, size - 1)
    np.add.at(matrix, (np.arange(out), place), np.where(distance <= 1, near, far))
  return matrix.astype(np.float32)
