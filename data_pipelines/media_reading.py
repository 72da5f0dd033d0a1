"""Turns the catalogue's entries into arrays: pictures cut to their object, recordings at 16 kHz, phrases.

Of a class with 20 training recordings or more every fifth goes to validation; else a recording of at least 6 s
gives its last fifth; a class with neither is validated on the seconds it trains on.
"""

import fnmatch
import hashlib
import io
import json
import pathlib
import tempfile

import av
import numpy as np
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import media_credits, media_packages, media_phrases
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.media_bank import Bank, Item

CATALOGUE = pathlib.Path(__file__).with_name("real_media_catalogue.json")
PICTURE_SIDE = 320  # pixels, longest side kept of a cut-out
BACKGROUND_SIDE = 288  # pixels, shortest side kept of a background
ACTIVE_RMS = 0.1  # level of the active part of every recording, -20 dB
SILENT_PEAK = 1e-3  # recordings that never exceed this are dropped
MANY_RECORDINGS = 20  # of a class with so many, every fifth goes to validation
VAL_SECONDS = 6.0  # else a recording this long gives its last fifth


class _Files:
  """Files of the packages, by the catalogue's `source:path`.

  Raises:
    InputError: a package lacks files that the catalogue names.
  """

  def __init__(self, sources: dict, cache: pathlib.Path):
    self._sources, self._cache = sources, cache

  def split(self, item: str) -> tuple[dict, str]:
    source, _, path = item.partition(":")
    return self._sources[source], self._sources[source]["root"] + path

  def package(self, item: str) -> pathlib.Path:
    return media_packages.fetch_package(self.split(item)[0]["package"], self._cache)

  def read(self, item: str) -> bytes:
    source, path = self.split(item)
    folder = self.package(item)
    if "archive" in source:
      found = media_packages.read_archive(folder / source["archive"]).get(path)
    else:
      found = (folder / path).read_bytes() if (folder / path).is_file() else None
    if found is None:
      version = media_packages.package_version(folder)
      raise InputError(
        f"{source['package']} {version} holds no {path}, expected it as in Debian 12; mend the entry in "
        "data_pipelines/real_media_catalogue.json for this version of the package"
      )
    return found

  def path(self, item: str) -> pathlib.Path:
    return self.package(item) / self.split(item)[1]

  def matching(self, pattern: str, count: int) -> list[str]:
    """`count` file names that match, evenly spaced over their sorted list."""
    source, path = self.split(pattern)
    folder = self.package(pattern)
    start, _, end = path.partition("**/")
    names = sorted(str(p.relative_to(folder)) for p in (folder / start).rglob(pathlib.PurePath(end).name))
    names = [name for name in names if fnmatch.fnmatch(name, f"{start}*{end}")]
    if len(names) < count:
      version = media_packages.package_version(folder)
      raise InputError(
        f"{source['package']} {version} holds {len(names)} files like {path}, expected {count} or more; mend "
        "the entry in data_pipelines/real_media_catalogue.json for this version of the package"
      )
    picked = [names[k * len(names) // count] for k in range(count)]
    return [f"{pattern.partition(':')[0]}:{name[len(source['root']) :]}" for name in picked]

  def credit(self, item: str) -> dict[str, str]:
    """Fields `origin`, `licence` and `owner` of an item."""
    source, path = self.split(item)
    folder = self.package(item)
    archive = media_packages.read_archive(folder / source["archive"]) if "archive" in source else {}
    owner, licence = media_credits.look_up(source["package"], folder, path, archive)
    owner, licence = source.get("owner", owner), source.get("licence", licence)
    inside = f"{source['archive']}!{path}" if archive else path
    version = media_packages.package_version(folder)
    return {"origin": f"{source['package']} {version}: {inside}", "licence": licence, "owner": owner}


def catalogue_digest(path: pathlib.Path = CATALOGUE) -> str:
  """Identifies the catalogue that a bank was made from."""
  return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_bank(cache: pathlib.Path, path: pathlib.Path = CATALOGUE) -> Bank:
  """Fetches everything that the catalogue at `path` names and reads it."""
  catalogue = json.loads(path.read_text())
  files = _Files(catalogue["sources"], cache)
  rsvg = media_packages.fetch_program("rsvg-convert", "librsvg2-bin", cache)
  fluidsynth = media_packages.fetch_program("fluidsynth", "fluidsynth", cache)
  items: list[Item] = []
  for category, entry in catalogue["classes"].items():
    for split, names in entry["pictures"].items():
      for name in names:
        array = cut_to_object(read_picture(files.read(name), name, rsvg))
        items.append(Item("picture", category, split, name, **files.credit(name), array=array))
    for split, entries in entry["sounds"].items():
      items += _read_sounds("sound", category, split, entries, files, fluidsynth)
  for k, name in enumerate(catalogue["backgrounds"]):
    split = "test" if k % 5 == 4 else "val" if k % 10 == 7 else "train"
    array = shrink(read_picture(files.read(name), name, rsvg).convert("RGB"), BACKGROUND_SIDE, min)
    items.append(Item("background", "", split, name, **files.credit(name), array=np.asarray(array)))
  for split, entries in catalogue["noise"].items():
    items += _read_sounds("noise", "", split, entries, files, fluidsynth)
  broad = {name: entry["broad"] for name, entry in catalogue["classes"].items()}
  return Bank(broad, drop_repeated(items), catalogue_digest(path))


def drop_repeated(items: list[Item]) -> tuple[Item, ...]:
  """Drops items whose array an earlier one holds: packages carry some files twice under two names."""
  first = {(item.array.shape, item.array.tobytes()): item for item in reversed(items)}
  return tuple(reversed(first.values()))


def _read_sounds(
  kind: str, category: str, split: str, entries: list, files: _Files, fluidsynth: media_packages.Program
) -> list[Item]:
  """Reads recordings, drops silent ones, and sets some of the training seconds apart for validation."""
  found: list[Item] = []
  for entry in entries:
    entry = {"item": entry} if isinstance(entry, str) else entry
    names = files.matching(entry["item"], entry["count"]) if "count" in entry else [entry["item"]]
    for name in names:
      label, credit = name, files.credit(name)
      if "program" in entry:
        phrase = media_phrases.Phrase(**{key: value for key, value in entry.items() if key != "item"})
        label = f"{name} {phrase.title}"
        waveform = decode_audio(media_phrases.render(phrase, files.path(name), fluidsynth), label)
      else:
        waveform = decode_audio(files.read(name), name)
      if "part" in entry:
        first, last = entry["part"]
        label += f" [{first}-{last}]"
        waveform = waveform[int(first * len(waveform)) : int(last * len(waveform))]
      waveform = level_and_trim(waveform)
      if len(waveform):
        found.append(Item(kind, category, split, label, **credit, array=waveform))
  return set_apart(found) if (kind, split) == ("sound", "train") else found


def set_apart(recordings: list[Item]) -> list[Item]:
  """Training recordings of one class, split into train and val by the rule at the top of this file."""
  if len(recordings) >= MANY_RECORDINGS:
    return [_as_split(item, "val" if k % 5 == 4 else "train") for k, item in enumerate(recordings)]
  found = []
  for item in recordings:
    if len(item.array) < VAL_SECONDS * SAMPLE_RATE_HZ:
      found.append(item)
      continue
    cut = int(0.8 * len(item.array))
    found.append(_as_split(item, "train", item.array[:cut], " first 4/5"))
    found.append(_as_split(item, "val", item.array[cut:], " last 1/5"))
  return found


def _as_split(item: Item, split: str, array: np.ndarray | None = None, note: str = "") -> Item:
  array = item.array if array is None else array
  return Item(item.kind, item.category, split, item.name + note, item.origin, item.licence, item.owner, array)


def read_picture(data: bytes, name: str, rsvg: media_packages.Program) -> Image.Image:
  """Decodes a picture; drawings (.svg) are painted with their longest side PICTURE_SIDE pixels.

  Raises:
    InputError: it cannot be decoded.
  """
  try:
    if name.endswith(".svg"):
      with tempfile.NamedTemporaryFile(suffix=".svg") as file:
        file.write(data)
        file.flush()
        side = str(PICTURE_SIDE)
        data = rsvg.run("--width", side, "--height", side, "--keep-aspect-ratio", file.name)
    return Image.open(io.BytesIO(data)).convert("RGBA")
  except OSError as error:
    raise InputError(
      f"{name} cannot be read as a picture ({error}), expected PNG, JPEG, WebP or SVG; delete its package's "
      "folder in the media cache and build the bank again"
    ) from error


def cut_to_object(picture: Image.Image) -> np.ndarray:
  """uint8 [H, W, 4]: the picture cut to what is not transparent, longest side at most PICTURE_SIDE."""
  alpha = np.asarray(picture)[..., 3] > 8
  rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
  box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
  return np.asarray(shrink(picture.crop(box), PICTURE_SIDE, max))


def shrink(picture: Image.Image, side: int, of) -> Image.Image:
  """Scales down so that `of` (min or max) of the two sides is `side`; leaves smaller pictures alone."""
  factor = side / of(picture.size)
  if factor >= 1:
    return picture
  width, height = (max(round(factor * length), 1) for length in picture.size)
  return picture.resize((width, height), Image.Resampling.LANCZOS)


def decode_audio(data: bytes, name: str) -> np.ndarray:
  """float32 [S] mono at 16 kHz of an audio file in memory.

  Raises:
    InputError: it cannot be decoded.
  """
  try:
    with av.open(io.BytesIO(data)) as container:
      resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE_HZ)
      frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
      # The mean of the channels: asking for a mono layout would add them up.
      pieces = [frame.to_ndarray().mean(axis=0) for frame in frames + resampler.resample(None)]
  except (av.FFmpegError, IndexError) as error:
    raise InputError(
      f"{name} cannot be read as sound ({error}), expected Ogg or WAV; delete its package's folder in the "
      "media cache and build the bank again"
    ) from error
  return np.concatenate(pieces or [np.zeros(0)]).astype(np.float32)


def level_and_trim(waveform: np.ndarray) -> np.ndarray:
  """Cuts silent ends and brings the active part to ACTIVE_RMS; empty for a recording that is silent.

  Active are windows of 20 ms within 40 dB of the loudest one.
  """
  window = SAMPLE_RATE_HZ // 50
  count = len(waveform) // window
  if not count or np.abs(waveform).max() < SILENT_PEAK:
    return np.zeros(0, np.float32)
  level = np.sqrt(np.mean(waveform[: count * window].reshape(count, window) ** 2, axis=1))  # [count]
  active = level > 0.01 * level.max()
  first, last = np.flatnonzero(active)[[0, -1]]
  gain = ACTIVE_RMS / np.sqrt(np.mean(level[active] ** 2))
  return np.clip(gain * waveform[first * window : (last + 1) * window], -1, 1).astype(np.float32)
