"""Scores predicted masks from any program: a folder in, the scoreboard out, no model needed.

predictions/
  positive/            the clips' own sound     (also: own, original, clean, audio_wav)
  silence/             digital silence          (also: silent, mute)
  noise/               noise                    (also: white_noise, random_noise, audio_wav_noise)
  offscreen/           another clip's sound     (also: off-screen, ood, misaligned, audio_wav_misaligned)
  unseen_<name>/       any further sound, a row of its own
    <clip id>.npz      one of `masks`, `probabilities`, `logits` [T, H, W]; with K classes also
                       `labels` [T, H, W], and `logits` are [T, H, W, K]
    <clip id>/<k>.png  or <clip id>_<k>.png, also in further folders: 0..255 is the probability 0..1, and a
                       palette's indices 0 (black) and 1 are a mask, whatever the colour

k counts from 0 or from 1; the whole folder shows which (AVSBench's test scripts number masks from 0, its frames
from 1). With K classes a PNG holds class ids (grey values or a palette's indices) or, as RGB, the colours of AVSS's
palette. Masks have the size of the data set's masks.
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from avs_jax import mask_pictures, metrics, report
from avs_jax.errors import InputError

log = logging.getLogger(__name__)

_ALIASES = {
  "positive": ("positive", "positives", "pos", "own", "ownsound", "original", "clean", "audiowav"),
  "silence": ("silence", "silent", "mute", "muted", "audiowavsilence", "audiowavsilent"),
  "noise": ("noise", "whitenoise", "randomnoise", "gaussiannoise", "audiowavnoise"),
  "offscreen": (
    *("offscreen", "offscreensound", "offscreensounds", "ood", "mismatched", "misaligned"),
    "audiowavmisaligned",
  ),
}
_KINDS = ("masks", "probabilities", "logits", "labels")


def save_masks(
  folder: str, condition: str, clip_id: str, array: np.ndarray, *, kind: str = "probabilities"
) -> str:
  """Keeps a clip's prediction where `score` finds it, exactly (float32; whole numbers for masks and labels).

  Args:
    array: [T, H, W], or [T, H, W, K] for `kind` "logits" of K classes.

  Returns: the file's path, `folder`/`condition`/`clip_id`.npz.

  Raises:
    InputError: unknown kind, or an array of another shape.
  """
  array = np.asarray(array)
  if kind not in _KINDS or array.ndim != 3 + (kind == "logits" and array.ndim == 4):
    raise InputError(
      f"{clip_id}: got {kind!r} of shape {array.shape}; give [T, H, W] of kind {', '.join(_KINDS)}."
    )
  path = os.path.join(folder, condition, f"{clip_id}.npz")
  os.makedirs(os.path.dirname(path), exist_ok=True)
  exact = np.float32 if kind in ("probabilities", "logits") else np.uint8
  with open(path + ".part", "wb") as file:
    np.savez_compressed(file, **{kind: array.astype(exact)})
  os.replace(path + ".part", path)
  return path


def find_conditions(folder: str) -> dict[str, str]:
  """{condition: sub-folder} of a folder of predictions, conditions in the scoreboard's order.

  Raises:
    InputError: no folder, an unknown or doubled sub-folder, or none at all.
  """
  if not folder or not os.path.isdir(folder):
    raise InputError(
      f"{folder or '--input'}: no such folder; give the folder that holds positive/, silence/ ..."
    )
  found: dict[str, str] = {}
  for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    if name.startswith(".") or not os.path.isdir(path):
      continue
    plain = re.sub(r"[^a-z]", "", name.lower())
    known = [condition for condition, aliases in _ALIASES.items() if plain in aliases]
    condition = name.lower() if name.lower().startswith(("unseen", "mixed_")) else next(iter(known), None)
    if condition is None:
      raise InputError(
        f"{path}: not a sound condition; name it positive, silence, noise, offscreen or unseen_<sound>."
      )
    if condition in found:
      raise InputError(f"{path} and {found[condition]} are both '{condition}'; keep one of them.")
    found[condition] = path
  if not found:
    raise InputError(
      f"{folder}: holds no sub-folder of a sound condition; put the masks into positive/, silence/, noise/ and "
      "offscreen/."
    )
  order = [*_ALIASES, *(name for name in found if name not in _ALIASES)]
  return {name: found[name] for name in order if name in found}


def _strip(name: str) -> str:
  return name.removesuffix(".mp4")


class Predictions:
  """The files of one condition: which clip each belongs to, and how its frames are numbered.

  Attributes:
    missing: ids of clips without any file.
    brightest: the largest probability met in a picture so far.
  """

  def __init__(self, folder: str, ids: tuple[str, ...], num_classes: int):
    self.folder, self.num_classes = folder, num_classes
    # A clip is found by its id, or by the id's last part where that part is unique in the data set.
    names = {clip: clip for clip in ids}
    short: dict[str, list[str]] = {}
    for clip in ids:
      short.setdefault(os.path.basename(clip), []).append(clip)
    names.update({name: clips[0] for name, clips in short.items() if len(clips) == 1 and name not in names})
    self._arrays: dict[str, str] = {}
    self._pictures: dict[str, dict[int, str]] = {}
    strangers = []
    for path in self._files():
      clip, number = self._owner(os.path.relpath(path, folder), names)
      if clip is None:
        strangers.append(os.path.relpath(path, folder))
      elif number is None:
        if clip in self._arrays:
          raise InputError(
            f"{path} and {self._arrays[clip]} are both predictions of clip {clip}; keep one of them."
          )
        self._arrays[clip] = path
      else:
        frames = self._pictures.setdefault(clip, {})
        if number in frames:
          raise InputError(
            f"{path} and {frames[number]} are both frame {number} of clip {clip}; keep one of them."
          )
        frames[number] = path
    both = sorted(set(self._arrays) & set(self._pictures))
    if both:
      raise InputError(f"{folder}: clip {both[0]} has both an NPZ and PNG files; keep one of them.")
    if strangers:
      log.warning("%s: %d files belong to no clip, e.g. %s", folder, len(strangers), strangers[0])
    self.strangers = strangers
    self.missing = [clip for clip in ids if clip not in self._arrays and clip not in self._pictures]
    self._first = 0 if any(0 in frames for frames in self._pictures.values()) else 1
    self.brightest = 0.0

  def _files(self) -> list[str]:
    found = []
    for folder, folders, names in os.walk(self.folder):
      folders.sort()
      found += [
        os.path.join(folder, name) for name in sorted(names) if name.lower().endswith((".png", ".npz"))
      ]
    return found

  def _owner(self, relative: str, names: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The clip a file belongs to and, for a PNG, its number; (None, None) where no clip of the set fits."""
    stem, kind = os.path.splitext(relative)
    parts = stem.replace(os.sep, "/").split("/")
    if kind.lower() == ".npz":
      return self._clip(parts, names), None
    if parts[-1].isdecimal():
      return self._clip(parts[:-1], names), int(parts[-1])
    match = re.fullmatch(r"(.*)_(\d+)", parts[-1])
    if match is None:
      return None, None
    clip = self._clip([*parts[:-1], match[1]], names)
    return clip or self._clip(parts[:-1], names), int(match[2])  # or <clip id>/mask_<k>

  def _clip(self, parts: list[str], names: Mapping[str, str]) -> str | None:
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    return next((names[key] for tail in tails for key in (tail, _strip(tail)) if key in names), None)

  def read(self, clip: str, shape: tuple[int, int, int], needed: np.ndarray) -> tuple[str, np.ndarray]:
    """Kind and values of a clip's prediction; frames that are not `needed` may be absent and are 0 then.

    Raises:
      InputError: a frame that is missing, of another size, unreadable, or with values that make no sense.
    """
    if clip in self._arrays:
      return self._read_array(self._arrays[clip], shape)
    frames = self._pictures[clip]
    last = shape[0] - 1 + self._first
    beyond = [number for number in frames if number > last]
    if beyond:
      raise InputError(
        f"{frames[beyond[0]]}: frames are numbered from {self._first} here and clip {clip} has {shape[0]}, "
        f"so the last is {last}; number all clips from 0, or all from 1."
      )
    values = np.zeros(shape, np.float32 if self.num_classes == 1 else np.int32)
    for t in range(shape[0]):
      path = frames.get(t + self._first)
      if path is not None:
        values[t] = self._read_picture(path, shape[1:])
      elif needed[t]:
        raise InputError(
          f"{self.folder}: clip {clip} lacks frame {t + self._first} (numbered from {self._first}); "
          "write a mask for every annotated frame, an empty one where nothing sounds."
        )
    return ("labels" if self.num_classes > 1 else "probabilities"), values

  def _read_picture(self, path: str, size: tuple[int, ...]) -> np.ndarray:
    is_binary = self.num_classes == 1
    values = mask_pictures.read_probabilities(path) if is_binary else mask_pictures.read_labels(path)
    if values.shape != size:
      raise InputError(_size_sentence(path, values.shape, size))
    if not is_binary:
      return _checked_labels(path, values, self.num_classes)
    self.brightest = max(self.brightest, float(values.max()))
    return values

  def _read_array(self, path: str, shape: tuple[int, int, int]) -> tuple[str, np.ndarray]:
    try:
      with np.load(path, allow_pickle=False) as file:
        kinds = [kind for kind in _KINDS if kind in file.files]
        values = np.asarray(file[kinds[0]]) if len(kinds) == 1 else np.zeros(0)
        names = ", ".join(file.files)
    except Exception as error:
      raise InputError(
        f"{path} cannot be read as NPZ ({type(error).__name__}: {error}); write it again."
      ) from None
    if len(kinds) != 1:
      raise InputError(
        f"{path}: holds {names or 'nothing'}; it must hold exactly one of {', '.join(_KINDS)}."
      )
    kind = kinds[0]
    expected = (*shape, self.num_classes) if kind == "logits" and self.num_classes > 1 else shape
    if values.shape != expected:
      raise InputError(_size_sentence(path, values.shape, expected))
    if values.dtype.kind not in "buif":
      raise InputError(f"{path}: {kind} are of type {values.dtype}; write whole or floating-point numbers.")
    if not np.isfinite(values).all():
      raise InputError(
        f"{path}: {kind} hold values that are not finite numbers; correct the program that wrote it."
      )
    if kind == "labels":
      return kind, _checked_labels(path, values, self.num_classes)
    low, high = float(values.min()), float(values.max())
    if kind != "logits" and (low < 0 or high > 1):
      raise InputError(f"{path}: {kind} must lie in [0, 1] but reach from {low:g} to {high:g}; scale them.")
    return ("probabilities" if kind == "masks" else kind), values.astype(np.float32)


