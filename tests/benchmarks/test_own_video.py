"""The own-video benchmark makes a video, has it masked, and says what was included."""

from absl import flags

from benchmarks import own_video
from configs import tiny


def test_a_video_is_made_masked_and_timed(tmp_path):
  video = tmp_path / "phone.mp4"
  own_video.make_video(str(video), 2, 36)
  config = tiny.get_config("avsbench")
  config.data.seconds = 2
  found = own_video.measure(own_video.fresh(config), str(video), 2)
  assert found.keys() == {"first", "factor", "cpu"}
  assert all(seconds > 0 for seconds in found.values())  # how they compare is a matter of the machine's load
  told = {"first": 61.25, "factor": 0.526, "cpu": 1.75}
  text = own_video.page([("avsbench", config, told)], 2, 36)
  assert "| avsbench | conv_pyramid, vggish | 32 | 0.53 | 1.75 | 61.2 s |" in text
  assert "2 s of 64 x 36, 30 frames a second" in text


def test_the_page_names_the_command_that_makes_it():
  values = flags.FlagValues()
  own_video.define(values)
  values(["benchmarks.own_video"])
  assert own_video.command_of(values) == "python -m benchmarks.own_video --configs=configs/quickstart.py"
  values(["benchmarks.own_video", "--systems=avsbench,sdavs", "--seconds=5", "--nopackaged", "--output=a.md"])
  assert own_video.command_of(values) == (
    "python -m benchmarks.own_video --configs=configs/quickstart.py --systems=avsbench,sdavs --nopackaged"
    " --seconds=5 --output=a.md"
  )
