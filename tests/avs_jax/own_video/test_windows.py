"""Windows over a stream: blending is the weighted mean, every picture comes once and in order, few wait."""

import collections

import numpy as np
import pytest

from avs_jax.own_video import windows
from data_pipelines import video

RATE = 16_000
SLOT = windows.Slot


def stream(count: int, pictures: tuple[int, ...] = (1,)):
  """Seconds whose pictures are their numbers; second k has pictures[k % len] of them."""
  number = 0
  for k in range(count):
    own = range(number, number + pictures[k % len(pictures)])
    number += len(own)
    times = tuple(k + i / 10 for i in range(len(own)))
    frames = tuple(np.array([n]) for n in own)
    yield video.Second(float(k), k + 1.0, times, times, frames, np.full(RATE, k, np.float32))


def answers(group: list[windows.Window], length: int) -> list[list[windows.Maps]]:
  """A model whose map names the window's first and the slot's own picture: 1000 first + own."""
  return [
    [
      {
        "coarse": np.array(1000.0 * w.frames[0][0] + w.frames[min(t, len(w.frames) - 1)][0]),
        "classes": w.begin,
      }
      for t in range(length)
    ]
    for w in group
  ]


def run(count: int, length: int, stride: int, batch: int = 1, pictures=(1,)):
  judge = lambda group: answers(group, length)  # noqa: E731
  return list(windows.judged(stream(count, pictures), length, stride, batch, judge))


@pytest.mark.parametrize(
  ("count", "length", "stride"),
  [(11, 5, 3), (9, 4, 2), (7, 5, 1), (12, 5, 5), (13, 5, 5), (3, 5, 5), (6, 2, 1)],
)
def test_blending_is_the_weighted_mean_over_the_windows(count, length, stride):
  """Computed directly: windows begin at 0, S, 2S ...; one more ends with the stream and judges what is open."""
  begins = [b for b in range(0, count, stride) if b + length <= count]
  over = [(b, 0) for b in begins]
  following = begins[-1] + stride if begins else 0
  if not begins or begins[-1] + length < count:
    over.append((max(count - length, 0), following))
  weight = windows.weights(length)
  found = run(count, length, stride)
  assert [slot.second for slot, _ in found] == list(range(count))
  for k, (_, maps) in enumerate(found):
    terms = [(weight[k - b], 1000.0 * b + k) for b, first in over if b <= k < b + length and k >= first]
    wanted = sum(w * x for w, x in terms) / sum(w for w, _ in terms)
    assert float(maps["coarse"]) == pytest.approx(wanted)


def test_classes_come_from_the_window_in_whose_middle_the_second_lies():
  assert [maps["classes"] for _, maps in run(7, 5, 1)][2:5] == [0, 1, 2]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_answers_do_not_depend_on_the_batch(batch):
  one = [(slot.time_s, float(maps["coarse"])) for slot, maps in run(9, 4, 2, 1, (2, 1, 3))]
  some = [(slot.time_s, float(maps["coarse"])) for slot, maps in run(9, 4, 2, batch, (2, 1, 3))]
  assert some == one


def test_every_picture_of_a_second_is_judged_beside_one_of_each_other_second():
  found = run(4, 2, 2, pictures=(3, 1))
  assert [slot.time_s for slot, _ in found] == pytest.approx([0, 0.1, 0.2, 1, 2, 2.1, 2.2, 3])
  # Windows over seconds 0 and 1: pictures (0, 3), (1, 3), (2, 3); the second's only picture answers once.
  assert [float(maps["coarse"]) for _, maps in found] == [0, 1001, 2002, 3, 4004, 5005, 6006, 4007]


def test_the_windows_over_the_same_seconds_share_their_sound():
  made = list(windows.cut(stream(2, (3,)), 2, 2, collections.deque()))
  assert len(made) == 3
  assert all(w.sound is made[0].sound and w.heard is made[0].heard for w in made)
  np.testing.assert_array_equal(made[0].sound[[0, RATE]], [0, 1])


def test_only_the_pictures_of_a_few_windows_wait(monkeypatch):
  """Of 200 seconds at most those of two windows are held at any time."""
  made: list = []
  monkeypatch.setattr(windows, "Slot", lambda *args: made.append(SLOT(*args)) or made[-1])
  told = 0
  for slot, _ in windows.judged(stream(200), 5, 3, 1, lambda group: answers(group, 5)):
    told += 1
    assert len(made) - slot.second <= 9
  assert told == len(made) == 200
