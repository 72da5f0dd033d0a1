"""A study of three rows on four tiny clips, and a training that takes no time."""

import textwrap
from pathlib import Path

import numpy as np
import pytest

from avs_jax import frontier, metrics, report

CONFIG = """
  from ml_collections import ConfigDict
  from configs import tiny

  def get_config(arg=""):
    config = tiny.get_config(arg)
    with config.unlocked():
      config.data.seconds = 2
      config.data.clips = ConfigDict({"train": 8, "val": 2, "test": 3})
      config.model.audio_args.width = 1 / 64
      config.model.width = 8
      config.model.tpavi_stages = ()
      config.schedule.batch = 2
      config.eval.batch = 2
      config.eval.every_epochs = 100.0
      config.eval.unseen = ("thunder",)
      config.log.every_steps = 1
      config.log.checkpoint_steps = 1000
      config.steps = 4
    return config.lock()
"""
STUDY = """
  from experiments import paper_rows
  from experiments.study import Line, Row, Study, Table

  CONFIG = {config!r}

  def get_study(arg="tiny"):
    rows = (
      Row("prior", CONFIG),
      Row("guide", CONFIG, ({{"negatives": {{"fraction": 0.5}}, "debias": {{"guide": "cosine"}}}},), before=True),
      Row("wrong", CONFIG, ({{"eval": {{"metric": "nonsense"}}}},)),
    )
    lines = tuple(Line((row.name,), row.name) for row in rows)
    forms = {{"table_2": ("conditions", 2), "table_4": ("globals", 4), "table_5": ("unseen", 5)}}
    tables = [
      Table(name, f"T {{name}}", form, ("model", "x"), tuple(Line((*l.labels, "-"), l.row) for l in lines),
            paper_rows.printed(number, "S4"))
      for name, (form, number) in forms.items()
    ]
    tables.append(Table("frontier", "Frontier", "frontier", ("model",), lines))
    return Study(arg, "Tiny study", rows, tuple(tables), ("guide", "prior"), ("prior", "guide"), ("prior", "guide"))
"""


@pytest.fixture(scope="session")
def study_file(tmp_path_factory) -> Path:
  """Path of a study file whose config lies beside it."""
  folder = tmp_path_factory.mktemp("study")
  config, study = folder / "small.py", folder / "study.py"
  config.write_text(textwrap.dedent(CONFIG))
  study.write_text(textwrap.dedent(STUDY.format(config=str(config))))
  return study


def leave(config, workdir: str) -> None:
  """Writes into `workdir` what a finished run leaves, with masks that have nothing to do with any model."""
  Path(workdir).mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng([config.seed, len(str(config.debias.guide))])
  truth = rng.random((6, 8, 8)) > 0.7
  statistics, figures = {}, {}
  for name in ("positive", "silence", "noise", "offscreen", "unseen_thunder"):
    tally = metrics.Tally()
    shift = 3.0 if name == "positive" else -3.0
    logits = np.where(truth, shift, -3.0) + rng.standard_normal(truth.shape)
    counts = metrics.frame_counts(logits.astype(np.float32), truth.astype(np.int32))
    tally.add(counts, np.arange(3), np.ones((3, 2), bool))
    keys, counted, stacked = tally.stacked()
    statistics[name] = {"keys": keys, "counted": counted, **vars(stacked)}
    figures[name] = metrics.summarise(tally)
    if config.debias.guide != "none":
      statistics[name]["similarity"] = rng.uniform(0.2, 0.9, 6) * np.sign(shift)
  frontier.save(f"{workdir}/statistics.npz", statistics)
  facts = {
    "title": config.title, "data_set": "generated single-source clips (stand-in)", "is_stand_in": True,
    "split": "test", "clips": 3, "config": config.to_dict(), "weights_digest": f"{config.seed:08x}",
    "seed": config.seed,
  }  # fmt: skip
  report.write(workdir, figures, facts, show=False)
  folder = Path(workdir) / "pictures"
  folder.mkdir(exist_ok=True)
  frames = np.zeros((2, 32, 32, 3), np.uint8)
  masks = {name: rng.random((2, 32, 32)) > 0.5 for name in config.eval.conditions}
  np.savez_compressed(folder / "four_sounds_0.npz", frames=frames, truth=frames[..., 0] > 0, **masks)


@pytest.fixture(scope="session")
def made(study_file, tmp_path_factory):
  """(study, records by row) of two rows and three seeds."""
  from experiments import records, study

  found, folder = study.load(str(study_file)), tmp_path_factory.mktemp("made")
  for name in ("prior", "guide"):
    for seed in range(3):
      config, workdir = study.configure(found.row(name), seed), str(folder / f"{name}-{seed}")
      leave(config, workdir)
      records.write(str(folder), records.make(found.name, name, config, workdir, 60.0))
  return found, records.read_all(str(folder), found)


@pytest.fixture
def instant(monkeypatch):
  """Lets `train` leave results at once, and draws nothing; the list holds (title, seed) of every call."""
  from avs_jax import train as training
  from avs_jax.logbook import write_config
  from experiments import figures, run

  calls = []

  def train(config, workdir):
    training.check_settings(config)
    Path(workdir).mkdir(parents=True, exist_ok=True)
    write_config(config, workdir)
    calls.append((config.title, config.seed))
    leave(config, workdir)

  monkeypatch.setattr(training, "train", train)
  monkeypatch.setattr(run, "similarities_before", lambda run: None)
  monkeypatch.setattr(figures, "draw_all", lambda *arguments: [])
  return calls
