"""Records: a clip and back, whatever a source leaves out."""

import dataclasses

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines.avsbench_tfds.avsbench_tfds_dataset_builder import decode, encode, png, sound_of, unpng
from data_pipelines.generated import Generated

CLIP = Generated("semantic", "val", 1, size=16, seconds=2).clip(0)


def through(clip, categories=8):
  record = encode(clip, categories)
  return decode(
    {name: np.array(v) if name != "id" and not isinstance(v, list) else v for name, v in record.items()}
  )


def test_a_clip_survives_its_record():
  again = through(CLIP)
  for name in ("frames", "masks", "annotated", "present", "sounding", "visible"):
    np.testing.assert_array_equal(getattr(again, name), getattr(CLIP, name), err_msg=name)
  np.testing.assert_allclose(again.waveform, CLIP.waveform, atol=0.51 / 32768)


def test_what_a_source_does_not_say_stays_unsaid():
  again = through(dataclasses.replace(CLIP, waveform=None, sounding=None, visible=None), categories=0)
  assert again.waveform is None and again.sounding is None and again.visible is None and again.log_mel is None


def test_a_full_scale_sample_does_not_wrap_round():
  loud = dataclasses.replace(CLIP, waveform=np.array([1.0, -1.0], np.float32))
  np.testing.assert_array_equal(sound_of(encode(loud, 8)), np.float32([32767 / 32768, -1]))


def test_pixels_survive_png():
  for shape in ((5, 7), (5, 7, 3)):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(unpng(png(pixels)), pixels)


@pytest.mark.parametrize("masks", [CLIP.masks / 2, CLIP.masks - 1, CLIP.masks + 300])
def test_masks_that_are_not_class_ids_are_refused(masks):
  with pytest.raises(InputError, match="data.masks=mended"):
    encode(dataclasses.replace(CLIP, masks=masks), 8)
