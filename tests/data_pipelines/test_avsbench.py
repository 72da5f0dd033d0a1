"""The reader on files made by hand in the published layout: what it gives, what it says of broken ones."""

import csv
import io
import json
import pickle
import wave

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import audio, transforms
from data_pipelines.avsbench import AVSBench

SIZE = 24
RNG = np.random.default_rng(0)


def png(path, pixels) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def sound(path, seconds: float = 5, seed: int = 0) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  audio.write_wav(path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000)))


def table(path, *rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


def noise(side: int = SIZE) -> np.ndarray:
  return RNG.integers(0, 256, (side, side, 3)).astype(np.uint8)


def blob(side: int = SIZE) -> np.ndarray:
  return RNG.integers(0, 2, (side, side)).astype(np.uint8) * 255


@pytest.fixture
def s4(tmp_path):
  """Two training clips and a test clip; every path is written out here, not taken from the reader."""
  home = tmp_path / "Single-source"
  clips = [
    ("aa_1", "dog_barking", "train"),
    ("bb_2", "playing_piano", "train"),
    ("cc_3", "helicopter", "test"),
  ]
  table(
    home / "s4_meta_data.csv", ("name", "start", "category", "split"), *((n, 0, c, s) for n, c, s in clips)
  )
  for name, category, split in clips:
    place = home / "s4_data"
    for k in range(1, 6):
      png(place / f"visual_frames/{split}/{category}/{name}/{name}_{k}.png", noise())
      if k == 1 or split != "train":
        png(place / f"gt_masks/{split}/{category}/{name}/{name}_{k}.png", blob())
    sound(place / f"audio_wav/{split}/{category}/{name}.wav")
  return home


@pytest.fixture
def ms3(tmp_path):
  home = tmp_path / "Multi-sources"
  table(home / "ms3_meta_data.csv", ("video_id", "split"), ("x1", "val"), ("x2", "val"))
  for name in ("x1", "x2"):
    for k in range(1, 6):
      png(home / f"ms3_data/visual_frames/{name}/{name}.mp4_{k}.png", noise())
      png(home / f"ms3_data/gt_masks/val/{name}/{name}_{k}.png", blob())
    sound(home / f"ms3_data/audio_wav/val/{name}.wav")
  return home


@pytest.fixture
def avss(tmp_path):
  """A clip of each label in training and v1s in test; labels hold the classes 0, 5 and 70."""
  home = tmp_path / "AVSBench-semantic"
  clips = [
    ("p", "v1s", "train"),
    ("q", "v1m", "train"),
    ("r", "v2", "train"),
    ("s", "v1s", "test"),
  ]
  rows = [(u, lab, s, "man_piano") for u, lab, s in clips]
  table(home / "metadata.csv", ("uid", "label", "split", "a_obj"), *rows)
  names = {("background" if k == 0 else f"thing{k}"): k for k in range(71)}
  (home / "label2idx.json").write_text(json.dumps(names))
  for uid, label, split in clips:
    count = 10 if label == "v2" else 5
    for k in range(count):
      png(home / label / uid / f"frames/{k}.jpg", RNG.integers(0, 256, (30, 48, 3)).astype(np.uint8))
      if k == 0 or (label, split) != ("v1s", "train"):
        classes = np.zeros((30, 48), int)
        classes[:, 16:32] = 5 if k % 2 else 70
        png(home / label / uid / f"labels_rgb/{k}.png", transforms.PALETTE[classes])
    sound(home / label / uid / "audio.wav", count)
  return home


def test_s4_trains_on_the_first_frame_only(s4):
  source = AVSBench(s4.parent, "V1S", "train")
  assert (source.title, source.num_classes, source.seconds, source.size) == ("S4", 1, 5, (SIZE, SIZE))
  assert source.ids == ("aa_1", "bb_2") and len(source) == 2
  clip = source.clip(0)
  np.testing.assert_array_equal(clip.annotated, [True, False, False, False, False])
  assert clip.present.all() and clip.masks[0].any() and not clip.masks[1:].any()
  folder = s4 / "s4_data/visual_frames/train/dog_barking/aa_1"
  np.testing.assert_array_equal(clip.frames[4], np.asarray(Image.open(folder / "aa_1_5.png")))
  assert clip.masks.dtype == np.int32 and clip.frames.dtype == np.uint8
  assert clip.waveform.shape == (80_000,) and clip.log_mel is None
  np.testing.assert_array_equal(clip.waveform, source.sound(0))


def test_s4_knows_what_sounds_and_its_broad_group(s4):
  source = AVSBench(s4, "s4", "test")
  assert len(source.categories) == 23 and source.objects(0) == {"helicopter"}
  clip = source.clip(0)
  assert clip.annotated.all()
  assert [source.categories[g] for g in np.flatnonzero(clip.visible)] == ["helicopter"]
  assert (clip.sounding == clip.visible).all() and clip.sounding.shape == (5, 23)
  assert source.broad[source.categories.index("helicopter")] == "device"


def test_a_source_is_pure_and_travels_to_worker_processes(s4):
  source = AVSBench(s4, "s4", "train")
  again = pickle.loads(pickle.dumps(source))
  for one, two in zip((source.clip(1), source.clip(1)), (again.clip(1), source.clip(1)), strict=True):
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_array_equal(one.masks, two.masks)


def test_ms3_reads_five_masks_and_its_objects_where_a_csv_has_them(ms3):
  source = AVSBench(ms3.parent, "ms3", "val")
  assert source.ids == ("x1", "x2") and source.clip(1).annotated.all()
  assert source.categories == () and source.objects(0) == frozenset()
  table(ms3 / "metadata.csv", ("uid", "label", "split", "a_obj"), ("x1", "v1m", "val", "man_emergency-car"))
  source = AVSBench(ms3, "v1m", "val")
  assert source.objects(0) == {"man", "emergency-car"} and source.objects(1) == frozenset()
  assert len(source.categories) == len(source.broad) == 22
  assert source.broad[source.categories.index("man")] == "human"


def test_ms3_says_what_may_sound_and_of_a_clip_without_names_that_anything_may(ms3):
  assert AVSBench(ms3, "ms3", "val").clip(0).visible is None
  table(ms3 / "metadata.csv", ("uid", "label", "split", "a_obj"), ("x1", "v1m", "val", "man_emergency-car"))
  source = AVSBench(ms3, "ms3", "val")
  named, unnamed = source.clip(0), source.clip(1)
  assert {name for name, seen in zip(source.categories, named.visible, strict=True) if seen} == {
    "man",
    "emergency-car",
  }
  np.testing.assert_array_equal(named.sounding, np.repeat(named.visible[None], 5, axis=0))
  assert unnamed.visible.all() and unnamed.sounding.shape == (5, 22) and unnamed.sounding.all()


def test_pictures_are_resized_when_a_size_is_asked_for(ms3):
  source = AVSBench(ms3, "ms3", "val", size=16)
  clip = source.clip(0)
  assert source.size == (16, 16) and clip.frames.shape == (5, 16, 16, 3) and clip.masks.shape == (5, 16, 16)
  assert set(np.unique(clip.masks)) == {0, 1}


def test_avss_pads_to_ten_seconds_and_marks_what_is_real_and_what_is_annotated(avss):
  source = AVSBench(avss.parent, "V2", "train", size=20)
  assert source.num_classes == 71 and source.seconds == 10 and source.audio_padding == "zeros"
  v1s, v1m, v2 = (source.clip(i) for i in range(3))
  assert [c.present.sum() for c in (v1s, v1m, v2)] == [5, 5, 10]
  assert [c.annotated.sum() for c in (v1s, v1m, v2)] == [1, 5, 10]
  np.testing.assert_array_equal(v1m.frames[5:], np.broadcast_to(transforms.PADDING_RGB, v1m.frames[5:].shape))
  assert not v1m.masks[5:].any() and set(np.unique(v2.masks)) == {0, 5, 70}
  assert v2.frames.shape == (10, 20, 20, 3) and v2.waveform.shape == (160_000,)
  assert AVSBench(avss, "avss", "test", size=20).clip(0).annotated.sum() == 5


def test_avss_tells_each_clips_part(avss):
  source = AVSBench(avss, "avss", "train", size=20)
  assert dict(zip(source.ids, source.parts, strict=True)) == {"p": "v1s", "q": "v1m", "r": "v2"}


def test_avss_sounding_follows_the_labels(avss):
  source = AVSBench(avss, "avss", "train")
  assert source.size == (224, 224) and len(source.categories) == 70
  v1s, v1m, _ = (source.clip(i) for i in range(3))
  heard = [[source.categories[g] for g in np.flatnonzero(second)] for second in v1m.sounding]
  assert heard == [["thing70"], ["thing5"], ["thing70"], ["thing5"], ["thing70"], [], [], [], [], []]
  assert v1s.sounding[:5, 69].all() and not v1s.sounding[5:].any() and v1s.visible.sum() == 1
  assert source.objects(0) == {"man", "piano"}


def test_avss_trains_on_the_centre_square_and_tests_on_the_squeezed_picture(avss):
  train, test = AVSBench(avss, "avss", "train", size=30), AVSBench(avss, "avss", "test", size=30)
  assert (train.clip(1).masks[0, 0] > 0).sum() == 16  # of 48 columns 9 are cut on both sides
  assert (test.clip(0).masks[0, 0] > 0).sum() == 10


def test_avss_colours_of_no_class_become_background_and_are_logged(avss, caplog):
  png(avss / "v1m/q/labels_rgb/0.png", np.full((30, 48, 3), 7, np.uint8))
  assert not AVSBench(avss, "avss", "train").clip(1).masks[0].any()
  said = caplog.messages
  assert len(said) == 1 and "labels_rgb/0.png" in said[0] and "(7, 7, 7)" in said[0]


def test_a_sound_that_cannot_fill_its_clip_is_logged_once_a_reader(ms3, avss, caplog):
  for name in ("x1", "x2"):
    sound(ms3 / f"ms3_data/audio_wav/val/{name}.wav", 0.3)
  sound(avss / "v1s" / "s" / "audio.wav", 4.8)
  short = AVSBench(ms3.parent, "ms3", "val")
  for index in (0, 1, 0):
    short.clip(index)
  AVSBench(avss.parent, "avss", "test").sound(0)
  assert [message.rpartition("/")[2].partition(" (said once")[0] for message in caplog.messages] == [
    "x1.wav: 0.30 s of sound for 5 s of frames; the last example stands for the rest",
    "audio.wav: 4.80 s of sound for 5 s of frames; zeros stand for the rest",
  ]


def test_a_grey_mask_is_cut_at_128_and_logged_once_a_reader(ms3, caplog):
  for k in (1, 2):
    png(ms3 / f"ms3_data/gt_masks/val/x1/x1_{k}.png", np.full((SIZE, SIZE), 126 + k, np.uint8))
  clip = AVSBench(ms3, "ms3", "val").clip(0)
  assert not clip.masks[0].any() and clip.masks[1].all()
  said = caplog.messages
  assert len(said) == 1 and "x1_1.png" in said[0] and "127" in said[0]


def test_published_masks_dither_in_s4_and_refuse_soft_targets_in_ms3(s4, ms3):
  grey = np.full((SIZE, SIZE), 100, np.uint8)
  png(s4 / "s4_data/gt_masks/train/dog_barking/aa_1/aa_1_1.png", grey)
  dithered = AVSBench(s4, "s4", "train", masks="as_published").clip(0).masks[0]
  assert 0.3 < dithered.mean() < 0.5
  png(ms3 / "ms3_data/gt_masks/val/x1/x1_3.png", grey)
  with pytest.raises(InputError, match=r"x1_3\.png.*soft targets such as 0\.392"):
    AVSBench(ms3, "ms3", "val", masks="as_published").clip(0)
  pure = AVSBench(ms3, "ms3", "val", masks="as_published").clip(1)
  np.testing.assert_array_equal(pure.masks, AVSBench(ms3, "ms3", "val").clip(1).masks)


def log_mel_pickles(golden, ms3, names=("x1", "x2")) -> None:
  sample = golden("avsbench/log_mel_sample.pkl").read_bytes()
  for name in names:
    path = ms3 / f"ms3_data/audio_log_mel/val/{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample)


def test_published_log_mel_is_read_without_torch(golden, rule, ms3):
  log_mel_pickles(golden, ms3)
  source = AVSBench(ms3, "ms3", "val", audio="log_mel")
  clip = source.clip(0)
  np.testing.assert_array_equal(clip.log_mel, rule.array("log_mel_sample", [5, 1, 96, 64])[:, 0])
  assert clip.waveform is None
  with pytest.raises(InputError, match=r"x1 .*audio_wav/val/x1\.wav"):
    source.sound(0)


def test_auto_prefers_the_sound_and_takes_the_pickles_where_sound_is_incomplete(golden, ms3):
  log_mel_pickles(golden, ms3)
  assert AVSBench(ms3, "ms3", "val").audio == "wav"
  (ms3 / "ms3_data/audio_wav/val/x2.wav").unlink()
  assert AVSBench(ms3, "ms3", "val").audio == "log_mel"
  assert AVSBench(ms3, "ms3", "val").clip(1).log_mel.shape == (5, 96, 64)


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
  (s4 / "s4_data/audio_wav/train/playing_piano/bb_2.wav").unlink()
  with pytest.raises(InputError, match="2 of 2 clips"):
    AVSBench(s4, "s4", "train", allow_missing=True)


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


def test_published_negatives_lie_beside_the_sounds_in_their_own_folders(s4, avss):
  source = AVSBench(s4, "s4", "test")
  path = source.published_negative(0, "audio_wav_noise")
  assert path.endswith("s4_data/audio_wav_noise/test/helicopter/cc_3.wav")
  with pytest.raises(InputError, match="AVSS has no folder audio_wav, so no audio_wav_noise beside it"):
    AVSBench(avss, "avss", "test").published_negative(0, "audio_wav_noise")
