"""The VPO reader on files made by hand in the published layout; every path is written out here."""

import csv

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import audio, check, vpo
from data_pipelines.clips import PAIR
from data_pipelines.negatives import Donors
from data_pipelines.vpo import VPO

HEAD = ("cateName", "cateId", "img_Id", "ann_Ids", "vgg_file", "audio_pos", "split")
DOG, MALE, CAT = 18, 92, 17


def table(path, head, *rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows([head, *rows])


def picture(path, numbers=None) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
  Image.fromarray(pixels if numbers is None else numbers).save(path)


def mask(left: int, right: int = 0) -> np.ndarray:
  numbers = np.zeros((20, 30), np.uint8)
  numbers[:, :15], numbers[:, 15:] = left, right
  return numbers


def sound(folder, name: str, seconds: float, seed: int, rate_hz: int = 16_000) -> np.ndarray:
  folder.mkdir(parents=True, exist_ok=True)
  wave = (0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))).clip(-0.7, 0.7)
  audio.write_wav(folder / f"{name}.wav", wave)
  return wave


@pytest.fixture
def root(tmp_path):
  """A picture in each split of SS; MS with a dog to the left and a man to the right; MSMI with one of each sort."""
  home = tmp_path / "VPO"
  ss = home / "VPO-SS"
  rows = [("dog", DOG, 7, 100 + k, f"d{k}", 0.2, split) for k, split in enumerate(("train", "val", "test"))]
  table(ss / "vpo_ss_data_stereo.csv", HEAD, *rows)
  picture(ss / "data/dog/000000000007.jpg")
  for k in range(3):
    picture(ss / f"mask/dog/000000000007_00000000010{k}.png", mask(DOG))
  ms = home / "VPO-MS"
  two = [("dog", DOG, 8, 200, "d0", 0.1), ("male", MALE, 8, 201, "m0", 0.9)]
  table(ms / "vpo_ms_data_stereo.csv", HEAD, *((*row, split) for split in ("train",) for row in two))
  picture(ms / "data/000000000008.jpg")
  picture(ms / "mask/000000000008.png", mask(DOG, MALE))
  mi = home / "VPO-MSMI"
  both = [*((*row, "test", 0) for row in two), ("cat", CAT, 9, 300, "c0", 0.8, "test", 1)]
  table(mi / "vpo_msmi_data_stereo.csv", (*HEAD, "multi_instance"), *both)
  picture(mi / "data/000000000009.jpg")
  picture(mi / "mask/000000000009.png", mask(255, CAT))
  for seed, name in enumerate(("d0", "d1", "d2", "m0", "c0")):
    sound(tmp_path / "vggsound_bench/VGGSound/audios", name, 1.5 if name == "d2" else 9, seed)
  return tmp_path


def test_a_single_source_clip_is_its_picture_for_three_seconds(root):
  source = VPO(root, "vpo_ss", "train", size=16)
  clip = source.clip(0)
  assert source.ids == ("000000000007_000000000100",) and source.title == "VPO-SS" and not source.is_stand_in
  assert clip.frames.shape == (3, 16, 16, 3) and (clip.frames == clip.frames[:1]).all()
  assert source.num_classes == 22 and source.categories[8] == "dog"
  assert set(np.unique(clip.masks[:, :, :8])) == {9} and not clip.masks[:, :, 8:].any()
  assert clip.annotated.all() and clip.present.all() and clip.pan is None
  assert clip.sounding.shape == (3, 21) and clip.sounding[:, 8].all() and clip.sounding.sum() == 3
  assert source.objects(0) == {"dog"} and source.kinds(0) == frozenset()
  np.testing.assert_array_equal(
    VPO(root, "vpo_ss", "train", size=16, binary=True).clip(0).masks, clip.masks > 0
  )


def test_a_sound_of_the_same_picture_is_not_off_screen(root):
  ss = root / "VPO/VPO-SS"
  rows = [
    ("dog", DOG, 7, 100, "d0", 0.2),
    ("cat", CAT, 7, 101, "c0", 0.8),
    ("cat", CAT, 9, 102, "c0", 0.8),
    ("male", MALE, 8, 103, "m0", 0.1),
  ]
  table(ss / "vpo_ss_data_stereo.csv", HEAD, *((*row, "test") for row in rows))
  for folder, image in (("dog", 7), ("cat", 7), ("cat", 9), ("male", 8)):
    picture(ss / f"data/{folder}/{image:012d}.jpg")
  for name, _, image, annotation, *_ in rows:
    picture(ss / f"mask/{name}/{image:012d}_{annotation:012d}.png", mask(DOG))
  source = VPO(root, "vpo_ss", "test", size=16)
  assert [set(source.objects(k)) for k in range(4)] == [{"dog", "cat"}, {"dog", "cat"}, {"cat"}, {"male"}]
  clip = source.clip(0)
  assert clip.sounding.sum() == 3 and clip.visible.sum() == 2
  donors = Donors(source, "disjoint")
  assert [list(donors.candidates(k)[0]) for k in range(3)] == [[3], [3], [3]]


def test_the_middle_three_seconds_are_heard_and_short_sounds_repeated(root):
  source = VPO(root, "vpo_ss", "test", size=16)
  whole = audio.read_wav(root / "vggsound_bench/VGGSound/audios/d1.wav")
  np.testing.assert_array_equal(source.sound(0), whole[48_000:96_000])
  short = source.sound(1)
  assert short.shape == (48_000,) and short.dtype == np.float32
  np.testing.assert_array_equal(short[:24_000], short[24_000:])


