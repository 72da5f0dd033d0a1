"""Sound in, log-mel out: reads sound files, resamples, and makes what the audio encoders listen to.

Between reader and front end a sound is mono float32 in [-1, 1] at 16 kHz; arithmetic is float64 inside. Only the
Robust paper's front end takes sounds at the rate of their files (`Recorded`).
Seconds and examples are not the same: example k of the VGGish front end covers [0.96 k, 0.96 k + 0.975) s.
"""

import functools
import math
import struct
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.signal import upfirdn

from avs_jax import mel
from avs_jax.errors import InputError
from data_pipelines.clips import SAMPLE_RATE_HZ

# VGGish's front end, as the AVSBench code runs it.
WINDOW = 400  # samples at 16 kHz, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512
BANDS = 64
MEL_RANGE_HZ = (125.0, 7500.0)
LOG_OFFSET = 0.01  # silence is ln 0.01 everywhere
FRAMES = 96  # STFT frames an example: 0.96 s
EXAMPLE_SAMPLES = (FRAMES - 1) * HOP + WINDOW  # 0.975 s: the shortest sound that gives an example

# The "kaiser_best" filter of resampy 0.4.3, with which the reference resamples.
ZERO_CROSSINGS = 50
TABLE = 8192  # entries a zero crossing, linear interpolation between them
KAISER_BETA = 12.984585247040012
ROLLOFF = 0.9173473712608761
MAX_RATIO = 100_000  # of coprime rates; the filter holds 100 values for each

# The Kaiser filter nearest to soxr's "HQ" on the Robust fixture: edges as parts of Nyquist, stop band.
SOXR_BAND = (0.9135, 1.0)
SOXR_DB = 132.0

# The Robust paper's released front end (its negatives only).
ROBUST_RATE_HZ = 22_050
ROBUST_FFT = 1024
ROBUST_HOP = 512
ROBUST_RANGE_DB = 80.0
ROBUST_FLOOR = 1e-10  # power; -100 dB


class Recorded(NamedTuple):
  """A mono sound at the rate of its file."""

  samples: Float[np.ndarray, "S"]
  rate_hz: int

  def at_16_khz(self) -> Float[np.ndarray, "S2"]:
    """float32, as `read_wav` gives it."""
    return resample(self.samples, self.rate_hz, SAMPLE_RATE_HZ).astype(np.float32)


def log_mel(
  waveform: Float[np.ndarray, "S"] | Float[np.ndarray, "S channels"], sample_rate_hz: int
) -> Float[np.ndarray, "n 96 64"]:
  """VGGish examples of a sound: natural log of 64 mel bands, 96 frames of 10 ms each, not overlapping.

  Channels are averaged, any rate is resampled to 16 kHz, what does not fill an example is dropped
  (n examples take 0.96 n + 0.015 s). int16 samples are taken as /32768.
  Equals the reference to 5e-7, at 16 kHz and for 44.1 kHz stereo (which it resampled with resampy 0.4.3).
  """
  samples = resample(mono(waveform), sample_rate_hz, SAMPLE_RATE_HZ)
  count = max(0, samples.size - EXAMPLE_SAMPLES) // (FRAMES * HOP) + (samples.size >= EXAMPLE_SAMPLES)
  if count == 0:
    return np.zeros((0, FRAMES, BANDS), np.float32)
  frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP][: count * FRAMES]
  magnitude = np.abs(np.fft.rfft(frames * _hann(WINDOW), FFT))  # [n*96, 257]
  bands = np.log((_mel_rows() @ magnitude.T).T + LOG_OFFSET)  # [n*96, 64]
  return bands.reshape(count, FRAMES, BANDS).astype(np.float32)


def samples_for(examples: int) -> int:
  """Samples at 16 kHz of the shortest sound that gives so many VGGish examples: 0.96 n + 0.015 s."""
  return (examples - 1) * FRAMES * HOP + EXAMPLE_SAMPLES


