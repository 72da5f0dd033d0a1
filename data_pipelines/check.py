"""Says what of a data set is there, what is missing and what is broken, by name; and what it would run on."""

import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from avs_jax.errors import InputError, make_folder
from data_pipelines import audio, transforms, vpo
from data_pipelines import avsbench_index as files
from data_pipelines.clips import SAMPLE_RATE_HZ

WHERE = (
  "AVSBench is given out by its authors on request: fill in the download form named in the README of the"
  " GitHub repository OpenNLPLab/AVSBench, or write to the authors named there; it does not come with this"
  " program."
)
WHERE_VPO = (
  "VPO is given out by its authors, see the README of the GitHub repository cyh-0/CAVP; its pictures are COCO's, its"
  " sounds VGGSound's. It does not come with this program."
)
PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "chex", "numpy", "scipy", "grain", "array_record"),
  *("tensorflow-datasets", "ml-collections", "absl-py", "pillow", "av", "safetensors", "matplotlib"),
)
FOR_DEVICES = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt", "libtpu")
# Where a subset's clips get the names of their objects from.
OBJECTS = {
  "MS3": "AVSBench-semantic/metadata.csv beside Multi-sources names them; ways without it are in docs/data.md",
  "AVSS": "the column a_obj of metadata.csv names them",
}
FIRST = 5  # names printed of a list
REPORT = "data_check.json"
CLIPS_A_MESSAGE = 500

log = logging.getLogger(__name__)


def check(config: Any, workdir: str | Path = ".", *, read_files: bool = True) -> int:
  """Prints a report on `config.data`, writes it whole as `data_check.json` into `workdir`.

  Returns the exit status: 0 where every clip of every split is there and readable, or no data set is asked
  for; 1 where something is missing or broken. With `read_files` every file is decoded, otherwise only looked
  for.

  Raises:
    InputError: the data are packed, `data.name` is unknown, or `data.root` does not hold that data set.
  """
  make_folder(workdir)
  found: dict[str, Any] = {"surroundings": surroundings()}
  if not config.data.root:
    found["data"] = None
  elif config.data.get("packed", False):
    raise InputError(
      "data.packed=True: the packed copy has its own checks; point data.root at the files instead"
    )
  else:
    name = files.data_name(config.data.name)
    if name in files.VPO_NAMES:
      found["data"] = vpo.inspect(config.data.root, name, read_files=read_files)
    else:
      found["data"] = inspect(
        config.data.root, name, read_files=read_files, audio=config.data.get("audio", "auto")
      )
  path = Path(workdir) / REPORT
  path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
  print(text(found))
  print(f"The whole of it, every name included: {path}")
  return 0 if found["data"] is None or found["data"]["whole"] else 1


def inspect(root: str | Path, subset: str, *, read_files: bool = True, audio: str = "auto") -> dict[str, Any]:
  """What of the three splits of a subset is at `root`: a dictionary fit for JSON.

  Per split: the number of `clips` in the csv and as published, how many are `whole`, how many `wav` and
  `log_mel` files there are, for how many the `objects` are known, the `missing` files, the `broken` ones with the
  reason, and the `odd` ones, which read with a warning.

  Args:
    audio: the files of sound that are needed, as `config.data.audio`: wav, log_mel, or auto, the kind of which
      fewer are missing.
  """
  subset = files.subset_name(subset)
  home = files.find_home(root, subset)
  marker = files.stand_in(home)
  report: dict[str, Any] = {
    "subset": subset,
    "home": str(home),
    "stand_in": None if marker is None else ", ".join(sorted(set(marker["titles"].values()))),
    "splits": {},
  }
  if subset == "AVSS":
    files.class_names(home)
  for split in files.SPLITS:
    try:
      found = files.entries(home, subset, split)
    except InputError as error:
      report["splits"][split] = {"error": str(error), "clips": 0, "whole": 0}
      continue
    published = files.PUBLISHED_CLIPS.get(subset, {}).get(split) if marker is None else None
    report["splits"][split] = {
      "published": published,
      **_inspect_split(found, subset, split, read_files, audio),
    }
  splits = report["splits"].values()
  report["whole"] = all(
    split["clips"] and split["whole"] == split["clips"] and split["published"] in (None, split["clips"])
    for split in splits
  )
  return report


