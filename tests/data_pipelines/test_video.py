"""Footage of any kind second by second; memory does not grow with its length."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import audio, video
from data_pipelines.media_streams import Picture

RATE = 16_000


def noise(seconds: float, seed: int = 0, rate_hz: int = RATE) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate_hz)).astype(np.float32)


def frames(count: int) -> np.ndarray:
  return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 6, 8, 3))


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 11_025, 8_000, 22_254, 16_000])
def test_sound_resampled_piece_by_piece_is_that_resampled_whole(rate_hz):
  wave = noise(3.3, rate_hz=rate_hz)
  pieces = iter(np.split(wave[:, None], [1, 700, 700, 50_000, 50_011]))
  found = np.concatenate(list(video.at_16_khz(pieces, rate_hz)))[:, 0]
  wanted = audio.resample(wave.astype(np.float64), rate_hz, RATE)
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_seconds_hold_the_middle_picture_and_their_sound():
  wave = noise(3.5)
  found = list(video.seconds(video.of_arrays(frames(35), wave, fps=10)))
  assert [each.frames[0][0, 0, 0] for each in found] == [5, 15, 25, 34]
  assert [each.start_s for each in found] == [0, 1, 2, 3]
  assert found[-1].end_s == pytest.approx(3.5)
  heard = np.concatenate([each.sound for each in found])
  np.testing.assert_array_equal(heard, np.pad(wave, (0, RATE // 2)))


def test_left_and_right_are_kept_apart_where_direction_is_wanted():
  both = np.stack([noise(2, 1, 48_000), noise(2, 2, 48_000)], axis=1)
  footage = dataclasses.replace(
    video.of_arrays(frames(20), fps=10), rate_hz=48_000, channels=2, blocks=lambda start_s: iter([both])
  )
  apart = np.concatenate([each.sound for each in video.seconds(footage, stereo=True)])
  for k in (0, 1):
    np.testing.assert_allclose(apart[:, k], audio.resample(both[:, k].astype(float), 48_000, RATE), atol=1e-6)
  mono = np.concatenate([each.sound for each in video.seconds(footage)])
  np.testing.assert_allclose(apart.mean(axis=1), mono, atol=1e-6)
  single = video.with_sound(footage, noise(2))
  sound = next(video.seconds(single, stereo=True)).sound
  np.testing.assert_array_equal(sound[:, 0], sound[:, 1])


def test_every_frame_belongs_to_one_second():
  found = list(video.seconds(video.of_arrays(frames(35), fps=10), every="frame"))
  assert [[int(f[0, 0, 0]) for f in each.frames] for each in found] == [
    [*range(10)], [*range(10, 20)], [*range(20, 30)], [*range(30, 35)]
  ]  # fmt: skip
  assert found[1].times_s == pytest.approx([1 + k / 10 for k in range(10)])


def test_start_and_end_cut_both_tracks():
  wave = noise(5)
  footage = video.of_arrays(frames(50), wave, fps=10)
  found = list(video.seconds(footage, start=1.5, end=3.2))
  assert [each.frames[0][0, 0, 0] for each in found] == [20, 30]
  assert [each.end_s for each in found] == [2.5, pytest.approx(3.2)]
  np.testing.assert_array_equal(found[0].sound, wave[24_000:40_000])
  np.testing.assert_array_equal(found[1].sound[:11_200], wave[40_000:51_200])
  assert not found[1].sound[11_200:].any()
  with pytest.raises(InputError, match="start=7 s lies beyond its last picture"):
    next(video.seconds(footage, start=7))
  for start, end in ((3, 2), (1, 0), (-2, None)):
    with pytest.raises(InputError, match=f"start={start}, end={end}: seconds are wanted"):
      next(video.seconds(footage, start=start, end=end))


def test_a_picture_lasts_until_the_next_one_whatever_its_file_says():
  # As Matroska tells of a variable rate: each picture is given the mean duration, and one stays on for 8 s.
  moments, wave = (0, 1, 2, 10, 11, 12), noise(12.1)
  pictures = [Picture(t, 0.1, lambda t=t: np.full((6, 8, 3), t, np.uint8)) for t in moments]

  def from_second(start_s):
    on = max(k for k, picture in enumerate(pictures) if picture.time_s <= start_s)
    return iter(pictures[on:])

  footage = dataclasses.replace(video.of_arrays(frames(1), wave, fps=1.0), pictures=from_second)
  for start, end, shown, last in (
    (0, None, [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 10, 11, 12], 12.1),
    (0, 6, [0, 1, 2, 2, 2, 2], 6),
    (0, 5.5, [0, 1, 2, 2, 2, 2], 5.5),
    (5, 7, [2, 2], 7),
    (9, 11, [2, 10], 11),
  ):
    found = list(video.seconds(footage, start=start, end=end))
    assert [each.frames[0][0, 0, 0] for each in found] == shown
    assert found[-1].end_s == pytest.approx(last)
    heard = np.concatenate([each.sound for each in found])
    wanted = wave[start * RATE : round(last * RATE)]
    np.testing.assert_array_equal(heard[: len(wanted)], wanted)
  with pytest.raises(InputError, match="start=13 s lies beyond its last picture"):
    next(video.seconds(footage, start=13))


def test_a_picture_lasts_as_long_as_its_sound(tmp_path):
  Image.fromarray(frames(8)[7]).save(tmp_path / "photo.png")
  audio.write_wav(tmp_path / "sound.wav", noise(2.5))
  found = list(video.seconds(video.open_footage(tmp_path / "photo.png", tmp_path / "sound.wav")))
  assert [each.end_s for each in found] == [1, 2, 2.5]
  assert all(each.frames[0][0, 0, 0] == 7 for each in found)
  np.testing.assert_allclose(found[1].sound, noise(2.5)[RATE : 2 * RATE], atol=2e-5)
  alone = video.open_footage(tmp_path / "photo.png")
  assert len(list(video.seconds(alone))) == 1
  assert "has no sound track; it counts as silence" in alone.notes[0]


def test_frames_of_a_folder_follow_their_numbers(tmp_path):
  for k in (2, 10, 1):
    Image.fromarray(frames(11)[k]).save(tmp_path / f"frame_{k}.png")
  footage = video.open_footage(tmp_path, noise(2), fps=2)
  assert [int(each.read()[0, 0, 0]) for each in footage.pictures(0.0)] == [1, 2, 10]
  assert footage.duration_s == 1.5
  Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "frame_11.png")
  with pytest.raises(InputError, match="frame_11.png is 9 x 9 pixels, frame_1.png is 8 x 6"):
    list(video.seconds(video.open_footage(tmp_path), every="frame"))
  with pytest.raises(InputError, match="fps=0 must be a number above 0"):
    video.open_footage(tmp_path, fps=0)


def test_photographs_of_a_phone_are_upright(tmp_path):
  wide = Image.fromarray(frames(1)[0])
  tags = wide.getexif()
  tags[0x0112] = 6
  wide.save(tmp_path / "photo.jpg", exif=tags)
  assert video.open_footage(tmp_path / "photo.jpg").size == (8, 6)


def test_another_sound_takes_the_place_of_the_own(tmp_path):
  audio.write_wav(tmp_path / "sound.wav", noise(1, seed=1))
  own = video.of_arrays(frames(20), noise(2), fps=10)
  for other in (tmp_path / "sound.wav", noise(1, seed=1)):
    found = [each.sound for each in video.seconds(video.with_sound(own, other))]
    np.testing.assert_allclose(found[0], noise(1, seed=1), atol=2e-5)
    assert not found[1].any()  # the video goes on in silence


def test_inputs_are_found(tmp_path):
  many, pictures, both, empty = (tmp_path / name for name in ("many", "pictures", "both", "empty"))
  for folder, names in (
    (many, ("b.mp4", "a.MOV", "note.txt")),
    (pictures, ("1.png",)),
    (both, ("1.png", "a.mp4")),
    (empty, ()),
  ):
    folder.mkdir()
    for name in names:
      (folder / name).touch()
  assert video.find(many) == [str(many / "a.MOV"), str(many / "b.mp4")]
  assert video.find(f"{tmp_path}/*/*.mp4") == [str(both / "a.mp4"), str(many / "b.mp4")]
  assert video.find(pictures) == [str(pictures)]
  assert video.find(many / "b.mp4") == [str(many / "b.mp4")]
  for source, said in (
    (both, "holds both videos and pictures"),
    (empty, "holds no video and no picture"),
    (tmp_path / "x*.mp4", "no file of such a pattern"),
  ):
    with pytest.raises(InputError, match=said):
      video.find(source)


def test_memory_does_not_grow_with_the_length():
  def peak(seconds: int) -> int:
    def pictures(start_s: float):
      for k in range(20 * seconds):
        yield Picture(k / 20, 1 / 20, lambda: np.zeros((64, 64, 3), np.uint8))

    def blocks(start_s: float):
      for _ in range(2 * seconds):
        yield np.zeros((22_050, 2), np.float32)

    footage = video.Footage("long", "long", (64, 64), 20.0, seconds, 44_100, 2, pictures, blocks, True, [])
    tracemalloc.start()
    count = sum(len(each.frames) for each in video.seconds(footage, every="frame"))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20 * seconds
    return found

  short = peak(4)
  assert peak(24) < 1.1 * short
