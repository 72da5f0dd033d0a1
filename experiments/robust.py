"""The Robust paper's tables 2 to 9 and figures 3 to 5, on a stand-in or on AVSBench itself.

  python -m experiments.run --study=experiments/robust.py                    generated clips, one object (as S4)
  python -m experiments.run --study=experiments/robust.py:generated_multi    generated clips, several (as MS3)
  python -m experiments.run --study=experiments/robust.py:real_media         composed photographs and recordings
  AVS_DATA_ROOT=... python -m experiments.run --study=experiments/robust.py:s4      (or ms3)

Rows of both base models:
  prior            positive pairs only
  negatives_cold   10 % negative pairs, encoders from scratch
  guide_cold       the same with the cosine guide
  negatives_warm   10 % negative pairs after the warm-up that stands in for ImageNet and AudioSet weights
  guide_warm       the same with the cosine guide: the paper's recipe
  grounded         ours, meant to cure off-screen sound too
The recipes are those of configs/robust.py.
Rows of AVSBench alone: the share of negatives (table 3), the guide's form (7), weight (8), and the grounded recipe
without each of its parts; on real media, where a row takes long, its first form alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from avs_jax.errors import InputError
from configs.robust import RECIPES
from experiments import paper_rows
from experiments.study import Line, Row, Study, Table

COLD = {"warmup": {"steps": 0}}
PAPER = RECIPES["paper"]
# The published widths would take hours on a CPU and are no better on clips this simple.
SMALL_AVSEGFORMER = {
  "model": {
    "head_channels": 16,  # not fewer: a last layer of four rectified channels can die
    "num_queries": 32,
    "generator_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
  },
  "loss": {"mix_dice": 0.1},
  "optimizer": {"lr": 1e-3},
}
_HEAVY = {"guide_weight": 1.0, "mismatch": 1.0, "decoys": 1.0}
# Parts of the grounded recipe: what a line without it is called, and how it is taken out.
PARTS: dict[str, tuple[str, Mapping[str, Mapping[str, Any]]]] = {
  "unmatched": ("without in-batch mismatches", {"debias": {"mismatch": 0.0}}),
  "undecoyed": (
    "negative pairs (15 %) instead of decoys",
    {"negatives": {"fraction": 0.15, "offscreen": 0.5}, "debias": {"decoys": 0.0}},
  ),
  "untuned": ("without made-up tones", {"negatives": {"tones": 0}}),
  "pooled": ("guide over the mean of the map", {"debias": {"guide": "cosine_calibrated"}}),
  "gated": ("gate in training too", {"debias": {"gate_training": True}}),
  "heavy": ("its losses at full weight", {"debias": _HEAVY}),
  "heavy_gated": (
    "gate in training too, losses at full weight (our first form)",
    {"debias": {**_HEAVY, "gate_training": True}},
  ),
}
MULTI = {"data": {"name": "ms3"}}

# arg -> config file, settings of all rows, whether there is a warm-up (else weights come from files), and the
# benchmark whose printed lines stand beside ours.
_QUICK: dict[str, Any] = {
  # Seed 0 of the clips is what the recipes were chosen on.
  "data": {"seed": 1, "seconds": 3, "clips": {"train": 9600, "val": 40, "test": 120}},
  "augment": {"flip": True, "crop": 0.85},
  "warmup": {"steps": 800},
  "schedule": {"epochs": 1},  # 1200 steps, no clip twice
  "eval": {"every_epochs": 0.5, "pictures": 3, "unseen": ("tuning_fork", "rooster", "sheep", "thunder")},
}
_FULL: dict[str, Any] = {"eval": {key: _QUICK["eval"][key] for key in ("pictures", "unseen")}}
_MEDIA: dict[str, Any] = {
  "data": {"seed": 1},
  "eval": {"pictures": 3, "unseen": ("sheep", "owl", "phone", "thunder")},
}
SETTINGS: dict[str, tuple[str, tuple[Mapping[str, Any], ...], bool, str]] = {
  "generated": ("configs/quickstart.py", (_QUICK,), True, "S4"),
  "generated_multi": ("configs/quickstart.py", (_QUICK, MULTI), True, "MS3"),
  "real_media": ("configs/real_media.py", (_MEDIA,), True, "S4"),
  "real_media_multi": ("configs/real_media.py", (_MEDIA, MULTI), True, "MS3"),
  "s4": ("configs/robust.py:prior-s4-", (_FULL,), False, "S4"),
  "ms3": ("configs/robust.py:prior-ms3-", (_FULL,), False, "MS3"),
}
NAMES = {"avsbench": "AVSBench", "avsegformer": "AVSegFormer"}


def get_study(arg: str = "generated") -> Study:
  """The study on the data named `arg`.

  Raises:
    InputError: there are no such data.
  """
  if arg not in SETTINGS:
    raise InputError(f"experiments/robust.py:{arg}: there is no such data; choose {', '.join(SETTINGS)}.")
  config, common, has_warmup, data = SETTINGS[arg]
  recipes = {
    "prior": RECIPES["prior"],
    "negatives_warm": RECIPES["negatives"],
    "guide_warm": PAPER,
    "grounded": RECIPES["grounded"],
  }
  if has_warmup:
    recipes |= {f"{name}_cold": {**recipes[f"{name}_warm"], **COLD} for name in ("negatives", "guide")}
  colon = "" if ":" in config else ":"
  # Of the model that comes with the program.
  narrow = ({"model": {"width": 20}},) if arg.startswith("real_media") else ()
  # The Robust paper trains AVSegFormer clip by clip; mismatches need another clip beside.
  pairs: tuple[Mapping[str, Any], ...] = () if has_warmup else ({"schedule": {"batch": 2}},)
  rows = []
  for system in NAMES:
    extra: tuple[Mapping[str, Any], ...] = narrow
    if system == "avsegformer":
      extra = (SMALL_AVSEGFORMER,) if has_warmup else ({"loss": {"bce": 1.0}},)
    rows += [
      Row(
        f"{system}-{name}",
        f"{config}{colon}{system}",
        (
          *common,
          *(extra if has_warmup or name != "prior" else ()),
          *(pairs if system == "avsegformer" and name == "grounded" else ()),
          changes,
        ),
        before=name in ("guide_warm", "grounded"),
      )
      for name, changes in recipes.items()
    ]
  ablations = {
    "share_20": {**PAPER, "negatives": {"fraction": 0.2}},
    "share_30": {**PAPER, "negatives": {"fraction": 0.3}},
    "euclidean": {**PAPER, "debias": {"guide": "euclidean"}},
    "concat": {**PAPER, "debias": {"guide": "concat"}},
    "calibrated": {**PAPER, "debias": {"guide": "cosine_calibrated"}},
    **{
      f"weight_{round(100 * weight)}": {**PAPER, "debias": {"guide": "cosine", "guide_weight": weight}}
      for weight in (0.8, 0.6, 0.4, 0.2)
    },
  }
  parts = tuple(PARTS)
  if arg.startswith("real_media"):
    ablations, parts = {}, ("heavy_gated",)  # more are too dear for what they add there
  ablations |= {f"grounded_{name}": _grounded_but(PARTS[name][1]) for name in parts}
  rows += [
    Row(f"avsbench-{name}", f"{config}{colon}avsbench", (*common, *narrow, each))
    for name, each in ablations.items()
  ]
  names = {row.name for row in rows}
  return Study(
    name=f"robust_{arg}",
    title=f"The Robust paper's experiments: {arg.replace('_', ' ')}",
    rows=tuple(rows),
    tables=tuple(t for t in tables(data, has_warmup, parts) if {line.row for line in t.lines} <= names),
    similarity=tuple(f"{system}-{name}" for system in NAMES for name in ("guide_warm", "grounded")),
    frontier=tuple(f"{system}-{name}" for system in NAMES for name in recipes),
    pictures=("avsbench-prior", "avsbench-guide_warm", "avsbench-grounded"),
    data_set="" if has_warmup else data,
  )


def tables(data: str, has_warmup: bool, names: Sequence[str]) -> tuple[Table, ...]:
  """Tables 2 to 9 with the printed lines of `data`, the grounded recipe's parts of these names, and the frontier."""
  printed = paper_rows.printed
  yes_no = [("no", "no", "prior"), ("yes", "no", "negatives_warm"), ("yes", "yes", "guide_warm")]
  three = (("positives only", "prior"), ("the paper's recipe", "guide_warm"), ("grounded (ours)", "grounded"))
  both = _lines(three)
  start = "warm-up" if has_warmup else "pretrained"
  effects = [
    Line((NAMES["avsbench"], start, negative, guide), f"avsbench-{row}") for negative, guide, row in yes_no
  ] + [
    Line((NAMES["avsegformer"], start, negative, guide), f"avsegformer-{row}")
    for negative, guide, row in yes_no
  ]
  if has_warmup:
    effects += [
      Line((name, "scratch", "yes", guide), f"{system}-{row}")
      for system, name in NAMES.items()
      for guide, row in (("no", "negatives_cold"), ("yes", "guide_cold"))
    ]
  shares = [
    Line(("Baseline", "0 %"), "avsbench-prior"),
    Line(("The paper's recipe", "10 %"), "avsbench-guide_warm"),
    Line(("The paper's recipe", "20 %"), "avsbench-share_20"),
    Line(("The paper's recipe", "30 %"), "avsbench-share_30"),
  ]
  guides = (
    ("cosine", "guide_warm"), ("Euclidean", "euclidean"), ("Concat", "concat"), ("calibrated (ours)", "calibrated"),
  )  # fmt: skip
  weights = (("1.0", "guide_warm"), *((f"{w}", f"weight_{round(100 * w)}") for w in (0.8, 0.6, 0.4, 0.2)))
  fifth = 5 if data == "S4" else 6
  words = ("base", "encoders", "negatives", "guide")
  long_4, long_9 = (
    tuple(
      paper_rows.relabelled(row, ("AVSBench", "pretrained", *row.labels)) for row in printed(number, data)
    )
    for number in (4, 9)
  )
  parts = (("whole", "grounded"), *((PARTS[name][0], f"grounded_{name}") for name in names))
  one = {"guides": guides, "weights": weights, "parts": parts}
  alone = {
    name: tuple(Line((label,), f"avsbench-{row}") for label, row in each) for name, each in one.items()
  }
  return (
    Table(
      "table_2", f"Table 2 ({data}): own sound and three negatives", "conditions", ("model",), both, printed(2, data)
    ),
    Table(
      "table_3", f"Table 3 ({data}): the share of negative pairs", "globals", ("model", "negatives"), tuple(shares),
      printed(3, data),
    ),
    Table(
      "table_4", f"Table 4 ({data}): negatives alone, and with the guide", "globals", words, tuple(effects), long_4
    ),
    Table(
      f"table_{fifth}", f"Table {fifth} ({data}): sounds never heard in training", "unseen", ("model",), both,
      printed(fifth, data),
    ),
    Table(
      "table_7", f"Table 7 ({data}): the guide's form", "conditions", ("guide",), alone["guides"], printed(7, data)
    ),
    Table(
      "table_8", f"Table 8 ({data}): the guide's weight", "conditions", ("weight",), alone["weights"],
      printed(8, data),
    ),
    Table(
      "table_9", f"Table 9 ({data}): negatives alone, and with the guide, in full", "conditions", words,
      tuple(effects), long_9,
    ),
    Table("parts", "The grounded recipe without each of its parts", "conditions", ("recipe",), alone["parts"]),
    Table(
      "frontier", "Positive IoU against G-FPR at other thresholds", "frontier", ("model",),
      (*both, *_lines((("negatives alone", "negatives_warm"),))),
    ),
    Table("refused", "Own sounds refused", "refused", ("model",), both),
  )  # fmt: skip


def _grounded_but(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """The grounded recipe with some of its settings changed."""
  whole = RECIPES["grounded"]
  return {section: {**settings, **changes.get(section, {})} for section, settings in whole.items()}


def _lines(recipes: Sequence[tuple[str, str]]) -> tuple[Line, ...]:
  """A line for each base model and recipe."""
  return tuple(
    Line((f"{name}, {label}",), f"{system}-{row}") for system, name in NAMES.items() for label, row in recipes
  )
