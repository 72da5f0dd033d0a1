"""VPO (Visual Post-production): single pictures of COCO with sounds of VGGSound, read as they were published.

"Unraveling Instance Associations" (Chen et al., CVPR 2024). The layout is that which the authors' released loaders
(github.com/cyh-0/CAVP) read; a row of the csv is one sounding object:

  VPO/VPO-SS/    vpo_ss_data_stereo.csv (cateName, img_Id, ann_Ids, vgg_file, audio_pos, split)
                   data/<cateName>/<img>.jpg   mask/<cateName>/<img>_<ann>.png      a row is a clip
  VPO/VPO-MS/    vpo_ms_data_stereo.csv (the same columns)
                   data/<img>.jpg              mask/<img>.png                       all rows of a picture are a clip
  VPO/VPO-MSMI/  vpo_msmi_data_stereo.csv (and multi_instance)
                   the same; pictures whose multi_instance is 0 lie in VPO-MS, which must be beside it
  VGGSound/audios/<vgg_file>.wav, also in vggsound_bench/, beside VPO or in any folder between

Numbers in names have twelve digits. A mask holds COCO's category numbers, persons as 92 male, 93 female, 94 baby.
A sound is the middle three seconds of its file, shorter ones are repeated; the sounds of a clip are added up, and
brought below 1 where the sum exceeds it (the loaders let it). `audio_pos` pans it, 0 left and 1 right.
"""

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import audio, stereo, transforms
from data_pipelines import avsbench_index as files
from data_pipelines.clips import PAIR, SAMPLE_RATE_HZ, Clip

SUBSETS = files.VPO_NAMES
TITLES = {"vpo_ss": "VPO-SS", "vpo_ms": "VPO-MS", "vpo_msmi": "VPO-MSMI"}
SECONDS = 3
SOUNDS = ("vggsound_bench/VGGSound/audios", "VGGSound/audios", "audios")
_COLUMNS = ("cateName", "img_Id", "ann_Ids", "vgg_file", "audio_pos", "split")
IGNORED = 255
# The classes 1 to 21 of the masks that are given out, in the loaders' order: COCO's number, and a broad group (ours).
CLASSES = {
  "airplane": (5, "device"), "baby": (94, "human"), "bird": (16, "animal"), "bus": (6, "device"),
  "car": (3, "device"), "cat": (17, "animal"), "cell phone": (77, "device"), "cow": (21, "animal"),
  "dog": (18, "animal"), "elephant": (22, "animal"), "female": (93, "human"), "horse": (19, "animal"),
  "keyboard": (76, "device"), "male": (92, "human"), "motorcycle": (4, "device"), "mouse": (74, "device"),
  "sheep": (20, "animal"), "skateboard": (41, "device"), "sports ball": (37, "device"),
  "tennis racket": (43, "device"), "zebra": (24, "animal"),
}  # fmt: skip
_TO_CLASS = np.full(256, -1, np.int32)
_TO_CLASS[[0, IGNORED, *(number for number, _ in CLASSES.values())]] = [0, 0, *range(1, 1 + len(CLASSES))]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
  """The files of one clip; its sounds in the order of the csv, each with its position and category."""

  id: str
  frame: str
  mask: str
  sounds: tuple[str, ...]
  positions: tuple[float, ...]
  categories: tuple[str, ...]
  is_multi_instance: bool
  seen: frozenset[str]  # of all rows of the picture: VPO-SS makes a clip of each

  @property
  def paths(self) -> tuple[str, ...]:
    return self.frame, self.mask, *self.sounds


