"""Scoring masks from files: every layout gives the figures of the evaluation, every bad input a sentence."""

import dataclasses
import os

import jax
import numpy as np
import pytest
from PIL import Image

from avs_jax import metrics, report, score
from avs_jax.errors import InputError
from data_pipelines.transforms import PALETTE

SOUNDS = ("positive", "silence", "noise", "offscreen")


@dataclasses.dataclass
class Clip:
  masks: np.ndarray
  annotated: np.ndarray
  present: np.ndarray


class Source:
  """Four clips of three seconds."""

  title, is_stand_in, seconds, size = "four invented clips (stand-in)", True, 3, (16, 24)

  def __init__(self, num_classes: int = 1):
    self.num_classes = num_classes
    self.ids = ("aa_01", "dogs/bb", "cc-7", "dd_0_2")
    rng = np.random.default_rng(0)
    high = 2 if num_classes == 1 else num_classes
    self.masks = rng.integers(0, high, (4, 3, *self.size)).astype(np.int32)
    self.masks[2, 1] = 0

  def clip(self, index: int) -> Clip:
    annotated = np.ones(3, bool)
    annotated[2] = index != 3
    return Clip(self.masks[index], annotated, np.ones(3, bool))


def logits_of(source: Source, sound: str) -> np.ndarray:
  rng = np.random.default_rng(SOUNDS.index(sound))
  own = 2.0 * (source.masks > 0) if sound == "positive" else -1.0
  return (rng.standard_normal(source.masks.shape) + own).astype(np.float32)


def expected(source: Source, values: dict[str, np.ndarray], function=metrics.frame_counts) -> dict:
  results = {}
  for sound, arrays in values.items():
    tally = metrics.Tally()
    counted = np.stack([source.clip(i).annotated for i in range(4)])
    flat = (x.reshape(12, *source.size) for x in (arrays, (source.masks > 0).astype(np.int32)))
    tally.add(function(*flat), np.arange(4), counted)
    results[sound] = metrics.summarise(tally)
  return report.with_global(results)


def save_all(folder, source: Source, kind: str = "probabilities") -> None:
  for sound in SOUNDS:
    logits = logits_of(source, sound)
    array = {
      "probabilities": np.asarray(jax.jit(jax.nn.sigmoid)(logits)),
      "logits": logits,
      "masks": logits > 0,
    }[kind]
    for clip_id, each in zip(source.ids, array, strict=True):
      score.save_masks(str(folder), sound, clip_id, each, kind=kind)


@pytest.mark.parametrize("kind", ["probabilities", "logits"])
def test_saved_predictions_score_as_the_evaluation_did_to_the_last_digit(tmp_path, kind):
  source = Source()
  save_all(tmp_path / "masks", source, kind)
  results = score.score(str(tmp_path / "masks"), source, str(tmp_path / "out"))
  assert results == expected(source, {sound: logits_of(source, sound) for sound in SOUNDS})
  board = report.read(str(tmp_path / "out"))
  assert board["positive"] == results["positive"] and board["record"]["data_set"] == source.title
  assert board["record"]["is_stand_in"] and board["record"]["clips"] == 4


