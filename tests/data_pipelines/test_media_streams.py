"""Tracks of real files: upright, in step, gapless; what is damaged is left out and said."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from avs_jax.errors import InputError
from avs_jax.own_video.film import Film
from data_pipelines import media_streams, video
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
CORNER = np.zeros((48, 64, 3), np.uint8)
CORNER[:24, :32] = 220  # upper left quarter


def sine(seconds: float, rate_hz: int, channels: int = 1) -> np.ndarray:
  wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate_hz)) / rate_hz)
  return np.repeat(wave[:, None], channels, axis=1)


def write(path, *, seconds=2.0, fps=10, rate_hz=16_000, channels=1, times=None, rotation=0, offset_s=0.0):
  """A tone of 440 Hz; pictures 4 brighter each, from 40 on, again after 50; CORNER where they are turned."""
  sounds = [(rate_hz, channels)] if channels else []
  with Film(path, (48, 64), float(fps), sounds, rotation=rotation) as film:
    for k, time_s in enumerate(times or [k / fps for k in range(round(seconds * fps))]):
      film.picture(CORNER if rotation else np.full((48, 64, 3), 40 + 4 * (k % 50), np.uint8), time_s)
    if channels:
      film.written[0] = round(offset_s * rate_hz)
      film.sound(sine(seconds - offset_s, rate_hz, channels))
  return path


def delay(heard: np.ndarray, wanted: np.ndarray) -> float:
  """By how many samples the tone comes too late, from its phase."""
  turn = np.exp(-2j * np.pi * 440 * np.arange(len(heard)) / 16_000)
  return float(np.angle((turn @ wanted) / (turn @ heard)) / (2 * np.pi * 440 / 16_000))


def number(picture: np.ndarray) -> int:
  return round((float(picture.mean()) - 40) / 4)


@pytest.mark.parametrize(("fps", "rate_hz", "channels"), [(30, 48_000, 2), (12.5, 8_000, 1), (25, 44_100, 6)])
def test_any_rate_and_number_of_channels_is_heard_at_16_khz_in_step(tmp_path, fps, rate_hz, channels):
  footage = video.open_footage(write(tmp_path / "a.mp4", fps=fps, rate_hz=rate_hz, channels=channels))
  assert (footage.size, footage.rate_hz, footage.channels) == ((48, 64), rate_hz, channels)
  assert footage.fps == pytest.approx(fps)
  heard = np.concatenate([each.sound for each in video.seconds(footage)])
  wanted = sine(2, 16_000)[:, 0]
  assert len(heard) == len(wanted)
  inner = slice(1600, -1600)  # a tone that is cut off has no sharp end
  assert abs(delay(heard[inner], wanted[inner])) < 0.5
  assert footage.notes == []


def test_pictures_come_at_their_times_and_none_is_lost(tmp_path):
  footage = video.open_footage(write(tmp_path / "a.mp4", fps=30, seconds=1.5))
  found = list(footage.pictures(0.0))
  assert [each.time_s for each in found] == pytest.approx([k / 30 for k in range(45)], abs=1e-4)
  assert [number(each.read()) for each in found] == list(range(45))


def test_variable_frame_rate_shows_what_is_on_in_the_middle_of_a_second(tmp_path):
  times = [0.0, 0.2, 0.4, 0.6, 2.7, 2.8, 5.0]
  footage = video.open_footage(write(tmp_path / "a.mp4", seconds=5.5, times=times))
  found = list(video.seconds(footage))
  assert [number(each.frames[0]) for each in found] == [2, 3, 3, 5, 5, 6]
  assert [each.times_s for each in found] == [(float(k),) for k in range(6)]
  every = list(video.seconds(footage, every="frame"))
  assert [len(each.frames) for each in every] == [4, 1, 2, 1, 1, 1]
  assert every[1].times_s == (1.0,) and every[1].pictures_s == pytest.approx([0.6])
  assert every[2].times_s == pytest.approx([2.7, 2.8])


@pytest.mark.parametrize(("rotation", "corner"), [(90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_pictures_are_upright(tmp_path, rotation, corner):
  footage = video.open_footage(write(tmp_path / "a.mp4", rotation=rotation, seconds=0.5))
  assert footage.size == ((48, 64) if rotation == 180 else (64, 48))
  picture = next(footage.pictures(0.0)).read()
  assert picture.shape == (*footage.size, 3)
  found = [(i, j) for i in (0, 1) for j in (0, 1) if picture[-i, -j, 0] > 110]
  assert found == [corner]


def test_turns_are_counter_clockwise():
  picture = np.arange(6).reshape(2, 3, 1)
  assert media_streams.turned(picture, 90)[..., 0].tolist() == [[2, 5], [1, 4], [0, 3]]
  assert media_streams.turned(picture, -90)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
  assert media_streams.turned(picture, -180)[..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]


GROWTH = """
import os, sys
from data_pipelines import video

