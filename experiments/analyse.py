"""Looks inside a trained SDAVS: what its gates let pass, and whether picture and sound agree more after fusion.

  python -m experiments.analyse --workdir=runs/sdavs_generated/whole-0 --clips=32

Writes into OUTPUT (default WORKDIR/analysis): analysis.json; consistency.png (table VII by stage), gates.png
(figure 8: channel weights, spatial weights in and out of what sounds), selectors.png (figure 5) and fusion.png
(figure 6), Grad-CAM before and after. Terms are defined in docs/sdavs.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import tables
from avs_jax.errors import InputError

PRINTED = {"before": (0.33, 22.1, 0.43), "after": (0.79, 15.3, 0.32)}  # table VII: CKA, KL, JS
MEASURES = ("cka", "kl", "js")
SOUNDS = ("positive", "silence", "noise")
SELECTORS = {"unfiltered": "before SNRP", "channel_filtered": "after CFS", "filtered": "after SFS"}
FUSION = {
  "visual_before": "picture before", "audio_before": "sound before", "visual_after": "picture after",
  "audio_after": "sound after",
}  # fmt: skip

Figures = dict[str, Any]


def analyse_run(workdir: str, output: str, clips: int, pictures: int) -> Figures:
  """Analyses the best checkpoint of a run on clips of its test split. Returns the figures.

  Raises:
    InputError: no such run, or one of another system.
  """
  import jax

  from avs_jax import analysis
  from avs_jax.evaluate import weights_to_judge
  from avs_jax.model import build_model
  from avs_jax.types import Batch
  from configs import common
  from data_pipelines import sounds, sources

  config = common.from_workdir(workdir)
  with config.unlocked():
    config.eval.test_clips, config.eval.batch = clips, min(config.eval.batch, clips)
    config.eval.conditions, config.eval.unseen = SOUNDS, ()
  whole = build_model(config)
  model, variables = analysis.inside(whole, weights_to_judge(config, whole, workdir))
  source = sources.build(config, config.eval.split, limit=clips)

  @jax.jit
  def look(variables: Any, batch: Any) -> Any:
    """The gates, and the agreement of each clip by stage; whole maps would fill the memory."""
    _, taps = analysis.traced(model, variables, batch)
    found = {}
    for stage in sorted({tap.split("/")[0] for tap in taps}):
      for when in PRINTED:
        pair = (taps[f"{stage}/{side}_{when}"] for side in ("visual", "audio"))
        found |= {f"{stage}/{key}_{when}": value for key, value in analysis.consistency(*pair).items()}
    return {tap: value for tap, value in taps.items() if tap.split("/")[1] in ("channel", "spatial")}, found

  figures: Figures = {
    "data_set": source.title,
    "clips": len(source),
    "title": config.title,
    "printed": PRINTED,
  }
  gates: dict[str, dict[str, np.ndarray]] = {}
  truth = np.zeros(0)
  for name in SOUNDS:
    seen, masks = [], []
    for rows in sounds.batches(config, source, name):
      real = rows["index"] >= 0
      both = jax.device_get(look(variables, Batch(**rows)))
      seen.append([{tap: value[real] for tap, value in each.items()} for each in both])
      masks.append((rows["masks"][real] > 0).astype(np.float32))
    truth = np.concatenate(masks)  # the same under every sound
    own, agreement = (
      {tap: np.concatenate([each[i][tap] for each in seen]) for tap in seen[0][i]} for i in (0, 1)
    )
    figures[name], gates[name] = figures_of(own, agreement, truth), own
  figures["mean"] = mean_of(figures["positive"])
  os.makedirs(output, exist_ok=True)
  tables.save(os.path.join(output, "analysis.json"), json.dumps(figures, indent=1) + "\n")
  caption = f"{config.title or 'sdavs'}: {source.title}, {len(source)} clips"
  draw_consistency(os.path.join(output, "consistency.png"), figures, caption)
  draw_gates(os.path.join(output, "gates.png"), gates, truth, caption)
  rows = next(iter(sounds.batches(config, source, "positive")))
  shown = min(pictures, int((rows["index"] >= 0).sum()))
  rows = {key: None if value is None else value[:shown] for key, value in rows.items()}
  explain = jax.jit(lambda variables, batch: analysis.explained(model, variables, batch)[::2])
  logits, cams = jax.device_get(explain(variables, Batch(**rows)))
  for file, kinds in (("selectors.png", SELECTORS), ("fusion.png", FUSION)):
    panels = {label: cams[f"stage1/{kind}"] for kind, label in kinds.items() if f"stage1/{kind}" in cams}
    draw_cams(os.path.join(output, file), rows, panels, logits, caption)
  return figures


def figures_of(
  gates: Mapping[str, np.ndarray], agreement: Mapping[str, np.ndarray], truth: np.ndarray
) -> dict[str, dict[str, float]]:
  """{stage: {name: value}}: table VII's figures, means over the clips, and the gates' statistics."""
  import jax.numpy as jnp

  from avs_jax import analysis

  found: dict[str, dict[str, float]] = {}
  for tap, value in agreement.items():
    stage, key = tap.split("/")
    found.setdefault(stage, {})[key] = float(value.mean())
  held = {tap: jnp.asarray(gate) for tap, gate in gates.items()}
  for stage, own in analysis.gate_statistics(held, jnp.asarray(truth)).items():
    found[stage] |= {key: float(value) for key, value in own.items()}
  return found


def mean_of(stages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
  """Table VII's figures averaged over the stages."""
  names = [f"{key}_{when}" for key in MEASURES for when in PRINTED]
  return {name: float(np.mean([stage[name] for stage in stages.values()])) for name in names}


