"""Made sounds for the drawn objects: one way of sounding per category, varied from instance to instance.

All waveforms are mono float32 at 16 kHz, near unit mean square while they sound. `synthesize` makes them, and
`synthesize_unseen` four sounds that no clip holds. Harmonic sounds read one stored period by phase (a
wavetable), which is 20 times quicker than summing sines. No sound of `synthesize` pauses for longer than 0.4 s,
so every second of it can be heard.
"""

import numpy as np

from data_pipelines.clips import SAMPLE_RATE_HZ

TABLE = 2048  # samples in a stored period


def synthesize(
  category: str, rng: np.random.Generator, seconds: int, pitch: float, timbre: float
) -> np.ndarray:
  """One instance's sound.

  Args:
    category: one of `sprites.CATEGORIES`.
    rng: draws the rhythm and the melody.
    seconds: length.
    pitch: factor on every frequency, about [0.88, 1.12].
    timbre: brightness of the instance in [0, 1).

  Returns:
    float32 [seconds * 16000], root mean square 1.
  """
  sound = VOICES[category](rng, seconds * SAMPLE_RATE_HZ, pitch, timbre)
  return (sound / np.sqrt(np.mean(np.square(sound)) + 1e-9)).astype(np.float32)


def _table(amplitudes) -> np.ndarray:
  """One period of a sum of harmonics; harmonics above 8 kHz are the caller's to avoid."""
  phase = 2 * np.pi * np.arange(TABLE) / TABLE
  wave = sum(a * np.sin((k + 1) * phase + 0.7 * k * k) for k, a in enumerate(amplitudes))
  return (wave / np.sqrt(np.mean(np.square(wave)))).astype(np.float32)


def _formants(f0_hz: float, peaks) -> np.ndarray:
  """Period of a voice at f0 whose spectrum has the given (Hz, width Hz, height) peaks."""
  f = f0_hz * np.arange(1, int(7000 / f0_hz))
  return _table(sum(h * np.exp(-(((f - c) / w) ** 2)) for c, w, h in peaks) + 0.4 / (1 + f / f0_hz))


def _turns(f_hz) -> np.ndarray:
  """Phase in turns of a tone with the given frequency at every sample."""
  return np.cumsum(f_hz) / SAMPLE_RATE_HZ


def _play(table, turns):
  return table[(turns * TABLE).astype(np.int64) % TABLE]


def _wander(rng, n, knots_per_s, low, high):
  """A smooth random curve between low and high."""
  count = max(2, int(n / SAMPLE_RATE_HZ * knots_per_s) + 1)
  return np.interp(np.arange(n), np.linspace(0, n, count), rng.uniform(low, high, count))


def _cycle(rng, n, rate_hz):
  """Position in [0, 1) inside repeated events, and the event's number, at every sample."""
  turns = np.arange(n) * (rate_hz / SAMPLE_RATE_HZ) + rng.uniform()
  return turns % 1, turns.astype(np.int64)


def _coloured(rng, n, low_hz, high_hz, slope):
  """Noise between two frequencies whose amplitude falls as f ** -slope."""
  f = np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ)
  spectrum = np.fft.rfft(rng.standard_normal(n)) * np.maximum(f, 20) ** -slope
  spectrum[(f < low_hz) | (f > high_hz)] = 0
  noise = np.fft.irfft(spectrum, n)
  return noise / np.sqrt(np.mean(np.square(noise)) + 1e-12)


def _guitar(rng, n, pitch, timbre):
  """Plucked chords, broken: decaying harmonics, three to five notes a second."""
  root = 147.0 * pitch
  table = _table([(0.5 + 0.3 * timbre) ** k for k in range(9)])
  chord = np.array([0, 4, 7, 12, 16, 7]) + rng.integers(0, 3)
  length = int(0.7 * SAMPLE_RATE_HZ)
  time = np.arange(length)
  decay = np.exp(-time / (0.16 * SAMPLE_RATE_HZ)) * (1 - np.exp(-time / 40))
  sound = np.zeros(n + length)
  step = int(SAMPLE_RATE_HZ / rng.uniform(3.2, 5.0))
  for note, start in enumerate(range(0, n, step)):
    f_hz = root * 2 ** (chord[(note + int(rng.integers(0, 2))) % 6] / 12)
    sound[start : start + length] += decay * _play(table, time * (f_hz / SAMPLE_RATE_HZ))
  return sound[:n]