def test_the_test_split_holds_val_and_test_rows_as_published(root):
  assert [len(VPO(root, "vpo_ss", split, size=16)) for split in ("train", "val", "test")] == [1, 1, 2]
  assert VPO(root, "vpo_msmi", "val", size=16).ids == VPO(root, "vpo_msmi", "test", size=16).ids


def test_rows_of_one_picture_are_one_clip_whose_sounds_are_added_and_panned(root):
  source = VPO(root / "VPO", "vpo_ms", "train", size=16, has_pan=True)
  clip = source.clip(0)
  assert len(source) == 1 and source.objects(0) == {"dog", "male"}
  assert set(np.unique(clip.masks)) == {9, 14}
  folder = root / "vggsound_bench/VGGSound/audios"
  voices = [vpo.middle(audio.read_wav(folder / f"{name}.wav")) for name in ("d0", "m0")]
  total = np.sum(voices, axis=0)
  np.testing.assert_allclose(clip.waveform, total / max(np.abs(total).max(), 1), atol=1e-6)
  np.testing.assert_array_equal(source.sound(0), clip.waveform)
  assert clip.pan.shape == (3, 64) and abs(np.median(clip.pan)) < 0.3  # one on either side


def test_two_of_a_kind_lie_in_their_own_folder_and_the_others_in_vpo_ms(root):
  source = VPO(root / "VPO/VPO-MSMI", "vpo_msmi", "test", size=16, has_pan=True)
  assert [source.kinds(i) for i in range(2)] == [frozenset(), {PAIR}]
  assert "/VPO-MS/" in source.entries[0].frame and "/VPO-MSMI/" in source.entries[1].frame
  clip = source.clip(1)
  assert set(np.unique(clip.masks)) == {0, 6}  # 255 is nothing
  assert abs(np.median(clip.pan) - np.log(0.8 / 0.2)) < 0.2


@pytest.mark.parametrize(
  ("subset", "words"), [("vpo_xx", "no subset of VPO"), ("vpo_ss", "set data.root to the folder")]
)
def test_a_wrong_place_or_name_is_said(tmp_path, subset, words):
  with pytest.raises(InputError, match=words):
    VPO(tmp_path, subset, "train")


def test_missing_files_are_counted_named_and_left_out_on_demand(root, caplog):
  (root / "vggsound_bench/VGGSound/audios/d2.wav").unlink()
  with pytest.raises(InputError, match=r"1 of 2 clips lack files, 1 in all: .*d2\.wav"):
    VPO(root, "vpo_ss", "test")
  source = VPO(root, "vpo_ss", "test", allow_missing=True)
  surroundings = {"versions": {}, "devices": []}
  said = check.text({"surroundings": surroundings, "data": vpo.inspect(root, "vpo_ss")})
  assert "VPO is given out by its authors" in said and "AVSBench" not in said
  assert (len(source), source.left_out) == (1, "1 of 2 clips lack files")
  assert "going on with 1 clips" in caplog.text


def test_broken_rows_and_masks_are_named(root):
  home = root / "VPO/VPO-SS"
  picture(home / "mask/dog/000000000007_000000000100.png", mask(1))
  with pytest.raises(InputError, match=r"_000000000100\.png: category 1 is none of VPO's 21"):
    VPO(root, "vpo_ss", "train").clip(0)
  picture(home / "mask/dog/000000000007_000000000100.png", mask(DOG)[:9])
  with pytest.raises(InputError, match="30x9 pixels, its picture has 30x20"):
    VPO(root, "vpo_ss", "train").clip(0)
  picture(home / "mask/dog/000000000007_000000000100.png")
  with pytest.raises(InputError, match="expected one byte a pixel"):
    VPO(root, "vpo_ss", "train").clip(0)
  for row, words in (
    (("cow bell", 1, 7, 100, "d0", 0.2, "train"), "cateName='cow bell', none of VPO's 21"),
    (("dog", 1, 7, 100, "d0", "left", "train"), "audio_pos that is not from 0 to 1"),
    (("dog", 1, 7, 100, "d0", 0.2, "other"), "no row of the split 'train'"),
  ):
    table(home / "vpo_ss_data_stereo.csv", HEAD, row)
    with pytest.raises(InputError, match=words):
      VPO(root, "vpo_ss", "train")
  with pytest.raises(InputError, match="'dev' is no split"):
    VPO(root, "vpo_ms", "dev")
  (root / "vggsound_bench").rename(root / "elsewhere")
  with pytest.raises(InputError, match="no sounds beside it; put VGGSound's files into"):
    VPO(root, "vpo_ms", "train")


def test_a_check_reads_every_file_and_names_the_broken_ones(root):
  found = vpo.inspect(root, "vpo_ss")
  assert found["whole"] and found["splits"]["test"]["clips"] == 2
  (root / "vggsound_bench/VGGSound/audios/d1.wav").write_bytes(b"")
  (root / "VPO/VPO-SS/mask/dog/000000000007_000000000102.png").unlink()
  found = vpo.inspect(root, "vpo_ss")
  assert not found["whole"] and found["splits"]["test"]["whole"] == 0
  said = check.text({"surroundings": {"versions": {}, "devices": []}, "data": found})
  assert "d1.wav: the file is empty" in said and "missing 1: " in said