def consistency_table(figures: Mapping[str, Any]) -> list[str]:
  """Table VII: the printed lines, ours by stage, and their mean."""
  rows = [["printed", when, *map(str, values)] for when, values in PRINTED.items()]
  every = {**figures["positive"], "mean": figures["mean"]}
  for stage, found in every.items():
    rows += [[stage, when, *(f"{found[f'{key}_{when}']:.3f}" for key in MEASURES)] for when in PRINTED]
  return tables.markdown(["stage", "DAMF", "CKA", "KL (nats)", "JS (nats)"], rows, 2)


def draw_consistency(path: str, figures: Mapping[str, Any], caption: str) -> str:
  """CKA, KL and JS before and after DAMF, stage by stage."""
  from matplotlib.figure import Figure

  from avs_jax import visualize

  figure = Figure(figsize=(9, 3), layout="constrained")
  stages = list(figures["positive"])
  for axis, key in zip(figure.subplots(1, 3), MEASURES, strict=True):
    for number, when in enumerate(PRINTED):
      heights = [figures["positive"][stage][f"{key}_{when}"] for stage in stages]
      axis.bar(np.arange(len(stages)) + 0.4 * number - 0.2, heights, 0.4, label=f"{when} DAMF")
    axis.set_xticks(range(len(stages)), stages, fontsize=7)
    axis.set_title({"cka": "CKA (high: alike)"}.get(key, f"{key.upper()}, nats (low: alike)"), fontsize=9)
  axis.legend(fontsize=7)
  figure.suptitle(caption, fontsize=8)
  return visualize.save(figure, path)


