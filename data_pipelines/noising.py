"""Sound made worse on purpose: diffusion-style noising, noise mixed in at a given dB, training augmentation.

Everything is a pure function of its input and an explicit `numpy.random.Generator`. A waveform is mono
float32 at 16 kHz in [-1, 1]; a log-mel is float32 [T, 96, 64].
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import signal

from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError
from data_pipelines import transforms
from data_pipelines.audio import BANDS, FRAMES
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.synthesis import synthesize

# Mean and standard deviation over 120 generated clips (ours), so that the noise's unit is the sound's own.
STATISTICS = {"log_mel": (-1.6, 2.0), "waveform": (0.0, 0.11)}

# Power falls as 1 / f ** exponent.
EXPONENTS = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0, "violet": -2.0}
RANDOM_EXPONENT = (-1.0, 2.5)  # of "coloured"
COLOURS = (*EXPONENTS, "coloured")
TONES = "tones"


def diffuse(
  sound: np.ndarray, kept: float, rng: np.random.Generator, mean: float = 0.0, std: float = 1.0
) -> np.ndarray:
  """float32: the sound of which forward diffusion keeps this share of the power. Noise is added to
  (sound - mean) / std."""
  drawn = rng.standard_normal(sound.shape, np.float32)
  return (mean + kept**0.5 * (sound - mean) + std * (1 - kept) ** 0.5 * drawn).astype(np.float32)


def coloured_noise(rng: np.random.Generator, samples: int, colour: str) -> np.ndarray:
  """float32 [samples] of unit mean square; "coloured" draws the exponent of 1 / f ** k too.

  Raises: InputError for an unknown colour.
  """
  if colour not in COLOURS:
    raise InputError(f"noise colour {colour!r} is unknown; choose from {', '.join(COLOURS)}.")
  exponent = rng.uniform(*RANDOM_EXPONENT) if colour == "coloured" else EXPONENTS[colour]
  noise = rng.standard_normal(samples)
  if exponent:
    f_hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
    # Below 20 Hz nothing is heard: there the spectrum is flat, or brown noise would be all drift.
    gain = np.maximum(f_hz, 20.0) ** (-exponent / 2)
    gain[0] = 0
    noise = np.fft.irfft(np.fft.rfft(noise) * gain, samples)
  return (noise / _rms(noise)).astype(np.float32)


def crop_noise(rng: np.random.Generator, recording: np.ndarray, samples: int) -> np.ndarray:
  """float32 [samples]: a random stretch of a recording, which is repeated where it is too short.

  Raises: InputError where the recording is empty.
  """
  if len(recording) == 0:
    raise InputError("a noise recording is empty; remove it from the list.")
  start = int(rng.integers(max(len(recording) - samples, 0) + 1))
  stretch = recording[start : start + samples]
  return np.resize(stretch, samples).astype(np.float32)


def mix(sound: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
  """Adds noise so that 10 log10(power of sound / power of noise) is `snr_db`, over the whole clip.

  A digitally silent sound or noise has no such ratio: the sound comes back as it is.
  The sum is not clipped, it may leave [-1, 1].
  """
  if not np.any(sound) or not np.any(noise):
    return sound
  gain = _rms(sound) / _rms(noise) * 10 ** (-snr_db / 20)
  return (sound + gain * noise).astype(np.float32)


def _rms(sound: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


@dataclasses.dataclass(frozen=True, eq=False)
class Noising:
  """What training does to the sound of some clips: diffusion noise, noise mixed in at a random dB, or both.

  Attributes:
    share: of the clips, between 0 and 1; the others stay clean.
    diffusion: None leaves it out.
    where: "log_mel" or "waveform", what the diffusion runs on.
    steps: range (first, last) the diffusion step is drawn from, ends included.
    snr_db: range of the signal-to-noise ratio of mixed-in noise; None leaves it out.
    colours: of mixed-in noise, drawn with equal chances; "recorded" draws one of `recordings`.
    recordings: name -> mono waveform at 16 kHz.
  """

  share: float = 0.5
  diffusion: Diffusion | None = None
  where: str = "log_mel"
  steps: tuple[int, int] = (1, 100)
  snr_db: tuple[float, float] | None = None
  colours: tuple[str, ...] = ("white", "pink", "brown", "coloured")
  recordings: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.where not in STATISTICS:
      raise InputError(f"noising.where={self.where!r} is unknown; choose log_mel or waveform.")
    if not 0 <= self.share <= 1:
      raise InputError(f"noising.share={self.share} must lie between 0 and 1.")
    if self.diffusion is not None and not 0 <= self.steps[0] <= self.steps[1] <= self.diffusion.steps:
      raise InputError(f"noising: steps {self.steps} must rise and lie within 0 to {self.diffusion.steps}.")
    if self.snr_db is not None and not (len(self.snr_db) == 2 and self.snr_db[0] <= self.snr_db[1]):
      raise InputError(f"noising.mix_snr_db={self.snr_db} must be two numbers of dB, the lower one first.")
    check_colours(self.colours, self.recordings)

  def chooses(self, rng: np.random.Generator) -> bool:
    """Whether a clip is to be noised, for both parts below."""
    return rng.uniform() < self.share

  def waveform(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part that happens before the front end."""
    if self.snr_db is not None:
      kind, snr_db = choose_noise(rng, self.colours, self.recordings), rng.uniform(*self.snr_db)
      sound = mix(sound, make_noise(rng, len(sound), kind, self.recordings), snr_db)
    return self._diffuse(sound, "waveform", rng)

  def log_mel(self, examples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part that happens after the front end."""
    return self._diffuse(examples, "log_mel", rng)

  def _diffuse(self, sound, where, rng):
    if self.diffusion is None or where != self.where:
      return sound
    step = int(rng.integers(self.steps[0], self.steps[1] + 1))
    return diffuse(sound, self.diffusion.kept(step), rng, *STATISTICS[where])


def check_colours(colours: tuple[str, ...], recordings: Mapping[str, np.ndarray]) -> None:
  """Raises `InputError` for an unknown noise, none at all, or "recorded" without recordings."""
  if not colours:
    raise InputError("no kind of noise is given; name at least one, e.g. white.")
  known = (*COLOURS, TONES, "recorded")
  for colour in colours:
    if colour not in known:
      raise InputError(f"noise {colour!r} is unknown; choose from {', '.join(known)}.")
  if "recorded" in colours and not recordings:
    raise InputError('noise "recorded" needs recordings, and none are given; give some or leave it out.')


def choose_noise(
  rng: np.random.Generator, colours: tuple[str, ...], recordings: Mapping[str, np.ndarray]
) -> str:
  """A random kind of noise by name: "pink", "recorded:rain"."""
  colour = colours[int(rng.integers(len(colours)))]
  if colour != "recorded":
    return colour
  return f"recorded:{sorted(recordings)[int(rng.integers(len(recordings)))]}"


def make_noise(
  rng: np.random.Generator, samples: int, kind: str, recordings: Mapping[str, np.ndarray]
) -> np.ndarray:
  """float32 [samples] of the kind that `choose_noise` named, at a level of its own."""
  colour, _, name = kind.partition(":")
  if name:
    return crop_noise(rng, recordings[name], samples)
  return made_up_tones(rng, samples) if colour == TONES else coloured_noise(rng, samples, colour)


def made_up_tones(rng: np.random.Generator, samples: int) -> np.ndarray:
  """float32 [samples], root mean square 1: a sound of no thing in the world, another at each call.

  One to 24 gliding partials, in harmony or not, swelling or struck at a random rate, over a band of noise. A
  model that must call all of these "not in the picture" learns to know a sound before it believes it. Ours.
  """
  time = np.arange(samples) / SAMPLE_RATE_HZ
  knots = np.linspace(0, samples, max(2, int(3 * samples / SAMPLE_RATE_HZ)))
  glide = 2 ** np.interp(np.arange(samples), knots, rng.normal(0, rng.uniform(0, 0.5), len(knots)))
  count = round(24 ** rng.uniform())  # few as often as many: whistles, horns, voices of no animal
  ratios = np.arange(1, count + 1) if rng.uniform() < 0.6 else rng.uniform(1, 6, count)
  base_hz = np.exp(rng.uniform(np.log(60), np.log(3000)))
  turns = np.cumsum(glide) * (base_hz / SAMPLE_RATE_HZ)
  wave = np.zeros(samples)
  for ratio in ratios[ratios * base_hz < 6500]:  # what glides above 8 kHz folds back, which harms nobody here
    wave += rng.uniform(0.1, 1) / np.sqrt(ratio) * np.sin(2 * np.pi * (ratio * turns + rng.uniform()))
  low, high = np.sort(np.exp(rng.uniform(np.log(60), np.log(7900), 2)))
  band = np.fft.rfft(rng.standard_normal(samples))
  f_hz = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ)
  band = np.fft.irfft(band * ((f_hz >= low) & (f_hz <= high)), samples)
  share = rng.uniform(0, 1) ** 2
  wave = (1 - share) * wave / (_rms(wave) + 1e-9) + share * band / (_rms(band) + 1e-9)
  place = (time * np.exp(rng.uniform(np.log(0.5), np.log(15))) + rng.uniform()) % 1
  shape = np.sin(np.pi * place) ** 2 if rng.uniform() < 0.5 else np.exp(-rng.uniform(1, 10) * place)
  wave *= 1 - rng.uniform(0, 1) * (1 - shape)
  return (wave / (_rms(wave) + 1e-9)).astype(np.float32)


def made_babble(rng: np.random.Generator, samples: int, voices: int = 8) -> np.ndarray:
  """float32 [samples], root mean square 1: as many synthesised voices at once, none of them a recording."""
  seconds = -(-samples // SAMPLE_RATE_HZ)
  talk = [
    synthesize("speaker", rng, seconds, rng.uniform(0.7, 2.0), rng.uniform())[:samples] for _ in range(voices)
  ]
  wave = np.sum(talk, axis=0)
  return (wave / _rms(wave)).astype(np.float32)


def made_train(rng: np.random.Generator, samples: int) -> np.ndarray:
  """float32 [samples], root mean square 1: an imitation of a moving train, no recording.

  Low rumble that swells slowly, wheels over rail joints (two pairs of knocks, 1.2 to 1.8 times a second) and a
  faint squeal. Ours.
  """
  time = np.arange(samples) / SAMPLE_RATE_HZ
  swell = 1 + 0.3 * np.sin(2 * np.pi * (0.3 * time + rng.uniform()))
  wave = coloured_noise(rng, samples, "brown") * swell
  place = (time * rng.uniform(1.2, 1.8) + rng.uniform()) % 1
  knocks = sum(np.where(place >= at, np.exp(-60 * np.abs(place - at)), 0) for at in (0.0, 0.12, 0.5, 0.62))
  wave += 1.5 * knocks * coloured_noise(rng, samples, "pink")
  squeal_hz = rng.uniform(2200, 3200) * (1 + 0.01 * np.sin(2 * np.pi * 0.7 * time))
  wave += 0.05 * np.sin(2 * np.pi * np.cumsum(squeal_hz) / SAMPLE_RATE_HZ)
  return (wave / _rms(wave)).astype(np.float32)


MADE = {"made_babble": made_babble, "made_train": made_train}


@dataclasses.dataclass(frozen=True)
class Augment:
  """Changes to a training clip that keep what it is. Nought switches a part off.

  The published recipes use none of it; the ranges are ours.

  Attributes:
    gain_db: largest change of level, either way.
    equaliser_db: largest boost or cut of a smooth random equaliser with six knots from 60 Hz to 8 kHz.
    shift_s: largest shift in time, either way; what leaves one end enters at the other.
    pitch: largest change of pitch, as a share, by resampling. It stretches time as well, about the middle of
      the clip: keep it below 0.05 where seconds sound by turns.
    reverberation: share of clips that get an echoing room (decay of 0.1 to 0.6 s).
    mask_bands: widest stretch of mel bands, of 64, that is blanked.
    mask_frames: longest stretch of log-mel frames, of 96, that is blanked in each second.
    flip: mirrors half of the clips' frames and masks left to right.
    crop: smallest share of height and width that a random crop keeps before it is brought back to size;
      1 leaves frames whole.
  """

  gain_db: float = 6.0
  equaliser_db: float = 6.0
  shift_s: float = 0.1
  pitch: float = 0.0
  reverberation: float = 0.3
  mask_bands: int = 8
  mask_frames: int = 12
  flip: bool = False
  crop: float = 1.0

  def __post_init__(self):
    if not 0 < self.crop <= 1 or not 0 <= self.pitch < 0.5 or not 0 <= self.reverberation <= 1:
      raise InputError(
        f"augment: crop={self.crop} must lie in (0, 1], pitch={self.pitch} in [0, 0.5) and"
        f" reverberation={self.reverberation} in [0, 1]."
      )
    for name in ("gain_db", "equaliser_db", "shift_s"):
      if not 0 <= getattr(self, name) < np.inf:
        raise InputError(f"augment.{name}={getattr(self, name)} must be a number from 0; it goes either way.")
    if not (0 <= self.mask_bands <= BANDS and 0 <= self.mask_frames <= FRAMES):
      raise InputError(
        f"augment: mask_bands={self.mask_bands} must lie in [0, {BANDS}] and mask_frames={self.mask_frames} in"
        f" [0, {FRAMES}]."
      )

  def waveform(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pitch, equaliser, room, shift, level, in this order."""
    if self.pitch:
      sound = change_pitch(sound, 1 + rng.uniform(-self.pitch, self.pitch))
    if self.equaliser_db:
      sound = equalise(sound, rng.uniform(-self.equaliser_db, self.equaliser_db, 6))
    if self.reverberation and rng.uniform() < self.reverberation:
      sound = reverberate(sound, rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.5), rng)
    if self.shift_s:
      sound = np.roll(sound, int(rng.uniform(-self.shift_s, self.shift_s) * SAMPLE_RATE_HZ))
    if self.gain_db:
      sound = sound * 10 ** (rng.uniform(-self.gain_db, self.gain_db) / 20)
    return np.clip(sound, -1, 1).astype(np.float32)

  def log_mel(self, examples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blanks a stretch of bands over the clip and of frames in every second, to what silence gives."""
    examples = examples.copy()
    silence = np.float32(np.log(0.01))
    if self.mask_bands:
      width = int(rng.integers(self.mask_bands + 1))
      start = int(rng.integers(examples.shape[2] - width + 1))
      examples[:, :, start : start + width] = silence
    if self.mask_frames:
      for second in examples:
        length = int(rng.integers(self.mask_frames + 1))
        start = int(rng.integers(second.shape[0] - length + 1))
        second[start : start + length] = silence
    return examples

  def is_mirrored(self, rng: np.random.Generator) -> bool:
    """Whether a clip is to be mirrored: the first number that `picture` draws."""
    return self.flip and bool(rng.uniform() < 0.5)

  def picture(
    self, frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator, mirror: bool | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Flip, then crop, the same for all frames and masks of the clip. [T, H, W, 3] and [T, H, W].

    Args:
      mirror: what `is_mirrored` has said with `rng`; None asks it here.
    """
    if self.is_mirrored(rng) if mirror is None else mirror:
      frames, masks = frames[:, :, ::-1], masks[:, :, ::-1]
    if self.crop < 1:
      size = masks.shape[1:]
      height, width = (max(1, round(side * rng.uniform(self.crop, 1))) for side in size)
      top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
      window = (slice(None), slice(top, top + height), slice(left, left + width))
      frames = transforms.resize_frames(frames[window], size)
      masks = transforms.resize_mask(masks[window], size)
    return np.ascontiguousarray(frames), np.ascontiguousarray(masks)


def change_pitch(sound: np.ndarray, factor: float) -> np.ndarray:
  """Multiplies every frequency by `factor` (to 1 %); same length, time scaled about the clip's middle."""
  up, down = 100, max(1, round(100 * factor))
  if up == down:
    return sound
  out = signal.resample_poly(sound, up, down)
  if len(out) >= len(sound):
    start = (len(out) - len(sound)) // 2
    return out[start : start + len(sound)].astype(np.float32)
  lead = (len(sound) - len(out)) // 2
  return np.pad(out, (lead, len(sound) - len(out) - lead), mode="reflect").astype(np.float32)


def equalise(sound: np.ndarray, knots_db: np.ndarray) -> np.ndarray:
  """A smooth equaliser: gains in dB at points spread evenly in log frequency from 60 Hz to 8 kHz."""
  f_hz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ)
  at = np.log(np.clip(f_hz, 60, 8000) / 60) / np.log(8000 / 60) * (len(knots_db) - 1)
  gain = 10 ** (np.interp(at, np.arange(len(knots_db)), knots_db) / 20)
  return np.fft.irfft(np.fft.rfft(sound) * gain, len(sound)).astype(np.float32)


def reverberate(sound: np.ndarray, decay_s: float, wet: float, rng: np.random.Generator) -> np.ndarray:
  """Adds a room: decaying noise as the echo (60 dB down after `decay_s`), `wet` times as loud."""
  samples = int(decay_s * SAMPLE_RATE_HZ)
  echo = rng.standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
  tail = signal.fftconvolve(sound, echo / np.sqrt(np.sum(echo**2)))[: len(sound)]
  return (sound + wet * tail).astype(np.float32)
