"""The paper's figures from records: similarities (4), the four sounds side by side (3, 5), and the frontier."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import visualize
from avs_jax.errors import InputError
from experiments import records as kept
from experiments.study import Study, configure

Records = Mapping[str, Sequence[Mapping[str, Any]]]

log = logging.getLogger(__name__)


def draw_all(folder: str, study: Study, records: Records) -> list[str]:
  """Draws what the study asks for and its records allow. Returns the paths."""
  made = [draw_similarity(folder, name, records[name]) for name in study.similarity if name in records]
  made.append(draw_frontier(folder, study, records))
  made.append(draw_pictures(folder, study, records))
  return [path for path in made if path]


def draw_similarity(folder: str, name: str, some: Sequence[Mapping[str, Any]]) -> str | None:
  """Figure 4 of one row, of its first seed; None without a guide."""
  record = some[0]
  titles = {"before": "before training", "after": "after training"}
  found = {titles[when]: record["similarity"].get(when) for when in titles}
  panels = {title: each for title, each in found.items() if each}
  if not panels:
    return None
  caption = f"{name}, seed {record['seed']}: {record['data_set']}, {record['split']}"
  return visualize.similarities(os.path.join(folder, f"similarity_{name}.png"), panels, caption=caption)


def draw_frontier(folder: str, study: Study, records: Records) -> str | None:
  """Positive IoU against G-FPR of the study's recipes; curves of the first seed, dots of all."""
  chosen = {name: records[name] for name in study.frontier if name in records}
  chosen = {name: some for name, some in chosen.items() if all(record["frontier"] for record in some)}
  if not chosen:
    return None
  recipes = {}
  for name, some in chosen.items():
    swept = some[0]["frontier"]
    curves = {which: [_place(point) for point in swept[which]] for which in ("mask", "gate", "best")}
    recipes[name] = {"operating": [_place(record["frontier"]["operating"]) for record in some], **curves}
  record = next(iter(chosen.values()))[0]
  caption = f"{record['data_set']}, {record['split']}, {record['clips']} clips"
  return visualize.frontiers(os.path.join(folder, "frontier.png"), recipes, caption=caption)


def _place(point: Mapping[str, Any]) -> tuple[float, float]:
  return point["g_fpr"], point["iou_frame"]


def draw_pictures(folder: str, study: Study, records: Records) -> str | None:
  """Figures 3 and 5: rows side by side under four sounds. Frames come from the data set; None without it."""
  chosen = {
    name: records[name][0] for name in study.pictures if name in records and records[name][0]["pictures"]
  }
  if not chosen:
    return None
  from data_pipelines import sources

  first = next(iter(chosen))
  config = configure(study.row(first), chosen[first]["seed"])
  try:
    source = sources.build(config, config.eval.split, limit=config.eval.test_clips)
  except InputError as error:
    log.warning("the pictures are not drawn: %s", error)
    return None
  if source.title != chosen[first]["data_set"]:
    log.warning(
      "the pictures are not drawn: the records are of %s, at hand is %s",
      chosen[first]["data_set"],
      source.title,
    )
    return None
  rows = []
  for number, picture in enumerate(chosen[first]["pictures"]):
    clip, second = source.clip(picture["clip"]), picture["second"]
    masks = {
      name: {
        sound: kept.unpack(packed, tuple(record["pictures"][number]["size"]))
        for sound, packed in record["pictures"][number]["masks"].items()
      }
      for name, record in chosen.items()
      if number < len(record["pictures"])
    }
    if len(masks) == len(chosen):
      rows.append((clip.frames[second], np.asarray(clip.masks[second] > 0), masks))
  caption = f"{study.title}: {source.title}, {config.eval.split}, seed {chosen[first]['seed']}"
  return visualize.side_by_side(os.path.join(folder, "four_sounds.png"), rows, caption=caption)