def draw_gates(
  path: str, gates: Mapping[str, Mapping[str, np.ndarray]], truth: np.ndarray, caption: str
) -> str:
  """Figure 8 of the finest stage that has a gate: weights of the channels under each sound, and of the cells."""
  from matplotlib.figure import Figure

  from avs_jax import visualize

  figure = Figure(figsize=(10, 3.4), layout="constrained")
  left, right = figure.subplots(1, 2)
  own = gates["positive"]
  channels = sorted(name for name in own if name.endswith("channel"))
  if channels:
    groups = [(sound, stage) for stage in channels for sound in gates]
    values = [
      gates[sound][stage].reshape(-1, gates[sound][stage].shape[-1]).mean(0) for sound, stage in groups
    ]
    left.violinplot(values, showmeans=True)
    labels = [f"{stage.split('/')[0].removeprefix('stage')} {sound}" for sound, stage in groups]
    left.set_xticks(range(1, len(groups) + 1), labels, fontsize=6, rotation=60)
  left.set_title("channel weights, mean over the clips", fontsize=9)
  if "stage1/spatial" in own:
    weight = own["stage1/spatial"][..., 0]  # [B, T, h, w]
    rows = (np.arange(weight.shape[2]) + 0.5) * truth.shape[2] // weight.shape[2]
    cols = (np.arange(weight.shape[3]) + 0.5) * truth.shape[3] // weight.shape[3]
    is_object = truth[:, :, rows.astype(int)][:, :, :, cols.astype(int)] > 0.5
    for name, chosen in (("what sounds", is_object), ("the rest", ~is_object)):
      if chosen.any():
        right.hist(weight[chosen], bins=40, density=True, histtype="step", label=name)
    right.legend(fontsize=7)
  right.set_title("spatial weights at the finest stage", fontsize=9)
  figure.suptitle(caption, fontsize=8)
  return visualize.save(figure, path)


def draw_cams(
  path: str,
  rows: Mapping[str, np.ndarray],
  panels: Mapping[str, np.ndarray],
  logits: np.ndarray,
  caption: str,
) -> str:
  """A line a clip, its middle second: picture, right mask, the maps, and the predicted mask."""
  from matplotlib.figure import Figure

  from avs_jax import visualize

  shown = len(logits)
  figure = Figure(figsize=(1.5 * (len(panels) + 3), 1.6 * shown + 0.4), layout="constrained")
  axes = figure.subplots(shown, len(panels) + 3, squeeze=False)
  second = rows["frames"].shape[1] // 2
  active = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(-1) > 0
  for line, own in zip(range(shown), axes, strict=True):
    frame, size = rows["frames"][line, second], rows["frames"].shape[2:4]
    own[0].imshow(frame)
    own[1].imshow(rows["masks"][line, second] > 0, cmap="gray", vmin=0, vmax=1)
    for axis, cam in zip(own[2:-1], panels.values(), strict=True):
      axis.imshow(frame)
      axis.imshow(cam[line, second], cmap="jet", alpha=0.55, extent=(0, size[1], size[0], 0), vmin=0, vmax=1)
    own[-1].imshow(active[line, second], cmap="gray", vmin=0, vmax=1)
  for axis, title in zip(axes[0], ("picture", "right mask", *panels, "prediction"), strict=True):
    axis.set_title(title, fontsize=8)
  for axis in axes.flat:
    axis.set_axis_off()
  figure.suptitle(f"Grad-CAM at the finest stage. {caption}", fontsize=8)
  return visualize.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
  """Analyses the run that the arguments name, and prints what was found.

  Raises:
    InputError: a number below 1, or as `analyse_run`.
  """
  parser = argparse.ArgumentParser(
    "experiments.analyse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--workdir", required=True, help="folder of a trained run of sdavs")
  parser.add_argument("--output", default="", help="folder to write to; default WORKDIR/analysis")
  parser.add_argument("--clips", type=int, default=32, help="clips of the test split")
  parser.add_argument("--pictures", type=int, default=4, help="clips to be shown")
  given = parser.parse_args(arguments)
  for name in ("clips", "pictures"):
    if getattr(given, name) < 1:
      raise InputError(f"--{name}={getattr(given, name)} must be at least 1.")
  output = given.output or os.path.join(given.workdir, "analysis")
  figures = analyse_run(given.workdir, output, given.clips, given.pictures)
  print("\n".join(consistency_table(figures)))
  for stage, found in figures["positive"].items():
    gates = [f"{key} {value:.3f}" for key, value in found.items() if key.startswith(("channel", "spatial"))]
    print(f"{stage}: {', '.join(gates) or 'no gates'}")
  print(f"written to {output}")


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    print(f"experiments.analyse: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