def clip_log_mel(
  waveform: np.ndarray,
  seconds: int = 5,
  rate: int = SAMPLE_RATE_HZ,
  *,
  pad: Literal["last", "zeros"] = "last",
) -> Float[np.ndarray, "T 96 64"]:
  """Exactly one VGGish example for each of a clip's `seconds`, by the published padding rules.

  Args:
    pad: what fills missing examples. "last" repeats the last one (S4, MS3); "zeros" gives all-zero examples,
      which are not silence (AVSS).

  Examples beyond `seconds` are dropped (the reference fails there). A sound too short for a single example is
  first filled up with silence under "last".
  """
  samples = mono(waveform)
  shortest = math.ceil(EXAMPLE_SAMPLES * rate / SAMPLE_RATE_HZ) + 1
  if pad == "last" and samples.size < shortest:
    samples = np.pad(samples, (0, shortest - samples.size))
  examples = log_mel(samples, rate)[:seconds]
  missing = seconds - len(examples)
  if missing == 0:
    return examples
  fill = examples[-1:] if pad == "last" else np.zeros((1, FRAMES, BANDS), np.float32)
  return np.concatenate([examples, np.repeat(fill, missing, axis=0)])


def robust_log_mel(waveform: np.ndarray, rate: int, seconds: int = 5) -> Float[np.ndarray, "T 96 64"]:
  """The front end which the Robust paper's released code applies to negatives, and to negatives only.

  Each second alone: 22 050 Hz, 44 centred frames (FFT 1024, hop 512), power in 64 Slaney bands, dB floored
  80 dB below the second's maximum, standardised, then 52 frames of zeros. A negative made so can be told from
  a positive without listening; it is kept only to repeat published numbers (`front_end="as_published"`).
  A digitally silent second is -100 in frames 0-43, not standardised.
  Equals the reference to 1e-4 for sound of 22 050 Hz; to 0.01 at other rates, which it resampled with soxr. Only
  the first `seconds` are resampled: what follows in the file does not reach the last frame.
  """
  samples = mono(waveform)[: seconds * rate]
  samples = resample(samples, rate, ROBUST_RATE_HZ, filter="soxr")[: seconds * ROBUST_RATE_HZ]
  samples = np.pad(samples, (0, seconds * ROBUST_RATE_HZ - samples.size)).reshape(seconds, ROBUST_RATE_HZ)
  half = ROBUST_FFT // 2
  padded = np.pad(samples, ((0, 0), (half, half)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, ROBUST_FFT, axis=1)[
    :, ::ROBUST_HOP
  ]  # [T, 44, 1024]
  power = np.abs(np.fft.rfft(windows * _hann(ROBUST_FFT))) ** 2  # [T, 44, 513]
  decibels = 10 * np.log10(np.maximum(power @ slaney_matrix(), ROBUST_FLOOR))  # [T, 44, 64]
  decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - ROBUST_RANGE_DB)
  std = decibels.std(axis=(1, 2), keepdims=True)
  mean = decibels.mean(axis=(1, 2), keepdims=True)
  scaled = np.where(std > 0, (decibels - mean) / np.where(std > 0, std, 1), decibels)
  return np.pad(scaled, ((0, 0), (0, FRAMES - scaled.shape[1]), (0, 0))).astype(np.float32)


def mono(waveform: np.ndarray) -> Float[np.ndarray, "S"]:
  """float64 [S]: the mean over channels of [S] or [S, channels]; int16 becomes [-1, 1).

  Raises:
    InputError: samples of another type or shape, or not all of them finite.
  """
  samples = np.asarray(waveform)
  if samples.dtype == np.int16:
    samples = samples / 32768
  if samples.ndim not in (1, 2) or samples.dtype.kind != "f":
    raise InputError(
      "a sound is float (or int16) samples of shape [S] or [S, channels], not"
      f" {samples.dtype}{list(samples.shape)}"
    )
  samples = samples.astype(np.float64)
  if samples.ndim == 2:
    samples = samples.mean(axis=1)
  if not np.isfinite(samples).all():
    raise InputError("the sound has NaN or infinite samples; make the file again")
  return samples


def fit(wave: Float[np.ndarray, "S"], samples: int) -> Float[np.ndarray, "N"]:
  """The sound at another length: cut, or begun again as often as needed. An empty one becomes silence."""
  return np.resize(wave, samples).astype(np.float32)