def resident_mb():
  return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

found = []
for picture in video.open_footage(sys.argv[1]).pictures(0.0):
  picture.read()
  found.append(resident_mb())
print(len(found), max(found) - found[19])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="a process's memory is read from /proc")
def test_decoded_pictures_are_let_go(tmp_path):
  """A process that only reads every picture of a large video must not grow by more than a few of them."""
  path = tmp_path / "a.mp4"
  with Film(path, (720, 1280), 30.0) as film:
    for k in range(60):
      film.picture(np.full((720, 1280, 3), k, np.uint8), k / 30)
  command = [sys.executable, "-c", GROWTH, str(path)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
  assert done.returncode == 0, done.stderr
  count, grown_mb = done.stdout.split()
  assert count == "60"
  assert float(grown_mb) < 20  # the 40 pictures since the 20th are 53 MB as they are decoded, 105 as read


def test_sound_that_begins_later_than_the_pictures_is_preceded_by_silence(tmp_path):
  footage = video.open_footage(write(tmp_path / "a.mp4", offset_s=0.5))
  heard = next(video.seconds(footage)).sound
  assert np.abs(heard[:6_500]).max() < 1e-3  # AAC's first block reaches back 64 ms
  assert abs(delay(heard[9_000:], sine(2, 16_000)[1_000:8_000, 0])) < 0.5


def test_reading_from_the_middle_gives_what_reading_from_the_start_gives(tmp_path):
  footage = video.open_footage(write(tmp_path / "a.mp4", seconds=4, fps=10, rate_hz=44_100))
  whole = [number(each.read()) for each in footage.pictures(0.0)]
  assert [number(each.read()) for each in footage.pictures(2.3)] == whole[23:]
  part = list(video.seconds(footage, start=2.25, end=3.5))
  assert [(each.start_s, each.end_s) for each in part] == [(2.25, 3.25), (3.25, 3.5)]
  assert [number(each.frames[0]) for each in part] == [27, 34]
  wanted = sine(4, 16_000)[:, 0]
  assert abs(delay(part[0].sound[200:], wanted[36_200:52_000])) < 0.5
  assert not part[1].sound[4_000:].any()


def test_a_file_cut_short_is_used_as_far_as_it_goes_and_that_is_said(tmp_path):
  path = write(tmp_path / "a.mp4", seconds=6, fps=30)
  path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
  footage = video.open_footage(path)
  found = list(video.seconds(footage))
  assert 1 <= len(found) < 6
  assert "its pictures end after" in " ".join(footage.notes)


def test_damage_in_the_middle_is_left_out(tmp_path):
  path = write(tmp_path / "a.mp4", seconds=4, fps=30, channels=0)
  data = bytearray(path.read_bytes())
  middle = len(data) * 2 // 3
  data[middle : middle + 400] = bytes(400)
  path.write_bytes(bytes(data))
  assert len(list(video.seconds(video.open_footage(path)))) == 4


def test_what_cannot_be_read_at_all_is_said_in_a_sentence(tmp_path):
  path, sound = write(tmp_path / "a.mp4"), tmp_path / "sound.m4a"
  short, text = tmp_path / "short.mp4", tmp_path / "text.mp4"
  short.write_bytes(path.read_bytes()[:200])
  text.write_text("no video at all")
  from data_pipelines.audio import write_wav

  sound = tmp_path / "sound.wav"
  write_wav(sound, sine(1, 16_000)[:, 0])
  for file, said in (
    (short, "short.mp4 cannot be read as a video or sound"),
    (text, "text.mp4 cannot be read as a video or sound"),
    (sound, "sound.wav holds no pictures"),
    (tmp_path / "absent.mp4", "absent.mp4: there is no such file"),
  ):
    with pytest.raises(InputError, match=said):
      video.open_footage(file)


def encode(path, kind, codec, pixels="yuv420p"):
  """Fifty grey pictures, 25 a second, as another program may write them: no track is the default one."""
  with av.open(str(path), "w", format=kind) as container:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
    stream.disposition = 0
    for _ in range(50):
      container.mux(
        stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24"))
      )
    container.mux(stream.encode(None))
  return path


@pytest.mark.parametrize(
  ("ending", "kind", "codec"),
  [
    ("mkv", "matroska", "libx264"), ("avi", "avi", "mpeg4"), ("ts", "mpegts", "mpeg2video"), ("mov", "mov", "mpeg4"),
    ("flv", "flv", "flv"), ("webm", "webm", "libvpx"), ("mpg", "mpeg", "mpeg1video"), ("3gp", "3gp", "mpeg4"),
    ("ogv", "ogg", "libvpx"), ("wmv", "asf", "msmpeg4"), ("gif", "gif", "gif"),
  ],
)  # fmt: skip
def test_every_usual_container_is_read(tmp_path, ending, kind, codec):
  if codec not in av.codecs_available:
    pytest.skip(f"this PyAV cannot encode {codec}")
  assert f".{ending}" in video.VIDEOS
  pixels = "rgb8" if codec == "gif" else "yuv420p"
  path = encode(tmp_path / f"a.{ending}", kind, codec, pixels)
  found = list(video.seconds(video.open_footage(path)))
  assert len(found) == 2 and abs(float(found[0].frames[0].mean()) - 90) < 12


def test_a_file_that_names_other_files_is_refused(tmp_path):
  secret = write(tmp_path / "secret.mp4")
  lists = {
    "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\n{secret}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": f"ffconcat version 1.0\nfile {secret.name}\n",
    "a.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\n{secret}\n#EXT-X-ENDLIST\n",
  }
  for name, text in lists.items():
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name} cannot be read as a video or sound"):
      video.open_footage(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} cannot be read as a video or sound"):
      video.open_footage(secret, tmp_path / name)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
  write(tmp_path / "concat:x.mp4")
  monkeypatch.chdir(tmp_path)
  assert len(list(video.seconds(video.open_footage("concat:x.mp4")))) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_sound_that_is_none_is_named_with_its_place(tmp_path, value):
  from scipy.io import wavfile

  samples = sine(2, 16_000)[:, 0].astype(np.float32)
  samples[24_000] = value
  wavfile.write(tmp_path / "bad.wav", 16_000, samples)
  footage = video.open_footage(write(tmp_path / "a.mp4"), tmp_path / "bad.wav")
  with pytest.raises(
    InputError, match=r"bad.wav: its sound has NaN, infinite or absurdly large samples at 1"
  ):
    list(video.seconds(footage))
  with pytest.raises(InputError, match="is a folder, and a file with a sound"):
    video.open_footage(tmp_path / "a.mp4", tmp_path)


def test_a_sound_that_goes_on_alone_is_told_of(tmp_path):
  times = [k / 10 for k in range(20)]
  for ending in ("mp4", "mkv"):
    footage = video.open_footage(write(tmp_path / f"a.{ending}", seconds=6.0, times=times))
    assert len(list(footage.pictures(0.0))) == 20
    (note,) = footage.notes
    assert "its pictures end after 2.0 s of 6.0 s" in note and "its sound goes on alone" in note