def _drum(rng, n, pitch, timbre):
  """Struck skin: a falling thump and a burst of noise, three to five strokes a second."""
  place, stroke = _cycle(rng, n, rng.uniform(3.0, 5.0))
  accent = rng.uniform(0.6, 1.0, stroke[-1] + 1)[stroke]
  thump = np.sin(2 * np.pi * (22 * pitch * (1 - np.exp(-9 * place)) + 14 * pitch * place)) * np.exp(
    -7 * place
  )
  snap = rng.standard_normal(n) * np.exp(-(22 - 8 * timbre) * place)
  return accent * (thump + 0.55 * snap)


def _speaker(rng, n, pitch, timbre):
  """Speech-like: a low voice that changes vowel about four times a second."""
  f0 = 118 * pitch
  vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]
  tables = np.stack(
    [_formants(f0, [(a, 90, 1), (b, 120, 0.5 + 0.3 * timbre), (c, 180, 0.25)]) for a, b, c in vowels]
  )
  place, syllable = _cycle(rng, n, rng.uniform(3.6, 5.0))
  vowel = rng.integers(0, len(vowels), syllable[-1] + 1)[syllable]
  phase = (_turns(f0 * _wander(rng, n, 3, 0.9, 1.12)) * TABLE).astype(np.int64) % TABLE
  return tables[vowel, phase] * (0.12 + np.sin(np.pi * place) ** 2) + 0.02 * rng.standard_normal(n)


def _baby(rng, n, pitch, timbre):
  """Crying: a high voice that rises and falls about once a second, with a tremor."""
  f0 = 430 * pitch
  table = _formants(f0, [(1150, 350, 1), (3300, 600, 0.6 + 0.4 * timbre)])
  place, _ = _cycle(rng, n, rng.uniform(1.0, 1.5))
  rise = np.sin(np.pi * place)
  tremor = 1 + 0.02 * np.sin(2 * np.pi * 8 * np.arange(n) / SAMPLE_RATE_HZ)
  return _play(table, _turns(f0 * (0.85 + 0.4 * rise) * tremor)) * (0.1 + rise)


def _bird(rng, n, pitch, timbre):
  """Chirps: short sweeps between 2.5 and 5 kHz, six to nine a second."""
  place, chirp = _cycle(rng, n, rng.uniform(6, 9))
  sweep = rng.choice([-1.0, 1.0], chirp[-1] + 1)[chirp] * (0.2 + 0.25 * timbre)
  centre = rng.uniform(3200, 4100, chirp[-1] + 1)[chirp] * pitch
  turns = _turns(centre * (1 + sweep * (place - 0.5)))
  return np.sin(2 * np.pi * turns) * np.sin(np.pi * np.minimum(place / 0.75, 1)) ** 2


def _cat(rng, n, pitch, timbre):
  """A purr (noise beating at 24 Hz) with a meow about once a second."""
  f0 = 620 * pitch
  place, _ = _cycle(rng, n, rng.uniform(0.9, 1.3))
  rise = np.sin(np.pi * np.minimum(place / 0.65, 1))
  meow = _play(_table([1, 0.7, 0.25 + 0.3 * timbre, 0.1]), _turns(f0 * (0.75 + 0.5 * rise))) * rise
  beat = np.maximum(0, np.sin(2 * np.pi * 24 * pitch * np.arange(n) / SAMPLE_RATE_HZ)) ** 2
  return 0.8 * meow + 1.6 * beat * _coloured(rng, n, 90, 700, 0.5)


def _car(rng, n, pitch, timbre):
  """An engine: many low harmonics that rev slowly, over a rumble."""
  table = _table([(k + 1) ** -(0.9 - 0.3 * timbre) for k in range(24)])
  engine = _play(table, _turns(62 * pitch * _wander(rng, n, 1.0, 0.85, 1.25)))
  return engine + 0.6 * _coloured(rng, n, 60, 1500, 0.6)