def resample(
  samples: Float[np.ndarray, "S"], from_hz: int, to_hz: int, *, filter: Literal["resampy", "soxr"] = "resampy"
) -> Float[np.ndarray, "S2"]:
  """Band-limited resampling by a windowed sinc, floor(S to/from) samples, float64; equal rates pass through.

  Args:
    filter: "resampy" gives the samples of resampy 0.4.3's kaiser_best to 1e-11, by one polyphase filter in
      place of its loop. "soxr" is near soxr's high quality: 0.01 at most in a standardised log-mel.

  Raises:
    InputError: a rate below 1 Hz, or a ratio of numbers above `MAX_RATIO`.
  """
  divisor = max(1, math.gcd(int(from_hz), int(to_hz)))
  up, down = int(to_hz) // divisor, int(from_hz) // divisor
  if min(up, down) < 1 or max(up, down) > MAX_RATIO:
    raise InputError(f"a sample rate of {from_hz} Hz cannot be brought to {to_hz} Hz; convert the file first")
  if up == down or samples.size == 0:
    return samples
  kernel, centre = _resampy_kernel(up, down) if filter == "resampy" else _soxr_kernel(up, down)
  # Output m reads the kernel around m * down + centre: start where that is a multiple of `down`.
  lead = -centre % down
  out = upfirdn(np.pad(kernel, (lead, 0)), samples, up, down)
  first, count = (centre + lead) // down, samples.size * up // down
  out = out[first : first + count]
  return np.pad(out, (0, count - out.size))


