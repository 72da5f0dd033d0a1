"""The front ends against the reference, the resampler against a slow loop, every broken sound file."""

import json
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from avs_jax.errors import InputError
from data_pipelines import audio


def reference_wave(n: np.ndarray, rate: int) -> np.ndarray:
  """The fixture's test sound: four tones, one of them swelling, and a rising chirp."""
  t = n / rate
  swell = 0.5 + 0.5 * np.sin(2 * np.pi * 0.7 * t)
  tones = 0.30 * swell * np.sin(2 * np.pi * 220 * t) + 0.20 * np.sin(2 * np.pi * 440 * t + 0.5)
  tones += 0.15 * np.sin(2 * np.pi * 1000 * t) + 0.10 * np.sin(2 * np.pi * 3500 * t + 1.0)
  return tones + 0.20 * np.sin(2 * np.pi * (100 * t + 6900 * t**2 / 10))


def riff(samples: bytes, *, kind=1, channels=1, rate=16_000, bits=16, promised=None) -> bytes:
  block = channels * bits // 8
  form = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * block, block, bits)
  size = len(samples) if promised is None else promised
  body = b"WAVE" + form + struct.pack("<4sI", b"data", size) + samples
  return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture
def vggish(golden):
  return np.load(golden("avsbench/vggish_input.npz"))


def test_log_mel_at_16_khz_equals_the_reference(vggish):
  got = audio.log_mel(reference_wave(np.arange(80_000), 16_000), 16_000)
  np.testing.assert_allclose(got, vggish["examples_16k_full"][:, 0], atol=2e-6)


def test_log_mel_of_44100_hz_stereo_equals_the_reference_that_resampled_with_resampy(vggish):
  n = np.arange(220_500)
  stereo = np.stack([reference_wave(n, 44_100), 0.8 * reference_wave(n + 0.25 * 44_100, 44_100)], axis=1)
  got = audio.log_mel(stereo, 44_100)
  np.testing.assert_allclose(got, vggish["examples_44k1_stereo_full"][:, 0], atol=2e-6)


def test_log_mel_through_a_16_bit_file_equals_the_reference(vggish, rule, tmp_path):
  samples = np.rint(reference_wave(np.arange(80_000), 16_000) * 32767).astype("<i2")
  (tmp_path / "a.wav").write_bytes(riff(samples.tobytes()))
  got = audio.clip_log_mel(audio.read_wav(tmp_path / "a.wav"))
  rule.check(got[:, None], vggish["examples_16k_int16wav"])


def test_mel_matrix_equals_the_reference(vggish, rule):
  rule.check(audio.mel_matrix(), vggish["mel_matrix"])


def test_silence_is_the_log_of_the_offset(vggish):
  got = audio.log_mel(np.zeros(80_000), 16_000)
  assert got.shape == (5, 96, 64)
  np.testing.assert_allclose(got, np.log(0.01), rtol=1e-6)
  np.testing.assert_allclose(got.flat[0], vggish["silence_value"][0], rtol=1e-6)


@pytest.mark.parametrize(
  ("seconds", "examples"),
  [(0.5, 0), (1, 1), (4.6, 4), (4.8, 4), (4.815, 5), (5.7, 5), (5.775, 6), (9.6, 9), (9.615, 10), (10, 10)],
)
def test_an_example_takes_0_96_seconds_so_counts_are_the_measured_ones(seconds, examples):
  assert len(audio.log_mel(np.zeros(round(seconds * 16_000)), 16_000)) == examples


def test_a_short_clip_repeats_its_last_example_or_adds_zeros():
  sound = reference_wave(np.arange(40_000), 16_000)  # 2.5 s: two examples
  last, zeros = audio.clip_log_mel(sound), audio.clip_log_mel(sound, 10, pad="zeros")
  np.testing.assert_array_equal(last[2:], np.repeat(last[1:2], 3, axis=0))
  np.testing.assert_array_equal(zeros[:2], last[:2])
  assert zeros.shape == (10, 96, 64) and not zeros[2:].any()


def test_a_long_clip_is_cut_and_a_tiny_one_is_filled_with_silence_first():
  sound = reference_wave(np.arange(112_000), 16_000)
  np.testing.assert_array_equal(audio.clip_log_mel(sound), audio.log_mel(sound, 16_000)[:5])
  for rate in (8_000, 16_000, 44_100):
    assert audio.clip_log_mel(sound[:100], rate=rate).shape == (5, 96, 64)
  assert not audio.clip_log_mel(sound[:100], pad="zeros").any()


