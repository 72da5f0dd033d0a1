"""The sounds a split is judged under: its own, negatives drawn here or published as files, and unseen ones.

A sound is named as its row of the scoreboard: positive, silence, noise, offscreen, or unseen_<name>. An unseen
sound is one recording given to every clip, of something that no training clip holds:

  generated clips   tuning_fork, rooster, sheep, thunder: made here, imitating the Robust paper's four
  real media        the classes that training leaves out (sheep, owl, piano, phone ...), and hits, thunder, door
  any data          white, pink, brown, blue, violet, coloured, made_babble, made_train: noise made here, of which
                    training's negatives hold neither blue nor violet nor the made_ ones; or a .wav file, by its path,
                    e.g. the published fork_segment.wav

`eval.noise_mix` adds rows for the clips' own sounds under noise, mixed_<kind>_<amount>: its `kind`s (white, pink,
brown ..., made_babble, made_train, or whatever `eval.unseen` takes: "train" is a recording of the real media) at
each of its `snr_db`, over the whole clip; without `snr_db` the noise, its peak 1, is added `factor` times, as SDAVS
does with 0.1. Of a recording each clip gets a stretch of its own; a shorter one is repeated. The right mask is that of
the clip's own sound.

`eval.negative_audio="published"` takes noise and off-screen sounds from the folders that the Robust paper's
authors publish beside `audio_wav`, in its own layout: `audio_wav_noise` and `audio_wav_misaligned`. "any" draws them
here, and where no clip of the split names its objects lets any other clip lend its off-screen sound, which may
belong to the picture after all: the scoreboard says so.
"""

import dataclasses
import functools
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from avs_jax.errors import InputError, check_choice
from data_pipelines import feed, loader, negatives, noising, sources
from data_pipelines.audio import Recorded, fit, read_recorded, read_wav
from data_pipelines.clips import SAMPLE_RATE_HZ, Source
from data_pipelines.sources import FOLDERS
from data_pipelines.synthesis import UNSEEN, synthesize_unseen

PREFIX = "unseen_"
_NOISES = (*noising.COLOURS, *noising.MADE)
# Recordings of no class that no training uses, by a part of their name in the media bank.
NO_CLASS = {"hits": "LRHits", "thunder": "lightningbolt", "door": "LRDoor"}

log = logging.getLogger(__name__)


def names(config: Any) -> tuple[str, ...]:
  """The sounds that a config asks for, in the scoreboard's order.

  Raises:
    InputError: two unseen sounds of one name.
  """
  unseen = [row_name(name) for name in config.eval.unseen]
  twice = sorted({name for name in unseen if unseen.count(name) > 1})
  if twice:
    raise InputError(f"eval.unseen: {twice[0].removeprefix(PREFIX)} is there twice; rename one of the files.")
  return (*config.eval.conditions, *unseen, *mixes(config))


def mixes(config: Any) -> dict[str, tuple[str, float | None]]:
  """The rows that `eval.noise_mix` adds: name -> kind of noise, and dB or None where `factor` holds.

  Raises:
    InputError: two noises of one name, or a factor that is not positive.
  """
  chosen, rows = config.eval.noise_mix, {}
  if chosen.kind and not chosen.snr_db and not chosen.factor > 0:
    raise InputError(f"eval.noise_mix.factor={chosen.factor} adds no noise; give a positive one, or snr_db.")
  for kind in chosen.kind:
    for snr_db in chosen.snr_db or (None,):
      amount = f"x{chosen.factor:g}" if snr_db is None else f"{snr_db:g}db"
      row = f"mixed_{row_name(kind).removeprefix(PREFIX)}_{amount}"
      if row in rows:
        raise InputError(f"eval.noise_mix: {row} is there twice; drop one, or rename one of the files.")
      rows[row] = (kind, snr_db)
  return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Mixed:
  """The own sound of a clip under noise, by the clip's index; the same at every call.

  Attributes:
    snr_db: over the whole clip; None adds `factor` times the noise, its peak brought to 1.
    recording: taken for the noise where it is no kind that is made here; of any length. Each clip gets a random
      stretch; a recording no longer than the clip is repeated from a random moment on.
  """

  source: Any
  kind: str
  snr_db: float | None
  factor: float
  recording: np.ndarray | None

  def __call__(self, index: int) -> np.ndarray:
    own = self.source.sound(index)
    name = os.path.basename(self.kind)  # wherever the file lies
    rng = np.random.default_rng([zlib.crc32(name.encode()), index])
    if self.recording is not None:
      noise = noising.crop_noise(rng, _from_anywhere(rng, self.recording, len(own)), len(own))
    elif self.kind in noising.MADE:
      noise = noising.MADE[self.kind](rng, len(own))
    else:
      noise = noising.coloured_noise(rng, len(own), self.kind)
    if self.snr_db is not None:
      return noising.mix(own, noise, self.snr_db)
    return (own + self.factor * noise / max(float(np.abs(noise).max()), 1e-9)).astype(np.float32)


