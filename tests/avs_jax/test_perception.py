"""Every batch of a run gets marks: made once from the training split, kept, and the same ever after."""

import pickle
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from avs_jax import perception
from avs_jax.errors import InputError
from avs_jax.model import build_model, starting_variables

SILENT = np.zeros((1, 2, 96, 64), np.float32)


@pytest.fixture(scope="module")
def tiny_queries(small):
  """tiny_queries(changes) -> config of the smallest run with active queries."""
  from configs import tiny

  def make(changes=None):
    config = tiny.get_config("active_queries")
    given = {
      "data.seconds": 2,
      "data.clips.train": 8,
      "data.clips.val": 2,
      "data.clips.test": 2,
      "model.visual_args.width": 2,
      "model.audio_args.width": 1 / 64,
      "eval.batch": 2,
      "marks.kind": "kmeans",
      **(changes or {}),
    }
    with config.unlocked():
      for key, value in given.items():
        *sections, last = key.split(".")
        section = config
        for each in sections:
          section = section[each]
        section[last] = value
    return config

  return make


@pytest.fixture(scope="module")
def start(tiny_queries):
  config = tiny_queries()
  model = build_model(config)
  return model, starting_variables(config, model)


def batch_of(config):
  from data_pipelines import feed, sources

  source = sources.build(config, "train")
  rows = next(iter(feed.evaluation(config, source, 0)))
  return rows, source


def test_clusters_mark_a_batch_and_are_found_again(tiny_queries, start, tmp_path):
  config = tiny_queries()
  rows, source = batch_of(config)
  marked = perception.build(config, *start, str(tmp_path))(rows, source)
  queries = config.model.num_queries
  assert marked["marks"].shape == (2, 2, queries) and marked["marks"].dtype == np.float32
  assert (marked["marks"][..., 0] == 1).all()
  np.testing.assert_array_equal(marked["marks"].sum(-1), np.full((2, 2), 2))  # query 0 and one cluster
  model, variables = start
  other = jax.tree.map(lambda x: x + 1, variables)  # a trained encoder: the clusters' own is kept beside them
  again = perception.build(config, model, other, str(tmp_path), may_fit=False)(rows, source)
  np.testing.assert_array_equal(again["marks"], marked["marks"])


def test_a_guided_and_contrasted_system_is_heard_through_its_wrappers(tiny_queries, start, tmp_path):
  config = tiny_queries({"debias.guide": "cosine", "debias.contrast": "uncertainty"})
  model = build_model(config)
  _, variables = start
  wrapped = {name: {"system": {"system": tree}} for name, tree in variables.items()}
  base, ear = perception.hearing(model, wrapped)
  assert type(base).__name__ == "ActiveQueries" and set(ear["params"]) == {"audio_encoder"}
  assert base.apply(ear, SILENT, method="listen").shape == (1, 2, 128)


def test_clusters_of_a_system_that_hears_directions_are_of_its_mono_sound(tiny_queries, start, tmp_path):
  config = tiny_queries({"model.stereo": True, "data.name": "vpo_msmi"})
  model = build_model(config)
  mark = perception.build(config, model, starting_variables(config, model), str(tmp_path))
  rows, source = batch_of(config)
  assert "pan" in rows and mark(rows, source)["marks"].sum(-1).min() >= 1


def test_the_same_sound_is_judged_once():
  asked = []

  def hear(sounds):
    asked.append(len(sounds))
    return np.eye(2, dtype=np.float32)[(sounds.mean((1, 2)) > 0).astype(int)]

  marker = perception.Marker(hear, "log_mel", 4, 1)
  rows = {"log_mel": np.concatenate([SILENT, SILENT + 1])}
  first = marker(rows, None)["marks"]
  np.testing.assert_array_equal(first[:, 0], [[1, 1, 0, 0], [1, 0, 1, 0]])
  np.testing.assert_array_equal(marker({"log_mel": rows["log_mel"][::-1]}, None)["marks"], first[::-1])
  assert asked == [4]


def test_marks_that_a_run_had_must_be_there_and_unchanged(tiny_queries, start, tmp_path):
  config = tiny_queries()
  with pytest.raises(InputError, match="marks.npz is not there, and the run was trained with marks"):
    perception.build(config, *start, str(tmp_path), may_fit=False)
  perception.save(str(tmp_path / "marks.npz"), perception.made_with(config, 3), {"x": np.ones(2)})
  with pytest.raises(InputError, match="was made with marks kind='kmeans', now 'gmm'; restore the setting"):
    perception.build(tiny_queries({"marks.kind": "gmm"}), *start, str(tmp_path))
  (tmp_path / "marks.npz").write_bytes(b"PK\x03\x04nonsense")
  with pytest.raises(InputError, match="marks.npz cannot be read .*; remove it and train anew"):
    perception.build(config, *start, str(tmp_path))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"marks.kind": "clusters"}, "marks.kind='clusters' is not known; choose one of none, kmeans"),
    ({"marks.kind": "file", "marks.folder": "nowhere"}, "marks.folder='nowhere' is not there"),
    ({"marks.kind": "classifier"}, "marks.kind=classifier needs marks.weights: a file of beats"),
    (
      {"marks.kind": "classifier", "marks.encoder": "vggish"},
      "marks.encoder='vggish' names no sound classes",
    ),
    ({"marks.clusters": 4}, "4 classes or clusters of 2 queries each"),
    ({"marks.dilation": 20}, "marks.dilation=20: 8 queries leave no room"),
  ],
)
def test_settings_that_cannot_be_are_refused(tiny_queries, start, tmp_path, changes, message):
  with pytest.raises(InputError, match=message):
    perception.build(tiny_queries(changes), *start, str(tmp_path))


