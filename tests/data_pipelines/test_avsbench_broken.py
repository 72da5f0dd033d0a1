"""What the reader says of files that are damaged, missing or unlike their neighbours: one sentence each."""

import io
import pickle
import wave

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import audio, avsbench_index, sources
from data_pipelines.avsbench import AVSBench
from tests.data_pipelines.conftest import blob, log_mel_pickles, noise, png, table


class Harmful:
  def __reduce__(self):
    return (exec, ("raise SystemExit('the pickle was run')",))


def test_a_hostile_or_broken_pickle_is_refused_by_name(golden, ms3):
  log_mel_pickles(golden, ms3)
  path = ms3 / "ms3_data/audio_log_mel/val/x1.pkl"
  source = AVSBench(ms3, "ms3", "val", audio="log_mel")
  whole = path.read_bytes()
  harmful = pickle.dumps(Harmful())
  for data in (harmful, whole[:-1000], b"", pickle.dumps([1, 2, 3])):
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x1\.pkl"):
      source.clip(0)


def test_a_truncated_frame_is_named_when_it_is_read(ms3):
  path = ms3 / "ms3_data/visual_frames/x1/x1.mp4_3.png"
  path.write_bytes(path.read_bytes()[:100])
  source = AVSBench(ms3, "ms3", "val")
  with pytest.raises(InputError, match=r"x1\.mp4_3\.png.*truncated"):
    source.clip(0)
  source.clip(1)


def test_a_picture_of_another_size_is_named_with_both_sizes(ms3):
  png(ms3 / "ms3_data/visual_frames/x2/x2.mp4_2.png", noise(30))
  with pytest.raises(InputError, match=r"x2\.mp4_2\.png: 30x30 pixels where 24x24"):
    AVSBench(ms3, "ms3", "val").clip(1)
  png(ms3 / "ms3_data/gt_masks/val/x1/x1_1.png", blob(10))
  for size in (None, 24):
    with pytest.raises(InputError, match=r"x1_1\.png: 10x10"):
      AVSBench(ms3, "ms3", "val", size=size).clip(0)


def test_sound_of_another_rate_length_or_channel_count_is_read(ms3):
  x = (3000 * np.random.default_rng(0).standard_normal((3 * 44_100, 2))).astype("<i2")
  head = io.BytesIO()
  with wave.open(head, "wb") as file:
    file.setnchannels(2)
    file.setsampwidth(2)
    file.setframerate(44_100)
    file.writeframes(x.tobytes())
  (ms3 / "ms3_data/audio_wav/val/x1.wav").write_bytes(head.getvalue())
  clip = AVSBench(ms3, "ms3", "val").clip(0)
  assert clip.waveform.shape == (48_000,)
  examples = audio.clip_log_mel(clip.waveform)
  assert examples.shape == (5, 96, 64) and (examples[3:] == examples[2]).all()


def test_a_truncated_wav_is_named(ms3):
  path = ms3 / "ms3_data/audio_wav/val/x1.wav"
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(InputError, match=r"x1\.wav: truncated"):
    AVSBench(ms3, "ms3", "val").clip(0)


def test_missing_files_are_counted_and_named_at_construction(s4):
  (s4 / "s4_data/gt_masks/train/dog_barking/aa_1/aa_1_1.png").unlink()
  with pytest.raises(InputError, match=r"1 of 2 clips lack files, 1 in all: .*aa_1_1\.png; run --mode=check"):
    AVSBench(s4, "s4", "train")
  source = AVSBench(s4, "s4", "train", allow_missing=True)
  assert source.ids == ("bb_2",) and source.clip(0).id == "bb_2"
  assert source.left_out == "the csv lists 2 clips, 3452 were published; 1 of 2 clips lack files"
  (s4 / "s4_data/audio_wav/train/playing_piano/bb_2.wav").unlink()
  with pytest.raises(InputError, match="2 of 2 clips"):
    AVSBench(s4, "s4", "train", allow_missing=True)


