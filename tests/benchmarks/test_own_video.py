"""The own-video benchmark makes a video, has it masked, and says what was included."""

from benchmarks import own_video
from configs import tiny


def test_a_video_is_made_masked_and_timed(tmp_path):
  video = tmp_path / "phone.mp4"
  own_video.make_video(str(video), 2, 36)
  config = tiny.get_config("avsbench")
  config.data.seconds = 2
  found = own_video.measure(config, str(video), 2)
  assert found["first"] > found["factor"] > 0 and found["cpu"] > 0
  text = own_video.page([("avsbench", config, found)], 2, 36)
  assert "| avsbench | conv_pyramid, vggish | 32 |" in text and "2 s of 64 x 36, 30 frames a second" in text
