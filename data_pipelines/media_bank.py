"""The bank: cut-out pictures, recordings and backgrounds taken from Debian packages, ready to compose.

`python -m data_pipelines.real_media --cache=DIR` fetches what `real_media_catalogue.json` names (about
350 MB) and writes

    <cache>/bank/manifest.json    one entry an item: where it came from, its licence, where its array lies
    <cache>/bank/pixels.npy       uint8, all pictures (RGBA, cut to the object) and backgrounds (RGB)
    <cache>/bank/samples.npy      float32, all recordings, mono at 16 kHz, active level -20 dB

The media are under copyleft licences of their owners (GPL, CC-BY-SA, Free Art ...): they stay in the cache
and out of the repository, and a picture that shows them says whose they are (`Bank.credits`).
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable

import numpy as np

from avs_jax.errors import InputError
from data_pipelines import media_packages

FORMAT = 1
KINDS = ("picture", "sound", "background", "noise")


@dataclasses.dataclass(frozen=True)
class Item:
  """One picture, recording or background.

  Attributes:
    kind: one of KINDS.
    category: its class, "" for backgrounds and noise.
    split: train or unseen for pictures, train, val or unseen for sounds, train, val or test for backgrounds,
      train or test for noise.
    name: where the catalogue has it from, with the fraction of the recording; unique in the bank.
    origin: "package version: path", archive paths after "!".
    licence: as the package states it for this file.
    owner: copyright holder, as the package states it.
    array: uint8 [H, W, 4] picture, uint8 [H, W, 3] background, float32 [S] recording at 16 kHz.
  """

  kind: str
  category: str
  split: str
  name: str
  origin: str
  licence: str
  owner: str
  array: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bank:
  """All items, the broad group of each class in the catalogue's order, and the digest of that catalogue."""

  broad: dict[str, str]
  items: tuple[Item, ...]
  catalogue: str = ""

  def select(self, kind: str, split: str, category: str = "") -> tuple[Item, ...]:
    """Items of one kind, split and class, in the bank's order."""
    return self._groups.get((kind, split, category), ())

  def credits(self, names: Iterable[str]) -> list[str]:
    """One line for each named item: name, owner, licence, package and path."""
    by_name = {item.name: item for item in self.items}
    chosen = (by_name[name] for name in sorted(set(names)))
    return [f"{item.name}: {item.owner}, {item.licence} ({item.origin})" for item in chosen]

  @functools.cached_property
  def _groups(self) -> dict[tuple[str, str, str], tuple[Item, ...]]:
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in self.items:
      groups.setdefault((item.kind, item.split, item.category), []).append(item)
    return {key: tuple(items) for key, items in groups.items()}


def write_bank(bank: Bank, cache: str | os.PathLike) -> pathlib.Path:
  """Writes the bank into `cache`/bank, replacing one that is there; returns that folder."""
  target = pathlib.Path(cache) / "bank"
  target.parent.mkdir(parents=True, exist_ok=True)
  work = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=".bank."))
  for store, dtype in (("pixels", np.uint8), ("samples", np.float32)):
    arrays = [item.array.ravel() for item in bank.items if _store(item.kind) == store]
    np.save(work / f"{store}.npy", np.concatenate(arrays or [np.zeros(0, dtype)]).astype(dtype))
  offsets = {"pixels": 0, "samples": 0}
  entries = []
  for item in bank.items:
    entry = {
      field.name: getattr(item, field.name) for field in dataclasses.fields(item) if field.name != "array"
    }
    store = _store(item.kind)
    entries.append({**entry, "offset": offsets[store], "shape": list(item.array.shape)})
    offsets[store] += item.array.size
  manifest = {"format": FORMAT, "catalogue": bank.catalogue, "classes": bank.broad, "items": entries}
  (work / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False))
  work.chmod(0o755)  # temporary folders are closed to other users
  if target.exists():
    # Out of the way first: a reader of the old one keeps its open files.
    old = target.rename(work.with_name(f"{work.name}.old"))
    shutil.rmtree(old)
  work.rename(target)
  load_bank.cache_clear()
  return target


@functools.lru_cache(maxsize=4)
def load_bank(cache: pathlib.Path) -> Bank:
  """Opens the bank in `cache`/bank; arrays stay on disk until read and are shared between processes.

  Raises:
    InputError: there is none, or it is broken or of another version.
  """
  folder = pathlib.Path(cache) / "bank"
  if not (folder / "manifest.json").is_file():
    raise InputError(
      f"no media bank in {folder}, expected manifest.json, pixels.npy and samples.npy; make it with "
      f"`python -m data_pipelines.real_media --cache={cache}` or set {media_packages.CACHE_VARIABLE}"
    )
  try:
    manifest = json.loads((folder / "manifest.json").read_text())
    stores = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pixels", "samples")}
    if manifest["format"] != FORMAT:
      raise ValueError(f"format {manifest['format']}, not {FORMAT}")
    items = tuple(_open_item(entry, stores) for entry in manifest["items"])
    return Bank(manifest["classes"], items, manifest["catalogue"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"the media bank in {folder} is broken or of another version ({error}), expected what this program "
      "writes; delete that folder and run `python -m data_pipelines.real_media` again"
    ) from error


def _open_item(entry: dict, stores: dict[str, np.ndarray]) -> Item:
  offset, shape = entry.pop("offset"), entry.pop("shape")
  # np.asarray drops the memmap class, whose every slice is slow; the data stays mapped.
  flat = np.asarray(stores[_store(entry["kind"])][offset : offset + int(np.prod(shape))])
  return Item(**entry, array=flat.reshape(shape))


def _store(kind: str) -> str:
  return "pixels" if kind in ("picture", "background") else "samples"
