"""Gives every batch of a run its semantic marks: made from the training split once, kept beside the checkpoints.

marks.npz   settings (JSON); the clusters, and the audio encoder they were made with where it learns; or the
            classes that were chosen
"""

import functools
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Int

from avs_jax import marks
from avs_jax.errors import InputError, check_choice
from avs_jax.systems.system import innermost
from avs_jax.types import SAMPLE_RATE_HZ

KINDS = ("none", "kmeans", "gmm", "classifier", "file")
FILE = "marks.npz"

Rows = dict[str, Any]
log = logging.getLogger(__name__)


class Marker:
  """Adds `marks` to batches; the same sound is judged once and remembered.

  Args:
    hear: [N seconds of sound] -> [N, S], 1 for the slots that are heard.
    sound: the batch's array that it hears.
    queries, dilation: as of `marks.from_slots`.
  """

  def __init__(self, hear: Callable[[np.ndarray], np.ndarray], sound: str, queries: int, dilation: int):
    self.hear, self.sound, self.queries, self.dilation = hear, sound, queries, dilation
    self.known: dict[bytes, np.ndarray] = {}

  def __call__(self, rows: Mapping[str, Any], source: Any) -> Rows:
    del source
    sounds = rows[self.sound]  # [B, T, ...]
    keys = [hashlib.blake2b(np.ascontiguousarray(clip).tobytes(), digest_size=16).digest() for clip in sounds]
    if any(key not in self.known for key in keys):
      heard = self.hear(sounds.reshape(-1, *sounds.shape[2:]))  # [B*T, S]
      found = marks.from_slots(heard, self.queries, self.dilation)  # [B*T, Q]
      found = found.reshape(len(keys), -1, self.queries)
      self.known.update(zip(keys, found.astype(np.uint8), strict=True))
    return {**rows, "marks": np.stack([self.known[key] for key in keys]).astype(np.float32)}


class FileMarker:
  """Adds the marks of published files, folder/<clip id>.pth, to batches.

  The files tell of the clips' own sounds: of any other sound (silence, noise, off-screen) nothing is known, and
  query 0 alone is open.
  """

  def __init__(self, folder: str, queries: int):
    self.queries = queries
    self.read = functools.lru_cache(maxsize=None)(
      lambda clip: marks.read_file(os.path.join(folder, f"{clip}.pth"), queries)
    )

  def __call__(self, rows: Mapping[str, Any], source: Any) -> Rows:
    opened = np.zeros((*rows["present"].shape, self.queries), np.float32)
    opened[..., 0] = 1
    for row, (index, condition) in enumerate(zip(rows["index"], rows["condition"], strict=True)):
      if index >= 0 and condition == 0:
        found = self.read(source.ids[index])[: len(opened[row])]
        opened[row, : len(found)] = found
    return {**rows, "marks": opened}


def unmarked(rows: Mapping[str, Any], source: Any) -> Rows:
  """The batch as it is."""
  del source
  return dict(rows)


def build(
  config: Any, model: Any, variables: Mapping[str, Any], workdir: str, *, may_fit: bool = True
) -> Callable[[Mapping[str, Any], Any], Rows]:
  """What adds marks to batches (`mark(rows, source)`), as `config.marks` says; made once, kept in `workdir`.

  Clusters hear with the audio encoder of `variables`, without directions; where it is to learn it is kept with them,
  so that the marks stay what they were.

  Args:
    may_fit: without it, marks that should be in `workdir` and are not are an error.

  Raises:
    InputError: settings that do not fit together, or files that are missing or were made otherwise.
  """
  settings = config.marks
  check_choice("marks.kind", settings.kind, KINDS)
  if settings.kind == "none":
    return unmarked
  base, ear = hearing(model, variables)
  if not getattr(base, "READS_MARKS", False):
    raise InputError(
      f"marks.kind={settings.kind}: the system {config.model.system} has no queries that marks open; set"
      " marks.kind=none, or model.system=active_queries."
    )
  if settings.kind == "file":
    if not os.path.isdir(settings.folder):
      raise InputError(
        f"marks.folder={settings.folder!r} is not there; give the folder of the .pth mark files."
      )
    return FileMarker(settings.folder, config.model.num_queries)
  path, slots = os.path.join(workdir, FILE), slots_of(config)
  wanted = made_with(config, slots)
  kept = load(path, wanted) if os.path.exists(path) else None
  if kept is None and not may_fit:
    raise InputError(
      f"{path} is not there, and the run was trained with marks; copy it from the run's folder."
    )
  if kept is None and config.init.system and config.model.mode == "released":
    raise InputError(
      f"marks.kind={settings.kind} would be made anew, and the queries of {config.init.system} were trained with"
      " others; give the published marks, --config.marks.kind=file --config.marks.folder=FOLDER."
    )
  keep = functools.partial(save, path, wanted)
  if settings.kind == "classifier":
    return classified(config, slots, kept, keep)
  return clustered(config, base, ear, slots, kept, keep)