def slow_resample(x: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
  """The definition, one output at a time: a windowed sinc, table entries a whole number of steps apart."""
  position = np.linspace(0, 50, 50 * 8192 + 1)
  window = np.kaiser(2 * 50 * 8192 + 1, audio.KAISER_BETA)[50 * 8192 :]
  scale = min(1.0, to_hz / from_hz)
  table = scale * audio.ROLLOFF * np.sinc(audio.ROLLOFF * position) * window
  step = int(scale * 8192)
  out = np.zeros(len(x) * to_hz // from_hz)
  for m in range(len(out)):
    whole, part = divmod(m * from_hz, to_hz)
    for start, side, direction in ((part / to_hz, whole, -1), (1 - part / to_hz, whole + 1, 1)):
      first = int(scale * start * 8192)
      rest = scale * start * 8192 - first
      for k in range((table.size - first) // step):
        entry, at = first + k * step, side + direction * k
        if 0 <= at < len(x):
          rise = table[entry + 1] - table[entry] if entry + 1 < table.size else 0.0
          out[m] += x[at] * (table[entry] + rest * rise)
  return out


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8, 16), (48, 16), (441, 320), (320, 441), (24, 16)])
def test_the_polyphase_resampler_equals_the_slow_loop(from_hz, to_hz):
  x = np.random.default_rng(0).standard_normal(150)
  np.testing.assert_allclose(audio.resample(x, from_hz, to_hz), slow_resample(x, from_hz, to_hz), atol=1e-11)


def test_resampling_keeps_a_tone_and_removes_what_the_new_rate_cannot_hold():
  t = np.arange(44_100) / 44_100
  kept = audio.resample(np.sin(2 * np.pi * 1000 * t), 44_100, 16_000)
  expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
  np.testing.assert_allclose(kept[500:-500], expected[500:-500], atol=1e-4)
  gone = audio.resample(np.sin(2 * np.pi * 12_000 * t), 44_100, 16_000)
  assert np.abs(gone[500:-500]).max() < 1e-4


def test_rates_without_a_filter_are_refused():
  for rate in (0, -8000, 999_983):
    with pytest.raises(InputError, match="sample rate"):
      audio.resample(np.zeros(100), rate, 16_000)


def robust_pcm(rule, spec: dict, name: str) -> np.ndarray:
  length = int(spec["rate"] * spec["seconds"])
  noise = rule.array(f"wave_{name}", (length, spec["channels"]))
  t = np.arange(length) / spec["rate"]
  swell = np.float32(0.2 + np.abs(np.sin(2 * np.pi * 0.4 * t)))
  x = 0.15 * noise * swell[:, None] + np.float32(0.3 * np.sin(2 * np.pi * 440 * t))[:, None]
  return np.round(np.clip(x, -1, 1) * 32767).astype(np.int16)


@pytest.mark.parametrize("name", ["mono22050", "stereo22050", "short22050", "long22050"])
def test_robust_front_end_at_its_own_rate_equals_the_reference(golden, rule, name):
  spec = json.loads(golden("avsbench_robust/logmel.json").read_text())["cases"][name]
  got = audio.robust_log_mel(robust_pcm(rule, spec, name), spec["rate"])
  np.testing.assert_allclose(rule.sample(got), np.load(golden("avsbench_robust/logmel.npz"))[name], atol=1e-4)


@pytest.mark.parametrize("name", ["mono44100", "mono16000", "stereo24000"])
def test_robust_front_end_at_other_rates_differs_only_by_the_resampler(golden, rule, name):
  """The reference resampled with soxr, we with a filter near it; the values spread by 0.7."""
  spec = json.loads(golden("avsbench_robust/logmel.json").read_text())["cases"][name]
  got = audio.robust_log_mel(robust_pcm(rule, spec, name), spec["rate"])
  difference = np.abs(rule.sample(got) - np.load(golden("avsbench_robust/logmel.npz"))[name])
  assert difference.max() < 0.02 and difference.mean() < 2e-4


def test_robust_front_end_leaves_a_silent_second_at_minus_100(golden, rule):
  kept = np.load(golden("avsbench_robust/logmel.npz"))
  half = np.round(np.clip(0.1 * rule.array("wave_half", (44_100,)), -1, 1) * 32767).astype(np.int16)
  mixed = audio.robust_log_mel(np.concatenate([np.zeros(66_150, np.int16), half]), 22_050)
  np.testing.assert_allclose(rule.sample(mixed), kept["three_silent_seconds"], atol=1e-4)
  silence = audio.robust_log_mel(np.zeros(55_125), 11_025)
  np.testing.assert_allclose(rule.sample(silence), kept["silence"], atol=1e-4)
  assert (silence[:, :44] == -100).all() and not silence[:, 44:].any()


def test_robust_front_end_hears_no_more_of_a_longer_file_than_its_first_seconds():
  sound = np.random.default_rng(0).standard_normal(3 * 44_100)
  np.testing.assert_array_equal(
    audio.robust_log_mel(sound, 44_100, 2), audio.robust_log_mel(sound[:88_200], 44_100, 2)
  )


def test_slaney_matrix_equals_the_reference(golden, rule):
  rule.check(audio.slaney_matrix().T, np.load(golden("avsbench_robust/logmel.npz"))["mel_filterbank"])


def test_a_written_wav_reads_back_exactly(tmp_path):
  samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.float32) / 32768
  audio.write_wav(tmp_path / "a.wav", samples)
  np.testing.assert_array_equal(audio.read_wav(tmp_path / "a.wav"), samples)


