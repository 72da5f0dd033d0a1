"""Groups and doubts on the picture: the right colours in the right cells; nothing where a system has neither."""

import numpy as np
import pytest
from PIL import Image

from avs_jax import evidence
from avs_jax.types import Outputs

FRAME = np.full((8, 8, 3), 120, np.uint8)
GROUPS = np.array([[[0, 0], [1, 2]]])  # one second
AGREEMENT = np.array([[0.5, -0.5, 0.0]], np.float32)


def test_what_a_system_has_not_is_not_gathered():
  logits = np.zeros((1, 1, 8, 8, 1), np.float32)
  assert evidence.gather(Outputs(logits)) == {}
  found = evidence.gather(Outputs(logits, groups=GROUPS[None], group_agreement=AGREEMENT[None]))
  assert set(found) == {"groups", "group_agreement"}


def test_a_cell_is_as_sure_as_its_group_answers():
  maps = evidence.Maps.of({"groups": GROUPS, "group_agreement": AGREEMENT}, scale=10.0, threshold=0.5)
  expected = 2 / (1 + np.exp(-5)) - 1
  np.testing.assert_allclose(maps.surety[0], [[expected, expected], [-expected, 0]], atol=1e-6)
  assert maps.uncertainty is None
  alone = evidence.Maps.of({"uncertainty": np.ones((1, 8, 8, 1))})
  assert alone.groups is None and alone.uncertainty.shape == (1, 8, 8)


def test_the_threshold_is_where_blue_turns_red():
  maps = evidence.Maps.of({"groups": GROUPS, "group_agreement": AGREEMENT}, scale=10.0, threshold=0.999)
  assert (maps.surety < 0).all()


def test_groups_that_answer_are_blue_and_the_others_red_with_lines_between():
  maps = evidence.Maps.of({"groups": GROUPS, "group_agreement": AGREEMENT})
  picture = evidence.group_picture(FRAME, maps.groups[0], maps.surety[0]).astype(int)
  red, blue = picture[..., 0], picture[..., 2]
  assert blue[1, 1] > red[1, 1] + 60 and red[6, 1] > blue[6, 1] + 60
  assert (
    picture[4, 1].min() > picture[1, 1].max() * 0.9
  )  # a white line along the upper edge of the lower cells


def test_doubt_goes_from_blue_to_red():
  picture = evidence.doubt_picture(np.array([[0.0, 0.5, 1.0]])).astype(int)[0]
  assert picture[0, 2] > picture[0, 0] and picture[2, 0] > picture[2, 2] and picture[1].min() > 240


@pytest.mark.parametrize("half", ["groups", "uncertainty", "both"])
def test_a_picture_is_written_for_whatever_there_is(tmp_path, half):
  found = {}
  if half != "uncertainty":
    found |= {"groups": GROUPS, "group_agreement": AGREEMENT}
  if half != "groups":
    found |= {"uncertainty": np.random.default_rng(0).random((1, 8, 8, 1))}
  mask = np.zeros((1, 8, 8), bool)
  path = evidence.draw(
    str(tmp_path / "a.png"), FRAME[None], mask, np.zeros((1, 8, 8)), evidence.Maps.of(found), caption="a"
  )
  with Image.open(path) as drawn:
    pixels = np.asarray(drawn.convert("RGB"))
  assert path == str(tmp_path / "a.png") and min(pixels.shape[:2]) > 50 and np.ptp(pixels) == 255