def slots_of(config: Any) -> int:
  """How many clusters or classes can open queries of their own, query 0 aside.

  Raises:
    InputError: none, or fewer than `marks.clusters`.
  """
  settings, queries = config.marks, config.model.num_queries
  dilation = settings.dilation * (config.model.dilation if config.model.mode == "paper" else 1)
  slots = (queries - 1) // dilation
  if slots < 1:
    raise InputError(
      f"marks.dilation={settings.dilation}: {queries} queries leave no room; choose a smaller one."
    )
  if settings.clusters:
    marks.from_slots(np.zeros((1, settings.clusters), np.float32), queries, dilation)  # refuses too many
  return slots


def classified(
  config: Any, slots: int, kept: Mapping[str, np.ndarray] | None, keep: Callable[[Mapping], None]
) -> Marker:
  """Marks of a sound classifier: a slot for each of the classes that the training split is heard to hold most."""
  settings = config.marks
  recognise = classifier(settings)
  if kept is None:
    kept = {"classes": frequent(recognise, training_sounds(config, "waveform"), settings, slots)}
    keep(kept)
  chosen = kept["classes"]

  def hear(sounds: np.ndarray) -> np.ndarray:
    return marks.heard_classes(recognise(sounds), settings.theta, settings.top_k)[..., chosen]

  return Marker(hear, "waveform", config.model.num_queries, settings.dilation)


def clustered(
  config: Any,
  system: Any,
  ear: Mapping[str, Any],
  slots: int,
  kept: Mapping[str, np.ndarray] | None,
  keep: Callable[[Mapping], None],
) -> Marker:
  """Marks of clusters of the training sounds' embeddings: a slot for each.

  Args:
    ear: variables of the system's audio encoder; kept with the clusters where the encoder is to learn.
  """
  settings = config.marks
  embed = jax.jit(functools.partial(system.apply, method="hear"))
  form = "waveform" if system.takes_waveform else "log_mel"
  if kept is None:
    heard = [np.asarray(embed(ear, x[None])[0]) for x in training_sounds(config, form)]
    fitted = marks.fit_clusters(np.concatenate(heard), settings.kind, settings.clusters or slots, config.seed)
    log.info("marks: %d clusters of %d seconds", len(fitted), sum(map(len, heard)))
    kept = {**fitted.arrays(), **({} if "audio_encoder" in config.optimizer.frozen else _flat(ear))}
    keep(kept)
  found = {name.removeprefix("clusters/"): x for name, x in kept.items() if name.startswith("clusters/")}
  clusters, encoder = marks.Clusters(**found), jax.device_put(_nested(kept) or ear)

  def belong(sounds: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embed(encoder, sounds[None])[0])
    return np.eye(len(clusters), dtype=np.float32)[clusters.assign(embeddings)]

  return Marker(belong, form, config.model.num_queries, settings.dilation)