def _siren(rng, n, pitch, timbre):
  """A wail or two tones in turn, with odd harmonics."""
  place, _ = _cycle(rng, n, rng.uniform(0.5, 1.2))
  swing = np.sin(2 * np.pi * place) if rng.uniform() < 0.5 else np.tanh(12 * np.sin(2 * np.pi * place))
  table = _table([1, 0, 0.45 + 0.25 * timbre, 0, 0.25, 0, 0.12])
  return _play(table, _turns(880 * pitch * (1 + 0.28 * swing)))


VOICES = {
  "guitar": _guitar,
  "drum": _drum,
  "speaker": _speaker,
  "baby": _baby,
  "bird": _bird,
  "cat": _cat,
  "car": _car,
  "siren": _siren,
}


def synthesize_unseen(name: str, seconds: int, rms: float = 0.11) -> np.ndarray:
  """One of four sounds that no generated clip holds: made imitations of the four the Robust paper reports.

  Args:
    name: a key of `UNSEEN`.
    rms: root mean square; the default is the level of the clips' own sounds.

  Returns:
    float32 [seconds * 16000]; the same at every call.
  """
  rng = np.random.default_rng([9, list(UNSEEN).index(name)])
  sound = UNSEEN[name](rng, seconds * SAMPLE_RATE_HZ)
  sound = sound * (rms / np.sqrt(np.mean(np.square(sound)) + 1e-12))
  return np.clip(sound, -1, 1).astype(np.float32)


def _tuning_fork(rng, n):
  """A pure tone of 440 Hz with a faint clang, struck every two seconds and ringing on."""
  time = np.arange(n) / SAMPLE_RATE_HZ
  since = time % 2.0
  clang = np.sin(2 * np.pi * 440 * 6.27 * time) * np.exp(-12 * since)
  return (np.sin(2 * np.pi * 440 * time) + 0.2 * clang) * np.exp(-0.7 * since) * (1 - np.exp(-400 * since))


def _rooster(rng, n):
  """Crowing: a harsh harmonic voice that leaps up in four syllables and falls, again every 1.6 s."""
  place, _ = _cycle(rng, n, 1 / 1.6)
  f_hz = np.interp(place, [0, 0.12, 0.2, 0.3, 0.42, 0.8, 1.0], [520, 640, 560, 900, 1050, 880, 480])
  level = np.interp(place, [0, 0.03, 0.1, 0.13, 0.17, 0.21, 0.26, 0.9, 1.0], [0, 1, 1, 0.2, 1, 1, 0.4, 1, 0])
  rough = 1 + 0.35 * np.sin(2 * np.pi * 70 * np.arange(n) / SAMPLE_RATE_HZ)
  return _play(_table([0.5, 1, 0.9, 0.6, 0.35, 0.2]), _turns(f_hz)) * level * rough


def _sheep(rng, n):
  """Bleating: a nasal voice near 280 Hz that trembles eight times a second."""
  place, _ = _cycle(rng, n, 0.8)
  time = np.arange(n) / SAMPLE_RATE_HZ
  tremble = np.sin(2 * np.pi * 8 * time)
  table = _formants(280, [(900, 200, 1), (1500, 250, 0.7), (2800, 400, 0.3)])
  return (
    _play(table, _turns(280 * (1 + 0.05 * tremble))) * (0.6 + 0.4 * tremble) * (0.1 + np.sin(np.pi * place))
  )


def _thunder(rng, n):
  """Claps of low noise that roll on for seconds."""
  time = np.arange(n) / SAMPLE_RATE_HZ
  level = np.full(n, 0.05)
  for start, force in ((0.1, 1.0), (0.7, 0.5), (2.3, 0.8), (3.4, 0.6)):
    since = np.maximum(time - start, 0)
    level += force * (time >= start) * (1 - np.exp(-60 * since)) * np.exp(-1.6 * since)
  return level * (_coloured(rng, n, 20, 900, 0.9) + 0.15 * _coloured(rng, n, 900, 5000, 0.5))


UNSEEN = {"tuning_fork": _tuning_fork, "rooster": _rooster, "sheep": _sheep, "thunder": _thunder}
