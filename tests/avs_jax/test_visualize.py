"""Pictures show what was right, what should be silent and what was missed."""

import matplotlib.image
import numpy as np

from avs_jax import visualize
from avs_jax.types import Condition


def test_an_overlay_colours_hits_false_alarms_and_the_outline_of_what_was_missed():
  frame = np.full((8, 8, 3), 100, np.uint8)
  active, truth = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
  active[0, :2] = True  # one right, one false
  truth[0, 0] = True
  truth[3:8, 3:8] = True  # missed: 5 x 5, whose outline is drawn
  picture = visualize.overlay(frame, active, truth)
  blend = lambda colour: (0.45 * 75 + 0.55 * np.array(colour)).astype(np.uint8)  # noqa: E731
  assert picture[0, 0].tolist() == blend(visualize.HIT).tolist()
  assert picture[0, 1].tolist() == blend(visualize.FALSE_ALARM).tolist()
  assert picture[3, 3].tolist() == list(visualize.MISSED)
  assert picture[5, 5].tolist() == [75, 75, 75]  # inside the outline
  assert picture[2, 2].tolist() == [75, 75, 75]


def test_the_same_frames_under_four_sounds_become_one_picture(tmp_path):
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
  masks = rng.random((2, 16, 16)) > 0.5
  maps = {condition: rng.random((2, 16, 16), np.float32) for condition in Condition}
  path = visualize.four_sounds(str(tmp_path / "deep" / "a.png"), frames, masks, maps, caption="a stand-in")
  picture = matplotlib.image.imread(path)
  assert picture.shape[0] > 400  # frames, truth and four sounds
  assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_curves_take_rows_that_lack_some_figures(tmp_path):
  rows = [
    {"step": 1, "loss": 1.0},
    {"step": 2, "val_iou_frame": 0.5, "val_f_at_half": None},
    {"step": 2, "loss": 0.5},
  ]
  path = visualize.curves(str(tmp_path / "curves.png"), rows, caption="tiny")
  assert matplotlib.image.imread(path).shape[1] > 600
  visualize.curves(path, [], caption="nothing yet")


def test_runs_stand_side_by_side_with_a_row_a_frame(tmp_path):
  rng = np.random.default_rng(0)
  masks = {sound: rng.random((16, 16)) > 0.5 for sound in ("positive", "silence")}
  frame, truth = rng.integers(0, 256, (16, 16, 3), np.uint8), rng.random((16, 16)) > 0.5
  rows = [(frame, truth, {"prior": masks, "robust": masks})] * 2
  path = visualize.side_by_side(str(tmp_path / "deep" / "a.png"), rows, caption="a stand-in")
  one = visualize.side_by_side(str(tmp_path / "b.png"), rows[:1], caption="a stand-in")
  assert matplotlib.image.imread(path).shape[0] > matplotlib.image.imread(one).shape[0]


def test_similarities_before_and_after_are_two_panels(tmp_path):
  found = {
    "scale": "cosine", "low": -1.0, "high": 1.0,
    "sounds": {
      name: {"counts": [0, 3, 1, 0], "mean": 0.1}
      for name in ("positive", "silence", "noise", "offscreen", "unseen_sheep")
    },
  }  # fmt: skip
  path = visualize.similarities(str(tmp_path / "a.png"), {"before": found, "after": found}, caption="x")
  one = visualize.similarities(str(tmp_path / "b.png"), {"after": found}, caption="x")
  assert matplotlib.image.imread(path).shape[1] > 1.8 * matplotlib.image.imread(one).shape[1]


def test_a_frontier_takes_recipes_without_a_gate(tmp_path):
  each = {"operating": [(0.1, 0.8)], "mask": [(0.2, 0.7), (0.1, 0.8)], "gate": [], "best": [(0.1, 0.8)]}
  path = visualize.frontiers(str(tmp_path / "a.png"), {"prior": each, "robust": each}, caption="x")
  assert matplotlib.image.imread(path).shape[1] > 700


def test_runs_are_compared_under_the_sounds_they_share_and_at_one_size_alone(tmp_path):
  def saved(name, size, *sounds):
    (tmp_path / name / "pictures").mkdir(parents=True)
    masks = {sound: np.zeros((2, size, size), bool) for sound in ("truth", *sounds)}
    np.savez(
      tmp_path / name / "pictures" / "four_sounds_0.npz",
      frames=np.zeros((2, size, size, 3), np.uint8),
      **masks,
    )
    return str(tmp_path / name)

  both, own = saved("both", 16, "positive", "silence"), saved("own", 16, "positive")
  quiet, large = saved("quiet", 16, "silence"), saved("large", 24, "positive", "silence")
  path = str(tmp_path / "comparison.png")
  assert visualize.compared(path, {"both": both, "own": own}) == path
  for other in (quiet, large):
    assert visualize.compared(path, {"own": own, "other": other}) is None
