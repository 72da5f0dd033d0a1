"""Filterbanks of the audio front ends, in numpy alone: the data pipeline and the encoders share them."""

import functools
import math

import numpy as np
from jaxtyping import Float

# Slaney's mel scale: linear to 1 kHz (a mel is 200 / 3 Hz), then 27 mels for each factor of 6.4.
_LINEAR_HZ = 200 / 3
_KNEE_HZ = 1000.0
_KNEE = _KNEE_HZ / _LINEAR_HZ
_LOG_STEP = math.log(6.4) / 27


def slaney_mel(hz: float) -> float:
  """A frequency on Slaney's mel scale."""
  return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE + math.log(hz / _KNEE_HZ) / _LOG_STEP


@functools.cache
def slaney_matrix(
  rate_hz: int, fft: int, bands: int, low_hz: float, high_hz: float
) -> Float[np.ndarray, "bins bands"]:
  """From a power spectrum to mel bands: Slaney's scale, triangles linear and of equal area in Hz."""
  mels = np.linspace(slaney_mel(low_hz), slaney_mel(high_hz), bands + 2)
  edges = np.where(mels < _KNEE, mels * _LINEAR_HZ, _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE)))
  bins = np.linspace(0, rate_hz / 2, fft // 2 + 1)[:, None]
  return _triangles(bins, edges) * (2 / (edges[2:] - edges[:-2]))


@functools.cache
def kaldi_matrix(
  rate_hz: int, fft: int, bands: int, low_hz: float, high_hz: float
) -> Float[np.ndarray, "bins bands"]:
  """From a power spectrum to mel bands as Kaldi has them: triangles linear in mel = 1127 ln(1 + f/700), peak 1.

  Bands narrower than the spectrum's lines may hold none of them and be zero.
  """

  def mel(hz):
    return 1127.0 * np.log1p(hz / 700.0)

  edges = np.linspace(mel(low_hz), mel(high_hz), bands + 2)
  return _triangles(mel(np.linspace(0, rate_hz / 2, fft // 2 + 1))[:, None], edges)


def _triangles(bins: np.ndarray, edges: np.ndarray) -> np.ndarray:
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  return np.maximum(0.0, np.minimum(rising, falling))