def hearing(model: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
  """The system inside its debias strategies, and of the variables those of its audio encoder."""
  model, own = innermost(model, variables)
  ear = {
    name: {"audio_encoder": tree["audio_encoder"]} for name, tree in own.items() if "audio_encoder" in tree
  }
  return model.clone(parent=None, name=None), ear


def training_sounds(config: Any, name: str) -> Iterator[np.ndarray]:
  """The own sound of each training clip, [T, ...], its real seconds only."""
  from data_pipelines import feed

  for rows in feed.training_sounds(config, waveform=name == "waveform"):
    for row, index in enumerate(rows["index"]):
      if index >= 0:
        yield rows[name][row][rows["present"][row]]


def classifier(settings: Any) -> Callable[[np.ndarray], np.ndarray]:
  """[N, 16000] samples -> [N, K] probabilities, by the encoder `marks.encoder` with the weights `marks.weights`.

  Raises:
    InputError: no weights are given, or they are not this encoder's with its classifier.
  """
  from scipy import signal

  from avs_jax import encoders
  from avs_jax.model import read_weights

  if settings.encoder not in ("beats", "htsat"):
    raise InputError(f"marks.encoder={settings.encoder!r} names no sound classes; choose beats or htsat.")
  if not settings.weights:
    raise InputError(
      f"marks.kind=classifier needs marks.weights: a file of {settings.encoder} with its classifier."
    )
  arguments = {**settings.encoder_args.to_dict(), "with_classes": True}
  module = encoders.build(settings.encoder, **arguments)
  variables = jax.device_put(read_weights(settings.weights, settings.encoder, arguments))
  rate = getattr(module, "sample_rate_hz", SAMPLE_RATE_HZ)
  recognise = jax.jit(lambda variables, x: module.apply(variables, x, method="recognise")[1])

  def probabilities(sounds: np.ndarray) -> np.ndarray:
    if rate != SAMPLE_RATE_HZ:
      sounds = signal.resample_poly(sounds, rate, SAMPLE_RATE_HZ, axis=-1).astype(np.float32)
    return np.asarray(recognise(variables, sounds))

  return probabilities


def frequent(
  recognise: Callable[[np.ndarray], np.ndarray], sounds: Iterable[np.ndarray], settings: Any, most: int
) -> Int[np.ndarray, "S"]:
  """The classes that are heard most often in the training split, `most` of them, the most frequent first.

  How a classifier's hundreds of classes share the queries is not given in the paper or its code; ours.
  """
  counts = sum(
    marks.heard_classes(recognise(sound), settings.theta, settings.top_k).sum(0) for sound in sounds
  )
  order = np.argsort(-np.asarray(counts), kind="stable")[:most]
  return order[np.asarray(counts)[order] > 0]


# What is kept beside the checkpoints.


def made_with(config: Any, slots: int) -> dict[str, Any]:
  """All that decides what clusters or chosen classes are, as JSON holds it."""
  settings = config.marks.to_dict()
  names = ["kind", "theta", "top_k", "encoder", "weights"] if settings["kind"] == "classifier" else ["kind"]
  chosen = {name: settings[name] for name in names}
  return {**chosen, "most": settings["clusters"] or slots, "seed": config.seed, "data": config.data.name}


def save(path: str, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """Writes the file whole or not at all; on one host of several."""
  if jax.process_index():
    return
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  with open(f"{path}.part", "wb") as file:
    np.savez(
      file, settings=np.array(json.dumps(settings)), **{name: np.asarray(x) for name, x in arrays.items()}
    )
  os.replace(f"{path}.part", path)


def load(path: str, settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The arrays of the file. Raises `InputError` where it is damaged or was made with other settings."""
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    found = json.loads(str(arrays.pop("settings")))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise InputError(f"{path} cannot be read ({error}); remove it and train anew.") from None
  changed = sorted(name for name in settings if found.get(name) != settings[name])
  if changed:
    name = changed[0]
    raise InputError(
      f"{path} was made with marks {name}={found.get(name)!r}, now {settings[name]!r}; restore the setting or"
      " use a new --workdir."
    )
  return arrays


def _flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  flat = traverse_util.flatten_dict(dict(variables))
  return {"encoder/" + "/".join(path): np.asarray(x) for path, x in flat.items()}


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  flat = {tuple(name.split("/")[1:]): x for name, x in arrays.items() if name.startswith("encoder/")}
  return traverse_util.unflatten_dict(flat)
