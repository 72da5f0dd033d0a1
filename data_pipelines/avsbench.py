"""The real data sets: S4, MS3 and AVSS in their published layout, read by one reader.

`avsbench_index` draws the layout. A split is checked when it is opened: every file of every clip must exist,
or the reader says which do not. Broken files are found when they are read, and named.
"""

import logging
from typing import Literal

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import audio as sound_files
from data_pipelines import avsbench_index as files
from data_pipelines import categories as groups
from data_pipelines import transforms
from data_pipelines.clips import SAMPLE_RATE_HZ, Clip

PUBLISHED_SIZE = 224
KNOWN_GROUPS = {"S4": groups.S4, "MS3": groups.MS3, "AVSS": groups.AVSS}

log = logging.getLogger(__name__)


class AVSBench:
  """A split of S4 (V1S), MS3 (V1M) or AVSS (V2); a `clips.Source`.

  Frames and masks come out at `size`. S4 and MS3: as stored, or resized (bilinear, masks nearest). AVSS:
  training takes the centre square, validation and test squeeze to a square, as published.
  S4 trains on frame 0: its other masks are zeros, `annotated` False. AVSS clips of five seconds are padded
  to ten with grey frames, `present` False; v1s clips are annotated at frame 0 in training, else at all five.

  `left_out` says in which way the clips are not those published ("" where they are), for the scoreboard.

  Args:
    root: the folder above (or the very folder) that holds the subset's csv.
    subset: any of the names in use, e.g. "s4", "V1S".
    split: train, val or test.
    size: side of the square pictures; None as stored (AVSS: 224), then every picture must be of one size.
    masks: "mended" thresholds at 128 and logs odd values; "as_published" dithers (S4), or reads palette
      indices (MS3) and refuses the soft targets that come of it. AVSS has one way only.
    audio: "wav" reads the sound, "log_mel" the published pickles, "auto" that of the two which is complete,
      the sound before the pickles.
    allow_missing: leave out clips that lack files, and say how many.

  Raises:
    InputError: unknown subset or split, broken csv, missing files.
  """

  is_stand_in = False

  def __init__(
    self,
    root,
    subset: str,
    split: str,
    *,
    size: int | None = None,
    masks: Literal["mended", "as_published"] = "mended",
    audio: Literal["wav", "log_mel", "auto"] = "auto",
    allow_missing: bool = False,
  ):
    if masks not in ("mended", "as_published"):
      raise InputError(f"data.masks={masks!r} is unknown; choose mended or as_published")
    if audio not in ("wav", "log_mel", "auto"):
      raise InputError(f"data.audio={audio!r} is unknown; choose wav, log_mel or auto")
    self.subset, self.split, self.masks = files.subset_name(subset), split, masks
    self.home = files.find_home(root, self.subset)
    marker = files.stand_in(self.home)
    self.title = self.subset
    if marker:
      self.title = f"{marker['titles'].get(split, 'stand-in clips')}, in the layout of {self.subset}"
    self.is_stand_in = marker is not None
    self.seconds = files.SECONDS[self.subset]
    self.num_classes = transforms.AVSS_CLASSES if self.subset == "AVSS" else 1
    found = files.entries(self.home, self.subset, split)
    self.audio, self.entries = self._complete(found, audio, allow_missing)
    self.left_out = self._left_out(len(found))
    self.ids = tuple(entry.id for entry in self.entries)
    self.parts = tuple(entry.group for entry in self.entries) if self.subset == "AVSS" else ()
    self.categories = self._categories(found, marker)
    known = {**KNOWN_GROUPS[self.subset], **(marker["broad"] if marker else {})}
    self.broad = tuple(known.get(name, groups.OTHER) for name in self.categories)
    # How a missing log-mel example is filled (`audio.clip_log_mel`).
    self.audio_padding: Literal["last", "zeros"] = "zeros" if self.subset == "AVSS" else "last"
    self.resized = size is not None
    self.size = self._size(size)
    self._warned: set[str] = set()

  def __len__(self) -> int:
    return len(self.entries)

  def clip(self, index: int) -> Clip:
    entry = self.entries[index]
    frames, masks = (self._avss if self.subset == "AVSS" else self._binary)(entry)
    at = np.arange(self.seconds)
    sounding, visible = self._heard(entry, masks, at < len(entry.frames))
    return Clip(
      id=entry.id,
      frames=frames,
      masks=masks,
      annotated=at < len(entry.masks),
      present=at < len(entry.frames),
      waveform=self._wave(entry) if self.audio == "wav" else None,
      log_mel=self._log_mel(entry.log_mel) if self.audio == "log_mel" else None,
      sounding=sounding,
      visible=visible,
    )

  def sound(self, index: int) -> np.ndarray:
    entry = self.entries[index]
    if self.audio != "wav":
      raise InputError(
        f"{self.title} {self.split}: {entry.id} is read from published log-mel, and its sound itself is asked"
        f" for; put 16 kHz files as {entry.wav} and set data.audio=wav"
      )
    return self._wave(entry)

  def recorded(self, index: int) -> sound_files.Recorded | None:
    """The same sound at its file's own rate; None where only log-mels are read."""
    return sound_files.read_recorded(self.entries[index].wav) if self.audio == "wav" else None

  def objects(self, index: int) -> frozenset[str]:
    return self.entries[index].objects

  def published_negative(self, index: int, folder: str) -> str:
    """Path of a clip's sound in a folder beside `audio_wav`, as the Robust paper's authors publish negatives.

    Raises:
      InputError: the subset keeps its sounds elsewhere (AVSS).
    """
    head, found, tail = self.entries[index].wav.rpartition("/audio_wav/")
    if not found:
      raise InputError(
        f"{self.title} has no folder audio_wav, so no {folder} beside it; use drawn negatives."
      )
    return f"{head}/{folder}/{tail}"

  def _complete(self, found: list[files.Entry], audio: str, allow: bool) -> tuple[str, list[files.Entry]]:
    """The kind of sound to read, and the clips that have all their files."""
    if audio == "log_mel" and self.subset == "AVSS":
      raise InputError("AVSS was published with sound only; set data.audio=wav or auto")
    listing: dict[str, frozenset[str]] = {}
    both = ("wav",) if self.subset == "AVSS" else ("wav", "log_mel")
    kinds = both if audio == "auto" else (audio,)
    missing = {
      kind: [files.missing((*e.frames, *e.masks, e.sounds(kind)), listing) for e in found] for kind in kinds
    }
    kind = min(kinds, key=lambda kind: sum(map(len, missing[kind])))  # the first, wav, where they are equal
    whole = [entry for entry, gone in zip(found, missing[kind], strict=True) if not gone]
    gone = [file for some in missing[kind] for file in some]
    if not gone:
      return kind, whole
    named = ", ".join(file.removeprefix(f"{self.home}/") for file in gone[:5])
    said = (
      f"{self.title} {self.split} in {self.home}: {len(found) - len(whole)} of {len(found)} clips lack files,"
      f" {len(gone)} in all: {named}{', ...' if len(gone) > 5 else ''}"
    )
    if not allow or not whole:
      raise InputError(
        f"{said}; run --mode=check for the whole list, or set data.allow_missing=True to go on without them"
      )
    log.warning("%s; going on with %d clips", said, len(whole))
    return kind, whole

  def _left_out(self, listed: int) -> str:
    """In which way the split is not the published one; "" where it is, or where that is not known."""
    published = None if self.is_stand_in else files.PUBLISHED_CLIPS.get(self.subset, {}).get(self.split)
    said = []
    if published not in (None, listed):
      said.append(f"the csv lists {listed} clips, {published} were published")
      log.warning("%s %s in %s: %s", self.title, self.split, self.home, said[0])
    if len(self.entries) < listed:
      said.append(f"{listed - len(self.entries)} of {listed} clips lack files")
    return "; ".join(said)

  def _categories(self, found: list[files.Entry], marker: dict | None) -> tuple[str, ...]:
    """Names of what sounds, in an order that does not depend on the split."""
    if self.subset == "AVSS":
      return files.class_names(self.home)[1:]
    if marker:
      return tuple(marker["broad"])
    known = KNOWN_GROUPS[self.subset]
    heard = frozenset().union(*(entry.objects for entry in found))
    return (*known, *sorted(heard - known.keys())) if heard else ()

  def _size(self, size: int | None) -> tuple[int, int]:
    if size is None and self.subset != "AVSS":
      width, height = transforms.read_image(self.entries[0].frames[0]).size
      return height, width
    side = size or PUBLISHED_SIZE
    return side, side

  def _heard(self, entry: files.Entry, masks: np.ndarray, present: np.ndarray):
    """`sounding` [T, G] and `visible` [G], where the data set says so.

    S4's one category sounds all the time. MS3 names a clip's objects, not their seconds: each may sound in every one;
    a clip without names may hold anything. So what neither names is surely not there, and that is what is relied on.
    """
    if self.subset in ("S4", "MS3") and self.categories:
      visible = np.array([name in entry.objects or not entry.objects for name in self.categories])
      return np.repeat(visible[None], self.seconds, axis=0), visible
    if self.subset == "AVSS":
      sounding = np.stack([np.bincount(m.reshape(-1), minlength=self.num_classes)[1:] > 0 for m in masks])
      if len(entry.masks) < len(entry.frames):  # v1s in training: its one class sounds all the time
        sounding = sounding[:1] & present[:, None]
      return sounding, sounding.any(axis=0)
    return None, None

  def _binary(self, entry: files.Entry) -> tuple[np.ndarray, np.ndarray]:
    images = [transforms.to_rgb(transforms.read_image(path)) for path in entry.frames]
    expected = images[0].shape[:2] if self.resized else self.size
    for path, image in zip(entry.frames, images, strict=True):
      _check_size(path, image.shape[:2], expected)
    masks = np.zeros((self.seconds, *expected), np.int32)
    for k, path in enumerate(entry.masks):
      mask = self._mask(path)
      _check_size(path, mask.shape, expected)
      masks[k] = mask
    return transforms.resize_frames(np.stack(images), self.size), transforms.resize_mask(masks, self.size)

  def _mask(self, path: str) -> np.ndarray:
    image = transforms.read_image(path)
    if self.masks == "mended":
      mask, odd = transforms.mended_mask(image)
      if odd:
        self._warn(path, f"mask values other than 0 and 255, e.g. {odd[0]}; cut at 128")
      return mask
    mask = transforms.published_mask(image, "S4" if self.subset == "S4" else "MS3")
    soft = mask[(mask > 0) & (mask < 1)]
    if soft.size:
      raise InputError(
        f"{path}: as published this mask gives soft targets such as {soft[0]:.3f}, which 0 and 1 cannot hold;"
        " set data.masks=mended, or save it as 0 and 255 in greyscale"
      )
    return mask.astype(np.int32)

  def _avss(self, entry: files.Entry) -> tuple[np.ndarray, np.ndarray]:
    side = self.size[0]
    fit = transforms.avss_train_crop if self.split == "train" else transforms.avss_eval_resize
    frames = np.empty((self.seconds, side, side, 3), np.uint8)
    frames[:] = transforms.PADDING_RGB
    masks = np.zeros((self.seconds, side, side), np.int32)
    for k, path in enumerate(entry.frames):
      frames[k] = fit(transforms.to_rgb(transforms.read_image(path)), side)
    for k, path in enumerate(entry.masks):
      label, foreign = transforms.labels_from_colours(transforms.to_rgb(transforms.read_image(path)))
      if foreign:
        self._warn(path, f"{len(foreign)} colours of no class, e.g. {foreign[0]}; read as background")
      masks[k] = fit(label.astype(np.uint8), side, nearest=True)
    return frames, masks

  def _wave(self, entry: files.Entry) -> np.ndarray:
    wave, seconds = sound_files.read_wav(entry.wav), len(entry.frames)
    if len(wave) < sound_files.samples_for(seconds):
      filled = "zeros stand" if self.audio_padding == "zeros" else "the last example stands"
      self._warn(
        entry.wav,
        f"{len(wave) / SAMPLE_RATE_HZ:.2f} s of sound for {seconds} s of frames; {filled} for the rest",
      )
    return wave

  def _log_mel(self, path: str) -> np.ndarray:
    from avs_jax.weights import read_pickled_tensor

    examples = np.asarray(read_pickled_tensor(path), np.float32)
    expected = (self.seconds, 1, sound_files.FRAMES, sound_files.BANDS)
    if examples.shape != expected:
      raise InputError(f"{path}: log-mel of shape {examples.shape}, expected {expected}; copy it again")
    if not np.isfinite(examples).all():
      raise InputError(f"{path}: the log-mel has NaN or infinite values; copy it again")
    return examples[:, 0]

  def _warn(self, path: str, what: str) -> None:
    """Once a reader for pictures and once for sounds: one odd file is usually one of thousands."""
    ending = path.rpartition(".")[2]
    if ending not in self._warned:
      self._warned.add(ending)
      log.warning("%s: %s (said once; --mode=check lists all such files)", path, what)


def _check_size(path: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
  if got != expected:
    raise InputError(
      f"{path}: {got[1]}x{got[0]} pixels where {expected[1]}x{expected[0]} are expected; copy it again"
    )
