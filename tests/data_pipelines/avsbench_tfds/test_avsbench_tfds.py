"""Packing: what comes back equals what went in; damage is named."""

import dataclasses
import json
import logging
import pickle

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import transforms
from data_pipelines.audio import clip_log_mel
from data_pipelines.avsbench_tfds import Packed, pack
from data_pipelines.generated import Generated
from data_pipelines.loader import eval_batches
from data_pipelines.negatives import OFFSCREEN

CLIPS = 5


def small(subset="semantic"):
  return Generated(subset, "val", CLIPS, size=16, seconds=2)


class Silent(Generated):
  """Clips with a published log-mel and nothing else."""

  categories, broad = (), ()

  def objects(self, index):
    return frozenset()

  def clip(self, index):
    clip = super().clip(index)
    log_mel = clip_log_mel(clip.waveform, 2)
    return dataclasses.replace(clip, waveform=None, log_mel=log_mel, sounding=None, visible=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("packed")
  pack(small(), path, "val")
  return path


def test_pictures_and_masks_come_back_to_the_bit_and_sound_to_16_bits(folder):
  source, packed = small(), Packed(folder, "val")
  assert len(packed) == CLIPS
  for i in range(CLIPS):
    a, b = source.clip(i), packed.clip(i)
    assert a.id == b.id
    for name in ("frames", "masks", "annotated", "present", "sounding", "visible"):
      x, y = getattr(a, name), getattr(b, name)
      assert x.dtype == y.dtype, name
      np.testing.assert_array_equal(x, y, err_msg=name)
    assert b.log_mel is None and b.waveform.dtype == np.float32
    np.testing.assert_array_equal(np.rint(a.waveform * 32768).clip(-32768, 32767), b.waveform * 32768)
    np.testing.assert_array_equal(packed.sound(i), b.waveform)
    assert packed.objects(i) == source.objects(i)


def test_a_pack_tells_of_itself_what_its_source_did(folder):
  source, packed = small(), Packed(folder, "val")
  for name in ("title", "is_stand_in", "ids", "num_classes", "seconds", "size", "categories", "broad"):
    assert getattr(packed, name) == getattr(source, name), name
  kinds = [source.kinds(i) for i in range(CLIPS)]
  assert [packed.kinds(i) for i in range(CLIPS)] == kinds and any(kinds) and packed.masks == "mended"


def test_a_pack_gives_smaller_pictures_and_makes_up_no_larger_ones(folder):
  whole, packed = Packed(folder, "val"), Packed(folder, "val", size=12)
  clip = packed.clip(1)
  assert packed.size == (12, 12) and clip.frames.shape[1:3] == clip.masks.shape[1:] == (12, 12)
  np.testing.assert_array_equal(clip.masks, transforms.resize_mask(whole.clip(1).masks, (12, 12)))
  with pytest.raises(InputError, match="larger ones would only be made up"):
    Packed(folder, "val", size=whole.size[0] + 1)


def test_a_pack_keeps_each_clips_part_and_what_was_left_out(tmp_path):
  source = small()
  source.parts, source.left_out = ("v1s", "v2", "v1m", "v2", "v1s"), "2 of 7 clips lack files"
  pack(source, tmp_path, "val")
  packed = Packed(tmp_path, "val")
  assert (packed.parts, packed.left_out) == (source.parts, source.left_out)


def test_a_pack_can_be_sent_to_a_worker_and_batched(folder):
  packed = pickle.loads(pickle.dumps(Packed(folder, "val")))
  batch = eval_batches(packed, batch=CLIPS, condition=OFFSCREEN)[0]
  assert batch["index"].tolist() == list(range(CLIPS))


def test_clips_with_log_mels_only_are_packed_too(tmp_path):
  source = Silent("single", "val", 2, size=16, seconds=2)
  pack(source, tmp_path, "val")
  packed = Packed(tmp_path, "val")
  np.testing.assert_array_equal(packed.clip(1).log_mel, source.clip(1).log_mel)
  assert packed.clip(1).waveform is None and packed.clip(1).visible is None
  with pytest.raises(InputError, match="no sound"):
    packed.sound(0)


def test_a_split_is_not_packed_over(folder):
  with pytest.raises(InputError, match="packed split already"):
    pack(small(), folder, "val")


def test_a_pack_never_lacks_a_broken_clip(tmp_path):
  class Broken(Generated):
    def clip(self, index):
      raise InputError(f"{self.ids[index]}.png: truncated; copy it again.")

  with pytest.raises(InputError, match="truncated"):
    pack(Broken("single", "val", 2, size=16), tmp_path, "val")
  assert not (tmp_path / "val").exists()


def test_an_absent_or_damaged_pack_is_named(tmp_path):
  with pytest.raises(InputError, match="no packed split"):
    Packed(tmp_path, "val")
  path = pack(small(), tmp_path, "val")
  facts = json.loads((path / "source.json").read_text())
  with pytest.raises(IndexError, match="clip 5 of 5"):
    Packed(tmp_path, "val").clip(5)
  (path / "source.json").write_text(json.dumps({**facts, "ids": facts["ids"][:-1]}))
  with pytest.raises(InputError, match="5 records for 4 clips"):
    Packed(tmp_path, "val")
  (path / "source.json").write_text(json.dumps({**facts, "ids": facts["ids"][::-1]}))
  with pytest.raises(InputError, match="record 0 is"):
    Packed(tmp_path, "val").clip(0)
  (path / "source.json").write_text(json.dumps({**facts, "format": 0}))
  with pytest.raises(InputError, match="format 0"):
    Packed(tmp_path, "val")
  (path / "source.json").write_text("{")
  with pytest.raises(InputError, match="damaged"):
    Packed(tmp_path, "val")
  (path / "source.json").write_text(json.dumps(facts))
  records = next(path.rglob("*.array_record*"))
  records.write_bytes(records.read_bytes()[:1000])
  with pytest.raises(InputError, match="pack"):
    Packed(tmp_path, "val").clip(4)


def test_packing_says_what_it_has_packed(tmp_path, caplog):
  with caplog.at_level(logging.INFO, logger="data_pipelines"):
    pack(Generated("single", "val", 1, size=16, seconds=2), tmp_path, "val")
  assert "packed 1 clips of generated single-source clips (stand-in) into" in caplog.text
