"""What stands before figures: a sentence for each thing that makes them other than a reader would think."""

import pytest

from avs_jax import caveats


@pytest.mark.parametrize(
  ("record", "words"),
  [
    ({"is_stand_in": True, "data_set": "toy clips"}, "STAND-IN DATA: measured on toy clips"),
    ({"missing_clips": "2 of 64 clips lack files"}, "NOT THE WHOLE SPLIT: 2 of 64 clips lack files"),
    ({"config": {"negatives": {"front_end": "as_published"}}}, "TELL-TALE FORMAT"),
    ({"config": {"eval": {"negative_audio": "any"}}}, "UNKNOWN OBJECTS"),
    ({"config": {"marks": {"kind": "file"}}}, "TELL-TALE MARKS"),
    ({"config": {"debias": {"gate": True}}}, "GATED"),
  ],
)
def test_each_thing_that_a_reader_must_know_is_one_sentence(record, words):
  (said,) = caveats.warnings(record)
  assert said.startswith(words) and said.endswith(".")


def test_a_plain_record_needs_no_warning():
  config = {
    "negatives": {"front_end": "same"}, "eval": {"negative_audio": "drawn"}, "marks": {"kind": "kmeans"},
    "debias": {"gate": False},
  }  # fmt: skip
  assert caveats.warnings({"is_stand_in": False, "missing_clips": "", "config": config}) == []
  assert caveats.warnings({}) == []


def test_figures_of_several_sizes_or_sounds_are_not_of_one_table():
  old = {"config": {"data": {"size": 224}}}  # of before a scoreboard had its own size
  new = {"size": 224, "negatives": "drawn here"}
  assert caveats.mixed(iter([old, new, {}])) == []
  (said,) = caveats.mixed([old, {**new, "size": 512}])
  assert said.startswith("SEVERAL SIZES: masks are judged at 224, 512 px")
  (said,) = caveats.mixed([old, new, {**new, "negatives": "those of files"}])
  assert said.startswith("SEVERAL SOUNDS: negative sounds are drawn here and those of files")
