"""Random phrases played with the instruments and effects of a sound font; the same entry, the same phrase."""

import dataclasses
import pathlib
import struct
import tempfile
import zlib

import numpy as np

from data_pipelines import media_packages

TICKS = 480  # per beat
BEATS_PER_S = 2
NOTE_BEATS = (0.25, 0.5, 0.5, 1.0, 1.5, 2.0)
HELD_BEATS = (3.0, 4.0, 6.0)
STEPS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)  # semitones from one note to the next


@dataclasses.dataclass(frozen=True)
class Phrase:
  """What is played, as the catalogue says it.

  Attributes:
    program: General MIDI program; with `drums` the number of a drum kit.
    notes: lowest and highest note.
    seconds: length of the phrase.
    bank: bank of the sound font; 0 is General MIDI.
    drums: plays on the drum channel.
    held: long single notes, for effects such as an engine; else short ones, half of them in two voices.
  """

  program: int
  notes: tuple[int, int]
  seconds: float
  bank: int = 0
  drums: bool = False
  held: bool = False

  @property
  def title(self) -> str:
    """Names the phrase among those of its sound font."""
    bank = f"bank {self.bank} " if self.bank else ""
    return f"{bank}{'drum kit' if self.drums else 'program'} {self.program}"


def render(phrase: Phrase, font: pathlib.Path, fluidsynth: media_packages.Program) -> bytes:
  """A WAV file at 48 kHz of the phrase played with the sound font."""
  with tempfile.TemporaryDirectory() as folder:
    score, wave = pathlib.Path(folder) / "phrase.mid", pathlib.Path(folder) / "phrase.wav"
    score.write_bytes(write_score(phrase, zlib.crc32(f"{font.name} {phrase.title}".encode())))
    switches = ("-n", "-i", "-q", "-g", "0.6", "-r", "48000", "-T", "wav", "-F", str(wave))
    fluidsynth.run(*switches, str(font), str(score))
    return wave.read_bytes()


def write_score(phrase: Phrase, seed: int) -> bytes:
  """A MIDI file of one track at 120 beats a minute.

  Notes walk by small steps within their range; half of the time a second voice joins a third or a fifth
  away. Drums beat kick and snare on quavers with cymbals between.
  """
  rng = np.random.default_rng(seed)
  low, high = phrase.notes
  channel = 9 if phrase.drums else 0
  events = [(0, bytes([0xB0 | channel, 0, phrase.bank])), (0, bytes([0xC0 | channel, phrase.program]))]
  beat, pitch = 0.0, int(rng.integers(low, high + 1))
  while beat < BEATS_PER_S * phrase.seconds:
    pitch = int(np.clip(pitch + rng.choice(STEPS), low, high))
    other = int(np.clip(pitch + rng.choice([4, 7]), low, high))
    if phrase.drums:  # General MIDI: 36 kick, 38 snare, 42 and 46 hi-hat, 49 crash, the rest toms
      length, voices = 0.5, {int(rng.choice([36, 38])), int(rng.choice([42, 46, 49, pitch]))}
    elif phrase.held:
      length, voices = float(rng.choice(HELD_BEATS)), {pitch}
    else:
      length, voices = float(rng.choice(NOTE_BEATS)), {pitch, other} if rng.random() < 0.5 else {pitch}
    for voice in sorted(voices):
      loudness = int(rng.integers(70, 120))
      events.append((round(beat * TICKS), bytes([0x90 | channel, voice, loudness])))
      events.append((round((beat + 0.95 * length) * TICKS), bytes([0x80 | channel, voice, 0])))
    beat += length
  track, now = b"", 0
  for tick, event in sorted(events, key=lambda pair: pair[0]):
    track += _variable_length(tick - now) + event
    now = tick
  track += b"\x00\xff\x2f\x00"
  return b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS) + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable_length(number: int) -> bytes:
  """MIDI's numbers of seven bits a byte, the highest bit set on all but the last."""
  out = bytes([number & 0x7F])
  while number := number >> 7:
    out = bytes([0x80 | (number & 0x7F)]) + out
  return out
