"""The files that are written: in step, whole or absent, the same bytes for the same calls."""

import av
import numpy as np
import pytest

from avs_jax.errors import InputError
from avs_jax.own_video.film import Film

PICTURE = np.full((47, 63, 3), 90, np.uint8)


def write(path, pictures=10, channels=2):
  with Film(path, (47, 63), 10.0, [(22_050, channels)], titles=["own"]) as film:
    for k in range(pictures):
      film.picture(PICTURE, k / 10)
      film.sound(np.full((2_205, channels), 0.1, np.float32))
  return path


def test_the_same_calls_give_the_same_bytes(tmp_path):
  assert write(tmp_path / "a.mp4").read_bytes() == write(tmp_path / "b.mp4").read_bytes()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_odd_sides_are_lengthened_and_tracks_named(tmp_path):
  with av.open(str(write(tmp_path / "a.mp4"))) as film:
    video, sound = film.streams.video[0], film.streams.audio[0]
    assert (video.width, video.height, video.codec_context.name) == (64, 48, "h264")
    assert (sound.rate, sound.codec_context.name, len(sound.layout.channels)) == (22_050, "aac", 2)
    assert len(list(film.decode(video))) == 10


def test_rates_that_aac_has_not_are_resampled(tmp_path):
  with Film(tmp_path / "a.mp4", (16, 16), 10.0, [(22_254, 1)]) as film:
    film.picture(PICTURE[:16, :16], 0.0)
    film.sound(np.zeros((22_254, 1), np.float32))
  with av.open(str(tmp_path / "a.mp4")) as found:
    assert found.streams.audio[0].rate == 24_000
    assert float(found.streams.audio[0].duration * found.streams.audio[0].time_base) == pytest.approx(
      1, abs=0.05
    )


def test_after_an_exception_nothing_is_left(tmp_path):
  with pytest.raises(RuntimeError), Film(tmp_path / "a.mp4", (47, 63), 10.0) as film:
    film.picture(PICTURE, 0.0)
    raise RuntimeError
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["video", "container"])
def test_a_film_whose_last_pictures_cannot_be_written_gets_no_name(tmp_path, part):
  class Full:
    """A disk that is full when the last pictures come out, or the file is closed."""

    def __init__(self, true):
      self.true, self.fails = true, True

    def __getattr__(self, name):
      return getattr(self.true, name)

    def encode(self, image):
      if image is None:
        raise OSError(28, "No space left on device")
      return self.true.encode(image)

    def close(self):
      self.true.close()
      if self.fails:
        self.fails = False
        raise OSError(28, "No space left on device")

  with pytest.raises(InputError, match="a.mp4"), Film(tmp_path / "a.mp4", (47, 63), 10.0) as film:
    for k in range(10):
      film.picture(PICTURE, k / 10)
    setattr(film, part, Full(getattr(film, part)))
  assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path):
  with (
    pytest.raises(InputError, match="a.mp4 cannot be written"),
    Film(tmp_path / "no" / "a.mp4", (8, 8), 1.0),
  ):
    pass
  with pytest.raises(InputError, match="a sound of 9 channels cannot be written"):
    Film(tmp_path / "a.mp4", (8, 8), 1.0, [(8_000, 9)]).__enter__()
