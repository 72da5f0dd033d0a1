"""What guides a model: how masks follow the loudness and the kind of a sound, and what mixing sounds does to them.

"Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024): audio priming bias
(section 3.1, figures 2 and 5), Co-AVS, and the masks of single queries (supplement, figure 5). The scenes, whose
objects sound by themselves at chosen levels, come from `data_pipelines.coavs`.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from avs_jax import visualize
from avs_jax.errors import InputError
from avs_jax.types import Batch, Outputs

# [B, T, H, W, 3] frames and [B, S] sounds at 16 kHz -> Outputs of numpy arrays.
Hear = Callable[[np.ndarray, np.ndarray], Outputs]
ACTIVE = 0.5  # probability from which a pixel counts as segmented


def listener(config: Any, model: Any, variables: Mapping[str, Any], mark: Callable) -> Hear:
  """The model as a function of frames and raw sound, in batches of `config.eval.batch`.

  Args:
    mark: adds semantic marks to batches, see `perception.build`.

  Raises:
    InputError: marks from files, which know no mixed sounds.
  """
  from avs_jax.step import sound_of, told
  from data_pipelines.audio import clip_log_mel

  if config.marks.kind == "file":
    raise InputError(
      "marks.kind=file tells of no mixed sounds; observe a run with clusters, a classifier or none."
    )
  size = config.eval.batch

  @jax.jit
  def run(variables: Any, batch: Batch) -> Outputs:
    found = model.apply(variables, batch.frames, sound_of(model, batch), train=False, **told(batch))
    kept = ("logits", "query_masks", "query_classes", "marks")
    return Outputs(**{name: getattr(found, name) for name in kept})

  def some(frames: np.ndarray, sounds: np.ndarray) -> Outputs:
    clips, seconds = frames.shape[:2]
    rows = {
      "frames": frames,
      "log_mel": np.stack([clip_log_mel(sound, seconds) for sound in sounds]),
      "waveform": sounds.reshape(clips, seconds, -1),
      "masks": np.zeros(frames.shape[:4], np.int32),
      "annotated": np.ones((clips, seconds), bool),
      "present": np.ones((clips, seconds), bool),
      "condition": np.zeros(clips, np.int32),
      "index": np.arange(clips, dtype=np.int32),
    }
    return jax.device_get(run(variables, Batch(**mark(rows, None))))

  def hear(frames: np.ndarray, sounds: np.ndarray) -> Outputs:
    found = []
    for start in range(0, len(sounds), size):
      index = np.minimum(np.arange(start, start + size), len(sounds) - 1)  # the last batch is filled up
      kept = min(size, len(sounds) - start)
      found.append(jax.tree.map(lambda x, kept=kept: x[:kept], some(frames[index], sounds[index])))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

  return hear


def masks_under(
  hear: Hear, scene: Any, levels: Sequence[tuple[int, ...]]
) -> Bool[np.ndarray, "sounds T H W"]:
  """What is segmented of a scene's counted seconds when its objects sound at each of the `levels`."""
  from avs_jax.counts import activity

  sounds = np.stack([scene.sound(each) for each in levels])
  frames = np.broadcast_to(scene.frames, (len(levels), *scene.frames.shape))
  chance = np.asarray(activity(jax.numpy.asarray(hear(frames, sounds).logits)))  # [sounds, T, H, W]
  return chance[:, scene.counted] > ACTIVE


def overlap(a: Bool[np.ndarray, "... T H W"], b: Bool[np.ndarray, "... T H W"]) -> Float[np.ndarray, "..."]:
  """Intersection over union, mean over the seconds; two empty masks agree (1)."""
  both, any_ = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
  return np.asarray(np.where(any_ > 0, both / np.maximum(any_, 1), 1.0).mean(-1))


def coverage(
  found: Bool[np.ndarray, "... T H W"], part: Bool[np.ndarray, "T H W"]
) -> Float[np.ndarray, "..."]:
  """Share of an object that is segmented, mean over the seconds in which it is seen."""
  area = part.sum((-2, -1))  # [T]
  seen = area > 0
  share = (found & part).sum((-2, -1))[..., seen] / area[seen]
  return np.asarray(share.mean(-1))