def _check_range(folder: str, brightest: float) -> None:
  """Refuses pictures that are dark under every sound: masks that were written without scaling, or painted.

  A condition may be dark alone: a model that is silent where it should be writes such pictures.
  """
  if 0 < brightest <= 0.5:
    raise InputError(
      f"{folder}: the pictures hold values above 0 but none above 127 of 255 (the highest is {255 * brightest:.3g}), so"
      " all would count as off; write masks as 0 and 255, or 0..255 as the probability 0..1."
    )


def _size_sentence(path: str, got: tuple[int, ...], expected: tuple[int, ...]) -> str:
  sizes = " x ".join(map(str, got)), " x ".join(map(str, expected))
  if len(got) == len(expected) and got[1:] == expected[1:]:
    return (
      f"{path}: is {sizes[0]}, but the data set's masks are {sizes[1]}; give {expected[0]} seconds, those of padding"
      " too (they are not scored)."
    )
  return (
    f"{path}: is {sizes[0]}, but the data set's masks are {sizes[1]}; resize the predictions to that size."
  )


def _checked_labels(path: str, values: np.ndarray, num_classes: int) -> np.ndarray:
  if num_classes == 1:
    raise InputError(
      f"{path}: holds class labels, but this data set's masks are binary; give masks or probabilities."
    )
  if (values != np.rint(values)).any():
    raise InputError(
      f"{path}: labels are not whole numbers; write the class of each pixel, or probabilities."
    )
  if values.min() < 0 or values.max() >= num_classes:
    raise InputError(
      f"{path}: holds class {values.max()}, but the data set has classes 0 to {num_classes - 1}."
    )
  return values.astype(np.int32)