class VPO:
  """A split of VPO-SS, VPO-MS or VPO-MSMI; a `clips.Source`.

  A clip is its one picture, shown for three seconds; each second counts as a frame. Pictures and masks are squeezed
  to a square (bilinear, masks nearest). `test` holds the csv's val and test rows, as the released loaders have it;
  `val` its val rows alone, or, where it has none, those of `test`.

  Args:
    root: the folder above VPO, VPO itself, or the very folder with the csv.
    subset: one of `SUBSETS`.
    split: train, val or test.
    size: side of the square.
    binary: masks are 0/1; else classes 0 to 21.
    has_pan: clips say where their sound comes from.
    allow_missing: leave out clips that lack files, and say how many.

  Raises:
    InputError: unknown subset or split, broken csv, missing files.
  """

  is_stand_in = False
  seconds = SECONDS
  categories = tuple(CLASSES)
  broad = tuple(group for _, group in CLASSES.values())

  def __init__(
    self,
    root: str | Path,
    subset: str,
    split: str,
    *,
    size: int | None = None,
    binary: bool = False,
    has_pan: bool = False,
    allow_missing: bool = False,
  ):
    self.home = find_home(root, subset)
    self.title, self.split = TITLES[subset], split
    side = size or 224
    self.size, self.has_pan = (side, side), has_pan
    self.num_classes = 1 if binary else 1 + len(CLASSES)
    found = entries(self.home, subset, split)
    self.entries = _complete(found, f"{self.title} {split} in {self.home}", allow_missing)
    lost = len(found) - len(self.entries)
    self.left_out = f"{lost} of {len(found)} clips lack files" if lost else ""
    self.ids = tuple(entry.id for entry in self.entries)

  def __len__(self) -> int:
    return len(self.entries)

  def clip(self, index: int) -> Clip:
    entry = self.entries[index]
    frame, mask = read_pictures(entry)
    if self.num_classes == 1:
      mask = (mask > 0).astype(np.int32)
    heard, seen = (
      np.array([name in some for name in self.categories]) for some in (entry.categories, entry.seen)
    )
    voices = self._voices(index)
    every = np.ones(SECONDS, bool)
    return Clip(
      id=entry.id,
      frames=np.repeat(transforms.resize_frames(frame[None], self.size), SECONDS, axis=0),
      masks=np.repeat(transforms.resize_mask(mask[None], self.size), SECONDS, axis=0),
      annotated=every,
      present=every.copy(),
      waveform=_quieted(np.sum(voices, axis=0)),
      sounding=np.repeat(heard[None], SECONDS, axis=0),
      visible=seen,
      pan=self._pan(entry, voices) if self.has_pan else None,
    )

  def sound(self, index: int) -> np.ndarray:
    """float32 [48000]: the clip's sounds added up."""
    return _quieted(np.sum(self._voices(index), axis=0))

  def objects(self, index: int) -> frozenset[str]:
    """Categories that any row of the csv gives the clip's picture; what is named nowhere is not known."""
    return self.entries[index].seen

  def kinds(self, index: int) -> frozenset[str]:
    """PAIR where several of one category are seen (the column multi_instance); nothing switches in one picture."""
    return frozenset((PAIR,) if self.entries[index].is_multi_instance else ())

  def _voices(self, index: int) -> list[np.ndarray]:
    return [middle(audio.read_wav(path)) for path in self.entries[index].sounds]

  def _pan(self, entry: Entry, voices: list[np.ndarray]) -> np.ndarray:
    pairs = zip(voices, entry.positions, strict=True)
    channels = np.sum([stereo.place(voice, np.full(SECONDS, place)) for voice, place in pairs], axis=0)
    return stereo.pan(channels, SECONDS)


