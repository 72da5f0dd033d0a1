"""Judging a model: every clip of a split under four sounds, the scoreboard, and the pictures."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avs_jax import mesh as meshes
from avs_jax import metrics, report
from avs_jax.errors import InputError
from avs_jax.step import make_predict_step
from avs_jax.types import Batch, Condition, Outputs

log = logging.getLogger(__name__)

Predict = Callable[[Mapping[str, Any], Batch], Outputs]


@dataclasses.dataclass
class Seen:
  """What was kept of a split under one sound: figures, and probabilities of the clips to be pictured."""

  figures: dict[str, Any]
  probabilities: dict[int, np.ndarray]  # clip index -> [T, H, W]


def make_count(mesh: Mesh) -> Callable[[Outputs, Batch], Any]:
  """A jitted reduction of a batch's logits to counts, given to every process whole."""

  def count(outputs: Outputs, batch: Batch) -> Any:
    logits = outputs.logits.reshape(-1, *outputs.logits.shape[2:])  # [B*T, H, W, K]
    masks = batch.masks.reshape(-1, *batch.masks.shape[2:])  # [B*T, H, W]
    if logits.shape[-1] == 1:
      counts = metrics.frame_counts(logits[..., 0], (masks > 0).astype("int32"))
    else:
      counts = metrics.class_counts(logits, masks)
    similarity = outputs.similarity
    if similarity is not None:
      similarity = jax.nn.sigmoid(similarity)
    return counts, batch.index, batch.annotated & batch.present, similarity

  return jax.jit(count, out_shardings=meshes.replicated(mesh))


def activity(logits: jax.Array) -> jax.Array:
  """Probability that a pixel sounds: sigmoid for binary logits, 1 - P(background) for classes. [B, T, H, W]"""
  if logits.shape[-1] == 1:
    return jax.nn.sigmoid(logits[..., 0])
  return 1 - jax.nn.softmax(logits, axis=-1)[..., 0]


def judge(
  predict: Predict,
  count: Callable[[Outputs, Batch], Any],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  mesh: Mesh,
  *,
  keep: Iterable[int] = (),
  save: Callable[[int, np.ndarray, str], Any] | None = None,
  describe: str = "",
) -> Seen:
  """Runs one split under one sound.

  Args:
    batches: as `loader.eval_batches` gives them; rows with index -1 only fill the batch.
    keep: clip indices whose probability maps are returned.
    save: called for every clip with its index and [T, H, W] "probabilities", or "labels" of classes.
  """
  tally, probabilities, agreement = metrics.Tally(), {}, []
  kept = set(keep)
  whole = jax.jit(activity, out_shardings=meshes.replicated(mesh))
  chosen = jax.jit(lambda logits: jnp.argmax(logits, -1), out_shardings=meshes.replicated(mesh))
  for rows in tqdm(batches, desc=describe, unit="batch", leave=False, disable=None):
    batch = meshes.put_batch(mesh, Batch(**rows))
    outputs = predict(variables, batch)
    counts, index, counted, similarity = jax.device_get(count(outputs, batch))
    tally.add(counts, index, counted)
    if similarity is not None:
      agreement.append(similarity[index >= 0].reshape(-1))
    if save is not None:
      kind = "probabilities" if outputs.logits.shape[-1] == 1 else "labels"
      maps = np.asarray(whole(outputs.logits) if kind == "probabilities" else chosen(outputs.logits))
      for row, clip in enumerate(index.tolist()):
        if clip >= 0:
          save(clip, maps[row], kind)
    if kept & set(index.tolist()):
      maps = np.asarray(whole(outputs.logits))
      probabilities.update({clip: maps[row] for row, clip in enumerate(index.tolist()) if clip in kept})
  is_classes = tally.stacked()[2].__class__ is metrics.ClassCounts
  figures = metrics.summarise_classes(tally) if is_classes else metrics.summarise(tally)
  if agreement:
    figures["similarity"] = float(np.concatenate(agreement).mean())
  return Seen(figures, probabilities)


def four_sounds(
  config: Any, model: Any, variables: Mapping[str, Any], source: Any, mesh: Mesh, workdir: str
) -> dict[str, Seen]:
  """The split under each sound of `config.eval.conditions`, with manifest and, if asked, saved masks."""
  from data_pipelines import feed

  predict, count = make_predict_step(model, mesh), make_count(mesh)
  variables = jax.device_put(variables, meshes.replicated(mesh))
  pictured = range(min(config.eval.pictures, len(source)))
  seen = {}
  for name in config.eval.conditions:
    condition = condition_of(name)
    save = None
    if config.eval.save_masks and jax.process_index() == 0:
      save = functools.partial(save_masks, os.path.join(workdir, "masks"), name, source)
    seen[name] = judge(
      predict,
      count,
      variables,
      feed.evaluation(config, source, condition),
      mesh,
      keep=pictured,
      save=save,
      describe=f"{config.eval.split} under {name}",
    )
  if jax.process_index() == 0:
    feed.write_manifest(config, source, os.path.join(workdir, "manifest.csv"))
  return seen