def _inspect_split(
  found: list[files.Entry], subset: str, split: str, read_files: bool, audio_kind: str
) -> dict[str, Any]:
  listing: dict[str, frozenset[str]] = {}
  has = {
    kind: {
      entry.id for entry in found if entry.sounds(kind) and not files.missing([entry.sounds(kind)], listing)
    }
    for kind in ("wav", "log_mel")
  }
  fewest_missing = "log_mel" if len(has["log_mel"]) > len(has["wav"]) else "wav"
  wanted = fewest_missing if audio_kind == "auto" else audio_kind
  needed = {entry.id: (*entry.frames, *entry.masks, entry.sounds(wanted)) for entry in found}
  missing = {name: files.missing(paths, listing) for name, paths in needed.items()}
  broken, odd = [], []
  if read_files:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
      for number, (bad, strange) in enumerate(pool.map(lambda e: _read(e, subset, listing), found), 1):
        broken += bad
        odd += strange
        if number % CLIPS_A_MESSAGE == 0:
          log.info("%s %s: %d of %d clips read", subset, split, number, len(found))
  bad_clips = {one["clip"] for one in broken}
  return {
    "clips": len(found),
    "whole": sum(not missing[entry.id] and entry.id not in bad_clips for entry in found),
    "files": sum(map(len, needed.values())),
    "wav": len(has["wav"]),
    "log_mel": len(has["log_mel"]),
    "objects": sum(bool(entry.objects) for entry in found),
    "missing": [path for paths in missing.values() for path in paths],
    "broken": broken,
    "odd": odd,
  }


def _read(entry: files.Entry, subset: str, listing: dict) -> tuple[list[dict], list[dict]]:
  """Decodes every file of a clip that exists: (what failed, what reads with a warning)."""
  broken, odd = [], []

  def there(paths: Iterable[str]) -> Iterable[str]:
    gone = set(files.missing(paths, listing))
    return [path for path in paths if path and path not in gone]

  def note(into: list[dict], path: str, problem: str) -> None:
    into.append({"clip": entry.id, "file": path, "problem": problem.removeprefix(f"{path}: ")})

  size = None
  for path in there((*entry.frames, *entry.masks)):
    try:
      image = transforms.read_image(path)
    except InputError as error:
      note(broken, path, str(error))
      continue
    size = size or image.size
    if subset != "AVSS" and image.size != size:
      note(
        broken, path, f"{image.size[0]}x{image.size[1]} pixels, the clip's first frame {size[0]}x{size[1]}"
      )
    if path in entry.masks:
      strange = _oddity(image, subset)
      if strange:
        note(odd, path, strange)
  for path in there((entry.wav, entry.log_mel)):
    try:
      if path == entry.wav:
        strange = _odd_length(audio.read_wav(path), len(entry.frames))
        if strange:
          note(odd, path, strange)
      else:
        _read_log_mel(path)
    except InputError as error:
      note(broken, path, str(error))
  return broken, odd


def _oddity(image: Any, subset: str) -> str:
  if subset == "AVSS":
    _, foreign = transforms.labels_from_colours(transforms.to_rgb(image))
    return f"{len(foreign)} colours of no class, e.g. {foreign[0]}" if foreign else ""
  _, values = transforms.mended_mask(image)
  return f"{len(values)} values other than 0 and 255, e.g. {values[0]}" if values else ""


def _odd_length(wave: np.ndarray, seconds: int) -> str:
  """What is wrong with the length of a sound at 16 kHz of a clip of so many seconds; "" where nothing is."""
  length, needed = len(wave) / SAMPLE_RATE_HZ, audio.samples_for(seconds) / SAMPLE_RATE_HZ
  if len(wave) < audio.samples_for(seconds):
    return f"{length:.2f} s of sound cannot fill the clip's {seconds} s, which need {needed:.3f} s"
  if length > seconds + 1:
    return f"{length:.2f} s of sound for a clip of {seconds} s; what is longer is cut off"
  return ""


