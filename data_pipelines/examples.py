"""One row of a batch: a clip, the sound it is shown with, its log-mel; and a memory of clips read."""

import dataclasses
import threading
from typing import Any

import numpy as np

from avs_jax.errors import InputError, check_choice
from data_pipelines import stereo, transforms
from data_pipelines.audio import Recorded, clip_log_mel, robust_log_mel
from data_pipelines.clips import SAMPLE_RATE_HZ, Clip, Source
from data_pipelines.negatives import (
  EVALUATION,
  NOISE,
  OFFSCREEN,
  POSITIVE,
  SILENCE,
  Negatives,
  Pair,
  whole,
)
from data_pipelines.noising import Augment, Noising

FRONT_ENDS = ("same", "as_published")
CACHE_MB = 2048

Example = dict[str, Any]  # numpy arrays and scalars


class BrokenDonor(InputError):
  """The clip can be read, the one whose sound it was to get cannot."""


class Cached:
  """A source whose decoded clips and log-mels stay in memory, up to a bound; what does not fit is read again.

  First come, first kept: under random access that hits more often than throwing out the oldest.
  """

  def __init__(self, source: Source, megabytes: float = CACHE_MB):
    self.source, self.megabytes = source, megabytes
    self._start()

  def _start(self):
    self._kept: dict[tuple[str, int], Any] = {}
    self._bytes = 0
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.source)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("_") or name in ("source", "megabytes"):  # not yet set: being unpickled
      raise AttributeError(name)
    return getattr(self.source, name)

  def __getstate__(self):
    return {"source": self.source, "megabytes": self.megabytes}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._start()

  def clip(self, index: int) -> Clip:
    packed = self._get(("clip", index), lambda: pack_masks(self.source.clip(index)))
    return dataclasses.replace(packed, masks=packed.masks.astype(np.int32))

  def sound(self, index: int) -> np.ndarray:
    kept = self._kept.get(("clip", index))
    return self.source.sound(index) if kept is None or kept.waveform is None else kept.waveform

  def own_log_mel(self, index: int, make) -> np.ndarray:
    """The log-mel of clip `index` with its own sound."""
    return self._get(("log_mel", index), make)

  def _get(self, key, make):
    if key not in self._kept:
      made = make()
      size = made.nbytes if isinstance(made, np.ndarray) else clip_bytes(made)
      with self._lock:
        if key not in self._kept and self._bytes + size <= self.megabytes * 2**20:
          self._kept[key] = made
          self._bytes += size
      return made
    return self._kept[key]


def pack_masks(clip: Clip) -> Clip:
  """The clip with its masks in bytes where they fit, a quarter of the memory."""
  if clip.masks.dtype.kind == "i" and clip.masks.size and clip.masks.min() >= 0 and clip.masks.max() < 256:
    return dataclasses.replace(clip, masks=clip.masks.astype(np.uint8))
  return clip


def clip_bytes(clip: Clip) -> int:
  """Memory a clip's arrays take."""
  values = (getattr(clip, field.name) for field in dataclasses.fields(clip))
  return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


