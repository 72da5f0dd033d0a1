"""The check names what is there, missing, broken and odd, split by split, and never needs jax to answer."""

import json
import logging
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import audio, avsbench_index, check

SIDE = 8


def config(root, name: str = "ms3") -> ConfigDict:
  return ConfigDict({"data": {"root": str(root), "name": name, "packed": False}})


@pytest.fixture
def ms3(tmp_path):
  """One clip in train and val, two in test."""
  home, rng = tmp_path / "Multi-sources", np.random.default_rng(0)
  rows = [("a", "train"), ("b", "val"), ("c", "test"), ("d", "test")]
  for name, split in rows:
    frames, masks = home / f"ms3_data/visual_frames/{name}", home / f"ms3_data/gt_masks/{split}/{name}"
    sounds = home / f"ms3_data/audio_wav/{split}"
    for folder in (frames, masks, sounds):
      folder.mkdir(parents=True, exist_ok=True)
    for k in range(1, 6):
      Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)).save(
        frames / f"{name}.mp4_{k}.png"
      )
      Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(masks / f"{name}_{k}.png")
    audio.write_wav(sounds / f"{name}.wav", np.zeros(80_000))
  lines = ["video_id,split", *(f"{name},{split}" for name, split in rows)]
  (home / "ms3_meta_data.csv").write_text("\n".join(lines))
  return home


@pytest.fixture
def as_if_published(monkeypatch):
  monkeypatch.setitem(avsbench_index.PUBLISHED_CLIPS, "MS3", {"train": 1, "val": 1, "test": 2})


def test_a_whole_data_set_passes(ms3, tmp_path, capsys, as_if_published):
  assert check.check(config(tmp_path), tmp_path / "out") == 0
  said = capsys.readouterr().out
  assert "Every clip is there." in said and "test: 2 clips, 2 whole; sound 2 wav, 0 log-mel" in said
  kept = json.loads((tmp_path / "out" / "data_check.json").read_text())
  assert kept["data"]["splits"]["test"]["files"] == 22 and kept["data"]["whole"]


def test_fewer_clips_than_published_do_not_pass(ms3):
  report = check.inspect(ms3, "ms3")
  assert not report["whole"] and report["splits"]["train"]["whole"] == 1
  found = {"surroundings": {"versions": {}, "devices": []}, "data": report}
  assert "train: 1 clips (296 published)" in check.text(found)


def test_missing_broken_and_odd_files_are_listed_by_name(ms3, tmp_path, capsys, as_if_published):
  data = ms3 / "ms3_data"
  (data / "gt_masks/val/b/b_2.png").unlink()
  cut = data / "visual_frames/c/c.mp4_1.png"
  cut.write_bytes(cut.read_bytes()[:60])
  Image.fromarray(np.full((SIDE, SIDE), 100, np.uint8)).save(data / "gt_masks/test/d/d_3.png")
  Image.fromarray(np.zeros((3, 3), np.uint8)).save(data / "gt_masks/test/c/c_5.png")
  (data / "audio_wav/train/a.wav").write_bytes(b"RIFF")
  assert check.check(config(tmp_path), tmp_path) == 1
  splits = json.loads((tmp_path / "data_check.json").read_text())["data"]["splits"]
  assert [path.rsplit("/", 1)[1] for path in splits["val"]["missing"]] == ["b_2.png"]
  assert [one["file"].rsplit("/", 1)[1] for one in splits["test"]["broken"]] == ["c.mp4_1.png", "c_5.png"]
  assert [one["file"].rsplit("/", 1)[1] for one in splits["test"]["odd"]] == ["d_3.png"]
  assert "not a WAV" in splits["train"]["broken"][0]["problem"]
  assert [splits[name]["whole"] for name in ("train", "val", "test")] == [0, 0, 1]
  said = capsys.readouterr().out
  for name in ("b_2.png", "c.mp4_1.png", "d_3.png", "a.wav", "OpenNLPLab/AVSBench"):
    assert name in said


def test_sounds_too_short_or_too_long_for_their_clips_are_odd(ms3, tmp_path, capsys, as_if_published):
  for name, split, seconds in (("a", "train", 0.3), ("b", "val", 4.82), ("c", "test", 37), ("d", "test", 6)):
    audio.write_wav(ms3 / f"ms3_data/audio_wav/{split}/{name}.wav", np.zeros(round(seconds * 16_000)))
  splits = check.inspect(tmp_path, "ms3")["splits"]
  assert {split: [one["problem"] for one in found["odd"]] for split, found in splits.items()} == {
    "train": ["0.30 s of sound cannot fill the clip's 5 s, which need 4.815 s"],
    "val": [],
    "test": ["37.00 s of sound for a clip of 5 s; what is longer is cut off"],
  }
  assert check.check(config(tmp_path), tmp_path / "out") == 0  # they can be read
  assert "odd 1: ms3_data/audio_wav/train/a.wav: 0.30 s of sound cannot" in capsys.readouterr().out


def test_long_lists_are_cut_on_the_screen_and_whole_in_the_file(ms3, tmp_path, capsys):
  for name in ("c", "d"):
    for k in range(1, 6):
      (ms3 / f"ms3_data/gt_masks/test/{name}/{name}_{k}.png").unlink()
  check.check(config(tmp_path), tmp_path, read_files=False)
  assert "missing 10: " in (said := capsys.readouterr().out) and "and 5 more" in said
  assert (
    len(json.loads((tmp_path / "data_check.json").read_text())["data"]["splits"]["test"]["missing"]) == 10
  )