def _count(kind: str, values: np.ndarray, masks: np.ndarray, num_classes: int) -> Any:
  if kind == "labels":
    return metrics.label_counts(values, masks, num_classes)
  if kind == "logits" and num_classes > 1:
    return metrics.class_counts(values, masks)
  masks = (masks > 0).astype(np.int32)
  return (metrics.frame_counts if kind == "logits" else metrics.probability_counts)(values, masks)


def score(
  predictions_dir: str,
  source: Any,
  output_dir: str,
  *,
  record: Mapping[str, Any] | None = None,
  allow_missing: bool = False,
) -> dict[str, Any]:
  """Scores a folder of predictions (drawing above) against `source`; writes the scoreboard to `output_dir`.

  Ground truth of a negative sound is the object's own mask, as the Robust paper has it; the figures against
  the empty mask stand beside. With K classes, `masks` or `probabilities` are scored as "anything sounds".

  Args:
    source: a `data_pipelines.clips.Source`; used are ids, clip(i), num_classes, title, is_stand_in.
    record: further facts for the scoreboard (title, split, config, seed).
    allow_missing: score clips that have no file in some condition as absent instead of refusing.

  Returns: {condition: figures} and "global", as in scoreboard.json.

  Raises:
    InputError: missing clips (by name), wrong sizes, values or names; the message says what to do.
  """
  folders = find_conditions(predictions_dir)
  found = {name: Predictions(path, source.ids, source.num_classes) for name, path in folders.items()}
  absent = sorted({clip for each in found.values() for clip in each.missing})
  if absent and not allow_missing:
    each = "; ".join(f"{name}: {_listed(p.missing)}" for name, p in found.items() if p.missing)
    raise InputError(
      f"{predictions_dir}: {len(absent)} of {len(source.ids)} clips of {source.title} have no prediction "
      f"({each}); add them, or allow missing clips to score the rest."
    )
  if len(absent) == len(source.ids):
    raise InputError(
      f"{predictions_dir}: no clip of {source.title} has a prediction under every sound, so there is nothing to score;"
      f" files are named by clip, the first is {source.ids[0]}."
    )
  tallies = {name: metrics.Tally() for name in found}
  left_out = set(absent)  # in every condition, so that all rows speak of the same clips
  for index, clip_id in enumerate(source.ids):
    if clip_id in left_out:
      continue
    clip = source.clip(index)
    counted = np.asarray(clip.annotated) & np.asarray(clip.present)
    for name, predictions in found.items():
      kind, values = predictions.read(clip_id, clip.masks.shape, counted)
      counts = _count(kind, values, clip.masks, source.num_classes)
      tallies[name].add(counts, np.array([index]), counted[None])
  brightest = {name: predictions.brightest for name, predictions in found.items()}
  _check_range(predictions_dir, max(brightest.values()))
  for name, value in brightest.items():
    if round(255 * value) == 1:
      log.warning(
        "%s: no value is above 1 of 255; were its masks written as 0 and 1? They count as off.", folders[name]
      )
  results = {}
  for name, tally in tallies.items():
    is_binary = isinstance(tally.stacked()[2], metrics.FrameCounts)
    results[name] = metrics.summarise(tally) if is_binary else metrics.summarise_classes(tally)
  facts = {
    "title": f"masks of {os.path.basename(os.path.abspath(predictions_dir))}",
    "weights_digest": "none: masks from files",
    **(record or {}),
    "data_set": source.title,
    "is_stand_in": source.is_stand_in,
    "clips": len(source.ids) - len(left_out),
  }
  lacking = getattr(source, "left_out", "")  # of the split itself
  if left_out:
    lacking = "; ".join(filter(None, (lacking, f"without predictions: {_listed(absent)}")))
  if lacking:
    facts["missing_clips"] = lacking
  report.write(output_dir, results, facts)
  return report.with_global(results)


def _listed(names: list[str], most: int = 10) -> str:
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more
