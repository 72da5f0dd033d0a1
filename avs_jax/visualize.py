"""Pictures: the same frames under four sounds, similarities, frontiers, and training curves."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax.types import Condition

# Correct area, area that should be silent, area that was missed (RGB; safe for colour-blind readers).
HIT, FALSE_ALARM, MISSED = (0, 158, 115), (213, 94, 0), (240, 228, 66)
NAMES = {
  Condition.POSITIVE: "own sound",
  Condition.SILENCE: "silence",
  Condition.NOISE: "noise",
  Condition.OFFSCREEN: "off-screen sound",
}


def overlay(frame: np.ndarray, active: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """A frame with its mask: correct area green, false alarm orange, missed object outlined in yellow.

  Args:
    frame: uint8 [H, W, 3].
    active: bool [H, W], what the model marked.
    truth: bool [H, W], what sounds.
  """
  picture = frame.astype(np.float32) * 0.75
  for area, colour in ((active & truth, HIT), (active & ~truth, FALSE_ALARM)):
    picture[area] = 0.45 * picture[area] + 0.55 * np.asarray(colour, np.float32)
  missed = truth & ~active
  wide = np.pad(missed, 1)
  inner = missed & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
  picture[missed & ~inner] = MISSED
  return np.clip(picture, 0, 255).astype(np.uint8)


def four_sounds(
  path: str,
  frames: np.ndarray,
  masks: np.ndarray,
  probabilities: Mapping[Condition, np.ndarray],
  *,
  caption: str,
  columns: str = "",
) -> str:
  """Writes the Robust paper's figure 1 for one clip: frames, ground truth, and the mask under each sound.

  Args:
    frames: uint8 [T, H, W, 3].
    masks: bool [T, H, W], what sounds in the clip as recorded.
    probabilities: float32 [T, H, W] per sound; under a negative sound every active pixel is a false alarm.
    caption: names the clip, the data set (stand-ins by name) and the model.

  Returns: `path`.
  """
  from matplotlib.figure import Figure

  rows: list[tuple[str, Sequence[np.ndarray]]] = [
    ("frames", list(frames)),
    ("truth (own sound)", [overlay(f, m, m) for f, m in zip(frames, masks, strict=True)]),
  ]
  for condition, maps in probabilities.items():
    truth = masks if condition == Condition.POSITIVE else np.zeros_like(masks)
    active = maps > 0.5
    rows.append(
      (
        f"{NAMES[condition]}\narea {active.mean():.3f}",
        [overlay(*triple) for triple in zip(frames, active, truth, strict=True)],
      )
    )
  seconds = len(frames)
  figure = Figure(figsize=(1.6 * seconds + 1.6, 1.6 * len(rows) + 0.5), layout="constrained")
  axes = figure.subplots(len(rows), seconds, squeeze=False)
  for r, (name, pictures) in enumerate(rows):
    for t, picture in enumerate(pictures):
      axis = axes[r][t]
      axis.imshow(picture, interpolation="nearest")
      axis.set_xticks([])
      axis.set_yticks([])
      if t == 0:
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
      if r == 0:
        axis.set_title(f"second {t + 1}", fontsize=8)
  figure.suptitle(textwrap.fill(caption, 18 * (seconds + 1)), fontsize=9)
  figure.supxlabel(columns or "green: correct   orange: false alarm   yellow line: missed", fontsize=8)
  return save(figure, path)


def compared(path: str, folders: Mapping[str, str], *, clips: int = 4, caption: str = "") -> str | None:
  """Sets runs side by side: a row a clip, and for each run the middle second under each sound.

  Args:
    folders: {name of the run: its folder}; each holds `pictures/four_sounds_<i>.npz` of the same clips.
    clips: at most so many rows.

  Returns: `path`; None where a run has no such files, or the runs share no sound or have other picture sizes.
  """

  rows = []
  for index in range(clips):
    files = {name: os.path.join(f, "pictures", f"four_sounds_{index}.npz") for name, f in folders.items()}
    if not all(os.path.exists(file) for file in files.values()):
      break
    rows.append({name: dict(np.load(file)) for name, file in files.items()})
  if not rows:
    return None
  shown = []
  for row in rows:
    first = next(iter(row.values()))
    t = len(first["frames"]) // 2
    sounds = [c.name.lower() for c in NAMES if all(c.name.lower() in saved for saved in row.values())]
    if not sounds or len({saved["frames"].shape for saved in row.values()}) > 1:
      return None
    masks = {name: {sound: saved[sound][t] for sound in sounds} for name, saved in row.items()}
    shown.append((first["frames"][t], first["truth"][t], masks))
  return side_by_side(path, shown, caption=caption)


def side_by_side(
  path: str,
  rows: Sequence[tuple[np.ndarray, np.ndarray, Mapping[str, Mapping[str, np.ndarray]]]],
  *,
  caption: str = "",
) -> str:
  """The Robust paper's figures 3 and 5: a row a frame, and for each run its masks under each sound.

  Args:
    rows: (frame uint8 [H, W, 3], truth bool [H, W], {run: {sound: bool [H, W]}}); the same runs in each.

  Returns: `path`.
  """
  from matplotlib.figure import Figure

  names = {c.name.lower(): label.replace("off-screen sound", "off-screen") for c, label in NAMES.items()}
  runs = rows[0][2]
  sounds = [sound for sound in names if sound in next(iter(runs.values()))]
  width = 1 + len(runs) * len(sounds)
  figure = Figure(figsize=(1.25 * width, 1.25 * len(rows) + 0.9), layout="constrained")
  axes = figure.subplots(len(rows), width, squeeze=False)
  for r, (frame, truth, masks) in enumerate(rows):
    axes[r][0].imshow(overlay(frame, truth, truth), interpolation="nearest")
    for v, (name, each) in enumerate(masks.items()):
      for k, sound in enumerate(sounds):
        axis = axes[r][1 + v * len(sounds) + k]
        right = truth if sound == "positive" else np.zeros_like(truth)
        axis.imshow(overlay(frame, each[sound], right), interpolation="nearest")
        if r == 0:
          axis.set_title(f"{name}\n{names[sound]}" if k == 0 else f"\n{names[sound]}", fontsize=8)
  axes[0][0].set_title("\ntruth", fontsize=8)
  for axis in axes.flat:
    axis.set_xticks([])
    axis.set_yticks([])
  figure.suptitle(caption, fontsize=9)
  figure.supxlabel("green: correct   orange: false alarm   yellow line: missed", fontsize=8)
  return save(figure, path)


def similarities(path: str, panels: Mapping[str, Mapping[str, Any]], *, caption: str) -> str:
  """The Robust paper's figure 4: how similar the guide finds pictures and sounds, a panel each.

  Args:
    panels: {title: what `frontier.similarities` gives}; positive is one curve, the three negatives another.

  Returns: `path`.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  colours = {"positive": HIT, "silence": (0, 114, 178), "noise": (204, 121, 167), "offscreen": FALSE_ALARM}
  labels = {c.name.lower(): label for c, label in NAMES.items()}
  for axis, (title, found) in zip(axes, panels.items(), strict=True):
    for sound, each in found["sounds"].items():
      if sound not in labels:
        continue
      counts = np.array(each["counts"], float)
      edges = np.linspace(found["low"], found["high"], len(counts) + 1)
      axis.stairs(
        counts / max(counts.sum(), 1),
        edges,
        fill=True,
        alpha=0.45,
        color=np.array(colours[sound]) / 255,
        label=f"{labels[sound]}, mean {each['mean']:.2f}",
      )
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(f"similarity ({found['scale']})", fontsize=8)
    axis.set_ylabel("share of seconds", fontsize=8)
    axis.legend(fontsize=7)
  figure.suptitle(textwrap.fill(caption, 45 * len(panels)), fontsize=8)
  return save(figure, path)


