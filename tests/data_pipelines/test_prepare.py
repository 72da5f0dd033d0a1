"""A stand-in is written out once in either form and read again as the config says."""

import contextlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from avs_jax.errors import InputError
from configs import tiny
from data_pipelines import sources
from data_pipelines.avsbench_index import HOMES
from data_pipelines.prepare import SPLITS, prepare


@pytest.fixture
def config():
  chosen = tiny.get_config()
  with chosen.unlocked():
    chosen.data.clips = ConfigDict({"train": 2, "val": 1, "test": 1})
  return chosen


@pytest.mark.parametrize("form", ["layout", "array_record"])
def test_all_splits_are_written_and_come_back_with_their_masks(config, tmp_path, form):
  written = {split: sources.build(config, split) for split in SPLITS}
  with config.unlocked():
    config.prepare.form = form
  prepare(config, str(tmp_path / "out"))
  with config.unlocked():
    config.data.root, config.data.packed = str(tmp_path / "out"), form == "array_record"
  for split, source in written.items():
    again = sources.build(config, split)
    assert (len(again), again.is_stand_in) == (len(source), True)
    ours = {source.ids[k].split("/")[-1]: source.clip(k) for k in range(len(source))}
    for index in range(len(again)):
      clip = again.clip(index)
      (match,) = [each for name, each in ours.items() if name in clip.id]
      np.testing.assert_array_equal(clip.annotated, match.annotated)
      np.testing.assert_array_equal(clip.masks[clip.annotated], match.masks[clip.annotated])
      np.testing.assert_array_equal(clip.frames, match.frames)


@pytest.mark.parametrize("output", [None, ""])
def test_a_folder_to_write_to_is_needed(config, output):
  with pytest.raises(InputError, match="--mode=prepare needs --output=FOLDER to write the data set to"):
    prepare(config, output)


def test_an_unknown_form_is_refused_before_anything_is_written(config, tmp_path):
  with config.unlocked():
    config.prepare.form = "zip"
  with pytest.raises(InputError, match="prepare.form='zip' is not known; choose one of array_record, layout"):
    prepare(config, str(tmp_path / "out"))
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("root", "output", "is_same"),
  [
    ("", "", True),
    (HOMES["MS3"], "", True),
    ("", "elsewhere/..", True),
    ("", "sub", False),
    ("", "..", False),
  ],
)
def test_a_data_set_is_not_written_over_itself(config, tmp_path, root, output, is_same):
  files = tmp_path / "here" / "files"
  with config.unlocked():
    config.prepare.form, config.data.name = "layout", "ms3"
  prepare(config, str(files))
  before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
  with config.unlocked():
    config.data.root, config.data.size = str(files / root), 16
  refused = pytest.raises(InputError, match="writing there would replace what is read; give another folder")
  with refused if is_same else contextlib.nullcontext():
    prepare(config, str(files / output))
  assert before == {path: path.read_bytes() for path in before}


def test_a_file_is_no_folder_to_write_to(config, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="file: the folder cannot be made"):
    prepare(config, str(tmp_path / "file"))
