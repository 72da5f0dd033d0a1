"""Figures are drawn from records; what a record does not hold is left out."""

import copy
import logging

import matplotlib.image
import numpy as np

from experiments import figures, records


def test_similarity_is_drawn_of_guided_rows_alone(made, tmp_path):
  _, kept = made
  assert figures.draw_similarity(str(tmp_path), "prior", kept["prior"]) is None
  one = figures.draw_similarity(str(tmp_path), "guide", kept["guide"])
  both = copy.deepcopy(kept["guide"])
  both[0]["similarity"]["before"] = both[0]["similarity"]["after"]
  widths = [matplotlib.image.imread(one).shape[1]]
  widths.append(matplotlib.image.imread(figures.draw_similarity(str(tmp_path), "guide", both)).shape[1])
  assert widths[1] > 1.8 * widths[0]


def test_the_frontier_leaves_out_rows_that_have_none(made, tmp_path):
  study, kept = made
  assert figures.draw_frontier(str(tmp_path), study, kept).endswith("frontier.png")
  without = copy.deepcopy(kept)
  for some in without.values():
    some[0]["frontier"] = None
  assert figures.draw_frontier(str(tmp_path), study, without) is None


def test_four_sounds_are_drawn_on_frames_of_the_data_set_or_not_at_all(made, tmp_path, monkeypatch, caplog):
  study, kept = made
  drawn = []
  monkeypatch.setattr(
    figures.visualize, "side_by_side", lambda path, rows, caption: drawn.append((rows, caption)) or path
  )
  assert figures.draw_pictures(str(tmp_path), study, kept)
  (frame, truth, masks), caption = drawn[0][0][0], drawn[0][1]
  assert frame.shape == (32, 32, 3) and truth.any() and "stand-in" in caption
  packed = kept["guide"][0]["pictures"][0]["masks"]["noise"]
  np.testing.assert_array_equal(masks["guide"]["noise"], records.unpack(packed, (32, 32)))
  other = copy.deepcopy(kept)
  other["prior"][0]["data_set"] = "S4"
  monkeypatch.setattr(figures.log, "propagate", True)
  with caplog.at_level(logging.WARNING, logger=figures.log.name):
    assert figures.draw_pictures(str(tmp_path), study, other) is None
  assert "the records are of S4" in caplog.text