def test_no_fresh_clusters_are_made_for_the_queries_of_published_weights(tiny_queries, start, tmp_path):
  config = tiny_queries({"init.system": "BiasAVS.pth", "model.mode": "released"})
  with pytest.raises(
    InputError, match="the queries of BiasAVS.pth were trained with others; give the published"
  ):
    perception.build(config, *start, str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_a_system_without_such_queries_takes_no_marks(small, tmp_path):
  config = small({"marks.kind": "kmeans"})
  model = build_model(config)
  with pytest.raises(
    InputError, match="the system avsbench has no queries that marks open; set marks.kind=none"
  ):
    perception.build(config, model, {"params": {}}, str(tmp_path))
  plain = perception.build(small(), model, {"params": {}}, str(tmp_path))
  assert plain({"index": 1}, None) == {"index": 1}


def test_published_marks_are_those_of_a_clips_own_sound(tiny_queries, start, tmp_path):
  for clip, seconds in (("a", [(0, 3), (0, 5, 7), (1,)]), ("b", [(0, 2)])):
    (tmp_path / f"{clip}.pth").write_bytes(pickle.dumps(seconds))
  config = tiny_queries({"marks.kind": "file", "marks.folder": str(tmp_path)})
  mark = perception.build(config, *start, str(tmp_path))
  rows = {
    "present": np.ones((4, 2), bool),
    "index": np.array([0, 1, 0, -1]),
    "condition": np.array([0, 0, 2, 0]),
  }
  found = mark(rows, SimpleNamespace(ids=("a", "b")))["marks"]
  listed = [[np.flatnonzero(row).tolist() for row in clip] for clip in found]
  assert listed == [[[0, 3], [0, 5, 7]], [[0, 2], [0]], [[0], [0]], [[0], [0]]]


def test_the_most_frequent_classes_get_the_queries():
  p = np.zeros((6, 4))
  p[:, 2], p[:4, 3], p[:2, 0] = 0.9, 0.8, 0.7
  sounds = [np.arange(3), np.arange(3, 6)]
  settings = SimpleNamespace(theta=0.4, top_k=0)
  assert perception.frequent(lambda sound: p[sound], sounds, settings, 2).tolist() == [2, 3]
  assert perception.frequent(lambda sound: p[sound], sounds, settings, 9).tolist() == [2, 3, 0]


def test_a_run_gives_its_marks_to_every_step_and_every_judgement(
  tiny_queries, tmp_path, monkeypatch, devices
):
  """Training and evaluation with programs that compute nothing and write down what they are given."""
  import importlib

  from avs_jax.evaluate import evaluate
  from avs_jax.types import Outputs

  seen = []

  def told(batch):
    seen.append((batch.marks is not None, batch.frames.shape[0]))
    assert batch.marks.shape == (2, 2, 8) and (batch.marks[..., 0] == 1).all()

  def make_train_step(*args, **kwargs):
    def step(state, batch, key):
      told(batch)
      figures = {name: np.float32(1) for name in ("loss", "gradient_norm", "update_norm", "parameter_norm")}
      return state.replace(step=state.step + 1), figures

    return step

  def make_predict_step(model, mesh):
    def predict(variables, batch):
      told(batch)
      return Outputs(logits=np.zeros((*batch.masks.shape, 1), np.float32))

    return predict

  training = importlib.import_module("avs_jax.train")
  judging = importlib.import_module("avs_jax.evaluate")
  monkeypatch.setattr(training, "make_train_step", make_train_step)
  for module in (training, judging):
    monkeypatch.setattr(module, "make_predict_step", make_predict_step)
  changes = {"steps": 2, "eval.pictures": 0, "schedule.batch": 2, "eval.conditions": ("positive", "silence")}
  config = tiny_queries(changes)
  training.train(config, str(tmp_path))
  assert len(seen) == 2 + 1 + 2  # steps, validation, two sounds
  assert (tmp_path / "marks.npz").exists()
  evaluate(config, str(tmp_path))
  assert len(seen) == 7
  (tmp_path / "marks.npz").unlink()
  with pytest.raises(InputError, match="the run was trained with marks"):
    evaluate(config, str(tmp_path))


def test_marks_open_queries_in_a_training_pass(tiny_queries):
  """Shapes of a guided, contrasted pass: marks go through every wrapper."""
  from avs_jax.step import forward
  from avs_jax.types import Batch

  config = tiny_queries({"debias.guide": "cosine", "debias.contrast": "uncertainty"})
  model = build_model(config)
  ones = np.ones((2, 2), bool)
  batch = Batch(
    frames=np.zeros((2, 2, 32, 32, 3), np.uint8),
    log_mel=np.zeros((2, 2, 96, 64), np.float32),
    masks=np.zeros((2, 2, 32, 32), np.int32),
    annotated=ones,
    present=ones,
    condition=np.zeros(2, np.int32),
    index=np.arange(2, dtype=np.int32),
    marks=np.ones((2, 2, 8), np.float32),
  )

  def run(batch, key):
    variables = model.init({"params": key, "dropout": key}, batch.frames, batch.log_mel)
    outputs, _ = forward(model, {"batch_stats": {}, **variables}, batch, key)
    return outputs.logits, outputs.marks

  logits, opened = jax.eval_shape(run, batch, jax.random.key(0))
  assert logits.shape == (2, 2, 32, 32, 1) and opened.shape == (2, 2, 8)
  with pytest.raises(InputError, match="marks are .*; give one a query and second"):
    jax.eval_shape(run, batch.replace(marks=np.ones((2, 2, 5), np.float32)), jax.random.key(0))
