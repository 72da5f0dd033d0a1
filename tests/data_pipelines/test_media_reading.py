"""Pictures are cut to their object, recordings levelled and set apart."""

import io
import json
import wave

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import media_reading
from data_pipelines.clips import SAMPLE_RATE_HZ
from data_pipelines.media_bank import Item
from data_pipelines.media_packages import Program

NO_PROGRAM = Program("/nonexistent")


def _tone(seconds: float, level: float) -> np.ndarray:
  return (level * np.sin(0.2 * np.arange(int(seconds * SAMPLE_RATE_HZ)))).astype(np.float32)


def test_silent_ends_are_cut_and_the_rest_is_levelled():
  waveform = np.concatenate([np.zeros(8_000), _tone(2, 0.02), np.zeros(16_000)]).astype(np.float32)
  found = media_reading.level_and_trim(waveform)
  assert abs(len(found) - 2 * SAMPLE_RATE_HZ) <= 640
  assert found.std() == pytest.approx(media_reading.ACTIVE_RMS, rel=0.02)
  assert found.dtype == np.float32


def test_pauses_do_not_count_towards_the_level():
  waveform = np.concatenate([_tone(1, 0.3), np.zeros(5 * SAMPLE_RATE_HZ), _tone(1, 0.3)]).astype(np.float32)
  found = media_reading.level_and_trim(waveform)
  assert found[:SAMPLE_RATE_HZ].std() == pytest.approx(media_reading.ACTIVE_RMS, rel=0.02)


@pytest.mark.parametrize("waveform", [np.zeros(20_000, np.float32), _tone(1, 1e-4), np.zeros(3, np.float32)])
def test_a_silent_recording_becomes_empty(waveform):
  assert len(media_reading.level_and_trim(waveform)) == 0


def _recording(name: str, seconds: float) -> Item:
  return Item("sound", "cow", "train", name, "p", "l", "o", _tone(seconds, 0.1))


def test_a_long_recording_gives_its_last_fifth_to_validation():
  train, val = media_reading.set_apart([_recording("a.ogg", 10)])
  assert (train.split, val.split) == ("train", "val")
  assert (len(train.array), len(val.array)) == (8 * SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ)
  assert train.name != val.name
  short = [_recording("b.ogg", 2)]
  assert media_reading.set_apart(short) == short


def test_of_many_recordings_every_fifth_goes_to_validation():
  found = media_reading.set_apart([_recording(f"{k}.ogg", 10) for k in range(21)])
  assert [k for k, item in enumerate(found) if item.split == "val"] == [4, 9, 14, 19]
  assert len(found) == 21