@dataclasses.dataclass(eq=False)
class Composer:
  """Makes a batch's row from a clip and a pair: sound substituted, worsened, turned to log-mel.

  Attributes:
    negatives: makes the sounds of pairs that are not positive.
    noising, augment: training only.
    front_end: "same" for all sounds; "as_published" gives positives the VGGish and negatives the Robust
      paper's front end, which tells them apart by format alone and reads files at the rate they have.
    size: of the frames and masks given out; None leaves them.
    waveform: the raw sound is wanted too.
    pan: where the sound comes from is wanted too. A borrowed sound keeps its own direction, a noise gets one drawn
      for it, unseen sounds come from the middle; mirrored pictures mirror it.
    empty_masks: negatives get empty masks (training); else they keep the object's (evaluation).
    seed: of noising and augmentation.
    decoys: makes a second sound for every row, one that belongs to no picture (training).
    raw_decoys: they are given as samples, for an audio encoder that takes such; else as examples.

  Raises:
    InputError: a clip lacks the sound, log-mel or direction that is wanted.
    BrokenDonor: a clip's donor cannot be read.
  """

  source: Any
  negatives: Negatives | None
  noising: Noising | None = None
  augment: Augment | None = None
  front_end: str = "same"
  size: tuple[int, int] | None = None
  waveform: bool = False
  empty_masks: bool = False
  seed: int = 0
  pan: bool = False
  decoys: Negatives | None = None
  raw_decoys: bool = False

  def __post_init__(self):
    check_choice("negatives.front_end", self.front_end, FRONT_ENDS)

  def __call__(
    self, clip: Clip, index: int, pair: Pair, epoch: int, sound: np.ndarray | Recorded | None = None
  ) -> Example:
    """Args: sound: in place of what the pair calls for (unseen, or the own one under noise); at 16 kHz or recorded."""
    rng = np.random.default_rng([self.seed, epoch + 1, index, 7])
    is_training = epoch != EVALUATION
    recorded = self._recorded(clip, index, pair, epoch, sound)
    if isinstance(sound, Recorded):
      sound = sound.at_16_khz()
    wave, log_mel, sounding = self._sound(clip, index, pair, epoch, sound)
    if recorded is not None:
      count = int(clip.present.sum())
      log_mel = self._placed(clip, robust_log_mel(recorded.samples, recorded.rate_hz, count))
    is_noised = (
      is_training and self.noising and pair.condition in (POSITIVE, OFFSCREEN) and self.noising.chooses(rng)
    )
    if wave is not None and is_training and pair.condition != SILENCE:
      before = wave
      if self.augment:
        wave = self.augment.waveform(wave, rng)
      if is_noised:
        wave = self.noising.waveform(wave, rng)
      log_mel = log_mel if wave is before else None
    if log_mel is None:
      log_mel = self._own_log_mel(clip, index, wave, pair, sound)
    if is_noised:
      log_mel = self.noising.log_mel(log_mel, rng)
    if is_training and self.augment:
      log_mel = self.augment.log_mel(log_mel, rng)
    frames, masks = clip.frames, clip.masks
    if self.size is not None:
      frames, masks = transforms.resize_frames(frames, self.size), transforms.resize_mask(masks, self.size)
    mirror = False
    if is_training and self.augment:
      mirror = self.augment.is_mirrored(rng)
      frames, masks = self.augment.picture(frames, masks, rng, mirror)
    if self.empty_masks and pair.condition != POSITIVE:
      masks = np.zeros_like(masks)
    row = {
      "frames": frames,
      "log_mel": log_mel,
      "masks": masks,
      "annotated": clip.annotated,
      "present": clip.present,
      "condition": np.int32(pair.condition),
      "index": np.int32(index),
    }
    if self.waveform:
      if wave is None:
        raise InputError(
          f"{clip.id}: this system takes raw sound, and the clip has only a log-mel; add the .wav files."
        )
      row["waveform"] = self._by_seconds(wave)
    if self.pan:
      pan = self._pan(clip, index, pair, epoch, None if pair.condition == POSITIVE else sound, wave)
      row["pan"] = stereo.mirrored(pan) if mirror else pan
    if self.decoys is not None:
      row["decoy"] = self._decoy(clip, index, epoch)
    if sounding is not None:
      row["sounding"] = sounding
    if clip.visible is not None:
      row["visible"] = clip.visible
    return row

  def _by_seconds(self, wave):
    """[T, 16000]: samples, cut or filled up with silence to the clip's length."""
    samples = self.source.seconds * SAMPLE_RATE_HZ
    whole = np.pad(wave[:samples], (0, max(samples - len(wave), 0)))
    return whole.reshape(self.source.seconds, SAMPLE_RATE_HZ).astype(np.float32)

  def _decoy(self, clip, index, epoch):
    """Silence or noise of its own draw, worsened like other training sounds: samples or examples."""
    rng = np.random.default_rng([self.seed, epoch + 1, index, 9])
    pair = self.decoys.draw(epoch, index, self.source)
    wave = self.decoys.substitute(self._silence(clip), pair, epoch, index)
    if self.augment and pair.condition != SILENCE:
      wave = self.augment.waveform(wave, rng)
    if self.raw_decoys:
      return self._by_seconds(wave)
    log_mel = self._listen(clip, wave, pair)
    return self.augment.log_mel(log_mel, rng) if self.augment else log_mel

  def _silence(self, clip):
    """As long as the frames that are there."""
    return np.zeros(int(clip.present.sum()) * SAMPLE_RATE_HZ, np.float32)

  def _sound(self, clip, index, pair, epoch, sound):
    """A pair's waveform (None where only log-mels exist), published log-mel and categories heard."""
    silent = None if clip.sounding is None else np.zeros_like(clip.sounding)
    if sound is not None:
      return sound, None, clip.sounding if pair.condition == POSITIVE else silent
    if pair.condition == POSITIVE:
      published = clip.log_mel if clip.waveform is None or self.front_end == "as_published" else None
      return clip.waveform, published, clip.sounding
    own = self._silence(clip) if clip.waveform is None else clip.waveform
    assert self.negatives is not None, "only Negatives give pairs that are not positive"
    if pair.condition != OFFSCREEN:
      return self.negatives.substitute(own, pair, epoch, index), None, silent
    lent, log_mel, heard = self._borrow(clip, pair.donor)
    if lent is None:
      if self.front_end == "as_published":
        raise InputError(
          f"{clip.id}: front_end=as_published needs the sounds themselves; add the .wav files."
        )
      return None, log_mel, heard
    return self.negatives.substitute(own, pair, epoch, index, lent), None, heard

  def _recorded(self, clip, index, pair, epoch, sound):
    """A negative at its file's rate, for the front end that resamples it itself; None where it is at 16 kHz."""
    if self.front_end != "as_published" or pair.condition == POSITIVE:
      return None
    if sound is not None:
      return sound if isinstance(sound, Recorded) else None
    if pair.condition == NOISE and pair.kind == "bytes":
      assert self.negatives is not None, "only Negatives give pairs that are not positive"
      return self.negatives.noise_as_recorded(epoch, index, int(clip.present.sum()))
    read = getattr(whole(self.source), "recorded", None)  # a source of files has it
    if pair.condition == OFFSCREEN and read is not None:
      try:
        return read(pair.donor)
      except InputError as error:
        raise BrokenDonor(f"{clip.id}: its off-screen sound cannot be read: {error}") from error
    return None

  def _pan(self, clip, index, pair, epoch, given, wave):
    """[T, 64]: where the pair's sound comes from. `given`: in place of what the pair calls for."""
    seconds = len(clip.present)
    if given is not None or pair.condition == SILENCE:
      return stereo.nowhere(seconds)
    if pair.condition == NOISE:  # a noise from the middle throughout could be told by that alone
      place = np.random.default_rng([self.seed, epoch + 1, index, 8]).uniform()
      return stereo.pan(stereo.place(wave, np.full(seconds, place)), seconds)
    own = clip.pan if pair.condition == POSITIVE else self.source.clip(pair.donor).pan
    if own is None:
      raise InputError(
        f"{clip.id}: {self.source.title} do not say where sounds come from; set model.stereo=False."
      )
    return own

  def _borrow(self, clip, donor):
    """The donor's waveform, published log-mel and categories heard; frames are read only if they must."""
    try:
      if clip.waveform is not None and clip.sounding is None:
        return self.source.sound(donor), None, None
      lender = self.source.clip(donor)
    except InputError as error:
      raise BrokenDonor(f"{clip.id}: its off-screen sound cannot be read: {error}") from error
    return lender.waveform, lender.log_mel, lender.sounding

  def _own_log_mel(self, clip, index, wave, pair, sound):
    if wave is None:
      raise InputError(
        f"{clip.id}: the clip has neither sound nor log-mel; run --mode=check to list such clips."
      )
    plain = pair.condition == POSITIVE and sound is None and wave is clip.waveform
    if plain and isinstance(self.source, Cached):
      return self.source.own_log_mel(index, lambda: self._listen(clip, wave, pair))
    return self._listen(clip, wave, pair)

  def _listen(self, clip, wave, pair):
    """[T, 96, 64]: examples of the frames that are there; zeros, as published, for those that are padding."""
    count = int(clip.present.sum())
    if self.front_end == "as_published" and pair.condition != POSITIVE:
      examples = robust_log_mel(wave, SAMPLE_RATE_HZ, count)
    else:
      examples = clip_log_mel(wave, count, pad=getattr(self.source, "audio_padding", "last"))
    return self._placed(clip, examples)

  def _placed(self, clip, examples):
    """Examples at the frames that are there, zeros at the others."""
    log_mel = np.zeros((len(clip.present), *examples.shape[1:]), np.float32)
    log_mel[clip.present] = examples
    return log_mel
