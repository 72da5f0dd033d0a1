"""Any source written in AVSBench's layout comes back through the real reader, under its own name."""

import dataclasses
import json

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines.avsbench import AVSBench
from data_pipelines.clips import Clip
from data_pipelines.generated import Generated
from data_pipelines.layout import file_name, write_layout


@dataclasses.dataclass
class Tiny:
  """A source of random clips with exact 16-bit sound."""

  seconds: int = 5
  num_classes: int = 1
  first_only: bool = False
  prefix: str = "a clip/"
  title: str = "tiny clips (stand-in)"
  is_stand_in: bool = True
  size: tuple[int, int] = (16, 16)
  categories: tuple[str, ...] = ("dog_barking", "big_bell")
  broad: tuple[str, ...] = ("animal", "music")
  silent: bool = False

  def __post_init__(self):
    self.ids = tuple(f"{self.prefix}{k}" for k in range(3))

  def __len__(self) -> int:
    return len(self.ids)

  def clip(self, index: int) -> Clip:
    rng = np.random.default_rng(index)
    annotated = np.ones(self.seconds, bool)
    annotated[1:] = not self.first_only
    return Clip(
      id=self.ids[index],
      frames=np.repeat(rng.integers(0, 256, (self.seconds, 4, 4, 3)), 4, 1).repeat(4, 2).astype(np.uint8),
      masks=rng.integers(0, max(2, self.num_classes), (self.seconds, 16, 16)).astype(np.int32),
      annotated=annotated,
      present=np.ones(self.seconds, bool),
      waveform=None if self.silent else self.sound(index),
    )

  def sound(self, index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    return rng.integers(-9999, 9999, self.seconds * 16_000).astype(np.float32) / 32768

  def objects(self, index: int) -> frozenset[str]:
    return frozenset(self.categories[: index + 1])


@pytest.mark.parametrize(("subset", "split"), [("s4", "test"), ("ms3", "train"), ("ms3", "val")])
def test_binary_clips_come_back_exactly(tmp_path, subset, split):
  source = Tiny()
  home = write_layout(source, tmp_path, subset, split)
  back = AVSBench(tmp_path, subset, split)
  assert home.parent == tmp_path and back.ids == ("a_clip_0", "a_clip_1", "a_clip_2")
  assert back.is_stand_in and back.title.startswith("tiny clips (stand-in), in the layout of ")
  for k in range(3):
    one, two = source.clip(k), back.clip(k)
    for name in ("frames", "masks", "annotated", "present", "waveform"):
      np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


def test_s4_training_keeps_the_first_mask_only_and_the_groups(tmp_path):
  write_layout(Tiny(first_only=True), tmp_path, "s4", "train")
  back = AVSBench(tmp_path, "s4", "train")
  assert back.clip(0).annotated.sum() == 1 and back.clip(0).masks[0].any()
  assert back.categories == ("dog_barking", "big_bell") and back.broad == ("animal", "music")
  assert back.objects(0) == {"dog_barking"} and back.objects(1) == {"big_bell"}


def test_ms3_keeps_all_objects_of_a_clip(tmp_path):
  write_layout(Tiny(), tmp_path, "ms3", "test")
  back = AVSBench(tmp_path, "ms3", "test")
  assert back.objects(2) == {"dog-barking", "big-bell"} and back.broad == ("animal", "music")


@pytest.mark.parametrize(
  ("seconds", "first_only", "label"), [(10, False, "v2"), (5, False, "v1m"), (5, True, "v1s")]
)
def test_avss_classes_come_back_exactly_and_frames_nearly(tmp_path, seconds, first_only, label):
  source = Tiny(seconds=seconds, num_classes=71, first_only=first_only)
  home = write_layout(source, tmp_path, "avss", "train")
  assert (home / label / "a_clip_1" / "labels_rgb" / "0.png").exists()
  back = AVSBench(tmp_path, "avss", "train", size=16).clip(1)
  one = source.clip(1)
  assert back.present.sum() == seconds and back.annotated.sum() == one.annotated.sum()
  np.testing.assert_array_equal(back.masks[:seconds][one.annotated], one.masks[one.annotated])
  assert np.abs(back.frames[:seconds].astype(int) - one.frames).mean() < 6


def test_avss_names_its_classes_after_the_source(tmp_path):
  write_layout(Tiny(), tmp_path, "avss", "val")
  back = AVSBench(tmp_path, "avss", "val")
  assert back.categories[:3] == ("dog-barking", "big-bell", "class-3") and len(back.categories) == 70
  assert back.broad[:3] == ("animal", "music", "other")


def test_splits_share_a_csv_and_writing_again_replaces(tmp_path):
  write_layout(Tiny(prefix="t"), tmp_path, "ms3", "train")
  for _ in range(2):
    write_layout(Tiny(prefix="v"), tmp_path, "ms3", "val")
  assert AVSBench(tmp_path, "ms3", "train").ids == ("t0", "t1", "t2")
  assert AVSBench(tmp_path, "ms3", "val").ids == ("v0", "v1", "v2")


def test_clips_that_would_share_files_are_refused(tmp_path):
  write_layout(Tiny(), tmp_path, "ms3", "train")
  with pytest.raises(InputError, match="a_clip_0 belongs to another split"):
    write_layout(Tiny(), tmp_path, "ms3", "val")
  twins = Tiny()
  twins.ids = ("a/b", "a b", "c")
  with pytest.raises(InputError, match="two with the same file name"):
    write_layout(twins, tmp_path / "new", "ms3", "val")


def test_a_folder_of_other_clips_is_left_alone(tmp_path):
  write_layout(Tiny(), tmp_path, "ms3", "train")
  with pytest.raises(InputError, match="holds clips of tiny clips"):
    write_layout(Tiny(categories=("x", "y"), prefix="n"), tmp_path, "ms3", "val")
  (tmp_path / "Multi-sources" / "stand_in.json").unlink()
  with pytest.raises(InputError, match="not written here"):
    write_layout(Tiny(prefix="n"), tmp_path, "ms3", "val")
  (tmp_path / "Multi-sources" / "stand_in.json").write_text(json.dumps({"titles": 3}))
  with pytest.raises(InputError, match=r"stand_in\.json: .* damaged"):
    AVSBench(tmp_path, "ms3", "train")


@pytest.mark.parametrize(
  ("source", "subset", "split", "said"),
  [
    (Tiny(seconds=4), "ms3", "train", "4 seconds; MS3 holds clips of 5"),
    (Tiny(seconds=7), "avss", "train", "7 seconds; AVSS holds clips of 5 or 10"),
    (Tiny(silent=True), "ms3", "train", "no sound to write"),
    (Tiny(first_only=True), "ms3", "train", "lacks masks"),
    (Tiny(num_classes=80, seconds=10), "avss", "train", "AVSS holds classes 0 to 70"),
    (Tiny(), "ms3", "valid", "no split of MS3"),
    (Tiny(), "s7", "val", "no subset"),
  ],
)
def test_what_the_layout_cannot_hold_is_refused(tmp_path, source, subset, split, said):
  with pytest.raises(InputError, match=said):
    write_layout(source, tmp_path, subset, split)


@pytest.mark.parametrize(
  ("kind", "subset", "seconds"), [("single", "s4", 5), ("multi", "ms3", 5), ("semantic", "avss", 10)]
)
def test_generated_clips_come_back_through_the_real_reader(tmp_path, kind, subset, seconds):
  source = Generated(kind, "val", 2, size=32, seconds=seconds)
  write_layout(source, tmp_path, subset, "val")
  back = AVSBench(tmp_path, subset, "val", size=32)
  one, two = source.clip(1), back.clip(1)
  np.testing.assert_array_equal(two.masks, one.masks)
  np.testing.assert_allclose(two.waveform, one.waveform, atol=1 / 32768)
  assert np.abs(two.frames.astype(int) - one.frames).mean() < (4 if subset == "avss" else 1e-9)
  assert back.objects(1) == source.objects(1) and source.title in back.title


def test_file_names_are_harmless():
  assert file_name("../a b/ü?.mp4") == "_a_b_ü_.mp4" and file_name("..") == "_"