def _read_log_mel(path: str) -> None:
  from avs_jax.weights import read_pickled_tensor

  examples = read_pickled_tensor(path)
  if examples.shape != (5, 1, audio.FRAMES, audio.BANDS) or not np.isfinite(examples).all():
    raise InputError(f"{path}: shape {examples.shape} or values are not those of five finite examples")


def _not_judged(split: dict[str, Any], subset: str) -> Iterator[str]:
  """For how many clips the objects are known, and what of an evaluation is not possible."""
  known, clips = split.get("objects"), split["clips"]
  if known == 0:
    yield (
      "objects known of no clip: off-screen sounds, which are chosen by them, can be neither trained with nor judged;"
      f" {OBJECTS.get(subset, 'the csv must name them')}"
    )
  elif known is not None:  # VPO's always are, and are not counted
    rest = "" if known == clips else ": the others' off-screen sound is any other clip's"
    yield f"objects known of {known} clips{rest}"
  if not split["wav"] and split["log_mel"]:
    yield (
      "log-mels alone: own sounds under noise (eval.noise_mix) and encoders that hear raw sound cannot be judged;"
      " add the 16 kHz .wav files"
    )


def surroundings() -> dict[str, Any]:
  """Versions of Python and the packages, and the devices that jax finds."""
  versions = {"python": platform.python_version(), "system": platform.platform()}
  for name in (*PACKAGES, *FOR_DEVICES):
    try:
      versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      if name in PACKAGES:
        versions[name] = "not installed"
  try:
    import jax

    devices = [f"{device.platform}: {device.device_kind}" for device in jax.devices()]
  except Exception as error:  # noqa: BLE001  jax missing, or built for a device that does not answer, in many ways
    asked = f", JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}" if "JAX_PLATFORMS" in os.environ else ""
    devices = [f"none ({type(error).__name__}{asked}: {' '.join(str(error).split())[:300]})"]
  return {"versions": versions, "devices": devices}


def text(found: dict[str, Any], first: int = FIRST) -> str:
  """The report in words; of every list the first names."""
  around, data = found["surroundings"], found["data"]
  lines = ["Versions: " + ", ".join(f"{name} {version}" for name, version in around["versions"].items())]
  lines += [f"Devices: {len(around['devices'])} ({', '.join(sorted(set(around['devices'])))})", ""]
  if data is None:
    return "\n".join([*lines, "data.root is empty: runs use a stand-in.", WHERE])
  lines.append(f"{data['subset']} in {data['home']}")
  if data["stand_in"]:
    lines.append(f"  NOT the real data set: {data['stand_in']}")
  for name, split in data["splits"].items():
    if "error" in split:
      lines.append(f"  {name}: {split['error']}")
      continue
    expected = (
      f" ({split['published']} published)" if split["published"] not in (None, split["clips"]) else ""
    )
    lines.append(
      f"  {name}: {split['clips']} clips{expected}, {split['whole']} whole;"
      f" sound {split['wav']} wav, {split['log_mel']} log-mel"
    )
    lines += [f"    {sentence}" for sentence in _not_judged(split, data["subset"])]
    named = [
      ("missing", split["missing"]),
      ("broken", [f"{one['file']}: {one['problem']}" for one in split["broken"]]),
      ("odd", [f"{one['file']}: {one['problem']}" for one in split["odd"]]),
    ]
    for what, all_of_them in named:
      if all_of_them:
        more = f", and {len(all_of_them) - first} more" if len(all_of_them) > first else ""
        short = [one.removeprefix(f"{data['home']}/") for one in all_of_them[:first]]
        lines.append(f"    {what} {len(all_of_them)}: {'; '.join(short)}{more}")
  lines.append(
    "Every clip is there." if data["whole"] else WHERE_VPO if data["subset"].startswith("VPO") else WHERE
  )
  return "\n".join(lines)
