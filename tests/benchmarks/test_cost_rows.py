"""A row has a name that can be written and read."""

import pytest

from avs_jax.errors import InputError
from benchmarks.cost_rows import Subject, read_subject, shapes


def test_a_row_is_a_system_a_backbone_and_a_size():
  assert read_subject("sdavs:pvt_v2_b5:224") == Subject("sdavs", "pvt_v2_b5", 224)
  changed = read_subject("sdavs:swin_base_w12:384:stc=False")
  assert changed.settings() == {
    "name": "sdavs",
    "visual": "swin_base_w12",
    "sound_map": "features",
    "stc": False,
  }
  assert read_subject(changed.name) == changed
  for text, wrong in (
    ("sdavs:pvt_v2_b5", "'sdavs:pvt_v2_b5' names no row"),
    ("sdavs:pvt_v2_b5:big", "names no row"),
    ("sdavs:pvt:224", "there is no 'pvt'; choose one of pvt_v2_b0"),
    ("sda:pvt_v2_b5:224", "there is no 'sda'; choose one of avsbench"),
  ):
    with pytest.raises(InputError, match=wrong):
      read_subject(text)


def test_a_clip_has_five_frames_of_the_rows_size_and_as_many_seconds_of_sound():
  frames, sound = shapes(Subject("sdavs", "pvt_v2_b5", 96))
  assert frames.shape == (1, 5, 96, 96, 3) and sound.shape == (1, 5, 96, 64)
  assert shapes(Subject("sdavs", "pvt_v2_b5", 96), "htsat")[1].shape == (1, 5, 16_000)
