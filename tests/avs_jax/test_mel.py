"""Mel filterbanks are those of librosa and Kaldi."""

import numpy as np
import pytest

from avs_jax import mel


@pytest.mark.golden
def test_filterbanks_equal_those_of_librosa_and_kaldi(golden):
  kept = np.load(golden("backbones/audio_filters.npz"))
  ours = {
    "htsat_mel": mel.slaney_matrix(32_000, 1024, 64, 50.0, 14_000.0).T,
    "clap_slaney": mel.slaney_matrix(48_000, 1024, 64, 50.0, 14_000.0),
    "kaldi_mel": mel.kaldi_matrix(16_000, 512, 128, 20.0, 8000.0),
  }
  for name, matrix in ours.items():
    np.testing.assert_allclose(matrix, kept[name], atol=1e-7, err_msg=name)


def test_slaneys_scale_is_linear_to_one_kilohertz_and_logarithmic_above():
  assert mel.slaney_mel(200.0) == pytest.approx(3.0)
  assert mel.slaney_mel(1000.0) == pytest.approx(15.0)
  assert mel.slaney_mel(6400.0) == pytest.approx(42.0)


def test_bands_of_slaney_have_equal_area_and_bands_of_kaldi_equal_height():
  slaney = mel.slaney_matrix(16_000, 4096, 8, 100.0, 8000.0)
  np.testing.assert_allclose(slaney.sum(0) * 16_000 / 4096, 1.0, rtol=0.01)
  kaldi = mel.kaldi_matrix(16_000, 4096, 8, 100.0, 8000.0)
  np.testing.assert_allclose(kaldi.max(0), 1.0, rtol=0.02)