def _from_anywhere(rng: np.random.Generator, recording: np.ndarray, samples: int) -> np.ndarray:
  """The recording, turned round to begin at a random moment if it is no longer than `samples`."""
  if len(recording) > samples:
    return recording
  return np.roll(recording, -int(rng.integers(len(recording))))


def mixed(config: Any, source: Source, name: str) -> Mixed:
  """What makes the sounds of a row of `mixes`.

  Raises:
    InputError: the noise is neither made here nor a recording that there is.
  """
  kind, snr_db = mixes(config)[name]
  recording = None
  if not is_made_noise(kind):
    try:
      recording = whole_recording(config, kind, source.seconds)
    except InputError as error:
      known = ", ".join(_NOISES)
      raise InputError(
        f"eval.noise_mix.kind: {kind!r} is not made here ({known} are), and as a recording: {error}"
      ) from None
  return Mixed(source, kind, snr_db, config.eval.noise_mix.factor, recording)


def row_name(name: str) -> str:
  """The scoreboard's name of an unseen sound: a file counts under its name without folder and ending."""
  return PREFIX + os.path.splitext(os.path.basename(name))[0]


def unseen_sound(config: Any, name: str, seconds: int) -> np.ndarray:
  """float32 [S]: the recording named in `eval.unseen`, mono at 16 kHz, as long as a clip; a shorter one is repeated.

  Raises:
    InputError: there is no such sound for this data.
  """
  recording = whole_recording(config, name, seconds)
  if is_of_real_media(config) and not (name.endswith(".wav") or is_made_noise(name)):
    from data_pipelines import compose

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return compose.compose_sound(rng, [recording], np.ones((seconds, 1), bool))
  return fit(recording, seconds * SAMPLE_RATE_HZ)


def whole_recording(config: Any, name: str, seconds: int) -> np.ndarray:
  """float32 [S]: the same sound as it was recorded, at its own length; one that is made here lasts so many seconds.

  Raises:
    InputError: there is no such sound for this data.
  """
  if name.endswith(".wav"):
    if not os.path.isfile(name):
      raise InputError(f"eval.unseen: {name} is not there; give the path of a .wav file.")
    return read_wav(name)
  if is_made_noise(name):
    return _made_noise(np.random.default_rng(zlib.crc32(name.encode())), name, seconds * SAMPLE_RATE_HZ)
  if is_of_real_media(config):
    return _recorded(name, config.data.media_cache)
  if name not in UNSEEN:
    raise InputError(
      f"eval.unseen: {name!r} is no sound here; choose from {', '.join((*UNSEEN, *_NOISES))}, or give a .wav file."
    )
  return synthesize_unseen(name, seconds)


def is_made_noise(name: str) -> bool:
  """Whether it is a noise that is made here, for whatever data."""
  return name in _NOISES


def _made_noise(rng: np.random.Generator, name: str, samples: int) -> np.ndarray:
  """At the level of a generated clip's own sound."""
  noise = (
    noising.MADE[name](rng, samples) if name in noising.MADE else noising.coloured_noise(rng, samples, name)
  )
  return (noise * (0.11 / np.sqrt(np.mean(np.square(noise))))).clip(-1, 1).astype(np.float32)


def is_of_real_media(config: Any) -> bool:
  """Whether the clips are composed of recordings, so that the media bank lends unseen sounds and noise."""
  return not config.data.root and config.data.stand_in == "real_media"


def _recorded(name: str, cache: str) -> np.ndarray:
  """A recording of the media bank of what no training clip of the real-media stand-in holds."""
  from data_pipelines import media_packages
  from data_pipelines.media_bank import load_bank
  from data_pipelines.real_media import DEFAULT_CLASSES

  bank = load_bank(media_packages.cache_folder(cache or None))
  if name in NO_CLASS:
    found = [item for item in bank.select("noise", "test") if NO_CLASS[name] in item.name]
  elif name in DEFAULT_CLASSES:
    raise InputError(f"eval.unseen: {name!r} is heard in training; name a class that is not.")
  else:
    found = [item for split in ("unseen", "train") for item in bank.select("sound", split, name)]
  if not found:
    others = [each for each in bank.broad if each not in DEFAULT_CLASSES]
    known = ", ".join([*others, *NO_CLASS, *_NOISES])
    raise InputError(f"eval.unseen: {name!r} is no sound here; choose from {known}, or a .wav file.")
  return found[0].array


