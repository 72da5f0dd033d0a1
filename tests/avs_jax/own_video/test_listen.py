"""One video under four sounds: a model that listens is told from one that does not; so are anybody's masks."""

import json
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from avs_jax.own_video import listen
from avs_jax.own_video.film import Film
from avs_jax.predict import Predictor
from data_pipelines import video

NAMES = {"positive": "own sound", "silence": "silence", "noise": "noise", "offscreen": "off-screen (rooster)"}


class Bright(Predictor):
  """Marks bright pixels: always, or while a tone of 500 Hz is what is heard, or whenever anything is."""

  def __init__(self, hears: str):
    self.hears, self.seconds, self.size, self.batch, self.class_names = hears, 2, 16, 1, ()
    self.name, self.weights_digest, self.stereo = f"hears {hears}", "0", False

  def _judge(self, group):
    return [[self.maps(w, min(t, len(w.frames) - 1)) for t in range(2)] for w in group]

  def maps(self, window, t):
    second = window.sound[16_000 * t : 16_000 * (t + 1)]
    power = np.abs(np.fft.rfft(second)) ** 2
    tone = power[450:551].sum() / (power.sum() + 1e-6)
    opened = {"nothing": 1.0, "anything": float(power.sum() > 1), "tone": float(tone > 0.5)}[self.hears]
    return {
      "coarse": opened * (window.frames[t][..., 0] > 128).astype(np.float32),
      "similarity": np.float32(tone),
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp("listen") / "a.mp4"
  with Film(path, (48, 64), 10.0, [(16_000, 1)]) as made:
    for k in range(25):
      frame = np.full((48, 64, 3), 20, np.uint8)
      frame[12:36, 16:48] = 230
      made.picture(frame, k / 10)
    made.sound(0.3 * np.sin(2 * np.pi * 500 * np.arange(40_000) / 16_000)[:, None])
  return str(path)


@pytest.mark.parametrize(
  ("hears", "word", "area"),
  [("tone", "listens", 0.0), ("nothing", "deaf", 0.25), ("anything", "partly", 0.25)],
)
def test_the_verdict_and_the_areas(path, tmp_path, capsys, hears, word, area):
  listen.command(lambda: Bright(hears), path, str(tmp_path))
  found = json.loads((tmp_path / "a" / "listen.json").read_text())
  assert (found["schema"], found["verdict"], found["seconds"]) == ("avs_jax.listen/1", word, 3)
  assert list(found["sounds"]) == list(NAMES)
  own, silence, noise = (found["sounds"][name] for name in ("positive", "silence", "noise"))
  assert own["area"] == pytest.approx(0.25, abs=0.06) and own["marked_seconds"] == 1
  assert noise["area"] == pytest.approx(area, abs=0.06)
  assert noise["persists"] == (1 if area else 0)
  assert silence["persists"] == (1 if hears == "nothing" else 0)
  assert own["similarity"] > 0.9 > noise["similarity"]
  assert found["sentence"] in capsys.readouterr().out
  text = (tmp_path / "a" / "listen.md").read_text()
  assert found["sentence"] in text and "| off-screen (rooster) |" in text


def test_the_video_has_four_panels_and_their_sounds(path, tmp_path):
  listen.command(lambda: Bright("tone"), path, str(tmp_path))
  with av.open(str(tmp_path / "a" / "listen.mp4")) as film:
    assert [track.metadata.get("handler_name", track.metadata.get("title")) for track in film.streams.audio]
    assert len(film.streams.audio) == 4
    pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
  assert len(pictures) == 25 and pictures[0].shape == (96, 128, 3)
  green = [pictures[12][24 + y, 32 + x] for y in (0, 48) for x in (0, 64)]  # the middle of each panel
  assert [pixel[1] > pixel[0] + 30 for pixel in green] == [True, False, False, False]
  with av.open(str(tmp_path / "a" / "listen.mp4")) as film:
    loud = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=1)])
  assert np.abs(loud).max() < 1e-3  # the second track is silence
  assert Image.open(tmp_path / "a" / "listen.png").size[0] > 300


@pytest.mark.parametrize(("first", "painted"), [(0, False), (1, False), (0, True)])
def test_masks_of_another_program_are_judged(path, tmp_path, first, painted):
  masks = tmp_path / "masks"
  for name, value in (("own", 255), ("silence", 0), ("noise", 255), ("misaligned", 0)):
    (masks / name).mkdir(parents=True)
    for k in range(3):
      picture = Image.fromarray(np.full((24, 32), value // 255 if painted else value, np.uint8))
      if painted:  # index 1 of a palette, a dark red
        picture.putpalette([0, 0, 0, 128, 0, 0])
      picture.save(masks / name / f"frame_{k + first}.png")
  listen.command(pytest.fail, path, str(tmp_path / "out"), masks=str(masks))
  found = json.loads((tmp_path / "out" / "a" / "listen.json").read_text())
  assert (found["verdict"], found["judged"]) == ("partly", "masks of masks")
  assert "least under noise" in found["sentence"]
  assert [each.get("persists") for each in found["sounds"].values()] == [None, 0, 1, 0]


def test_masks_that_do_not_fit_are_refused(path, tmp_path):
  def attempt(folder, **settings):
    failed = listen.listen_files(None, path, str(tmp_path / "out"), masks=str(folder), **settings)
    if failed:
      raise InputError(failed[path])

  for name in ("silence", "noise"):
    (tmp_path / "masks" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / name / "0.png")
  with pytest.raises(InputError, match="holds no masks under the own sound"):
    attempt(tmp_path / "masks")
  for settings, words in (
    ({"start": 3.0, "end": 2.0}, "start=3, end=2.0: seconds are wanted"),
    ({"start": -2.0}, "start=-2"),
    ({"threshold": 1.5}, "threshold=1.5 must lie between 0 and 1"),
    ({"stride": 2}, "stride=2 is a model's step"),
  ):
    with pytest.raises(InputError, match=words):
      attempt(tmp_path / "masks", **settings)
  (tmp_path / "masks" / "positive").mkdir()
  with pytest.raises(InputError, match="positive: holds no PNG whose name ends in a number"):
    attempt(tmp_path / "masks")
  Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / "positive" / "0.png")
  with pytest.raises(InputError, match="there is no mask 1 under positive, and the video has that second"):
    attempt(tmp_path / "masks")
  attempt(tmp_path / "masks", end=1.0)
  Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "masks" / "positive" / "m_00.png")
  with pytest.raises(InputError, match="are both second 0; keep one of them"):
    attempt(tmp_path / "masks")
  for each in (tmp_path / "masks").rglob("*.png"):
    each.rename(each.with_name("7.png"))
  with pytest.raises(InputError, match="masks are numbered from 7; number the seconds from 0 or from 1"):
    attempt(tmp_path / "masks")


