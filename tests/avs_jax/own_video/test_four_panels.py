"""Which seconds of a video are pictured, and what a panel without masks says."""

import numpy as np
import pytest

from avs_jax.own_video.four_panels import Columns, Grid, Moment, area
from data_pipelines import video

NAMES = {"positive": "own sound", "silence": "silence", "noise": "noise", "offscreen": "off-screen"}


def moment(k: int) -> Moment:
  masks = {"positive": np.ones((24, 32), bool), "silence": np.zeros((24, 32), bool)}
  return Moment(float(k), k + 1.0, k + 0.5, masks, dict.fromkeys(masks))


@pytest.mark.parametrize(
  ("seconds", "start", "end", "shown"),
  [
    (60, 0.0, None, [5, 15, 25, 35, 45, 55]),
    (3, 0.0, None, [0, 1, 2]),
    (60, 10.0, 22.0, [1, 3, 5, 7, 9, 11]),
  ],
)
def test_the_pictured_seconds_are_evenly_spaced(seconds, start, end, shown):
  footage = video.of_arrays(np.zeros((seconds, 8, 8, 3), np.uint8))
  columns = Columns(footage, start, end)
  for k in range(seconds):
    columns.add(moment(k), {})
  assert [time_s for time_s, _ in columns.kept] == shown


def test_a_sound_without_masks_has_a_dark_panel(tmp_path):
  footage = video.of_arrays(np.full((2, 24, 32, 3), 200, np.uint8))
  with Grid(tmp_path / "a.mp4", footage, {}, NAMES, 0.0) as grid:
    grid.add(moment(0))
    panels = dict(grid.shown)
    grid.add(moment(1))
  assert list(panels) == list(NAMES)
  assert panels["silence"][20, 20].tolist() == [200] * 3
  assert panels["positive"][20, 20, 1] > panels["positive"][20, 20, 0]
  assert not panels["noise"][22, 30].any()
  assert video.open_footage(tmp_path / "a.mp4").size == (48, 64)


def test_an_area_is_said_in_words():
  assert [area(share) for share in (0.0, 0.1267, 1.0)] == [
    "nothing marked",
    "12.7 % marked",
    "100.0 % marked",
  ]
