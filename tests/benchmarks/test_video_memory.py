"""A video is masked in a process of its own, and the page says how its peak grows with the length."""

import pytest

from benchmarks import video_memory


def test_growth_is_against_the_first_length():
  text = video_memory.page([(30, 800e6, 50.0), (180, 820e6, 250.0)], 1080)
  assert "1920 x 1080, 30 frames a second, 48 kHz stereo" in text
  assert "| 30 | 800 MB | 0.0 % | 50 |" in text
  assert "| 180 | 820 MB | 2.5 % | 250 |" in text


@pytest.mark.slow
def test_a_video_is_masked_in_a_process_of_its_own():
  ((seconds, peak, work),) = video_memory.measure([1], 90)
  assert seconds == 1 and peak > 100e6 and work > 0