def guiding_ability(hear: Hear, scenes: Iterable[Any], levels: Sequence[int]) -> list[dict[str, Any]]:
  """IoU of each scene's one object with what its sound at each level brings out (figure 2, green and grey)."""
  rows = []
  for scene in scenes:
    found = masks_under(hear, scene, [(level,) for level in levels])
    for level, value in zip(levels, overlap(found, scene.parts[:1, scene.counted]), strict=True):
      rows.append(
        {"clip": scene.id, "category": scene.categories[0], "level": int(level), "iou": float(value)}
      )
  return rows


def mixing(hear: Hear, scenes: Iterable[Any], pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
  """Two objects' sounds, each alone at level 4 and mixed at level pairs (figure 2, red; figure 5b; Co-AVS).

  Each row: what was covered of either object alone; for each pair its IoU with both objects together, what was
  covered of either, and its IoU with the union of the two masks that the sounds gave alone.
  """
  rows = []
  for scene in scenes:
    found = masks_under(hear, scene, [(4, 0), (0, 4), *pairs])
    alone, mixed = found[:2], found[2:]
    parts = scene.parts[:, scene.counted]
    rows.append(
      {
        "clip": scene.id,
        "categories": list(scene.categories),
        "alone": [float(coverage(alone[n], parts[n])) for n in (0, 1)],
        "pairs": {
          f"{a}-{b}": {
            "iou": float(overlap(one, parts.any(0))),
            "covered": [float(coverage(one, part)) for part in parts],
            "superposition": float(overlap(one, alone.any(0))),
          }
          for (a, b), one in zip(pairs, mixed, strict=True)
        },
      }
    )
  return rows


def summary(guiding: Sequence[Mapping[str, Any]], mixed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Means of both studies.

  `spread`: standard deviation over categories of the mean IoU. `robustness`: the same over level pairs.
  `dominance`: of the scenes of which both objects are half covered alone, the share in which an even mixture
  leaves one of them less than half covered; None where there are no such scenes.
  """

  def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

  levels = sorted({row["level"] for row in guiding})
  categories = sorted({row["category"] for row in guiding})
  by_category = {name: mean(row["iou"] for row in guiding if row["category"] == name) for name in categories}
  result: dict[str, Any] = {"clips": {"single": len({row["clip"] for row in guiding}), "pair": len(mixed)}}
  if guiding:
    result |= {
      "guiding": {
        str(level): mean(row["iou"] for row in guiding if row["level"] == level) for level in levels
      },
      "category": by_category,
      "spread": float(np.std(list(by_category.values()))),
    }
  if mixed:
    names = list(mixed[0]["pairs"])
    iou = {name: mean(row["pairs"][name]["iou"] for row in mixed) for name in names}
    both = [row for row in mixed if min(row["alone"]) >= 0.5]
    result |= {
      "co_avs": iou,
      "co_avs_mean": mean(iou.values()),
      "robustness": float(np.std(list(iou.values()))),
      "covered": {
        name: [mean(row["pairs"][name]["covered"][n] for row in mixed) for n in (0, 1)] for name in names
      },
      "superposition": {name: mean(row["pairs"][name]["superposition"] for row in mixed) for name in names},
      "dominance": mean(min(row["pairs"]["4-4"]["covered"]) < 0.5 for row in both) if both else None,
    }
  return result


def draw(path: str, guiding: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], caption: str) -> str:
  """Figure 2 and 5 in one picture: IoU by level, by category, and what a mixture covers by level pair."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(12, 3.6), layout="constrained")
  by_level, by_category, by_pair = figure.subplots(1, 3)
  levels = [int(level) for level in figures["guiding"]]
  by_level.plot(levels, list(figures["guiding"].values()), "o-")
  by_level.set(
    xlabel="level of the sound", ylabel="IoU with the object that sounds", ylim=(0, 1.05), xticks=levels
  )
  names = sorted(figures["category"], key=figures["category"].get, reverse=True)
  values = [[row["iou"] for row in guiding if row["category"] == name] for name in names]
  by_category.boxplot(values, tick_labels=names)
  by_category.set(ylabel="IoU, all levels", ylim=(0, 1.05))
  by_category.tick_params("x", rotation=60)
  pairs = list(figures.get("covered", {}))
  place = np.arange(len(pairs))
  for n, label in enumerate(("first object", "second object")):
    by_pair.plot(place, [figures["covered"][pair][n] for pair in pairs], "o-", label=label)
  if pairs:
    by_pair.plot(place, list(figures["co_avs"].values()), "k--", label="IoU with both")
    by_pair.set_xticks(place, pairs)
    by_pair.legend(fontsize=8)
  by_pair.set(xlabel="levels of the two sounds", ylabel="share of the object that is found", ylim=(0, 1.05))
  figure.suptitle(caption, fontsize=9)
  return visualize.save(figure, path)


def draw_queries(path: str, hear: Hear, scenes: Sequence[Any], caption: str, most: int = 6) -> str | None:
  """The mask of each of the most active queries on the first second of every scene; None without queries.

  Supplement, figure 5: a query that has learned one kind of sound shows the same kind of object in its row.
  """
  from matplotlib.figure import Figure

  outputs = hear(
    np.stack([scene.frames for scene in scenes]),
    np.stack([scene.sound((4,) * len(scene.categories)) for scene in scenes]),
  )
  if outputs.query_masks is None or outputs.query_classes is None:
    return None
  masks = np.asarray(outputs.query_masks[-1][:, 0], np.float32)  # [B, h, w, Q]
  classes = np.asarray(outputs.query_classes[-1][:, 0], np.float32)  # [B, Q, E]
  chance = np.exp(classes - np.logaddexp.reduce(classes, -1, keepdims=True))
  found = (1 - chance[..., -1]) * np.asarray(outputs.marks[:, 0])  # [B, Q]: active, and found something
  chosen = np.argsort(-found.mean(0), kind="stable")[:most]
  figure = Figure(figsize=(1.5 * len(scenes) + 1, 1.5 * (1 + len(chosen))), layout="constrained")
  axes = figure.subplots(1 + len(chosen), len(scenes), squeeze=False)
  for column, scene in enumerate(scenes):
    frame, truth = scene.frames[0], scene.parts[:, 0].any(0)
    axes[0][column].imshow(visualize.overlay(frame, truth, truth), interpolation="nearest")
    axes[0][column].set_title(", ".join(scene.categories), fontsize=8)
    for row, query in enumerate(chosen, start=1):
      grid = [np.arange(side) * masks.shape[1 + axis] // side for axis, side in enumerate(frame.shape[:2])]
      active = masks[column][np.ix_(*grid)][..., query] > 0
      axis = axes[row][column]
      axis.imshow(visualize.overlay(frame, active, truth), interpolation="nearest")
      axis.set_xlabel(f"{found[column, query]:.2f}", fontsize=7, labelpad=1)
      if column == 0:
        axis.set_ylabel(f"query {query}", rotation=0, ha="right", va="center", fontsize=8)
  for axis in axes.reshape(-1):
    axis.set_xticks([])
    axis.set_yticks([])
  figure.suptitle(caption, fontsize=9)
  figure.supxlabel("below each mask: active times the chance of having found something", fontsize=8)
  return visualize.save(figure, path)


def observe(
  hear: Hear,
  singles: Iterable[Any],
  pairs: Iterable[Any],
  folder: str,
  caption: str,
) -> dict[str, Any]:
  """Both studies and their pictures into `folder`: observe.json, observe.png, and queries.png where there are any.

  Args:
    singles, pairs: scenes of one object, and of two.

  Returns: what `summary` does.
  """
  from data_pipelines import coavs

  kept = list(pairs)
  guiding = guiding_ability(hear, singles, coavs.LEVELS)
  mixed = mixing(hear, kept, coavs.PAIRS)
  figures = summary(guiding, mixed)
  os.makedirs(folder, exist_ok=True)
  with open(os.path.join(folder, "observe.json"), "w") as file:
    json.dump({"caption": caption, **figures, "guiding_rows": guiding, "mixing_rows": mixed}, file, indent=1)
  draw(os.path.join(folder, "observe.png"), guiding, figures, caption)
  draw_queries(os.path.join(folder, "queries.png"), hear, kept[:5], caption)
  return figures