def middle(sound: np.ndarray) -> np.ndarray:
  """The middle three seconds at 16 kHz; a shorter sound is repeated from its start."""
  samples = SECONDS * SAMPLE_RATE_HZ
  if len(sound) < samples:
    return np.tile(sound, -(-samples // len(sound)))[:samples]
  start = len(sound) // 2 - samples // 2
  return sound[start : start + samples]


def _quieted(sound: np.ndarray) -> np.ndarray:
  return (sound / max(float(np.abs(sound).max()), 1.0)).astype(np.float32)


def read_pictures(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
  """The picture uint8 [H, W, 3], and its mask int32 [H, W] in classes 0 to 21; pixels marked 255 are background.

  Raises:
    InputError: a broken file, a mask of another size, or one with numbers of no class.
  """
  frame = transforms.to_rgb(transforms.read_image(entry.frame))
  numbers = np.asarray(transforms.read_image(entry.mask))
  if numbers.ndim != 2 or numbers.dtype != np.uint8:
    raise InputError(
      f"{entry.mask}: a picture of {numbers.dtype}{list(numbers.shape)}, expected one byte a pixel; copy it again"
    )
  if numbers.shape != frame.shape[:2]:
    raise InputError(
      f"{entry.mask}: {numbers.shape[1]}x{numbers.shape[0]} pixels, its picture has"
      f" {frame.shape[1]}x{frame.shape[0]}; copy both again"
    )
  mask = _TO_CLASS[numbers]
  if mask.min() < 0:
    strange = np.unique(numbers[mask < 0]).tolist()
    raise InputError(f"{entry.mask}: category {strange[0]} is none of VPO's 21; use the published masks")
  return frame, mask


def find_home(root: str | Path, subset: str) -> Path:
  """The folder that holds the subset's csv.

  Raises:
    InputError: unknown subset, or its csv is not there.
  """
  if subset not in SUBSETS:
    raise InputError(f"{subset!r} is no subset of VPO; choose one of {', '.join(SUBSETS)}")
  root, name, table = Path(root).expanduser(), TITLES[subset], f"{subset}_data_stereo.csv"
  for home in (root, root / name, root / "VPO" / name):
    if (home / table).is_file():
      return home
  raise InputError(
    f"{name}: {root} has neither {table} nor {name}/{table} nor VPO/{name}/{table}; set data.root to the folder"
    " with the published layout (docs/data.md draws it)"
  )


def find_sounds(home: Path) -> Path:
  """The folder of VGGSound's files nearest to the subset's.

  Raises:
    InputError: there is none.
  """
  for folder in (home, *home.parents[:3]):
    for name in SOUNDS:
      if (folder / name).is_dir():
        return folder / name
  raise InputError(
    f"{home}: no sounds beside it; put VGGSound's files into {home.parent.parent / SOUNDS[1]} as <vgg_file>.wav"
  )


def entries(home: Path, subset: str, split: str) -> list[Entry]:
  """The clips of a split in the order of the csv. Does not look whether their files exist.

  Raises:
    InputError: unknown split, broken csv, no clip of the split, or no folder of sounds.
  """
  if split not in files.SPLITS:
    raise InputError(f"{split!r} is no split of {TITLES[subset]}; choose train, val or test")
  table = home / f"{subset}_data_stereo.csv"
  is_multi = subset == "vpo_msmi"
  rows = files.read_rows(table, (*_COLUMNS, *(("multi_instance",) if is_multi else ())))
  there = {row["split"] for row in rows}
  wanted = {"train": {"train"}, "val": {"val"} & there or {"test"}, "test": {"val", "test"}}[split]
  clips: dict[str, list[dict[str, str]]] = {}
  seen: dict[str, set[str]] = {}
  for row in rows:
    image, annotation = _number(row["img_Id"]), _number(row["ann_Ids"])
    seen.setdefault(image, set()).add(row["cateName"])
    if row["split"] in wanted:
      clips.setdefault(f"{image}_{annotation}" if subset == "vpo_ss" else image, []).append(row)
  if not clips:
    raise InputError(
      f"{table}: no row of the split {split!r} (it has {', '.join(sorted(there)) or 'no rows'}); use the"
      " published csv"
    )
  sounds = find_sounds(home)
  return [
    _entry(home, table, subset, name, some, sounds, frozenset(seen[name.split("_")[0]]))
    for name, some in clips.items()
  ]


def _entry(
  home: Path,
  table: Path,
  subset: str,
  name: str,
  rows: list[dict[str, str]],
  sounds: Path,
  seen: frozenset[str],
) -> Entry:
  categories = tuple(row["cateName"] for row in rows)
  unknown = [each for each in categories if each not in CLASSES]
  if unknown:
    raise InputError(f"{table}: {name} has cateName={unknown[0]!r}, none of VPO's 21; use the published csv")
  try:
    positions = tuple(float(row["audio_pos"]) for row in rows)
  except ValueError:
    positions = (np.nan,)
  if not all(0 <= place <= 1 for place in positions):
    raise InputError(f"{table}: {name} has an audio_pos that is not from 0 to 1; use the published csv")
  told = rows[0].get("multi_instance") or "0"
  try:
    is_multi_instance = float({"true": "1", "false": "0"}.get(told.lower(), told)) != 0
  except ValueError:
    raise InputError(
      f"{table}: {name} has multi_instance={told!r}, which is no number; use the published csv"
    ) from None
  if subset == "vpo_msmi" and not is_multi_instance:
    home = home.parent / TITLES["vpo_ms"]
  image = name.split("_")[0]
  inner = f"{categories[0]}/" if subset == "vpo_ss" else ""
  return Entry(
    name,
    f"{home}/data/{inner}{image}.jpg",
    f"{home}/mask/{inner}{name}.png",
    tuple(f"{sounds}/{row['vgg_file']}.wav" for row in rows),
    positions,
    categories,
    is_multi_instance,
    seen,
  )


def _number(text: str) -> str:
  """A number of COCO's as file names have it."""
  return text.removesuffix(".0").zfill(12)


def _complete(found: list[Entry], where: str, allow: bool) -> list[Entry]:
  """The clips all of whose files are there."""
  listing: dict[str, frozenset[str]] = {}
  gone = [files.missing(entry.paths, listing) for entry in found]
  whole = [entry for entry, lost in zip(found, gone, strict=True) if not lost]
  lost = list(dict.fromkeys(path for some in gone for path in some))
  if lost:
    said = (
      f"{where}: {len(found) - len(whole)} of {len(found)} clips lack files, {len(lost)} in all:"
      f" {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
    )
    if not allow or not whole:
      raise InputError(
        f"{said}; run --mode=check for the whole list, or set data.allow_missing=True to go on without them"
      )
    log.warning("%s; going on with %d clips", said, len(whole))
  return whole


def inspect(root: str | Path, subset: str, *, read_files: bool = True) -> dict[str, Any]:
  """What of the subset is at `root`, in the form of `check.inspect`; val is part of test, so it is left out."""
  home = find_home(root, subset)
  report: dict[str, Any] = {"subset": TITLES[subset], "home": str(home), "stand_in": None, "splits": {}}
  listing: dict[str, frozenset[str]] = {}
  for split in ("train", "test"):
    try:
      found = entries(home, subset, split)
    except InputError as error:
      report["splits"][split] = {"error": str(error), "clips": 0, "whole": 0}
      continue
    gone = {entry.id: files.missing(entry.paths, listing) for entry in found}
    broken = [fault for entry in found for fault in _faults(entry, gone[entry.id])] if read_files else []
    harmed = {name for name, lost in gone.items() if lost} | {fault["clip"] for fault in broken}
    report["splits"][split] = {
      "clips": len(found),
      "published": None,
      "whole": len(found) - len(harmed),
      "wav": sum(not any(path in gone[entry.id] for path in entry.sounds) for entry in found),
      "log_mel": 0,
      "missing": [path for lost in gone.values() for path in lost],
      "broken": broken,
      "odd": [],
    }
  report["whole"] = all(s["clips"] and s["whole"] == s["clips"] for s in report["splits"].values())
  return report


def _faults(entry: Entry, gone: Iterable[str]) -> list[dict[str, str]]:
  """What of a clip's files cannot be read; those that are missing are left out."""
  gone, found = set(gone), []
  readers = [] if {entry.frame, entry.mask} & gone else [(entry.mask, lambda: read_pictures(entry))]
  readers += [(path, lambda path=path: audio.read_wav(path)) for path in entry.sounds if path not in gone]
  for path, read in readers:
    try:
      read()
    except InputError as error:
      found.append({"clip": entry.id, "file": path, "problem": str(error).removeprefix(f"{path}: ")})
  return found
