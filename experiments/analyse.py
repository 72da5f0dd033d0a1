"""Looks inside a trained SDAVS: what its gates let pass, and whether picture and sound agree more after fusion.

  python -m experiments.analyse --workdir=runs/sdavs_generated/whole-0 --clips=32
  python -m experiments.analyse --workdir='runs/sdavs_generated/whole-?' --clips=100 --name=analysis_sdavs
    --into=docs/results.md

Writes of each run into WORKDIR/analysis (or OUTPUT): analysis.json; consistency.png (table VII by stage), gates.png
(figure 8: channel weights, spatial weights in and out of what sounds, and of what sounds in another clip),
selectors.png (figure 5) and fusion.png (figure 6), Grad-CAM before and after. With --name a record of each run is
kept in RECORDS/NAME; --into puts mean and deviation over the runs' seeds into a page. Terms: docs/sdavs.md.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avs_jax import tables
from avs_jax.errors import InputError
from experiments import analysis_page, records
from experiments.analysis_page import MEASURES, PRINTED, SOUNDS, consistency_table

SELECTORS = {"unfiltered": "before SNRP", "channel_filtered": "after CFS", "filtered": "after SFS"}
FUSION = {
  "visual_before": "picture before", "audio_before": "sound before", "visual_after": "picture after",
  "audio_after": "sound after",
}  # fmt: skip

Record = dict[str, Any]


def find_runs(patterns: Sequence[str]) -> list[str]:
  """The work directories that the patterns fit; what fits none is taken as it is."""
  found = [path for pattern in patterns for path in sorted(glob.glob(pattern)) or [pattern]]
  return list(dict.fromkeys(found))


def analyse_run(workdir: str, output: str, clips: int, pictures: int, name: str = "") -> Record:
  """Analyses the best checkpoint of a run on clips of its test split. Returns its record.

  Args:
    name: of the folder of records.

  Raises:
    InputError: no such run, or one of another system.
  """
  import jax

  from avs_jax import analysis
  from avs_jax.evaluate import weights_to_judge
  from avs_jax.model import build_model
  from avs_jax.provenance import run_record
  from avs_jax.types import Batch
  from configs import common
  from data_pipelines import sounds, sources

  own_config = common.from_workdir(workdir)
  config = own_config.copy_and_resolve_references()
  with config.unlocked():
    config.eval.test_clips, config.eval.batch = clips, min(config.eval.batch, clips)
    config.eval.conditions, config.eval.unseen = tuple(SOUNDS), ()
  whole = build_model(config)
  judged = weights_to_judge(config, whole, workdir)
  model, variables = analysis.inside(whole, judged)
  source = sources.build(config, config.eval.split, limit=clips)

  @jax.jit
  def look(variables: Any, batch: Any) -> Any:
    """The gates, and the agreement of each clip by stage; whole maps would fill the memory."""
    _, taps = analysis.traced(model, variables, batch)
    found = {}
    for stage in sorted({tap.split("/")[0] for tap in taps}):
      for when in PRINTED:
        pair = (taps[f"{stage}/{side}_{when}"] for side in ("visual", "audio"))
        agreement = analysis.consistency(*pair, batch.present)
        found |= {f"{stage}/{key}_{when}": value for key, value in agreement.items()}
    return {tap: value for tap, value in taps.items() if tap.split("/")[1] in ("channel", "spatial")}, found

  figures: dict[str, dict[str, dict[str, float]]] = {}
  gates: dict[str, dict[str, np.ndarray]] = {}
  truth, present = np.zeros(0), np.zeros(0, bool)
  for sound in SOUNDS:
    seen, masks, seconds = [], [], []
    for rows in sounds.batches(config, source, sound):
      real = rows["index"] >= 0
      both = jax.device_get(look(variables, Batch(**rows)))
      seen.append([{tap: value[real] for tap, value in each.items()} for each in both])
      masks.append((rows["masks"][real] > 0).astype(np.float32))
      seconds.append(rows["present"][real])
    truth, present = np.concatenate(masks), np.concatenate(seconds)  # the same under every sound
    own, agreement = (
      {tap: np.concatenate([each[i][tap] for each in seen]) for tap in seen[0][i]} for i in (0, 1)
    )
    figures[sound], gates[sound] = figures_of(own, agreement, truth, present), own
  row = os.path.basename(os.path.normpath(workdir)).removesuffix(f"-{config.seed}")
  record = analysis_page.make(name, row, own_config, run_record(own_config, source, judged), figures)
  os.makedirs(output, exist_ok=True)
  tables.save(os.path.join(output, "analysis.json"), json.dumps(record, indent=1) + "\n")
  caption = f"{config.title or 'sdavs'}: {source.title}, {len(source)} clips"
  draw_consistency(os.path.join(output, "consistency.png"), figures, caption)
  draw_gates(os.path.join(output, "gates.png"), gates, truth, present, caption)
  rows = next(iter(sounds.batches(config, source, "positive")))
  shown = min(pictures, int((rows["index"] >= 0).sum()))
  rows = {key: None if value is None else value[:shown] for key, value in rows.items()}
  explain = jax.jit(lambda variables, batch: analysis.explained(model, variables, batch)[::2])
  logits, cams = jax.device_get(explain(variables, Batch(**rows)))
  for file, kinds in (("selectors.png", SELECTORS), ("fusion.png", FUSION)):
    panels = {label: cams[f"stage1/{kind}"] for kind, label in kinds.items() if f"stage1/{kind}" in cams}
    draw_cams(os.path.join(output, file), rows, panels, logits, caption)
  return record


def figures_of(
  gates: Mapping[str, np.ndarray], agreement: Mapping[str, np.ndarray], truth: np.ndarray, present: np.ndarray
) -> dict[str, dict[str, float]]:
  """{stage: {name: value}}: table VII's figures, means over the clips, and the gates' statistics."""
  import jax.numpy as jnp

  from avs_jax import analysis

  found: dict[str, dict[str, float]] = {}
  for tap, value in agreement.items():
    stage, key = tap.split("/")
    found.setdefault(stage, {})[key] = float(value.mean())
  held = {tap: jnp.asarray(gate) for tap, gate in gates.items()}
  for stage, own in analysis.gate_statistics(held, jnp.asarray(truth), jnp.asarray(present)).items():
    found[stage] |= {key: float(value) for key, value in own.items()}
  return found


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
  path: str,
  gates: Mapping[str, Mapping[str, np.ndarray]],
  truth: np.ndarray,
  present: np.ndarray,
  caption: str,
) -> str:
  """Figure 8: weights of the channels under each sound, and of the cells of the finest stage, in and out of what
  sounds (lines) and of what sounds in another clip (dashed: the control)."""
  from matplotlib.figure import Figure

  from avs_jax import analysis, visualize

  figure = Figure(figsize=(10, 3.4), layout="constrained")
  left, right = figure.subplots(1, 2)
  own = gates["positive"]
  channels = sorted(name for name in own if name.endswith("channel"))
  if channels:
    groups = [(sound, stage) for stage in channels for sound in gates]
    values = [gates[sound][stage][present].reshape(int(present.sum()), -1).mean(0) for sound, stage in groups]
    left.violinplot(values, showmeans=True)
    labels = [f"{stage.split('/')[0].removeprefix('stage')} {sound}" for sound, stage in groups]
    left.set_xticks(range(1, len(groups) + 1), labels, fontsize=6, rotation=60)
  left.set_title("channel weights, mean over the clips", fontsize=9)
  if "stage1/spatial" in own:
    weight = own["stage1/spatial"][..., 0]  # [B, T, h, w]
    rows = (np.arange(weight.shape[2]) + 0.5) * truth.shape[2] // weight.shape[2]
    cols = (np.arange(weight.shape[3]) + 0.5) * truth.shape[3] // weight.shape[3]
    is_object = truth[:, :, rows.astype(int)][:, :, :, cols.astype(int)] > 0.5
    looks = [("what sounds", is_object, present, "-")]
    if len(truth) > 1:
      other, both = np.asarray(analysis.next_clips(is_object)), present & analysis.next_clips(present)
      looks.append(("what sounds in another clip", other, both, "--"))
    for words, part, counts, line in looks:
      for name, chosen, colour in ((words, part, "C0"), (f"not {words}", ~part, "C1")):
        if (chosen := chosen[counts]).any():
          right.hist(
            weight[counts][chosen],
            bins=40,
            density=True,
            histtype="step",
            label=name,
            linestyle=line,
            color=colour,
          )
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
  """A line a clip, the middle of its present seconds: picture, right mask, the maps, and the predicted mask."""
  from matplotlib.figure import Figure

  from avs_jax import visualize

  shown = len(logits)
  figure = Figure(figsize=(1.5 * (len(panels) + 3), 1.6 * shown + 0.4), layout="constrained")
  axes = figure.subplots(shown, len(panels) + 3, squeeze=False)
  active = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(-1) > 0
  for line, own in zip(range(shown), axes, strict=True):
    seconds = np.flatnonzero(rows["present"][line])
    second = seconds[len(seconds) // 2]
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
  """Analyses the runs that the arguments name, and prints what was found.

  Raises:
    InputError: a number that is too small, a page without a name for the records, or as `analyse_run` and
      `analysis_page.section`.
  """
  parser = argparse.ArgumentParser(
    "experiments.analyse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--workdir", required=True, help="folders of trained runs of sdavs, patterns parted by commas")
  add(
    "--output",
    default="",
    help="folder to write to, of several runs one in it for each; default WORKDIR/analysis",
  )
  add(
    "--clips", type=int, default=32, help="clips of the test split; 2 or more, for each is another's control"
  )
  add("--pictures", type=int, default=4, help="clips to be shown")
  add("--records", default="docs/records", help="where records are kept")
  add("--name", default="", help="of the folder of records; without it none are kept")
  add("--into", default="", help="a page that is to hold the tables, e.g. docs/results.md")
  given = parser.parse_args(arguments)
  for flag, least in (("clips", 2), ("pictures", 1)):
    if getattr(given, flag) < least:
      raise InputError(f"--{flag}={getattr(given, flag)} must be at least {least}.")
  if given.into and not given.name:
    raise InputError(
      "--into: a page is written of what is kept; give --name too, e.g. --name=analysis_sdavs."
    )
  import jax

  from avs_jax.mesh import keep_compiled_programs

  keep_compiled_programs()
  runs, found = find_runs(given.workdir.split(",")), []
  for workdir in runs:
    output = given.output or os.path.join(workdir, "analysis")
    if given.output and len(runs) > 1:
      output = os.path.join(given.output, os.path.basename(os.path.normpath(workdir)))
    found.append(analyse_run(workdir, output, given.clips, given.pictures, given.name))
    if given.name:
      print(path := records.write(given.records, found[-1]))
      with open(path, encoding="utf-8") as file:
        found[-1] = json.load(file)  # tables are made of what is kept, to its last digit
    print(f"written to {output}")
    jax.clear_caches()
  print("\n".join([*consistency_table(found), "", *analysis_page.gate_table(found)]))
  if given.into:
    command = (
      f"python -m experiments.analyse --workdir='{given.workdir}' --clips={given.clips} --name={given.name}"
    )
    print(analysis_page.insert(given.into, found, f"{command} --into={given.into}"))


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    print(f"experiments.analyse: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None
