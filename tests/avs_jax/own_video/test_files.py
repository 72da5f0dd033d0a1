"""Many videos: what is done is skipped, what fails is named at the end, what was stopped is begun again."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from avs_jax.own_video import files
from avs_jax.own_video.film import Film
from avs_jax.predict import Predictor

ALL = ("overlay", "masks", "rle", "csv", "npz")


class Bright(Predictor):
  """Marks bright pixels; counts how often it is asked."""

  def __init__(self, digest="0"):
    self.seconds, self.size, self.batch, self.class_names = 2, 16, 1, ()
    self.stereo = False
    self.name, self.weights_digest, self.asked = "bright", digest, 0

  def _judge(self, group):
    self.asked += 1
    frames = [w.frames + w.frames[-1:] * (2 - len(w.frames)) for w in group]
    return [[{"coarse": f[..., 0].astype(np.float32) / 255} for f in each] for each in frames]


def film(path, pictures=25):
  with Film(path, (32, 48), 10.0, [(16_000, 1)]) as made:
    for k in range(pictures):
      frame = np.full((32, 48, 3), 20, np.uint8)
      frame[8:24, k : k + 20] = 230
      made.picture(frame, k / 10)
    made.sound(0.1 * np.sin(np.arange(1_600 * pictures) * 0.2)[:, None])
  return str(path)


@pytest.fixture
def videos(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  for name in "ab":
    film(folder / f"{name}.mp4")
  return folder


def contents(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_input_gets_its_folder_and_the_same_call_the_same_bytes(videos, tmp_path):
  for name in ("one", "two"):
    assert files.predict_files(Bright(), str(videos), str(tmp_path / name), write=ALL) == {}
  one = contents(tmp_path / "one")
  assert one == contents(tmp_path / "two")
  names = ["arrays.npz", "done.json", "masks.json", "overlay.mp4", "timeline.csv"]
  assert sorted(one) == sorted(
    f"{v}/{n}" for v in "ab" for n in [*names, *(f"masks/0000{k}.png" for k in range(3))]
  )
  done = json.loads(one["a/done.json"])
  assert (done["model"], done["video"]["duration_s"]) == ({"name": "bright", "weights": "0"}, 2.5)


def test_what_is_done_is_skipped_until_something_changes(videos, tmp_path):
  out, model = str(tmp_path / "out"), Bright()

  def asked(predictor=model, **settings) -> int:
    before = predictor.asked
    files.predict_files(predictor, str(videos), out, write=("csv",), **settings)
    return predictor.asked - before

  assert asked() == 4
  assert asked() == 0
  assert asked(threshold=0.6) == 4
  assert asked(Bright("another"), threshold=0.6) == 4
  os.utime(videos / "a.mp4", (1, 1))
  assert asked(Bright("another"), threshold=0.6) == 2
  (tmp_path / "out" / "b" / "timeline.csv").unlink()
  assert asked(Bright("another"), threshold=0.6) == 2


def test_a_stopped_run_leaves_no_half_folder_and_goes_on(videos, tmp_path, monkeypatch):
  out, judge = tmp_path / "out", Bright._judge

  def stopped(self, group):
    if self.asked == 3:
      raise KeyboardInterrupt
    return judge(self, group)

  monkeypatch.setattr(Bright, "_judge", stopped)
  with pytest.raises(KeyboardInterrupt):
    files.predict_files(Bright(), str(videos), str(out), write=ALL)
  assert [p.name for p in out.iterdir()] == ["a"]
  (out / ".b.partial").mkdir()  # as a killed process leaves it
  (out / ".b.partial" / "masks.json").write_text("{")
  monkeypatch.setattr(Bright, "_judge", judge)
  again = Bright()
  assert files.predict_files(again, str(videos), str(out), write=ALL) == {}
  assert again.asked == 2
  assert sorted(p.name for p in out.iterdir()) == ["a", "b"]


def test_what_failed_is_named_at_the_end_and_the_rest_is_done(videos, tmp_path, capsys):
  (videos / "aa.mp4").write_bytes(b"nothing")
  with pytest.raises(SystemExit) as ended:
    files.command(Bright, str(videos), str(tmp_path / "out"), write="csv")
  assert ended.value.code == 1
  told = capsys.readouterr().err
  assert "1 of 3 inputs failed:" in told and "aa.mp4 cannot be read as a video" in told
  assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]


def test_a_defect_in_one_video_does_not_cost_the_others(videos, tmp_path, monkeypatch):
  judge = Bright._judge

  def defect(self, group):
    if self.asked == 0:
      self.asked = 1
      raise ZeroDivisionError("by zero")
    return judge(self, group)

  monkeypatch.setattr(Bright, "_judge", defect)
  failed = files.predict_files(Bright(), str(videos), str(tmp_path / "out"), write=("csv",))
  assert list(failed.values()) == ["ZeroDivisionError: by zero"]
  assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]


def test_folders_of_others_are_left_alone_and_names_must_differ(videos, tmp_path):
  (tmp_path / "out" / "a").mkdir(parents=True)
  (tmp_path / "out" / "a" / "letter.txt").write_text("dear")
  failed = files.predict_files(Bright(), str(videos / "a.mp4"), str(tmp_path / "out"), write=("csv",))
  assert "was not written by --mode=predict; give another --output" in failed[str(videos / "a.mp4")]
  assert (tmp_path / "out" / "a" / "letter.txt").exists()
  assert [f.name for f in files.folders(["x/a.mp4", "x/a.mov", "x/b.mp4"], "out")] == [
    "a.mp4",
    "a.mov",
    "b",
  ]
  with pytest.raises(InputError, match="two inputs are called a.mp4"):
    files.folders(["x/a.mp4", "y/a.mp4"], "out")


def test_settings_that_make_no_sense_are_refused_before_anything_is_done(videos, tmp_path):
  out = str(tmp_path / "out")
  for settings, said in (
    ({"every": "minute"}, "every='minute' is unknown"),
    ({"start": 3.0, "end": 2.0}, "start=3, end=2.0: seconds are wanted, start 0 or more, and end later"),
    ({"write": "gif"}, "'gif' cannot be written"),
  ):
    with pytest.raises(InputError, match=said):
      files.command(Bright, str(videos), out, **settings)
  with pytest.raises(InputError, match="--mode=predict needs --input=VIDEO"):
    files.command(Bright, None, out)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["..", "../...mp4"])
def test_an_input_of_dots_costs_nobody_a_file(tmp_path, monkeypatch, given):
  work = tmp_path / "frames" / "work"
  work.mkdir(parents=True)
  (work / "thesis.txt").write_text("years")
  film(tmp_path / "frames" / "...mp4")
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "frames" / "1.png")
  monkeypatch.chdir(work)
  for _ in range(2):
    assert files.predict_files(Bright(), given, "out", write=("csv",)) == {}
  assert (work / "thesis.txt").read_text() == "years"
  assert sorted(path.name for path in work.iterdir()) == ["out", "thesis.txt"]
  assert len(list((work / "out").iterdir())) == 1


def test_every_line_of_the_list_names_its_input(capsys):
  with pytest.raises(SystemExit):
    files.tell({"a.mp4": "a.mp4 cannot be read.", "b.mp4": "ZeroDivisionError: by zero"}, 3, "out")
  told = capsys.readouterr().err
  assert "  a.mp4 cannot be read.\n" in told and "  b.mp4: ZeroDivisionError: by zero\n" in told


@pytest.mark.parametrize(
  "settings",
  [{"start": float("nan")}, {"end": float("inf")}, {"end": float("nan")}, {"threshold": float("nan")}],
)
def test_what_is_no_number_is_refused(videos, tmp_path, settings):
  with pytest.raises(InputError, match="seconds are wanted|threshold=nan must lie"):
    files.predict_files(Bright(), str(videos), str(tmp_path / "out"), **settings)
