"""The reader on files made by hand in the published layout: what it gives, what it says of odd ones."""

import pickle

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import transforms
from data_pipelines.avsbench import AVSBench
from tests.data_pipelines.conftest import SIZE, log_mel_pickles, png, sound, table


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
  said = of_files(caplog)
  assert len(said) == 1 and "labels_rgb/0.png" in said[0] and "(7, 7, 7)" in said[0]


def of_files(caplog) -> list[str]:
  """What was logged of single files."""
  return [message for message in caplog.messages if "were published" not in message]


def test_a_sound_that_cannot_fill_its_clip_is_logged_once_a_reader(ms3, avss, caplog):
  for name in ("x1", "x2"):
    sound(ms3 / f"ms3_data/audio_wav/val/{name}.wav", 0.3)
  sound(avss / "v1s" / "s" / "audio.wav", 4.8)
  short = AVSBench(ms3.parent, "ms3", "val")
  for index in (0, 1, 0):
    short.clip(index)
  AVSBench(avss.parent, "avss", "test").sound(0)
  assert [message.rpartition("/")[2].partition(" (said once")[0] for message in of_files(caplog)] == [
    "x1.wav: 0.30 s of sound for 5 s of frames; the last example stands for the rest",
    "audio.wav: 4.80 s of sound for 5 s of frames; zeros stand for the rest",
  ]


def test_a_grey_mask_is_cut_at_128_and_logged_once_a_reader(ms3, caplog):
  for k in (1, 2):
    png(ms3 / f"ms3_data/gt_masks/val/x1/x1_{k}.png", np.full((SIZE, SIZE), 126 + k, np.uint8))
  clip = AVSBench(ms3, "ms3", "val").clip(0)
  assert not clip.masks[0].any() and clip.masks[1].all()
  said = of_files(caplog)
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


def test_published_negatives_lie_beside_the_sounds_in_their_own_folders(s4, avss):
  source = AVSBench(s4, "s4", "test")
  path = source.published_negative(0, "audio_wav_noise")
  assert path.endswith("s4_data/audio_wav_noise/test/helicopter/cc_3.wav")
  with pytest.raises(InputError, match="AVSS has no folder audio_wav, so no audio_wav_noise beside it"):
    AVSBench(avss, "avss", "test").published_negative(0, "audio_wav_noise")
