"""One property of a composed clip at a time, on pictures and recordings made here."""

import numpy as np
import pytest

from data_pipelines import compose
from data_pipelines.clips import SAMPLE_RATE_HZ

PHOTO = np.full((90, 120, 3), 100, np.uint8)


def _square(red: int) -> np.ndarray:
  picture = np.full((50, 50, 4), 255, np.uint8)
  picture[..., :3] = (red, 0, 0)
  return picture


def test_masks_are_where_the_object_covers_the_background():
  frames, visible = compose.compose_frames(np.random.default_rng(0), PHOTO, [_square(200)], 64, 5)
  is_red = (frames[..., 0].astype(int) - frames[..., 1]) > 60
  assert visible.shape == (5, 1, 64, 64)
  # They differ along the outline alone, where the object is half transparent.
  assert (is_red != visible[:, 0]).mean() < 0.03
  assert visible[:, 0].any(axis=(1, 2)).all()


def test_half_transparent_pixels_count_from_one_half_on():
  for opacity, counts in ((120, False), (136, True)):
    picture = _square(200)
    picture[..., 3] = opacity
    _, visible = compose.compose_frames(np.random.default_rng(0), PHOTO, [picture], 64, 2)
    assert visible.any() == counts


def test_of_two_overlapping_objects_the_later_one_is_visible():
  for seed in range(8):
    pictures = [_square(200), _square(90), _square(30)]
    _, visible = compose.compose_frames(np.random.default_rng(seed), PHOTO, pictures, 48, 3)
    assert visible.sum(axis=1).max() <= 1
    assert visible[:, -1].any(axis=(1, 2)).all()


def test_the_same_clip_at_twice_the_size_has_the_same_composition():
  small = compose.compose_frames(np.random.default_rng(5), PHOTO, [_square(200)], 64, 5)[1]
  large = compose.compose_frames(np.random.default_rng(5), PHOTO, [_square(200)], 128, 5)[1]
  assert (small != large[:, :, ::2, ::2]).mean() < 0.05


def test_objects_move_by_no_more_than_three_percent_a_second():
  for seed in range(10):
    _, visible = compose.compose_frames(np.random.default_rng(seed), PHOTO, [_square(9), _square(8)], 100, 5)
    for n in range(2):
      if (
        not visible[:, n].any(axis=(1, 2)).all()
        or visible[:, n, [0, -1]].any()
        or visible[:, n, :, [0, -1]].any()
      ):
        continue  # cut by the frame: its centre says nothing
      if n == 0 and (visible[:, 0].sum(axis=(1, 2)).std() > 3):
        continue  # covered by the other
      centres = np.array([np.argwhere(mask).mean(axis=0) for mask in visible[:, n]])
      assert np.abs(np.diff(centres, axis=0)).max() <= 3.0 + 1.0  # + rounding to pixels


def test_sounding_seconds_follow_their_probabilities():
  plans = [compose.draw_plan(np.random.default_rng(k), list(range(6)), 5, False) for k in range(1500)]
  active = np.concatenate([plan.sounding.sum(axis=1) for plan in plans])
  share = np.bincount(active, minlength=3) / len(active)
  np.testing.assert_allclose(share, compose.NUM_SOUNDING_P, atol=0.03)
  kept = np.mean([(plan.sounding[1:] == plan.sounding[:-1]).all(axis=1).mean() for plan in plans])
  assert kept > compose.KEEP_P
  assert all(plan.sounding.any() for plan in plans)


def test_objects_of_a_plan_are_of_different_classes():
  for seed in range(200):
    plan = compose.draw_plan(np.random.default_rng(seed), [2, 5, 7], 5, False)
    categories = [thing.category for thing in plan.things]
    assert len(set(categories)) == len(categories) in (2, 3)
    assert set(categories) <= {2, 5, 7}


def test_a_short_recording_fills_its_second_by_repeating():
  click = np.zeros(1_000, np.float32)
  click[500] = 0.5
  sound = compose.compose_sound(np.random.default_rng(0), [click], np.ones((2, 1), bool))
  loud = np.flatnonzero(np.abs(sound) > 0.1)
  assert len(np.unique(loud // 1_500)) > 15


def test_seconds_that_are_off_hold_the_floor_alone():
  tone = 0.1 * np.sin(0.3 * np.arange(40_000)).astype(np.float32)
  sounding = np.array([[True], [False], [True]])
  sound = compose.compose_sound(np.random.default_rng(1), [tone], sounding).reshape(3, SAMPLE_RATE_HZ)
  assert sound[1].std() <= 10 ** (-54 / 20) * 1.05
  assert sound[0].std() > 0.02
  assert sound[2].std() > 0.02


def test_the_loudest_of_four_seconds_is_taken():
  recording = np.zeros(20 * SAMPLE_RATE_HZ, np.float32)
  recording[: 10 * SAMPLE_RATE_HZ] = 0.1
  hits = [compose._second_of(np.random.default_rng(k), recording, 1.0).mean() > 0.01 for k in range(400)]
  assert np.mean(hits) > 0.88  # 1 - 0.5 ** 4 = 0.94; one draw in two would give 0.5


@pytest.mark.parametrize("speed", [0.88, 1.12])
def test_speed_changes_the_pitch(speed):
  tone = np.sin(2 * np.pi * 1_000 / SAMPLE_RATE_HZ * np.arange(3 * SAMPLE_RATE_HZ)).astype(np.float32)
  second = compose._second_of(np.random.default_rng(0), tone, speed)
  peak_hz = int(np.argmax(np.abs(np.fft.rfft(second))))
  assert peak_hz == pytest.approx(1_000 * speed, abs=2)


def test_loud_sums_stay_within_one():
  tone = 0.9 * np.sin(0.3 * np.arange(40_000)).astype(np.float32)
  sound = compose.compose_sound(np.random.default_rng(0), [tone, tone, tone], np.ones((2, 3), bool))
  assert np.abs(sound).max() <= 1


def test_objects_set_apart_sideways_lie_beside_each_other():
  pictures = [_square(200), _square(90)]
  gaps = []
  for seed in range(8):
    _, visible = compose.compose_frames(np.random.default_rng(seed), PHOTO, pictures, 48, 2, sideways=True)
    gaps.append(np.abs(np.diff(compose.positions(visible)[0]))[0])
  assert min(gaps) > 0.25


def test_a_position_is_the_middle_of_what_is_seen_from_left_to_right():
  visible = np.zeros((1, 2, 4, 4), bool)
  visible[0, 0, :, 3] = True
  assert compose.positions(visible).tolist() == [[0.875, 0.5]]  # of the second nothing is seen


def test_the_pan_of_a_composed_sound_follows_its_objects():
  noise = 0.1 * np.random.default_rng(1).standard_normal(40_000).astype(np.float32)
  sounding = np.ones((2, 1), bool)
  for place in (0.2, 0.8):
    found = compose.compose_pan(np.random.default_rng(0), [noise], sounding, np.full((2, 1), place))
    assert found.shape == (2, 64)
    assert abs(np.median(found) - np.log(place / (1 - place))) < 0.2