def test_published_log_mel_counts_as_sound_and_bad_pickles_are_broken(golden, ms3, as_if_published):
  sample = golden("avsbench/log_mel_sample.pkl").read_bytes()
  for name, split in (("a", "train"), ("b", "val"), ("c", "test"), ("d", "test")):
    (ms3 / f"ms3_data/audio_wav/{split}/{name}.wav").unlink()
    path = ms3 / f"ms3_data/audio_log_mel/{split}/{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample)
  assert check.inspect(ms3, "ms3")["whole"]
  path.write_bytes(pickle.dumps({"not": "a tensor"}))
  assert check.inspect(ms3, "ms3")["splits"]["test"]["broken"][0]["file"].endswith("d.pkl")


def test_the_kind_of_sound_that_the_config_reads_is_the_one_that_must_be_there(
  ms3, tmp_path, as_if_published, capsys
):
  for name, split in (("a", "train"), ("b", "val"), ("c", "test"), ("d", "test")):
    path = ms3 / f"ms3_data/audio_log_mel/{split}/{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
  (ms3 / "ms3_data/audio_wav/test/d.wav").unlink()
  for kind, is_whole in (("auto", True), ("log_mel", True), ("wav", False)):
    report = check.inspect(ms3, "ms3", read_files=False, audio=kind)
    assert report["whole"] == is_whole
    assert [path.endswith("d.wav") for path in report["splits"]["test"]["missing"]] == [True] * (not is_whole)
  chosen = config(ms3)
  with chosen.unlocked():
    chosen.data.audio = "wav"
  assert check.check(chosen, tmp_path / "out", read_files=False) == 1
  assert "d.wav" in capsys.readouterr().out


def test_a_split_without_rows_is_said_and_the_rest_goes_on(ms3, as_if_published):
  (ms3 / "ms3_meta_data.csv").write_text("video_id,split\na,train\n")
  report = check.inspect(ms3, "ms3")
  assert "no row of the split 'val'" in report["splits"]["val"]["error"]
  assert report["splits"]["train"]["whole"] == 1 and not report["whole"]
  assert "no row" in check.text({"surroundings": check.surroundings(), "data": report})


def test_a_stand_in_in_the_layout_is_not_taken_for_the_real_set(ms3):
  (ms3 / "stand_in.json").write_text('{"titles": {"train": "toy clips"}, "broad": {}}')
  report = check.inspect(ms3, "ms3")
  assert report["whole"] and report["stand_in"] == "toy clips"
  assert "NOT the real data set: toy clips" in check.text(
    {"surroundings": check.surroundings(), "data": report}
  )


def test_without_a_root_it_says_where_the_data_come_from(tmp_path, capsys):
  assert check.check(config(""), tmp_path) == 0
  said = capsys.readouterr().out
  assert "data.root is empty" in said and "OpenNLPLab/AVSBench" in said


def test_versions_and_devices_are_named():
  found = check.surroundings()
  assert found["versions"]["numpy"] == np.__version__ and "jax" in found["versions"]
  assert found["devices"] and all(device.startswith("cpu") for device in found["devices"])


def test_a_jax_that_does_not_start_is_reported(monkeypatch):
  import jax

  def refuse():
    raise AssertionError("no\nplugin")

  monkeypatch.setattr(jax, "devices", refuse)
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  found = check.surroundings()
  assert found["devices"] == ["none (AssertionError, JAX_PLATFORMS=cuda: no plugin)"]
  assert "libtpu" not in found["versions"]  # said only where it is there


def test_a_wrong_root_or_name_is_a_sentence(tmp_path):
  with pytest.raises(InputError, match="ms3_meta_data"):
    check.check(config(tmp_path), tmp_path)
  with pytest.raises(InputError, match="is not a data set"):
    check.check(config(tmp_path, "s9"), tmp_path)
  packed = config(tmp_path)
  packed.data.packed = True
  with pytest.raises(InputError, match=r"data\.packed"):
    check.check(packed, tmp_path)


def test_it_says_for_how_many_clips_the_objects_are_known_and_what_cannot_be_judged(ms3, tmp_path, capsys):
  assert check.inspect(ms3, "V1M", read_files=False)["splits"]["test"]["objects"] == 0
  check.check(config(tmp_path, "V1M"), tmp_path / "out", read_files=False)
  said = capsys.readouterr().out
  assert "objects known of no clip: off-screen sounds" in said and "metadata.csv beside Multi-sources" in said
  assert "log-mels alone" not in said
  semantic = tmp_path / "AVSBench-semantic"
  semantic.mkdir()
  (semantic / "metadata.csv").write_text("uid,label,split,a_obj\na,v1m,train,dog\nc,v1m,test,man_piano\n")
  check.check(config(tmp_path), tmp_path / "out", read_files=False)
  said = capsys.readouterr().out
  assert (
    "objects known of 1 clips: the others' off-screen sound" in said and "objects known of 1 clips\n" in said
  )


def test_log_mels_alone_leave_out_what_needs_the_sound(ms3):
  for path in sorted(ms3.rglob("*.wav")):
    log_mel = ms3 / "ms3_data/audio_log_mel" / path.parent.name / f"{path.stem}.pkl"
    log_mel.parent.mkdir(parents=True, exist_ok=True)
    path.rename(log_mel)
  report = check.inspect(ms3, "ms3", read_files=False)
  said = check.text({"surroundings": {"versions": {}, "devices": []}, "data": report})
  assert said.count("log-mels alone: own sounds under noise (eval.noise_mix)") == 3


def test_the_reading_of_many_clips_says_how_far_it_is(ms3, caplog, monkeypatch):
  monkeypatch.setattr(check, "CLIPS_A_MESSAGE", 2)
  with caplog.at_level(logging.INFO, logger="data_pipelines"):
    check.inspect(ms3, "ms3")
  assert caplog.messages == ["MS3 test: 2 of 2 clips read"]
