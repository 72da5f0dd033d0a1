"""From a config to a data set: VPO by name, its masks by the model's classes, directions where they are asked for."""

import json
import logging

import chex
import pytest

from avs_jax.errors import InputError
from configs import tiny
from data_pipelines import sources
from data_pipelines.avsbench_tfds import pack
from data_pipelines.clips import PAIR, SWITCH


def config(**changes):
  chosen = tiny.get_config()
  with chosen.unlocked():
    chosen.data.seconds = 2
    for name, value in changes.items():
      section, key = name.split("_", 1)
      chosen[section][key] = value
  return chosen


def test_vpo_stand_ins_follow_the_models_classes_and_its_ears():
  bits = sources.build(config(data_name="vpo_msmi"), "test")
  classes = sources.build(config(data_name="vpo_msmi", model_num_classes=22, model_stereo=True), "test")
  assert (bits.num_classes, classes.num_classes) == (1, 9)
  assert bits.clip(0).pan is None and classes.clip(0).pan.shape == (2, 64)
  kinds = {kind for index in range(len(bits)) for kind in sources.Limited(bits, 4).kinds(index)}
  assert kinds == {PAIR, SWITCH}


def test_masks_of_other_classes_than_the_models_are_refused():
  assert sources.build(config(data_name="avss", model_num_classes=71), "val").num_classes == 9
  assert (
    sources.build(config(data_name="avss"), "val").num_classes == 9
  )  # a model of one class masks them all
  with pytest.raises(
    InputError, match=r"num_classes=71: generated .* has 0/1 masks; set model\.num_classes=1,"
  ):
    sources.build(config(model_num_classes=71), "val")
  with pytest.raises(
    InputError, match=r"num_classes=5: generated .* has 9 classes; set model\.num_classes=9,"
  ):
    sources.build(config(data_name="avss", model_num_classes=5), "val")


def test_real_data_without_directions_are_refused_to_a_model_that_asks(tmp_path):
  with pytest.raises(InputError, match="s4 does not say where sounds come from"):
    sources.build(config(data_root=str(tmp_path), model_stereo=True), "train")
  with pytest.raises(InputError, match="a packed copy does not say where"):
    sources.build(
      config(data_name="vpo_ss", data_root=str(tmp_path), data_packed=True, model_stereo=True), "train"
    )
  with pytest.raises(InputError, match=r"VPO-SS: .* set data\.root to the folder"):
    sources.build(config(data_name="vpo_ss", data_root=str(tmp_path)), "train")


def test_runs_of_one_command_share_their_clips_and_get_the_same_ones_as_alone():
  alone = sources.build(config(), "val")
  assert sources.build(config(), "val") is not alone
  with sources.remembering():
    shared = sources.build(config(), "val")
    assert sources.build(config(data_threads=3, data_cache_mb=9, schedule_batch=4), "val") is shared
    for other in (config(data_seed=5), config(data_size=48), config(data_name="ms3")):
      assert sources.build(other, "val") is not shared
    assert sources.build(config(), "test") is not shared and len(sources.build(config(), "val", limit=1)) == 1
    for index in range(len(alone)):
      for _ in range(2):  # composed, then remembered
        chex.assert_trees_all_equal(vars(shared.clip(index)), vars(alone.clip(index)))
    assert shared.clip(0).frames is shared.clip(0).frames
  assert sources.build(config(), "val") is not shared


@pytest.mark.parametrize(
  ("name", "like"),
  [
    ("V1S", "s4"),
    ("Single-source", "s4"),
    ("V1M", "ms3"),
    ("multi_sources", "ms3"),
    ("V2", "avss"),
    ("VPO-MS", "vpo_ms"),
  ],
)
def test_a_data_set_may_be_called_as_papers_do(name, like, tmp_path):
  assert (
    sources.build(config(data_name=name), "val").title == sources.build(config(data_name=like), "val").title
  )
  with pytest.raises(InputError, match=r"(S4|MS3|AVSS|VPO-MS): .* set data\.root to the folder"):
    sources.build(config(data_name=name, data_root=str(tmp_path)), "val")


def test_a_data_set_of_no_known_name_is_told_the_known_ones():
  with pytest.raises(
    InputError, match=r"data.name='V3' is not a data set; choose one of s4 \(V1S, .*vpo_msmi"
  ):
    sources.build(config(data_name="V3"), "val")


def test_a_pack_of_another_data_set_or_of_smaller_pictures_is_refused(tmp_path, caplog):
  source = sources.build(config(data_size=32), "val")
  pack(source, tmp_path, "val", subset="ms3")
  packed = {"data_root": str(tmp_path), "data_packed": True, "data_size": 32}
  assert sources.build(config(**packed, data_name="V1M"), "val").subset == "ms3"
  with caplog.at_level(logging.WARNING, logger="data_pipelines"):
    assert len(sources.build(config(**{**packed, "data_size": 16}, data_name="ms3"), "val")) == len(source)
  assert "packed at 32 px and made 16 px now" in caplog.text
  with pytest.raises(InputError, match="data.masks=as_published: the pack in .* holds masks read as mended"):
    sources.build(config(**packed, data_name="ms3", data_masks="as_published"), "val")
  for name in ("avss", "s4", "vpo_ms"):
    with pytest.raises(InputError, match=rf"holds a pack of ms3, not of {name}; set data.name=ms3"):
      sources.build(config(**packed, data_name=name), "val")
  with pytest.raises(InputError, match="data.size=64: .* was packed at 32x32 pixels"):
    sources.build(config(**{**packed, "data_size": 64}, data_name="ms3"), "val")
  facts = json.loads((tmp_path / "val" / "source.json").read_text())
  del facts["subset"]  # as older packs are
  (tmp_path / "val" / "source.json").write_text(json.dumps(facts))
  with caplog.at_level(logging.WARNING, logger="data_pipelines"):
    assert len(sources.build(config(**packed, data_name="avss"), "val")) == len(source)
  assert "does not say which data set was packed; it is taken for avss" in caplog.text


def test_a_split_that_is_none_is_refused():
  with pytest.raises(InputError, match=r"there is no split 'tset'; give eval\.split as one of"):
    sources.build(tiny.get_config(), "tset")