@pytest.mark.parametrize(("kind", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_bit_depth_reads_to_the_same_sound_and_channels_are_averaged(tmp_path, kind, bits):
  left = np.array([0.5, -0.25, 0.0, -1.0])
  both = np.stack([left, np.zeros(4)], axis=1)
  if kind == 3:
    data = both.astype(f"<f{bits // 8}").tobytes()
  elif bits == 8:
    data = np.rint(both * 128 + 128).astype(np.uint8).tobytes()
  elif bits == 24:
    data = np.rint(both * 2**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
  else:
    data = np.rint(both * 2 ** (bits - 1)).astype(f"<i{bits // 8}").tobytes()
  (tmp_path / "a.wav").write_bytes(riff(data, kind=kind, channels=2, bits=bits))
  got = audio.read_wav(tmp_path / "a.wav")
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, left / 2, atol=1e-7)


def test_other_rates_are_resampled_to_16_khz_on_reading(tmp_path):
  x = reference_wave(np.arange(48_000), 48_000)
  (tmp_path / "a.wav").write_bytes(riff(np.rint(x * 32767).astype("<i2").tobytes(), rate=48_000))
  assert audio.read_wav(tmp_path / "a.wav").shape == (16_000,)


def test_chunks_other_than_sound_and_streamed_lengths_are_understood(tmp_path):
  plain = riff(np.array([1, 2, 3], "<i2").tobytes(), promised=0xFFFFFFFF)
  listed = plain[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + plain[12:]
  (tmp_path / "a.wav").write_bytes(listed)
  np.testing.assert_array_equal(audio.read_wav(tmp_path / "a.wav") * 32768, [1, 2, 3])


NOISE = np.random.default_rng(0).integers(-99, 99, 100).astype("<i2").tobytes()


@pytest.mark.parametrize(
  ("data", "said"),
  [
    (b"", "file is empty"),
    (b"ID3 this is an mp3 file", "not a WAV"),
    (riff(NOISE)[:-50], "150 of 200 bytes"),
    (riff(NOISE)[:30], "ends before its sound"),
    (riff(b""), "sound is empty"),
    (riff(NOISE, kind=7, bits=8), "convert it to 16-bit PCM"),
    (riff(NOISE, rate=0), "sample rate"),
    (riff(np.array([0, np.nan], "<f4").tobytes(), kind=3, bits=32), "NaN"),
    (riff(np.array([0, np.inf], "<f8").tobytes(), kind=3, bits=64), "infinite"),
    (b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 2) + b"ab", "before its format"),
  ],
)
def test_a_broken_wav_is_named_with_what_is_wrong(tmp_path, data, said):
  (tmp_path / "broken.wav").write_bytes(data)
  with pytest.raises(InputError, match=rf"broken\.wav.*{said}"):
    audio.read_wav(tmp_path / "broken.wav")


def test_a_wav_with_any_byte_changed_or_cut_off_reads_or_is_refused(tmp_path):
  whole, rng, path = riff(NOISE, channels=2), np.random.default_rng(0), tmp_path / "fuzzed.wav"
  for _ in range(300):
    data = bytearray(whole[: rng.integers(len(whole) // 4, len(whole) + 1)])
    for _ in range(rng.integers(0, 3)):
      data[rng.integers(0, min(len(data), 44))] = rng.integers(0, 256)
    path.write_bytes(bytes(data))
    try:
      assert np.isfinite(audio.read_wav(path)).all()
    except InputError as error:
      assert "fuzzed.wav" in str(error)


def test_a_missing_wav_is_named(tmp_path):
  with pytest.raises(InputError, match=r"gone\.wav"):
    audio.read_wav(tmp_path / "gone.wav")


@pytest.mark.parametrize(
  "bad", [np.zeros((2, 3, 4)), np.zeros(5, np.int32), np.array(["a"]), np.array([np.nan] * 20_000)]
)
def test_what_is_no_sound_is_refused(bad):
  with pytest.raises(InputError, match="sound"):
    audio.log_mel(bad, 16_000)


def test_a_file_is_read_at_its_own_rate_where_that_is_asked_for(tmp_path):
  path, samples = tmp_path / "a.wav", np.random.default_rng(0).integers(-9000, 9000, (48_000, 2))
  wavfile.write(path, 24_000, samples.astype(np.int16))
  recorded = audio.read_recorded(path)
  assert recorded.rate_hz == 24_000
  np.testing.assert_array_equal(recorded.samples, samples.mean(1) / 32768)
  np.testing.assert_array_equal(recorded.at_16_khz(), audio.read_wav(path))


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_so_many_samples_give_so_many_examples_and_one_less_does_not(count):
  samples = audio.samples_for(count)
  assert samples == round((0.96 * count + 0.015) * 16_000)
  assert len(audio.log_mel(np.zeros(samples), 16_000)) == count
  assert len(audio.log_mel(np.zeros(samples - 1), 16_000)) == count - 1