@functools.lru_cache(maxsize=16)
def _resampy_kernel(up: int, down: int) -> tuple[np.ndarray, int]:
  """The filter on the common grid of both rates, and the position of its centre.

  As resampy has it: the table step is truncated to whole entries when the rate falls, so the filter is
  slightly wider than the ideal one, and the two wings differ by the interpolation at whole samples.
  """
  position = np.linspace(0, ZERO_CROSSINGS, ZERO_CROSSINGS * TABLE + 1)
  taper = np.kaiser(2 * ZERO_CROSSINGS * TABLE + 1, KAISER_BETA)[ZERO_CROSSINGS * TABLE :]
  scale = min(1.0, up / down)
  table = scale * ROLLOFF * np.sinc(ROLLOFF * position) * taper
  slope = np.diff(table, append=table[-1])
  step = int(scale * TABLE)

  def wing(phase: np.ndarray) -> np.ndarray:
    """Weights [reach, phases] at i + phase / up input samples from the output, i = 0, 1, ..."""
    where = scale * phase / up * TABLE
    entry = where.astype(np.int64)
    index = entry + step * np.arange(-(-table.size // step))[:, None]
    inside = index < (table.size - entry) // step * step + entry
    index = np.minimum(index, table.size - 1)
    return np.where(inside, table[index] + (where - entry) * slope[index], 0.0)

  after = wing(np.arange(up)).reshape(-1)  # input at or before the output: offsets 0, 1, ... on the grid
  before = wing(np.arange(1, up + 1)).reshape(-1)  # input after the output: offsets 1, 2, ...
  return np.concatenate([before[::-1], after]), before.size


@functools.lru_cache(maxsize=16)
def _soxr_kernel(up: int, down: int) -> tuple[np.ndarray, int]:
  """A Kaiser low-pass with soxr's edges, by Kaiser's two design formulas; and the position of its centre."""
  coarse = max(up, down)
  low, high = SOXR_BAND
  reach = math.ceil((SOXR_DB - 7.95) / (2.285 * math.pi * (high - low) / coarse) / 2)
  cutoff = (low + high) / 2 / coarse
  wave = np.sinc(cutoff * np.arange(-reach, reach + 1))
  return up * cutoff * wave * np.kaiser(2 * reach + 1, 0.1102 * (SOXR_DB - 8.7)), reach


def _hann(length: int) -> np.ndarray:
  """Periodic Hann window."""
  return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@functools.cache
def mel_matrix() -> Float[np.ndarray, "257 64"]:
  """VGGish's filterbank: triangles linear in mel = 1127 ln(1 + f/700), peak 1, no weight on the DC bin."""
  weights = mel.kaldi_matrix(SAMPLE_RATE_HZ, FFT, BANDS, *MEL_RANGE_HZ).copy()
  weights[0] = 0.0
  return weights


@functools.cache
def _mel_rows() -> sparse.csr_array:
  """`mel_matrix`, transposed and sparse: 1 entry in 36 is not 0, and no BLAS thread is woken for it."""
  return sparse.csr_array(mel_matrix().T)


@functools.cache
def slaney_matrix() -> Float[np.ndarray, "513 64"]:
  """The Robust front end's filterbank: Slaney's, from 0 to 11 025 Hz."""
  return mel.slaney_matrix(ROBUST_RATE_HZ, ROBUST_FFT, BANDS, 0.0, ROBUST_RATE_HZ / 2)


def read_wav(path: str | Path) -> Float[np.ndarray, "S"]:
  """A WAV file as mono float32 [S] at 16 kHz; any rate and channel count, PCM of 8 to 32 bits or floats.

  Raises:
    InputError: the file is missing, empty or broken, or of a format that is not read.
  """
  recorded = read_recorded(path)
  try:
    return recorded.at_16_khz()
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def read_recorded(path: str | Path) -> Recorded:
  """The same file, mono float64, at the rate it has.

  Raises:
    InputError: as of `read_wav`.
  """
  path = Path(path)
  try:
    data = path.read_bytes()
  except OSError as error:
    raise InputError(f"{path}: cannot read the sound ({error.strerror})") from error
  samples, rate_hz = _decode_wav(data, path)
  if samples.size == 0:
    raise InputError(f"{path}: the sound is empty; make the file again")
  try:
    return Recorded(mono(samples), rate_hz)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def write_wav(path: str | Path, waveform: Float[np.ndarray, "S"]) -> None:
  """Writes mono 16-bit PCM at 16 kHz, x -> round(32768 x) clipped: `read_wav` gives such samples back."""
  samples = np.clip(np.rint(mono(waveform) * 32768), -32768, 32767).astype("<i2").tobytes()
  head = struct.pack("<4sI4s", b"RIFF", 36 + len(samples), b"WAVE")
  form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 2, 2, 16)
  Path(path).write_bytes(head + form + struct.pack("<4sI", b"data", len(samples)) + samples)


def _decode_wav(data: bytes, path: Path) -> tuple[Float[np.ndarray, "S channels"], int]:
  """Samples and rate of a RIFF/WAVE file. Parsed here: scipy's reader only warns of truncated files."""
  if len(data) == 0:
    raise InputError(f"{path}: the file is empty; copy it again")
  if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
    raise InputError(f"{path}: not a WAV file (no RIFF/WAVE header)")
  form, at = None, 12
  while at + 8 <= len(data):
    name, size = struct.unpack_from("<4sI", data, at)
    at += 8
    if name == b"fmt " and size >= 16 and at + size <= len(data):
      kind, channels, rate_hz, _, block, _ = struct.unpack_from("<HHIIHH", data, at)
      if kind == 0xFFFE and size >= 26:  # extensible: the kind begins the sub-format's identifier
        kind = struct.unpack_from("<H", data, at + 24)[0]
      form = (kind, channels, rate_hz, block)
    if name == b"data":
      if form is None:
        raise InputError(f"{path}: broken WAV file, the sound comes before its format; make the file again")
      streamed = size == 0xFFFFFFFF  # written to a pipe: the length was never known
      if not streamed and at + size > len(data):
        raise InputError(
          f"{path}: truncated, {len(data) - at} of {size} bytes of sound are there; copy it again"
        )
      return _samples(data[at:] if streamed else data[at : at + size], form, path), form[2]
    at += size + size % 2
  raise InputError(f"{path}: truncated, the WAV file ends before its sound; copy it again")


def _samples(data: bytes, form: tuple[int, int, int, int], path: Path) -> Float[np.ndarray, "S channels"]:
  kind, channels, _, block = form
  width = block // channels if channels else 0
  if width * channels != block or (kind, width) not in {(1, 1), (1, 2), (1, 3), (1, 4), (3, 4), (3, 8)}:
    raise InputError(
      f"{path}: WAV of format {kind} with {8 * width} bits is not read (PCM of 8 to 32 bits and floats are);"
      " convert it to 16-bit PCM"
    )
  data = data[: len(data) // block * block]
  if kind == 3:
    samples = np.frombuffer(data, f"<f{width}").astype(np.float64)
  elif width == 1:
    samples = np.frombuffer(data, np.uint8) / 128 - 1
  elif width == 3:  # put under a zero low byte, read as 32 bits
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    samples = wide.view("<i4")[:, 0] / 2**31
  else:
    samples = np.frombuffer(data, f"<i{width}") / 2 ** (8 * width - 1)
  return samples.reshape(-1, channels)