def test_a_picture_is_cut_to_what_is_not_transparent():
  picture = np.zeros((100, 120, 4), np.uint8)
  picture[20:50, 30:90] = 255
  assert media_reading.cut_to_object(Image.fromarray(picture)).shape == (30, 60, 4)
  large = media_reading.cut_to_object(Image.new("RGBA", (1000, 500), (9, 9, 9, 255)))
  assert large.shape == (media_reading.PICTURE_SIDE // 2, media_reading.PICTURE_SIDE, 4)


def test_a_wave_file_is_read_as_mono_at_16_khz():
  file = io.BytesIO()
  with wave.open(file, "wb") as out:
    out.setnchannels(2)
    out.setsampwidth(2)
    out.setframerate(48_000)
    samples = 16_000 * np.sin(2 * np.pi * 440 / 48_000 * np.arange(48_000))
    out.writeframes(np.repeat(samples.astype("<i2"), 2).tobytes())
  waveform = media_reading.decode_audio(file.getvalue(), "tone.wav")
  assert abs(len(waveform) - SAMPLE_RATE_HZ) < 50
  assert int(np.argmax(np.abs(np.fft.rfft(waveform, SAMPLE_RATE_HZ)))) == 440
  assert np.abs(waveform).max() == pytest.approx(16_000 / 32_768, rel=0.03)


def test_files_that_are_neither_sound_nor_picture_are_named():
  with pytest.raises(InputError, match=r"cow\.ogg cannot be read as sound"):
    media_reading.decode_audio(b"not a sound", "cow.ogg")
  with pytest.raises(InputError, match=r"cow\.png cannot be read as a picture"):
    media_reading.read_picture(b"not a picture", "cow.png", NO_PROGRAM)


def test_the_same_file_under_two_names_is_kept_once():
  items = [_recording("a.ogg", 1), _recording("b.ogg", 1), _recording("c.ogg", 2)]
  assert [item.name for item in media_reading.drop_repeated(items)] == ["a.ogg", "c.ogg"]


@pytest.fixture
def small_cache(tmp_path):
  """A cache with one unpacked package: two pictures, a background, a recording and a pattern of three."""
  root = tmp_path / "packages" / "farm"
  (root / "x/talk/deep").mkdir(parents=True)
  (root / ".version").write_text("1.0\n")
  Image.new("RGBA", (40, 30), (200, 0, 0, 255)).save(root / "x/cow.png")
  Image.new("RGB", (40, 30), (0, 200, 0)).save(root / "x/field.jpg")
  for k, name in enumerate(
    ["moo.wav", "talk/a_fr.wav", "talk/b_fr.wav", "talk/deep/c_fr.wav", "talk/a_es.wav"]
  ):
    with wave.open(str(root / "x" / name), "wb") as out:
      out.setnchannels(1)
      out.setsampwidth(2)
      out.setframerate(SAMPLE_RATE_HZ)
      out.writeframes((30_000 * _tone(1 + 0.1 * k, 1.0)).astype("<i2").tobytes())
  return tmp_path


def _catalogue(tmp_path, sounds: list, picture: str = "farm:cow.png"):
  path = tmp_path / "catalogue.json"
  path.write_text(
    json.dumps(
      {
        "sources": {"farm": {"package": "farm", "root": "x/"}},
        "classes": {
          "cow": {
            "broad": "animal",
            "pictures": {"train": [picture], "unseen": []},
            "sounds": {"train": sounds, "unseen": []},
          }
        },
        "backgrounds": ["farm:field.jpg"],
        "noise": {"train": [{"item": "farm:moo.wav", "part": [0, 0.5]}], "test": []},
      }
    )
  )
  return path


@pytest.fixture
def no_programs(monkeypatch):
  monkeypatch.setattr(media_reading.media_packages, "fetch_program", lambda *_: NO_PROGRAM)


def test_a_catalogue_is_read_into_a_bank(small_cache, no_programs):
  sounds = ["farm:moo.wav", {"item": "farm:talk/**/*_fr.wav", "count": 3}]
  bank = media_reading.read_bank(small_cache, _catalogue(small_cache, sounds))
  assert bank.broad == {"cow": "animal"}
  assert [item.name for item in bank.items if item.kind == "sound"] == [
    "farm:moo.wav",
    "farm:talk/a_fr.wav",
    "farm:talk/b_fr.wav",
    "farm:talk/deep/c_fr.wav",
  ]
  (noise,) = bank.select("noise", "train")
  assert noise.name == "farm:moo.wav [0-0.5]"
  assert abs(len(noise.array) - SAMPLE_RATE_HZ // 2) < 700
  assert bank.select("picture", "train", "cow")[0].origin == "farm 1.0: x/cow.png"
  assert bank.catalogue == media_reading.catalogue_digest(small_cache / "catalogue.json")


def test_a_file_the_package_lacks_is_named(small_cache, no_programs):
  with pytest.raises(InputError, match=r"farm 1\.0 holds no x/bull\.png"):
    media_reading.read_bank(small_cache, _catalogue(small_cache, [], picture="farm:bull.png"))


def test_a_pattern_that_matches_too_little_is_named(small_cache, no_programs):
  sounds = [{"item": "farm:talk/**/*_da.wav", "count": 3}]
  with pytest.raises(InputError, match="holds 0 files like"):
    media_reading.read_bank(small_cache, _catalogue(small_cache, sounds))


def test_the_catalogue_names_each_thing_in_one_split_alone():
  catalogue = json.loads(media_reading.CATALOGUE.read_text())
  assert len(catalogue["classes"]) == 24
  for name, entry in catalogue["classes"].items():
    for kind in ("pictures", "sounds"):
      train = {json.dumps(item) for item in entry[kind]["train"]}
      assert train, name
      assert not train & {json.dumps(item) for item in entry[kind]["unseen"]}, name
  assert len(set(catalogue["backgrounds"])) == len(catalogue["backgrounds"])
  train, test = ({json.dumps(item) for item in catalogue["noise"][split]} for split in ("train", "test"))
  assert train
  assert test
  assert not train & test
