"""Marks: which queries a second of sound opens, from clusters, classes, lists and published files."""

import pickle
import sys

import numpy as np
import pytest

from avs_jax import marks
from avs_jax.errors import InputError

RANDOM = np.random.default_rng(0)


def test_a_slot_opens_its_queries_and_query_0_is_always_open():
  slots = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], np.float32)
  np.testing.assert_array_equal(
    marks.from_slots(slots, 8, dilation=2),
    [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]],
  )


def test_too_many_slots_and_no_dilation_are_refused():
  with pytest.raises(
    InputError, match="3 classes or clusters of 2 queries each.* need 7 queries; the system has 6"
  ):
    marks.from_slots(np.zeros((1, 3), np.float32), 6, 2)
  with pytest.raises(InputError, match="marks.dilation=0 must be at least 1"):
    marks.from_slots(np.zeros((1, 3), np.float32), 6, 0)


def test_classes_above_the_threshold_are_heard_at_least_one_and_at_most_eight():
  p = np.array([[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [0.41, 0.4, 0.39]])
  np.testing.assert_array_equal(marks.heard_classes(p), [[1, 1, 0], [0, 0, 1], [1, 0, 0]])
  many = marks.heard_classes(np.linspace(0.5, 0.9, 12)[None])
  np.testing.assert_array_equal(many[0], [0] * 4 + [1] * 8)


def test_the_top_k_classes_are_heard_whatever_their_probability():
  p = np.array([[[0.9, 0.5, 0.1], [0.1, 0.2, 0.3]]])
  np.testing.assert_array_equal(marks.heard_classes(p, top_k=2), [[[1, 1, 0], [0, 1, 1]]])
  for settings, message in (
    ({"theta": 1.5}, "marks.theta=1.5"),
    ({"top_k": 4}, "marks.top_k=4 must lie between 0"),
  ):
    with pytest.raises(InputError, match=message):
      marks.heard_classes(p, **settings)


@pytest.mark.parametrize("kind", ["kmeans", "gmm"])
def test_clusters_find_groups_whatever_the_scale_of_a_feature(kind):
  group = np.arange(90) % 3
  centres = np.array([[0, 0, 0], [5, 0, 0], [0, 5e4, 0]])
  x = (centres[group] + RANDOM.standard_normal((90, 3)) * [0.1, 1e3, 0]).astype(np.float32)
  found = marks.fit_clusters(x, kind, 3, seed=0)
  labels = found.assign(x.reshape(30, 3, 3)).reshape(-1)
  assert len(found) == 3
  pairs = set(zip(group.tolist(), labels.tolist(), strict=True))
  assert len(pairs) == 3  # one to one
  again = marks.fit_clusters(x, kind, 3, seed=0)
  np.testing.assert_array_equal(again.assign(x), labels)


def test_assignment_equals_scikit_learns_own():
  from sklearn.mixture import GaussianMixture

  x = RANDOM.standard_normal((60, 4)) * [1, 2, 3, 4]
  found = marks.fit_clusters(x.astype(np.float32), "gmm", 4, seed=1)
  scaled = (x.astype(np.float32).astype(np.float64) - found.mean) / found.std
  mixture = GaussianMixture(4, covariance_type="diag", reg_covar=1e-3, random_state=1, max_iter=200).fit(
    scaled
  )
  np.testing.assert_array_equal(found.assign(x.astype(np.float32)), mixture.predict(scaled))


def test_there_are_no_more_clusters_than_distinct_sounds():
  x = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
  assert len(marks.fit_clusters(x, "kmeans", 7, seed=0)) == 2


def test_embeddings_that_are_not_finite_are_refused():
  with pytest.raises(InputError, match="marks.kind=gmm: the audio encoder gives values that are not finite"):
    marks.fit_clusters(np.full((4, 2), np.nan, np.float32), "gmm", 2, seed=0)


def test_without_scikit_learn_the_error_names_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
  with pytest.raises(InputError, match="marks.kind=kmeans needs scikit-learn"):
    marks.fit_clusters(np.zeros((4, 2), np.float32), "kmeans", 2, seed=0)


# Published files.


def stored(folder, value, name="a.pth"):
  path = folder / name
  path.write_bytes(pickle.dumps(value, protocol=2))
  return str(path)


@pytest.mark.parametrize(
  "seconds",
  [
    [(0, 7), (0, 2, 2), (), (3,)],
    [{0, 7}, {0, 2}, set(), {3}],
    [np.array([0, 7]), np.array([0, 2, 2]), np.array([], int), np.int64(3)],
    [[0, 7], [0, 2], [], 3],
  ],
)
def test_a_mark_file_opens_what_it_lists_and_nothing_else(tmp_path, seconds):
  found = marks.read_file(stored(tmp_path, seconds), 8)
  assert found.shape == (4, 8)
  assert [np.flatnonzero(row).tolist() for row in found] == [[0, 7], [0, 2], [], [3]]


def test_a_mark_file_for_more_queries_is_refused(tmp_path):
  path = stored(tmp_path, [(0, 1), (0, 45)])
  with pytest.raises(
    InputError, match="a.pth: second 1 lists 45, and the queries are 0 to 9; set model.num_queries"
  ):
    marks.read_file(path, 10)


def test_a_mark_file_that_is_something_else_is_refused(tmp_path):
  with pytest.raises(InputError, match="a.pth: not a list of query indices"):
    marks.read_file(stored(tmp_path, 3), 10)
  with pytest.raises(InputError, match="lists 'x'"):
    marks.read_file(stored(tmp_path, [("x",)]), 10)
  with pytest.raises(InputError, match="b.pth is not there"):
    marks.read_file(str(tmp_path / "b.pth"), 10)
  (tmp_path / "c.pth").write_bytes(b"\x80\x02]q\x00(K")
  with pytest.raises(InputError, match="c.pth is damaged or cut short"):
    marks.read_file(str(tmp_path / "c.pth"), 10)


def test_a_mark_file_that_names_a_program_is_refused_and_runs_nothing(tmp_path):
  import os

  class Hostile:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "made"),)

  with pytest.raises(InputError, match="is refused: its pickle names posix.mkdir"):
    marks.read_file(stored(tmp_path, [Hostile()]), 10)
  assert not (tmp_path / "made").exists()
