"""What a visitor without a video is offered: shipped videos with their sources named, and drawn ones."""

import numpy as np
import pytest

from avs_jax.web.samples import SAMPLES, make_samples
from data_pipelines import video


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  return make_samples(tmp_path_factory.mktemp("samples") / "new" / "folder", size=64)


def test_shipped_videos_come_first_and_two_are_drawn(samples):
  shipped = sorted(path.name for path in SAMPLES.glob("*.mp4"))
  assert shipped
  assert [each.name for each in samples] == [*shipped, "single.mp4", "multi.mp4"]
  assert all(each.path.name == each.name for each in samples)
  assert samples[0].title == "A barking dog"
  assert len({each.title for each in samples}) == len(samples)


def test_every_one_is_a_video_with_pictures_that_differ_and_a_sound(samples):
  for each in samples:
    found = list(video.seconds(video.open_footage(each.path)))
    assert len(found) >= 5, each.name
    assert max(np.abs(second.sound).max() for second in found) > 0.01, each.name
    assert found[0].frames[0].std() > 1, each.name


def test_the_source_of_every_shipped_video_is_named():
  text = (SAMPLES / "CREDITS.md").read_text()
  for path in SAMPLES.glob("*.mp4"):
    for part in ("object", "background", "sound"):
      assert f"| {path.name} | {part} |" in text
