"""Judging a model: every clip of a split under four sounds, the scoreboard, and the pictures."""

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avs_jax import evidence, frontier, limits, metrics, perception, provenance, report, settings
from avs_jax import mesh as meshes
from avs_jax.counts import activity, likeliest
from avs_jax.errors import InputError, make_folder
from avs_jax.step import make_predict_step
from avs_jax.types import Batch, Outputs

log = logging.getLogger(__name__)

Predict = Callable[[Mapping[str, Any], Batch], Outputs]


@dataclasses.dataclass
class Seen:
  """What was kept of a split under one sound.

  Attributes:
    figures: of `metrics.summarise` or `summarise_classes`.
    probabilities: of the clips to be pictured, clip index -> [T, H, W].
    evidence: of the same clips, what `evidence.gather` finds in the outputs of a system that explains itself.
    parts: figures of the clips of each kind alone, kind -> figures.
    statistics: per-frame counts in data-set order, from which any threshold can be judged later; `frontier`
      reads them.
  """

  figures: dict[str, Any]
  probabilities: dict[int, np.ndarray]
  statistics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  evidence: dict[int, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
  parts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def make_count(mesh: Mesh) -> Callable[[Outputs, Batch], Any]:
  """A reduction of a batch's outputs to (maps, counts, index, counted, similarity, counts without the gate).

  Maps are what `--mode=score` reads from files: probabilities [B, T, H, W], or the likeliest classes. They are
  finished before they are counted, by the program that counts masks from files, so that both agree to the
  digit. Everything but the maps is given to every process whole.
  """
  whole = meshes.replicated(mesh)

  def finish(logits: jax.Array) -> Any:
    return activity(logits) if logits.shape[-1] == 1 else likeliest(logits)

  def count(maps: Any, masks: Any, num_classes: int) -> Any:
    flat, masks = (x.reshape(-1, *x.shape[2:]) for x in (maps, masks))  # [B*T, H, W]
    if num_classes == 1:
      return metrics.probability_counts(flat, (masks > 0).astype("int32"))
    return metrics.label_counts(flat, masks, num_classes)

  finish_jit = jax.jit(finish)
  count_jit = jax.jit(count, static_argnums=2, out_shardings=whole)
  gather = jax.jit(lambda *rest: rest, out_shardings=whole)

  def reduce(outputs: Outputs, batch: Batch) -> Any:
    classes = outputs.logits.shape[-1]
    maps = finish_jit(outputs.logits)
    counts = count_jit(maps, batch.masks, classes)
    bare = None if outputs.ungated is None else count_jit(finish_jit(outputs.ungated), batch.masks, classes)
    return maps, counts, *gather(batch.index, batch.annotated & batch.present, outputs.similarity), bare

  return reduce


def judge(
  predict: Predict,
  count: Callable[[Outputs, Batch], Any],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  mesh: Mesh,
  *,
  keep: Iterable[int] = (),
  parts: Mapping[str, Sequence[int]] | None = None,
  save: Callable[[int, np.ndarray, str], Any] | None = None,
  describe: str = "",
) -> Seen:
  """Runs one split under one sound.

  Args:
    batches: as `loader.eval_batches` gives them; rows with index -1 only fill the batch.
    keep: clip indices whose probability maps are returned.
    parts: clip indices to be summarised by themselves too, by name.
    save: called for every clip with its index and [T, H, W] "probabilities", or "labels" of classes.
  """
  tally, ungated, probabilities, found = metrics.Tally(), None, {}, {}
  apart = {name: (np.array(clips), metrics.Tally()) for name, clips in (parts or {}).items()}
  agreement: dict[tuple[int, int], float] = {}
  kept = set(keep)
  whole = jax.jit(lambda maps: maps, out_shardings=meshes.replicated(mesh))
  shown = jax.jit(activity, out_shardings=meshes.replicated(mesh))
  for rows in tqdm(batches, desc=describe, unit="batch", leave=False, disable=None):
    batch = meshes.put_batch(mesh, Batch(**rows))
    outputs = predict(variables, batch)
    maps, *counted = count(outputs, batch)
    counts, index, counts_for, similarity, bare = jax.device_get(counted)
    tally.add(counts, index, counts_for)
    if bare is not None:
      ungated = ungated or metrics.Tally()
      ungated.add(bare, index, counts_for)
    for clips, part in apart.values():
      part.add(counts, np.where(np.isin(index, clips), index, -1), counts_for)
    if similarity is not None:
      for (row, t), value in np.ndenumerate(similarity):
        if index[row] >= 0:
          agreement[int(index[row]), t] = float(value)
    if save is not None:
      kind = "probabilities" if outputs.logits.shape[-1] == 1 else "labels"
      finished = np.asarray(whole(maps))
      for row, clip in enumerate(index.tolist()):
        if clip >= 0 and jax.process_index() == 0:  # all hosts gather, one writes
          save(clip, finished[row], kind)
    if kept & set(index.tolist()):
      pictures = np.asarray(shown(outputs.logits))
      probabilities.update({clip: pictures[row] for row, clip in enumerate(index.tolist()) if clip in kept})
      explained = jax.device_get(whole(evidence.gather(outputs)))
      for row, clip in enumerate(index.tolist()):
        if clip in kept and explained:
          found[clip] = {name: values[row] for name, values in explained.items()}
  keys, counted, counts = tally.stacked()
  summarise = metrics.summarise_classes if isinstance(counts, metrics.ClassCounts) else metrics.summarise
  figures = summarise(tally)
  statistics = {"keys": keys, "counted": counted, **dict(vars(counts))}
  if ungated is not None:
    bare, (_, _, counts) = summarise(ungated), ungated.stacked()
    named = {f"{name}_ungated": name for name in ("iou_frame", "iou_class_frame", "fpr")}
    figures |= {new: bare[name] for new, name in named.items() if name in bare}
    statistics |= {f"ungated_{name}": each for name, each in vars(counts).items()}
  if agreement:
    raw = np.array([agreement[clip, t] for clip, t in keys.tolist()])
    statistics["similarity"] = raw
    if counted.any():  # as the other figures, not over padding
      figures["similarity"] = float(np.mean(1 / (1 + np.exp(-raw[counted]))))
  return Seen(
    figures, probabilities, statistics, found, {name: summarise(part) for name, (_, part) in apart.items()}
  )


def clips_by_kind(source: Any) -> dict[str, list[int]]:
  """The clips of each kind that the source tells apart (`data_pipelines.clips.kinds_of`), if there are others too."""
  kinds = getattr(source, "kinds", lambda index: ())
  clips: dict[str, list[int]] = {}
  for index in range(len(source)):
    for kind in kinds(index):
      clips.setdefault(kind, []).append(index)
  return {kind: clips[kind] for kind in sorted(clips) if len(clips[kind]) < len(source)}


def four_sounds(
  config: Any, model: Any, variables: Mapping[str, Any], source: Any, mesh: Mesh, workdir: str
) -> dict[str, Seen]:
  """The split under each sound of `config.eval.conditions` and `config.eval.unseen`.

  Writes the manifest, the per-frame statistics and, if asked, the masks.
  """
  from data_pipelines import loader, sounds

  predict, count = make_predict_step(model, mesh), make_count(mesh)
  mark = perception.build(config, model, variables, workdir, may_fit=not is_run(workdir))
  variables = jax.device_put(variables, meshes.replicated(mesh))
  pictured = range(min(config.eval.pictures, len(source)))
  source = loader.keep(source, config.data.cache_mb)  # frames are read once for all sounds
  seen = {}
  for name in sounds.names(config):
    save = None
    if config.eval.save_masks:
      save = functools.partial(save_masks, os.path.join(workdir, provenance.MASKS), name, source)
    seen[name] = judge(
      predict,
      count,
      variables,
      (mark(rows, source) for rows in sounds.batches(config, source, name)),
      mesh,
      keep=pictured if name in config.eval.conditions else (),
      parts=clips_by_kind(source) if name == "positive" else None,
      save=save,
      describe=f"{config.eval.split} under {name}",
    )
  if jax.process_index() == 0:
    sounds.write_manifest(config, source, os.path.join(workdir, "manifest.csv"))
    frontier.save(os.path.join(workdir, "statistics.npz"), {name: s.statistics for name, s in seen.items()})
  return seen


def selection_metrics(num_classes: int) -> tuple[str, ...]:
  """The figures that may choose the best checkpoint: higher is better, one number for a split."""
  others = ("_empty", "_ungated")
  names = (name for name in report.LEGEND if name.startswith(("iou_", "f_")) and not name.endswith(others))
  return tuple(name for name in names if ("_class_" in name) == (num_classes > 1))


def save_masks(folder: str, name: str, source: Any, clip: int, maps: np.ndarray, kind: str) -> None:
  """Keeps a clip's prediction under the sound `name`, where --mode=score finds it."""
  from avs_jax import score

  score.save_masks(folder, name, source.ids[clip], maps, kind=kind)


def evaluate(config: Any, workdir: str, weights: str = "") -> dict[str, Any]:
  """Judges the best checkpoint of a run and writes scoreboard, manifest and pictures into its folder.

  A folder without checkpoints is filled from `config.init`: somebody's weight file is judged as it is.

  Args:
    weights: a .safetensors with its config inside (avs_jax/bundle.py), judged in place of a run's; `workdir` then
      holds no run, or its scoreboard would be lost.

  Returns: {condition: figures}, and "global" with the G figures.

  Raises:
    InputError: no checkpoint, weights of another model, a sound that is none, a broken clip (none is skipped), or a
      config with variants.
  """
  from avs_jax.model import build_model, check_weights
  from data_pipelines import sounds, sources

  limits.check_values(config)
  if weights:
    refuse_run(workdir, f"the scoreboard of {weights}")
    model, variables = build_model(config), weights_of_file(config, weights)
  else:
    settings.refuse_variants(config, "evaluate_all")
    model = build_model(config)
    variables = weights_to_judge(config, model, workdir)
    tell_other_settings(config, workdir)
  check_weights(config, model, variables, weights or workdir)
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  sounds.check_evaluation(config, source)
  make_folder(workdir)
  mesh = meshes.make_mesh(config.eval.batch, setting="eval.batch")
  log.info("evaluating %d clips of %s under %s", len(source), source.title, ", ".join(sounds.names(config)))
  seen = four_sounds(config, model, variables, source, mesh, workdir)
  results = {name: each.figures for name, each in seen.items()}
  if "positive" in seen:
    results |= {f"positive_{kind}": figures for kind, figures in seen["positive"].parts.items()}
  if jax.process_index() == 0:
    record = provenance.run_record(config, source, variables)
    provenance.keep_other(workdir, record)
    report.write(workdir, results, record)
    draw(config, source, seen, workdir)
  return report.with_global(results)


def weights_to_judge(config: Any, model: Any, workdir: str) -> Mapping[str, Any]:
  """The run's own weights; else those that `config.init.system` or `config.init.run` name.

  Raises:
    InputError: there are none, or the folder's run began from others than `config.init` asks for.
  """
  from avs_jax.checkpoint import load_variables
  from avs_jax.model import starting_variables

  asked = {key: config.init[key] for key in ("system", "run") if config.init[key]}
  if not is_run(workdir):
    return starting_variables(config, model, to_judge=True) if asked else load_variables(workdir)
  began = settings.saved_as_they_are(workdir).get("init", {})
  for key, path in asked.items():
    if began.get(key, "") != path:
      raise InputError(
        f"{workdir} holds a run of its own, whose weights would be judged in place of init.{key}={path}; give"
        " another --workdir."
      )
  return load_variables(workdir)


def weights_of_file(config: Any, weights: str) -> Mapping[str, Any]:
  """The weights of a file with its config inside.

  Raises:
    InputError: the model needs marks, which no file holds, or `bundle.load` refuses the file.
  """
  from avs_jax import bundle

  if config.marks.kind != "none":
    raise InputError(
      f"{weights}: this model needs the marks that lie beside its checkpoints; give --workdir of its run."
    )
  return bundle.load(weights)[0]


def refuse_run(workdir: str, what: str) -> None:
  """Raises `InputError` where the folder holds a run, whose scoreboard would be written over."""
  if is_run(workdir) or settings.holds_run(workdir):
    raise InputError(
      f"{workdir} holds a run, whose own scoreboard would be lost to {what}; give another --workdir."
    )


def tell_other_settings(config: Any, workdir: str) -> None:
  """Warns where a run is judged with settings that it was not trained with."""
  from configs import common

  if not settings.holds_run(workdir):
    return
  try:
    found = settings.differences(common.from_workdir(workdir), config)
  except InputError:  # of another version, or gone: `config` is all there is
    return
  if found:
    log.warning("%s was trained with other settings (%s)", workdir, "; ".join(found))


def is_run(workdir: str) -> bool:
  """Whether the folder holds checkpoints."""
  return any(os.path.isdir(os.path.join(workdir, name)) for name in ("best", "checkpoints"))


def score_folder(config: Any, folder: str | None, workdir: str) -> dict[str, Any]:
  """Scores masks that any program wrote, against the split that the config names; needs no model.

  Raises:
    InputError: no folder, clips without masks, masks of another size, or a `workdir` that holds a run.
  """
  from avs_jax import score
  from data_pipelines import sources

  if not folder:
    raise InputError("--mode=score needs --input=FOLDER with a sub-folder of masks for each sound.")
  refuse_run(workdir, f"that of {folder}")
  limits.check_values(config)
  make_folder(workdir)
  source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  record = {"split": config.eval.split, "size": config.data.size, **provenance.record_of_masks(folder)}
  return score.score(folder, source, workdir, record=record, allow_missing=config.data.allow_missing)


def draw(config: Any, source: Any, seen: Mapping[str, Seen], workdir: str) -> None:
  """Figure 1 for the first clips, and beside each picture the masks it shows (`four_sounds_<i>.npz`)."""
  from avs_jax import visualize

  folder = os.path.join(workdir, "pictures")
  make_folder(folder)
  for old in os.listdir(folder):
    if re.fullmatch(r"(four_sounds|evidence)_\d+\.(png|npz)", old):
      os.remove(os.path.join(folder, old))  # of a judging before, which may have had more
  for index in range(min(config.eval.pictures, len(source))):
    clip = source.clip(index)
    shown = {name: seen[name].probabilities[index] for name in config.eval.conditions}
    maps = {limits.condition_of(name): each for name, each in shown.items()}
    title = f"{clip.id}, {source.title}, {config.eval.split}"
    caption = f"{config.title or config.model.system}: {title}"
    path = os.path.join(folder, f"four_sounds_{index}")
    visualize.four_sounds(f"{path}.png", clip.frames, clip.masks > 0, maps, caption=caption)
    found = seen["positive"].evidence.get(index) if "positive" in seen else None
    if found:
      loss = config.loss
      evidence.draw(
        os.path.join(folder, f"evidence_{index}.png"),
        clip.frames,
        clip.masks > 0,
        shown["positive"],
        evidence.Maps.of(found, loss.alignment_scale, loss.alignment_threshold),
        caption=caption,
      )
    active = {name: each > 0.5 for name, each in shown.items()}
    np.savez_compressed(f"{path}.npz", frames=clip.frames, truth=clip.masks > 0, title=title, **active)