def write_png(path, picture: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(picture).save(path)


LAYOUTS = {
  "folder_from_0": lambda root, clip, k: root / clip / f"{k}.png",
  "folder_from_1": lambda root, clip, k: root / clip / f"{k + 1}.png",
  "flat_from_0": lambda root, clip, k: root / f"{clip}_{k}.png",
  "flat_from_1": lambda root, clip, k: root / f"{clip}_{k + 1}.png",
  "as_avsbench_saves": lambda root, clip, k: root / clip / f"{clip.split('/')[-1]}_{k}.png",
  "mp4_in_the_name": lambda root, clip, k: root / f"{clip.split('/')[-1]}.mp4_{k}.png",
  "category_folder": lambda root, clip, k: root / "some" / clip.split("/")[-1] / f"{k:05d}.png",
  "word_before_the_number": lambda root, clip, k: root / clip / f"mask_{k}.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_png_masks_score_alike_in_every_layout_and_numbering(tmp_path, layout):
  source, values = Source(), {}
  for sound in SOUNDS:
    pictures = (255 / (1 + np.exp(-logits_of(source, sound)))).astype(np.uint8)
    values[sound] = pictures.astype(np.float32) / 255
    for b, clip in enumerate(source.ids):
      for k in range(3):
        if not (b == 3 and k == 2):  # the frame without a mask needs no prediction
          write_png(LAYOUTS[layout](tmp_path / sound, clip, k), pictures[b, k])
  values = {sound: np.where(np.arange(12).reshape(4, 3, 1, 1) == 11, 0, v) for sound, v in values.items()}
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"))
  assert results == expected(source, values, metrics.probability_counts)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_hard_masks_may_be_saved_in_any_picture_mode(tmp_path, mode):
  source = Source()
  masks = {sound: logits_of(source, sound) > 0 for sound in SOUNDS}
  for sound in SOUNDS:
    for b, clip in enumerate(source.ids):
      for k in range(3):
        if mode == "I;16":
          picture = Image.fromarray(masks[sound][b, k].astype(np.uint16) * 65535)
        else:
          picture = Image.fromarray(masks[sound][b, k].astype(np.uint8) * 255).convert(mode)
        path = tmp_path / sound / clip / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"))
  values = {sound: each.astype(np.float32) for sound, each in masks.items()}
  assert results == expected(source, values, metrics.probability_counts)


@pytest.mark.parametrize(
  "names",
  [
    ("Original", "silent", "white-noise", "off-screen"),
    ("audio_wav", "silence", "audio_wav_noise", "audio_wav_misaligned"),
  ],
)
def test_folder_names_of_other_programs_are_understood(tmp_path, names):
  source = Source()
  save_all(tmp_path, source)
  for old, new in zip(SOUNDS, names, strict=True):
    os.rename(tmp_path / old, tmp_path / new)
  (tmp_path / "mixed_brown_10db").mkdir()
  (tmp_path / "unseen_fork").mkdir()
  for clip_id in source.ids:
    for name in ("unseen_fork", "mixed_brown_10db"):
      score.save_masks(str(tmp_path), name, clip_id, np.zeros((3, 16, 24)))
  assert list(score.find_conditions(str(tmp_path))) == [*SOUNDS, "mixed_brown_10db", "unseen_fork"]
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"))
  assert results["unseen_fork"]["fpr"] == 0 and results["global"]["g_iou"] > 0


def test_missing_clips_are_named_and_left_out_of_every_row_only_when_allowed(tmp_path):
  source = Source()
  save_all(tmp_path, source)
  os.remove(tmp_path / "noise" / "cc-7.npz")
  with pytest.raises(InputError, match=r"1 of 4 clips .*noise: cc-7"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"), allow_missing=True)
  assert {results[sound]["clips"] for sound in SOUNDS} == {3}
  assert report.read(str(tmp_path / ".out"))["record"]["missing_clips"] == "without predictions: cc-7"


def test_class_labels_and_logits_give_class_figures(tmp_path):
  source = Source(num_classes=5)
  rng = np.random.default_rng(1)
  logits = rng.standard_normal((4, 3, 16, 24, 5)).astype(np.float32)
  for b, clip in enumerate(source.ids):
    score.save_masks(str(tmp_path / "logits"), "positive", clip, logits[b], kind="logits")
    score.save_masks(str(tmp_path / "labels"), "positive", clip, logits[b].argmax(-1), kind="labels")
    for k in range(3):
      write_png(
        tmp_path / "pictures" / "positive" / clip / f"{k}.png", logits[b, k].argmax(-1).astype(np.uint8)
      )
  results = [
    score.score(str(tmp_path / name), source, str(tmp_path / name / ".out"))
    for name in ("logits", "labels", "pictures")
  ]
  assert results[0] == results[1] == results[2]
  tally = metrics.Tally()
  counted = np.stack([source.clip(i).annotated for i in range(4)])
  counts = metrics.class_counts(logits.reshape(12, 16, 24, 5), source.masks.reshape(12, 16, 24))
  tally.add(counts, np.arange(4), counted)
  assert results[0]["positive"] == metrics.summarise_classes(tally)


def test_masks_in_the_two_colours_of_a_palette_score_as_masks(tmp_path):
  source = Source()
  for sound in SOUNDS:
    for clip, masks in zip(source.ids, source.masks, strict=True):
      for k in range(3):
        picture = Image.fromarray(masks[k].astype(np.uint8)).convert("P")
        picture.putpalette([0, 0, 0, 128, 0, 0])
        path = tmp_path / sound / clip / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"))
  assert results["positive"]["iou_frame"] == pytest.approx(1)
  assert results["positive"] == results["silence"]


def test_a_condition_may_be_dark_where_another_is_not(tmp_path, caplog):
  source = Source()
  for clip, masks in zip(source.ids, source.masks, strict=True):
    for k in range(3):
      write_png(tmp_path / "positive" / clip / f"{k}.png", masks[k].astype(np.uint8) * 255)
      write_png(tmp_path / "silence" / clip / f"{k}.png", masks[k].astype(np.uint8))
  results = score.score(str(tmp_path), source, str(tmp_path / ".out"))
  assert results["silence"]["fpr"] == 0 and results["positive"]["iou_frame"] == pytest.approx(1)
  (said,) = [each for each in caplog.messages if "no value is above 1 of 255" in each]
  assert str(tmp_path / "silence") in said


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_classes_may_be_painted_in_the_palette_of_avss(tmp_path, mode):
  source = Source(num_classes=5)
  for clip, labels in zip(source.ids, source.masks, strict=True):
    for k in range(3):
      painted = np.asarray(Image.fromarray(PALETTE[labels[k]]).convert(mode))
      write_png(tmp_path / "painted" / "positive" / clip / f"{k}.png", painted)
      write_png(tmp_path / "ids" / "positive" / clip / f"{k}.png", labels[k].astype(np.uint8))
  results = [score.score(str(tmp_path / name), source, str(tmp_path / ".out")) for name in ("painted", "ids")]
  assert results[0] == results[1] and results[0]["positive"]["iou_class_frame"] == pytest.approx(1)
  name = tmp_path / "painted" / "positive" / "aa_01" / "1.png"
  write_png(name, np.full((16, 24, 3), PALETTE[5]))
  with pytest.raises(InputError, match=r"1\.png: holds class 5, but the data set has classes 0 to 4"):
    score.score(str(tmp_path / "painted"), source, str(tmp_path / ".out"))


def test_probabilities_against_classes_score_anything_that_sounds(tmp_path):
  source = Source(num_classes=5)
  for b, clip in enumerate(source.ids):
    score.save_masks(str(tmp_path), "positive", clip, source.masks[b] > 0, kind="masks")
  assert score.score(str(tmp_path), source, str(tmp_path / ".out"))["positive"]["iou_frame"] == pytest.approx(
    1
  )


def npz(**arrays):
  return lambda path: np.savez(path.with_suffix(".npz"), **arrays)


def png(*pictures, first=0):
  def write(path):
    for k, picture in enumerate(pictures):
      write_png(path / f"{k + first}.png", picture)

  return write


EMPTY, WRONG = np.zeros((16, 24), np.uint8), np.zeros((8, 24), np.uint8)
BAD = {
  "no key": (npz(prediction=np.zeros((3, 16, 24))), "exactly one of masks"),
  "two keys": (npz(masks=np.zeros(3), logits=np.zeros(3)), "exactly one of masks"),
  "size": (npz(masks=np.zeros((3, 8, 24))), "is 3 x 8 x 24, but the data set's masks are 3 x 16 x 24"),
  "seconds": (npz(masks=np.zeros((5, 16, 24))), "is 5 x 16 x 24.* give 3 seconds, those of padding too"),
  "complex": (npz(masks=np.zeros((3, 16, 24), complex)), "masks are of type complex128"),
  "words": (npz(masks=np.full((3, 16, 24), "on")), "masks are of type <U2"),
  "not finite": (npz(logits=np.full((3, 16, 24), np.nan)), "not finite"),
  "range": (npz(probabilities=np.full((3, 16, 24), 255.0)), r"must lie in \[0, 1\]"),
  "labels": (npz(labels=np.zeros((3, 16, 24), np.uint8)), "masks are binary"),
  "broken npz": (lambda path: path.with_suffix(".npz").write_bytes(b"PK nothing"), "cannot be read as NPZ"),
  "pickled": (npz(masks=np.array([{}], object)), "cannot be read as NPZ"),
  "png size": (png(EMPTY, EMPTY, WRONG), "is 8 x 24, but the data set's masks are 16 x 24"),
  "lacks a frame": (png(EMPTY, EMPTY), "lacks frame 2"),
  "lacks frame of 1": (png(EMPTY, EMPTY, first=1), "lacks frame 3"),
  "too many": (png(*[EMPTY] * 5), "the last is 2"),
  "unscaled": (
    png(*[EMPTY + 1] * 3),
    r"none above 127 of 255 \(the highest is 1\), so all would count as off",
  ),
  "dark": (png(EMPTY, EMPTY + 127, EMPTY), r"none above 127 of 255 \(the highest is 127\)"),
  "painted": (png(*[np.stack([EMPTY + 128, EMPTY, EMPTY], -1)] * 3), "is painted in colours"),
  "dark in 16 bit": (png(*[EMPTY.astype(np.uint16) + 255] * 3), r"the highest is 0.992\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_prediction_is_refused_with_its_file_and_the_remedy(tmp_path, case):
  source = Source()
  source.ids, source.masks = source.ids[:1], source.masks[:1]
  (tmp_path / "positive").mkdir()
  write, words = BAD[case]
  write(tmp_path / "positive" / "aa_01")
  with pytest.raises(InputError, match=words) as caught:
    score.score(str(tmp_path), source, str(tmp_path / ".out"))
  assert str(tmp_path) in str(caught.value)


def test_broken_pictures_and_doubled_files_are_named(tmp_path):
  source = Source()
  source.ids = source.ids[:1]
  clip = tmp_path / "positive" / "aa_01"
  png(EMPTY, EMPTY, EMPTY)(clip)
  (clip / "1.png").write_bytes(b"\x89PNG nothing")
  with pytest.raises(InputError, match=r"1\.png cannot be read as a picture"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))
  write_png(clip / "01.png", EMPTY)
  with pytest.raises(InputError, match="both frame 1"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))
  os.remove(clip / "01.png")
  score.save_masks(str(tmp_path), "positive", "aa_01", np.zeros((3, 16, 24)))
  with pytest.raises(InputError, match="both an NPZ and PNG"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))


def test_bad_class_predictions_are_refused(tmp_path):
  source = Source(num_classes=5)
  source.ids = source.ids[:1]
  score.save_masks(str(tmp_path), "positive", "aa_01", np.full((3, 16, 24), 9), kind="labels")
  with pytest.raises(InputError, match="holds class 9, but the data set has classes 0 to 4"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
  source = Source(num_classes=5)
  source.ids = source.ids[:1]
  (tmp_path / "positive").mkdir()
  npz(labels=np.full((3, 16, 24), 0.9))(tmp_path / "positive" / "aa_01")
  with pytest.raises(InputError, match="labels are not whole numbers"):
    score.score(str(tmp_path), source, str(tmp_path / ".out"))


def test_predictions_of_other_clips_alone_are_said_to_be_so(tmp_path):
  (tmp_path / "positive").mkdir()
  npz(masks=np.zeros((3, 16, 24)))(tmp_path / "positive" / "stranger")
  with pytest.raises(
    InputError, match="no clip of .* has a prediction .* files are named by clip, the first is aa_01"
  ):
    score.score(str(tmp_path), Source(), str(tmp_path / ".out"), allow_missing=True)


def test_folders_that_are_no_condition_or_twice_one_or_none_are_refused(tmp_path):
  with pytest.raises(InputError, match="no such folder"):
    score.find_conditions(str(tmp_path / "nowhere"))
  with pytest.raises(InputError, match="holds no sub-folder"):
    score.find_conditions(str(tmp_path))
  (tmp_path / "silence").mkdir()
  (tmp_path / "silent").mkdir()
  with pytest.raises(InputError, match="both 'silence'"):
    score.find_conditions(str(tmp_path))
  (tmp_path / "silent").rename(tmp_path / "rain")
  with pytest.raises(InputError, match="rain: not a sound condition"):
    score.find_conditions(str(tmp_path))


def test_a_prediction_of_an_impossible_shape_is_not_saved(tmp_path):
  with pytest.raises(InputError, match="give"):
    score.save_masks(str(tmp_path), "positive", "a", np.zeros((3, 16)))
  with pytest.raises(InputError, match="of kind"):
    score.save_masks(str(tmp_path), "positive", "a", np.zeros((3, 16, 24)), kind="mask")


def test_files_of_no_clip_are_passed_over(tmp_path):
  source = Source()
  save_all(tmp_path, source)
  write_png(tmp_path / "positive" / "stranger" / "0.png", EMPTY)
  write_png(tmp_path / "positive" / "overview.png", EMPTY)
  found = score.Predictions(str(tmp_path / "positive"), source.ids, 1)
  assert found.strangers == ["overview.png", "stranger/0.png"] and not found.missing
