"""A model applied to own footage: what it says does not depend on how it is asked, and the file needs nothing else."""

import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from avs_jax import bundle
from avs_jax.errors import InputError
from avs_jax.model import build_model, starting_variables
from avs_jax.own_video import windows
from avs_jax.predict import Predictor, class_names
from data_pipelines import video
from data_pipelines.audio import clip_log_mel

RATE = 16_000


@pytest.fixture(scope="module")
def model(small):
  """(config, variables) of the smallest system: 2 seconds, 32 x 32 pixels, a guide."""
  config = small({"debias.guide": "cosine"})
  return config, starting_variables(config, build_model(config))


@pytest.fixture(scope="module")
def predictor(model):
  return Predictor(*model)


@pytest.fixture(scope="module")
def footage():
  """5 seconds, 3 frames each, 48 x 40."""
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 255, (15, 48, 40, 3), np.uint8)
  return video.of_arrays(frames, rng.uniform(-0.3, 0.3, 5 * RATE).astype(np.float32), fps=3.0, name="film")


def test_a_second_is_judged_as_in_the_evaluation(model, predictor, footage):
  """Against the system applied by hand to the middle pictures of two seconds and their sound."""
  config, variables = model
  found = list(predictor.predict(footage))
  assert [each.time_s for each in found] == [0, 1, 2, 3, 4]
  frames = [picture.read() for picture in footage.pictures(0.0)]
  middle = np.stack([predictor.fit(frames[3 * k + 1]) for k in range(5)])
  sound = np.concatenate(list(footage.blocks(0.0)))[:, 0]
  apply = jax.jit(functools.partial(build_model(config).apply, train=False))
  for first, slots in (
    (0, (0, 1)),
    (2, (2, 3)),
    (3, (4,)),
  ):  # the last window is moved back to end with the video
    log_mel = clip_log_mel(sound[first * RATE : (first + 2) * RATE], 2)
    outputs = apply(variables, middle[None, first : first + 2], log_mel[None])
    direct = 1 / (1 + np.exp(-np.asarray(outputs.logits[0, ..., 0], np.float64)))
    for second in slots:
      np.testing.assert_allclose(found[second].coarse, direct[second - first], atol=1e-5)
      similarity = 1 / (1 + np.exp(-float(outputs.similarity[0, second - first])))
      assert found[second].similarity == pytest.approx(similarity, abs=1e-5)


def test_maps_have_the_sources_size(predictor, footage):
  each = next(predictor.predict(footage, threshold=0.3))
  assert each.mask.shape == each.probability.shape == (48, 40)
  assert each.mask.dtype == bool and each.probability.dtype == np.float32
  np.testing.assert_array_equal(each.mask, each.probability > 0.3)
  assert each.uncertainty is None and each.classes is None and each.labels == ()


def test_every_frame_is_judged_with_its_seconds_sound(predictor, footage):
  found = list(predictor.predict(footage, every="frame"))
  assert [each.time_s for each in found] == pytest.approx([k / 3 for k in range(15)])
  by_second = list(predictor.predict(footage))
  for k, each in enumerate(by_second):
    np.testing.assert_allclose(found[3 * k + 1].coarse, each.coarse, atol=1e-6)


def test_a_saved_file_needs_nothing_else(model, predictor, footage, tmp_path):
  config, variables = model
  path = tmp_path / "model.safetensors"
  saved = json.loads(config.to_json_best_effort())
  bundle.save(path, variables, saved, {"title": "a small one"})
  again = Predictor.from_weights(path)
  assert again.name == "a small one"
  assert again.weights_digest == predictor.weights_digest
  for one, other in zip(again.predict(footage), predictor.predict(footage), strict=True):
    np.testing.assert_array_equal(one.coarse, other.coarse)


def test_a_model_that_asks_for_directions_is_told_them(small):
  config = small({"model.stereo": True})
  predictor = Predictor(config, {"params": {}, "batch_stats": {}})
  left = np.stack([np.full(RATE, 0.3), np.zeros(RATE)], axis=1) * np.sin(np.arange(RATE) / 3)[:, None]
  window = windows.Window(0, [np.zeros((32, 32, 3), np.uint8)], left.astype(np.float32), [None], {})
  heard = predictor._hear(window)
  assert heard["pan"].shape == (2, 64) and heard["log_mel"].shape == (2, 96, 64)
  assert heard["pan"][0].min() < -1 and not heard["pan"][1].any()


def test_classes_are_named_as_far_as_they_are_known(small):
  for changes, first in (
    ({"data.name": "avss", "model.num_classes": 9}, "guitar"),
    ({"data.name": "avss", "model.num_classes": 71, "data.root": "absent"}, None),
    ({"data.name": "s4"}, None),
  ):
    names = class_names(small(changes))
    assert (names[:2] == ("background", first)) if first else names == ()


def test_a_folder_of_several_runs_is_not_taken_for_one(small, tmp_path):
  config = small()
  with config.unlocked():
    config.variants = ConfigDict({"vanilla": {}, "robust": {}})
  (tmp_path / "config.json").write_text(config.to_json_best_effort())
  with pytest.raises(InputError, match="holds several runs; give one of them, e.g. --workdir=.*robust"):
    Predictor.from_run(str(tmp_path))


def test_settings_that_make_no_sense_are_refused_at_once(predictor, footage):
  for settings, said in (
    ({"stride": 3}, "stride=3 must lie between 1 and 2 seconds"),
    ({"threshold": 1.0}, "threshold=1 must lie between 0 and 1"),
  ):
    with pytest.raises(InputError, match=said):
      predictor.predict(footage, **settings)
  with pytest.raises(InputError, match="there is no such file or folder"):
    predictor.predict("nowhere.mp4")


def test_the_model_that_comes_with_the_program_is_missed_with_a_sentence(monkeypatch, tmp_path):
  monkeypatch.setattr("avs_jax.predict.DEFAULT", str(tmp_path / "absent.safetensors"))
  with pytest.raises(InputError, match="give --weights=FILE.safetensors or the --workdir of a run"):
    Predictor.from_weights()
