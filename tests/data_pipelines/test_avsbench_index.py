"""Names, paths and listings; the reader's tests cover the rest of the index."""

import pytest

from avs_jax.errors import InputError
from data_pipelines import avsbench_index as index


@pytest.mark.parametrize(
  ("name", "subset"),
  [
    ("s4", "S4"),
    ("V1S", "S4"),
    ("Single_source", "S4"),
    ("v1m", "MS3"),
    ("V2", "AVSS"),
    ("avss", "AVSS"),
  ],
)
def test_every_name_in_use_finds_its_subset(name, subset):
  assert index.subset_name(name) == subset


def test_an_unknown_name_is_answered_with_the_known_ones():
  with pytest.raises(InputError, match=r"'vpo'.*choose s4 \(V1S\), ms3 \(V1M\) or avss \(V2\)"):
    index.subset_name("vpo")


def test_the_published_paths_written_out(tmp_path):
  row = {"name": "n_1", "category": "helicopter", "split": "train"}
  clip = index.s4(tmp_path, "train", row, frozenset())
  assert clip.frames[4] == f"{tmp_path}/s4_data/visual_frames/train/helicopter/n_1/n_1_5.png"
  assert clip.masks == (f"{tmp_path}/s4_data/gt_masks/train/helicopter/n_1/n_1_1.png",)
  assert clip.log_mel == f"{tmp_path}/s4_data/audio_log_mel/train/helicopter/n_1.pkl"
  clip = index.ms3(tmp_path, "val", {"video_id": "v"}, frozenset())
  assert clip.frames[0] == f"{tmp_path}/ms3_data/visual_frames/v/v.mp4_1.png" and len(clip.masks) == 5
  clip = index.avss(tmp_path, "train", {"uid": "u", "label": "v2"}, frozenset())
  assert clip.frames[9] == f"{tmp_path}/v2/u/frames/9.jpg" and len(clip.masks) == 10
  assert len(index.avss(tmp_path, "val", {"uid": "u", "label": "v1s"}, frozenset()).masks) == 5


def test_missing_lists_each_folder_once_and_keeps_the_order(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "1").touch()
  listing = {}
  files = [str(tmp_path / "b" / "1"), str(tmp_path / "a" / "1"), str(tmp_path / "a" / "2")]
  assert index.missing(files, listing) == [files[0], files[2]]
  assert set(listing) == {str(tmp_path / "a"), str(tmp_path / "b")}