def published(config: Any, source: Source, name: str) -> Callable[[int], np.ndarray | Recorded] | None:
  """What reads the published negative of a clip; None where `name` is drawn or made here.

  Raises:
    InputError: `eval.negative_audio` is unknown, the data have no such folder, or it lacks clips.
  """
  choice = config.eval.negative_audio
  check_choice("eval.negative_audio", choice, ("drawn", "published", "any"))
  if choice != "published" or name not in FOLDERS:
    return None
  reader = negatives.whole(source)
  if not hasattr(reader, "published_negative"):
    raise InputError(
      f"eval.negative_audio=published needs data.root in the published layout, and the data are {source.title};"
      " set eval.negative_audio=drawn."
    )
  paths = [reader.published_negative(index, FOLDERS[name]) for index in range(len(source))]
  missing = [path for path in paths if not os.path.isfile(path)]
  if missing:
    raise InputError(
      f"eval.negative_audio=published: {len(missing)} of {len(paths)} files are missing, first {missing[0]};"
      " complete the folder, set data.allow_missing=True to leave these clips out under every sound, or set"
      " eval.negative_audio=drawn."
    )
  return functools.partial(_read, tuple(paths), config.negatives.front_end == "as_published")


def _read(paths: tuple[str, ...], at_own_rate: bool, index: int) -> np.ndarray | Recorded:
  return read_recorded(paths[index]) if at_own_rate else read_wav(paths[index])


def _unseen(config: Any, name: str, seconds: int) -> np.ndarray | Recorded:
  """`unseen_sound`, a file's at its own rate where the front end resamples it itself."""
  sound = unseen_sound(config, name, seconds)
  is_file = name.endswith(".wav")
  return read_recorded(name) if is_file and config.negatives.front_end == "as_published" else sound


def check_evaluation(config: Any, source: Source | None = None) -> None:
  """Makes sure, before hours of training, that every sound of the evaluation can be had.

  Args:
    source: the split to be judged; built here if not given.

  Raises:
    InputError: a recording or a published sound that is not there, a clip without a donor for its off-screen sound,
      or data without the raw sound that a row or the audio encoder needs.
  """
  if source is None:
    source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  for name in config.eval.unseen:
    unseen_sound(config, name, source.seconds)
  for name in mixes(config):
    mixed(config, source, name)
  needs = ["eval.noise_mix"] if mixes(config) else []
  if feed.takes_waveform(config):
    needs.append(
      f"model.audio={config.model.audio}" if config.marks.kind != "classifier" else "marks.kind=classifier"
    )
  pairs = feed.negative_pairs(config, training=False)
  for name in config.eval.conditions:
    is_published = published(config, source, name) is not None
    if name == "offscreen" and not is_published:
      donors = pairs.donors(source)
      for index in range(len(source)):
        donors.candidates(index)
      if config.negatives.front_end == "as_published":
        needs.append("negatives.front_end=as_published")
  if not needs:
    return
  try:
    source.sound(0)
  except InputError as error:
    raise InputError(
      f"{needs[0]} needs the sounds themselves to judge {config.eval.split}: {error}"
    ) from None


def batches(config: Any, source: Source, name: str) -> Iterator[Mapping[str, np.ndarray]]:
  """Every clip in order under the sound `name`, read ahead by a thread."""
  unseen = {row_name(each): each for each in config.eval.unseen}
  if name in unseen:
    condition, sound = negatives.OFFSCREEN, _unseen(config, unseen[name], source.seconds)
  elif name in mixes(config):
    condition, sound = negatives.POSITIVE, mixed(config, source, name)
  else:
    condition, sound = negatives.CONDITIONS.index(name), published(config, source, name)
  made = loader.eval_batches(
    source,
    batch=config.eval.batch,
    condition=condition,
    negatives=feed.negative_pairs(config, training=False),
    front_end=config.negatives.front_end,
    host=jax.process_index(),
    hosts=jax.process_count(),
    size=config.data.size,
    waveform=feed.takes_waveform(config),
    pan=config.model.stereo,
    sound=sound,
  )
  stream = loader.iterate(made, threads=config.data.threads, workers=0)
  try:
    yield from stream
  finally:
    stream.close()


def write_manifest(config: Any, source: Source, path: str) -> None:
  """Which sound each clip got, as CSV. Unseen sounds are left out: every clip gets the same."""
  pairs, split = feed.negative_pairs(config, training=False), config.eval.split
  rows = []
  for name in config.eval.conditions:
    if published(config, source, name) is None:
      rows += negatives.manifest(pairs, source, split, [negatives.CONDITIONS.index(name)])
    else:
      rows += [
        negatives.Row(split, negatives.EVALUATION, clip, name, FOLDERS[name], "published", pairs.seed)
        for clip in source.ids
      ]
  negatives.write_manifest(path, rows)