def test_of_many_videos_what_is_done_is_not_done_again_and_what_fails_is_named(path, tmp_path, capsys):
  folder, out = tmp_path / "in", str(tmp_path / "out")
  folder.mkdir()
  (folder / "b.mp4").write_bytes(b"nothing")
  for name in "ac":
    shutil.copy(path, folder / f"{name}.mp4")
  with pytest.raises(SystemExit) as ended:
    listen.command(lambda: Bright("tone"), str(folder), out, end=1.0)
  told = capsys.readouterr()
  assert ended.value.code == 1
  assert "1 of 3 inputs failed:" in told.err and "b.mp4 cannot be read as a video" in told.err
  assert told.out.count("It listens") == 2
  (folder / "b.mp4").unlink()
  stamps = {each: each.stat().st_mtime_ns for each in (tmp_path / "out").rglob("listen.*")}
  assert len(stamps) == 8
  listen.command(lambda: Bright("tone"), str(folder), out, end=1.0)
  assert stamps == {each: each.stat().st_mtime_ns for each in stamps}
  assert capsys.readouterr().out.count("It listens") == 2  # what was found before is said again
  for change in ({"threshold": 0.6}, {"offscreen": "sheep"}):
    listen.command(lambda: Bright("tone"), str(folder / "a.mp4"), out, end=1.0, **change)
    changed = {each: each.stat().st_mtime_ns for each in stamps}
    assert {each.parent.name for each in stamps if stamps[each] != changed[each]} == {"a"}
    stamps = changed


def test_verdicts_in_words():
  def say(own, *persists, areas=None, **more):
    areas = areas or [own * (stays or 0) for stays in persists]
    figures = {"positive": {"area": own}}
    pairs = zip(list(NAMES)[1:], persists, areas, strict=False)
    figures.update({name: {"area": area, "persists": stays} for name, stays, area in pairs})
    return listen.verdict(figures, NAMES, **more)

  assert say(0.25, 0.0, 0.1, 0.004) == (
    "listens",
    "It listens: of what is marked under the own sound (25 % of the picture) 0 % under silence, 10 % under noise,"
    " under 1 % under off-screen (rooster) stays; of the picture false alarms cover 0 % under silence, 2 % under noise,"
    " under 1 % under off-screen (rooster).",
  )
  assert say(0.2, 0.5, 0.9, 0.6)[0] == "deaf"
  assert say(0.2, 0.0, 0.0, 0.6)[1].startswith("It listens in part, least under off-screen (rooster)")
  # what is marked elsewhere is a false alarm too
  elsewhere = say(0.02, 0.0, 0.0, 0.0, areas=(0.0, 0.6, 0.0))
  assert elsewhere[0] == "partly" and elsewhere[1].startswith("It listens in part, least under noise")
  assert say(0.0, None, None, None)[0] == say(0.2)[0] == say(0.2, 0.0, has_sound=False)[0] == "unclear"
  assert "60 % under noise" in say(0.0, None, None, None, areas=(0.0, 0.6, 0.0))[1]


def test_a_silent_sound_track_is_no_sound_of_its_own(tmp_path):
  path = tmp_path / "quiet.mp4"
  with Film(str(path), (48, 64), 10.0, [(16_000, 1)]) as made:
    for k in range(20):
      made.picture(np.full((48, 64, 3), 230, np.uint8), k / 10)
    made.sound(np.r_[np.zeros((24_000, 1)), np.full((8_000, 1), 0.1)].astype(np.float32))
  footage = video.open_footage(str(path))
  assert listen.is_audible(footage, 0.0, None) and not listen.is_audible(footage, 0.0, 1.0)
  listen.command(lambda: Bright("nothing"), str(path), str(tmp_path / "out"), end=1.0)
  found = json.loads((tmp_path / "out" / "quiet" / "listen.json").read_text())
  assert found["verdict"] == "unclear" and "or a silent one" in found["sentence"]


def test_what_is_missing_is_said(path, tmp_path):
  with pytest.raises(InputError, match="--mode=listen needs --input=VIDEO"):
    listen.command(pytest.fail, path, None)
  with pytest.raises(InputError, match="are of one video, and --input="):
    (tmp_path / "b.mp4").touch()
    (tmp_path / "c.mp4").touch()
    listen.command(pytest.fail, str(tmp_path / "*.mp4"), "out", masks="masks")
