"""The folder of an input: named by what is meant, replaced only where it is ours."""

import json
import os

import pytest

from avs_jax.errors import InputError
from avs_jax.own_video import folder


@pytest.mark.parametrize(
  ("given", "name"),
  [
    ("..", "frames"),
    (".", "sub"),
    ("../sub/", "sub"),
    ("...mp4", "...mp4"),
    ("a.b.mp4", "a.b"),
    (".mp4", ".mp4"),
  ],
)
def test_results_lie_straight_under_the_output_whatever_the_input_is_called(
  tmp_path, monkeypatch, given, name
):
  (tmp_path / "frames" / "sub").mkdir(parents=True)
  monkeypatch.chdir(tmp_path / "frames" / "sub")
  (found,) = folder.folders([given], str(tmp_path / "out"))
  assert found.name == name and os.path.dirname(os.path.abspath(found)) == str(tmp_path / "out")


def test_the_root_of_a_disk_has_no_name():
  with pytest.raises(InputError, match="the root of a disk has no name for its results"):
    folder.folders(["/"], "out")


def fill(home, text, mode="predict"):
  with folder.whole(home, mode) as partial:
    (partial / folder.DONE).write_text(json.dumps({"mode": mode}))
    (partial / "text").write_text(text)


def test_a_folder_of_ours_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
  home = tmp_path / "out" / "a"
  fill(home, "one")
  (home / "masks").mkdir()
  fill(home, "two")
  assert sorted(path.name for path in home.iterdir()) == [folder.DONE, "text"]
  assert (home / "text").read_text() == "two"
  assert [path.name for path in home.parent.iterdir()] == ["a"]
  with pytest.raises(InputError, match="is there and was not written by --mode=listen"):
    fill(home, "three", "listen")


def test_what_others_put_there_while_we_worked_is_not_removed(tmp_path):
  home = tmp_path / "out" / "a"
  with pytest.raises(InputError, match="a cannot be written"), folder.whole(home, "predict") as partial:
    (partial / folder.DONE).write_text('{"mode": "predict"}')
    home.mkdir()
    (home / "thesis.txt").write_text("years")
  assert (home / "thesis.txt").read_text() == "years"
  assert [path.name for path in home.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mode": "listen"}', "3"])
def test_only_a_folder_of_the_same_mode_is_ours(tmp_path, text):
  (tmp_path / folder.DONE).write_text(text)
  assert not folder.is_ours(tmp_path, "predict")


@pytest.mark.parametrize("text", ["[]", "null", "{}", "3", "no JSON", '{"digest": "other"}'])
def test_a_folder_that_says_something_else_is_not_done(tmp_path, text):
  (tmp_path / folder.DONE).write_text(text)
  assert not folder.is_done(tmp_path, {"digest": "this"}, ())
  (tmp_path / folder.DONE).write_text(json.dumps({"digest": "this"}))
  assert folder.is_done(tmp_path, {"digest": "this"}, ())