def selection_metrics(num_classes: int) -> tuple[str, ...]:
  """The figures that may choose the best checkpoint: higher is better, one number for a split."""
  names = (name for name in report.LEGEND if name.startswith(("iou_", "f_")) and not name.endswith("_empty"))
  return tuple(name for name in names if ("_class_" in name) == (num_classes > 1))


def save_masks(folder: str, name: str, source: Any, clip: int, maps: np.ndarray, kind: str) -> None:
  """Keeps a clip's prediction under the sound `name`, where --mode=score finds it."""
  from avs_jax import score

  score.save_masks(folder, name, source.ids[clip], maps, kind=kind)


def condition_of(name: str) -> Condition:
  """The condition a config names. Raises `InputError` for another word."""
  try:
    return Condition[name.upper()]
  except KeyError:
    known = ", ".join(c.name.lower() for c in Condition)
    raise InputError(f"eval.conditions: {name!r} is not a sound; choose from {known}.") from None


def evaluate(config: Any, workdir: str) -> dict[str, Any]:
  """Judges the best checkpoint of a run and writes scoreboard, manifest and pictures into its folder.

  A folder without checkpoints is filled from `config.init`: somebody's weight file is judged as it is.

  Returns: {condition: figures}, and "global" with the G figures.

  Raises:
    InputError: no checkpoint, or a broken clip (evaluation never skips one silently).
  """
  from avs_jax.model import build_model
  from data_pipelines import sources

  model = build_model(config)
  variables = weights_to_judge(config, model, workdir)
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  mesh = meshes.make_mesh(config.eval.batch)
  log.info("evaluating %d clips of %s under %s", len(source), source.title, ", ".join(config.eval.conditions))
  seen = four_sounds(config, model, variables, source, mesh, workdir)
  results = {name: each.figures for name, each in seen.items()}
  if jax.process_index() == 0:
    record = run_record(config, source, variables)
    report.write(workdir, results, record)
    draw(config, source, seen, workdir)
  return report.with_global(results)


def weights_to_judge(config: Any, model: Any, workdir: str) -> Mapping[str, Any]:
  """The run's own weights; else those that `config.init.system` or `config.init.run` name."""
  from avs_jax.checkpoint import load_variables
  from avs_jax.model import starting_variables

  is_run = any(os.path.isdir(os.path.join(workdir, name)) for name in ("best", "checkpoints"))
  if not is_run and (config.init.system or config.init.run):
    return starting_variables(config, model)
  return load_variables(workdir)


def score_folder(config: Any, folder: str | None, workdir: str) -> dict[str, Any]:
  """Scores masks that any program wrote, against the split that the config names; needs no model.

  Raises:
    InputError: no folder, clips without masks, masks of another size.
  """
  from avs_jax import score
  from data_pipelines import sources

  if not folder:
    raise InputError("--mode=score needs --input=FOLDER with a sub-folder of masks for each sound.")
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  return score.score(folder, source, workdir, allow_missing=config.data.allow_missing)


def run_record(config: Any, source: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
  """What a figure must never be without: data set, config, weights, seed."""
  from avs_jax.checkpoint import combined, digest

  return {
    "title": config.title,
    "data_set": source.title,
    "is_stand_in": source.is_stand_in,
    "split": config.eval.split,
    "clips": len(source),
    "config": config.to_dict(),
    "weights_digest": combined(digest(variables)),
    "seed": config.seed,
  }


def draw(config: Any, source: Any, seen: Mapping[str, Seen], workdir: str) -> None:
  """Figure 1 for the first clips, and beside each picture the masks it shows (`four_sounds_<i>.npz`)."""
  from avs_jax import visualize

  folder = os.path.join(workdir, "pictures")
  os.makedirs(folder, exist_ok=True)
  for index in range(min(config.eval.pictures, len(source))):
    clip = source.clip(index)
    maps = {condition_of(name): each.probabilities[index] for name, each in seen.items()}
    title = f"{clip.id}, {source.title}, {config.eval.split}"
    path = os.path.join(folder, f"four_sounds_{index}")
    visualize.four_sounds(
      f"{path}.png",
      clip.frames,
      clip.masks > 0,
      maps,
      caption=f"{config.title or config.model.system}: {title}",
    )
    active = {name: each.probabilities[index] > 0.5 for name, each in seen.items()}
    np.savez_compressed(f"{path}.npz", frames=clip.frames, truth=clip.masks > 0, title=title, **active)
