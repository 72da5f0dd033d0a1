"""All five systems, five recipes each, side by side: four sounds, clean and under noise, on a stand-in.

  python -m experiments.run --study=experiments/systems.py                   generated clips, one object (as S4)
  python -m experiments.run --study=experiments/systems.py:generated_multi   generated clips, several (as MS3)
  python -m experiments.run --study=experiments/systems.py:real_media        composed photographs and recordings
  python -m experiments.run --study=experiments/systems.py:real_media_multi

Rows of every system:
  vanilla    positive pairs only
  robust     10 % negative pairs and the cosine guide: the Robust paper's recipe
  noised     the same, and half of the sounds under noise: ours, against falling silent under it
  grounded   ours, meant to cure off-screen sound too
  contrast   positive pairs only, the uncertainty contrast of BiasAVS (`debias.contrast=uncertainty`)

All have the same encoders, warm-up, clips and number of steps; each has its own paper's loss, and a decoder small
enough for a CPU (`SMALL`). So the table says what a recipe does to a system, not which system is the best.
Noise: the clip's own sound under brown noise and a train, at each of two levels. On real media the train is a
recording that no training clip holds, on generated clips it is synthesised ("made train").
"""

from collections.abc import Mapping
from typing import Any

from avs_jax.errors import InputError
from configs.recipes import active_queries, ravs, sdavs
from configs.robust import RECIPES
from experiments.robust import MULTI
from experiments.study import Line, Row, Study, Table

Changes = Mapping[str, Mapping[str, Any]]
NAMES = {
  "avsbench": "AVSBench (TPAVI)",
  "avsegformer": "AVSegFormer",
  "active_queries": "BiasAVS (active queries)",
  "ravs": "RAVS",
  "sdavs": "SDAVS",
}
# Each system at CPU size with its own loss; widths are those of the configs.
SMALL: dict[str, Changes] = {
  "avsbench": {},
  "avsegformer": {
    "model": {"num_queries": 32, "generator_layers": 1, "encoder_layers": 1, "decoder_layers": 2},
    "loss": {"mix_dice": 0.1},
    "optimizer": {"lr": 1e-3},
  },
  "active_queries": {
    "model": {"num_queries": 33, "perception_layers": 1, "encoder_layers": 1, "decoder_layers": 2},
    "marks": {"kind": "kmeans"},  # 16 clusters, two queries each, and query 0
    "loss": {**active_queries.RECIPES["tiny"][0]["loss"], "soft_iou": 0.0},
    "optimizer": {"lr": 1e-3},
  },
  "ravs": {"loss": ravs.RECIPES["tiny"][0]["loss"]},
  "sdavs": {"model": {"heads": 4}, "loss": sdavs.RECIPES["tiny"][0]["loss"]},
}
WAYS: dict[str, Changes] = {
  "vanilla": RECIPES["prior"],
  "robust": RECIPES["paper"],
  "noised": RECIPES["noised"],
  "grounded": RECIPES["grounded"],
  "contrast": {"debias": {"contrast": "uncertainty"}},
}
_LEVELS = {"snr_db": (10.0, 0.0)}
_QUICK: Changes = {
  "data": {"seed": 1, "seconds": 3, "clips": {"train": 3200, "val": 40, "test": 100}},
  "model": {"width": 24},
  "augment": {"flip": True},
  "warmup": {"steps": 400, "frames": 1},
  "schedule": {"epochs": 1},  # 400 steps, no clip twice
  "eval": {"pictures": 3, "noise_mix": {"kind": ("brown", "made_train"), **_LEVELS}, "every_epochs": 1.0},
}
_MEDIA: Changes = {
  "data": {"seed": 1, "size": 96, "seconds": 2, "clips": {"train": 2400, "val": 24, "test": 100}},
  "schedule": {"epochs": 1},  # 300 steps, no clip twice
  "eval": {"pictures": 3, "noise_mix": {"kind": ("brown", "train"), **_LEVELS}, "every_epochs": 1.0},
}
# arg -> config file, settings of all rows.
SETTINGS: dict[str, tuple[str, tuple[Changes, ...]]] = {
  "generated": ("configs/quickstart.py", (_QUICK,)),
  "generated_multi": ("configs/quickstart.py", (_QUICK, MULTI)),
  "real_media": ("configs/real_media.py", (_MEDIA,)),
  "real_media_multi": ("configs/real_media.py", (_MEDIA, MULTI)),
}


def get_study(arg: str = "generated") -> Study:
  """The study on the data that `arg` names.

  Raises:
    InputError: no data are called so.
  """
  if arg not in SETTINGS:
    raise InputError(f"experiments/systems.py:{arg}: there is no such data; choose {', '.join(SETTINGS)}.")
  config, common_changes = SETTINGS[arg]
  rows = [
    Row(f"{system}-{way}", f"{config}:{system}", (*common_changes, SMALL[system], changes))
    for way, changes in WAYS.items()  # a recipe's lines are whole before the next one's begin
    for system in NAMES
  ]
  lines = tuple(Line((name, way), f"{system}-{way}") for system, name in NAMES.items() for way in WAYS)
  return Study(
    name=f"systems_{arg}",
    title=f"Five systems, five recipes: {arg.replace('_', ' ')}",
    rows=tuple(rows),
    tables=(
      Table(
        "systems",
        "Five systems, five recipes: four sounds, and their own under noise",
        "conditions_mixed",
        ("system", "recipe"),
        lines,
      ),
    ),
    similarity=(),
    frontier=tuple(f"{system}-{way}" for system in NAMES for way in ("robust", "noised", "grounded")),
    pictures=tuple(f"{system}-robust" for system in NAMES),
  )
