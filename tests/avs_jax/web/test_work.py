"""A job's files and figures, with a true model too; what is too long or too large is a sentence."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the web page is optional: pip install -r requirements-web.txt")

from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, example_inputs
from avs_jax.own_video.film import Film
from avs_jax.predict import Predictor
from avs_jax.web import work
from avs_jax.web.jobs import Cancelled, Limits
from data_pipelines import video
from data_pipelines.clips import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def film(tmp_path_factory):
  """film(seconds, loud, size) -> an mp4 with noise of that level, or without a sound track."""
  folder = tmp_path_factory.mktemp("films")

  def make(seconds: int = 2, loud: float | None = 0.15, size: tuple[int, int] = (48, 64)):
    path = folder / f"{seconds}_{loud}_{size[0]}.mp4"
    rng = np.random.default_rng(0)
    with Film(path, size, 1.0, [] if loud is None else [(SAMPLE_RATE_HZ, 1)]) as written:
      for k in range(seconds):
        written.picture(rng.integers(0, 255, (*size, 3), np.uint8), float(k))
      if loud is not None:
        written.sound(rng.normal(0, loud, (seconds * SAMPLE_RATE_HZ, 1)).astype(np.float32))
    return str(path)

  return make


def ask(path: str, **more) -> dict:
  return {"video": path, "name": "my film", "sound": "own", "every": "second", "four": False, **more}


def test_a_true_model_marks_a_video_and_is_asked_whether_it_listens(small, devices, film, tmp_path):
  config = small()
  variables = initialise(build_model(config), *example_inputs(config), seed=0)
  variables.setdefault("batch_stats", {})
  predictor = Predictor(config, variables)
  told = []
  summary, files = work.Work(predictor, Limits())(
    ask(film(), four=True), tmp_path, lambda done, doing: told.append((done, doing))
  )
  assert set(files) == {*work.FILES, *work.FOUR_FILES}
  assert all((tmp_path / name).stat().st_size > 0 for name in files)
  assert [(row["start_s"], row["end_s"]) for row in summary["timeline"]] == [(0.0, 1.0), (1.0, 2.0)]
  direct = [said.area for said in predictor.predict(film())]
  assert [row["area"] for row in summary["timeline"]] == pytest.approx(direct, abs=1e-4)
  assert summary["four"]["verdict"] and summary["mean_similarity"] is None
  assert json.loads((tmp_path / "listen.json").read_text())["source"] == "my film"
  assert [done for done, _ in told] == sorted(done for done, _ in told)
  assert told[-1] == (1.0, "The four sounds …")
  assert work.about(predictor)["is_stand_in"]


def test_the_sound_that_was_chosen_is_the_one_that_is_heard(listener, film, tmp_path):
  areas = {}
  for sound in ("own", "silence", "noise", "offscreen", "file"):
    folder = tmp_path / sound
    folder.mkdir()
    wish = ask(film(loud=0.01), sound=sound, sound_file=film(loud=0.3), sound_name="loud.wav")
    summary, _ = work.Work(listener, Limits())(wish, folder, lambda *_: None)
    areas[sound] = summary["mean_area"]
    assert next(iter(video.open_footage(folder / "overlay.mp4").blocks(0.0))).any() == (sound != "silence")
  assert areas["silence"] == 0 < areas["own"] < areas["noise"] < areas["file"]
  assert areas["offscreen"] > 0


def test_a_silent_video_says_so_in_the_visitors_words(listener, film, tmp_path):
  summary, files = work.Work(listener, Limits())(ask(film(loud=None), four=True), tmp_path, lambda *_: None)
  assert summary["notes"] == ["my film has no sound track; it counts as silence"]
  assert summary["sounding_s"] == 0
  for name in files:
    if name.endswith((".json", ".csv")):
      assert str(tmp_path.parent) not in (tmp_path / name).read_text()
  with zipfile.ZipFile(tmp_path / "masks.zip") as archive:
    assert archive.namelist() == ["masks/00000.png", "masks/00001.png"]


def test_too_long_or_too_large_a_video_is_a_sentence(listener, film, tmp_path, monkeypatch):
  with pytest.raises(
    InputError, match="my film lasts 4 s; at most 2 s are taken here: cut it, or use run.py"
  ):
    work.Work(listener, Limits(seconds=2.0))(ask(film(4)), tmp_path, lambda *_: None)
  monkeypatch.setattr(work, "MOST_PIXELS", 100)
  with pytest.raises(InputError, match="my film is 64 x 48 pixels"):
    work.Work(listener, Limits())(ask(film()), tmp_path, lambda *_: None)


def test_a_video_that_does_not_say_how_long_it_is_is_looked_through(listener, tmp_path, monkeypatch):
  pictures = np.zeros((40, 48, 64, 3), np.uint8)
  for count, is_taken in ((30, True), (40, False)):
    untold = dataclasses.replace(video.of_arrays(pictures[:count], fps=10.0), duration_s=None)
    monkeypatch.setattr(video, "open_footage", lambda path, untold=untold: untold)
    opened = work.Work(listener, Limits(seconds=2.0)).open
    if is_taken:
      assert opened(ask("live.webm")).duration_s is None
    else:
      with pytest.raises(InputError, match="my film lasts more than 3 s; at most 2 s are taken here"):
        opened(ask("live.webm"))


def test_a_job_that_was_removed_leaves_its_writers_in_order(listener, film, tmp_path):
  def tell(done, doing):
    if done > 0.4:
      raise Cancelled

  with pytest.raises(Cancelled):
    work.Work(listener, Limits())(ask(film()), tmp_path, tell)
  assert not (tmp_path / "overlay.mp4").exists()