def test_a_csv_of_fewer_clips_than_published_is_said(ms3, monkeypatch, caplog):
  assert AVSBench(ms3, "ms3", "val").left_out == "the csv lists 2 clips, 64 were published"
  assert "MS3 val in" in caplog.text and "64 were published" in caplog.text
  monkeypatch.setitem(avsbench_index.PUBLISHED_CLIPS, "MS3", {"val": 2})
  source = AVSBench(ms3, "ms3", "val")
  assert source.left_out == ""
  assert sources.Limited(source, 1).left_out == "only the first 1 of 2 clips"


def test_a_csv_row_without_any_files_is_named(ms3):
  table(ms3 / "ms3_meta_data.csv", ("video_id", "split"), ("x1", "val"), ("ghost", "val"))
  with pytest.raises(
    InputError, match=r"11 in all: ms3_data/visual_frames/ghost/ghost\.mp4_1\.png, .*\.\.\."
  ):
    AVSBench(ms3, "ms3", "val")


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("name,split\nx1,val\n", "no column video_id .it has name, split"),
    ("", "no column video_id, split .it has none"),
    ("video_id,split\nx1,train\n", "no row of the split 'val' .it has train"),
    ("video_id,split\n../x1,val\n", "row 2 has video_id='../x1'"),
    ("video_id,split\nx1\n", "row 2 has split=''"),
    ("video_id,split\n,val\n", "row 2 has video_id=''"),
  ],
)
def test_a_broken_csv_is_named_with_what_is_wrong(ms3, text, said):
  (ms3 / "ms3_meta_data.csv").write_text(text)
  with pytest.raises(InputError, match=rf"ms3_meta_data\.csv: {said}"):
    AVSBench(ms3, "ms3", "val")


def test_a_csv_that_is_no_text_is_named(ms3):
  (ms3 / "ms3_meta_data.csv").write_bytes(b"\xff\xfe\x00\x80")
  with pytest.raises(InputError, match="not a readable csv"):
    AVSBench(ms3, "ms3", "val")


def test_a_csv_with_a_byte_order_mark_and_spaces_is_read(ms3):
  (ms3 / "ms3_meta_data.csv").write_text("\ufeffvideo_id, split\nx1, val\nx1, val\n", encoding="utf-8")
  assert AVSBench(ms3, "ms3", "val").ids == ("x1",)


def test_a_wrong_root_says_what_was_looked_for(tmp_path, ms3):
  with pytest.raises(
    InputError, match=r"S4: .* has neither s4_meta_data\.csv nor Single-source/s4_meta_data"
  ):
    AVSBench(tmp_path, "s4", "train")
  with pytest.raises(InputError, match="is not a folder"):
    AVSBench(tmp_path / "nowhere", "s4", "train")


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"subset": "s5"}, "'s5' is no subset"),
    ({"split": "valid"}, "'valid' is no split"),
    ({"masks": "soft"}, "data.masks='soft'"),
    ({"audio": "mp3"}, "data.audio='mp3'"),
  ],
)
def test_an_unknown_setting_is_named_with_the_known_ones(ms3, change, said):
  args = {"subset": "ms3", "split": "val", **change}
  with pytest.raises(InputError, match=f"{said}.*choose"):
    AVSBench(ms3, **args)


def test_avss_says_what_is_wrong_with_its_tables(avss):
  with pytest.raises(InputError, match="sound only"):
    AVSBench(avss, "avss", "train", audio="log_mel")
  names = avss / "label2idx.json"
  names.write_text('{"background": 0}')
  with pytest.raises(InputError, match=r"label2idx\.json: expected an object of 71"):
    AVSBench(avss, "avss", "train")
  names.write_text("{")
  with pytest.raises(InputError, match=r"label2idx\.json: not readable as JSON"):
    AVSBench(avss, "avss", "train")
  names.unlink()
  with pytest.raises(InputError, match=r"label2idx\.json: missing"):
    AVSBench(avss, "avss", "train")
  table(avss / "metadata.csv", ("uid", "label", "split"), ("p", "v3", "train"))
  with pytest.raises(InputError, match="p has label='v3'"):
    AVSBench(avss, "avss", "train")