def frontiers(
  path: str, recipes: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], *, caption: str
) -> str:
  """Positive IoU against G-FPR: a curve a recipe and sweep, a dot where the scoreboard stands.

  Args:
    recipes: {name: {"operating", "mask", "gate", "best": (g_fpr, positive iou_frame) points}}. A recipe has one
      colour in all systems, a system one kind of line, where names are "system-recipe".

  Returns: `path`.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=(11, 4.2), layout="constrained")
  axes = figure.subplots(1, 2, sharey=True)
  systems = list(dict.fromkeys(name.rpartition("-")[0] for name in recipes))
  kinds = list(dict.fromkeys(name.rpartition("-")[2] for name in recipes))
  for axis, which, title in (
    (axes[0], "mask", "mask threshold alone"),
    (axes[1], "best", "mask threshold and similarity gate, best of both"),
  ):
    for name, each in recipes.items():
      system, _, kind = name.rpartition("-")
      colour, number = f"C{kinds.index(kind) % 10}", systems.index(system) % 5
      points = np.array(sorted(each[which])) if each[which] else np.zeros((0, 2))
      line, marker = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))[number], "os^vD"[number]
      axis.plot(
        points[:, 0], points[:, 1], linestyle=line, color=colour, linewidth=1.2, marker=marker, markevery=[-1],
        markersize=3, label=name,
      )  # fmt: skip
      dots = np.array(each["operating"])
      axis.plot(dots[:, 0], dots[:, 1], marker, color=colour, markersize=6)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("g_fpr (left is better)", fontsize=8)
  axes[0].set_ylabel("positive iou_frame", fontsize=8)
  figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=7)
  figure.suptitle(f"{caption}; dots: as judged, p > 0.5", fontsize=8)
  return save(figure, path)


def save(figure: Any, path: str) -> str:
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  figure.savefig(path, dpi=90)
  return path


def curves(path: str, rows: Sequence[Mapping[str, Any]], *, caption: str) -> str:
  """Loss and validation score by step, from the rows of metrics.jsonl. Returns `path`."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 3.2), layout="constrained")
  left, right = figure.subplots(1, 2)
  for axis, keys, title in (
    (left, ("loss",), "training loss"),
    (right, ("val_iou_frame", "val_f_at_half"), "validation, own sound"),
  ):
    for key in keys:
      points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
      if points:
        axis.plot(*zip(*points, strict=True), label=key)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step")
    if axis.lines:
      axis.legend(fontsize=8)
  figure.suptitle(caption, fontsize=9)
  return save(figure, path)
