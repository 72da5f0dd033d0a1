"""Pictures and masks: the reference's crops, colours and odd mask readings, and every broken picture."""

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from data_pipelines import transforms


def picture(rule, name: str, shape: tuple) -> np.ndarray:
  return np.clip(128 + 50 * rule.array(name, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", ["wide", "tall", "big"])
@pytest.mark.parametrize("way", ["train_crop", "eval_resize"])
@pytest.mark.parametrize("filter", ["bilinear", "nearest"])
def test_avss_crops_and_resizes_equal_the_reference(golden, rule, shape, way, filter):
  kept = np.load(golden("avsbench/avss_data.npz"))
  if shape == "big":
    image = picture(rule, "picture_big", (360, 500, 3))
  else:
    image = picture(rule, "picture", (90, 160, 3))
    image = image.transpose(1, 0, 2) if shape == "tall" else image
  got = getattr(transforms, f"avss_{way}")(image, nearest=filter == "nearest")
  assert got.shape == (224, 224, 3)
  rule.check(got, kept[f"{shape}.{way}_{filter}"])
  rule.check(got.transpose(2, 0, 1), kept[f"{shape}.{way}_{filter}__chw"])


def test_palette_and_label_decoding_equal_the_reference_and_foreign_colours_are_told(golden, rule):
  kept = np.load(golden("avsbench/avss_data.npz"))
  np.testing.assert_array_equal(transforms.PALETTE, kept["palette_71x3"])
  label = (20 * np.abs(rule.array("label", (90, 160)))).astype(int) % 71
  painted = transforms.PALETTE[label]
  painted[:3, :3] = (1, 2, 3)
  got, foreign = transforms.labels_from_colours(painted)
  rule.check(got, kept["label_roundtrip"])
  assert got.dtype == np.int32 and foreign == [(1, 2, 3)]


def test_every_class_decodes_and_every_colour_beside_it_is_foreign():
  got, foreign = transforms.labels_from_colours(transforms.PALETTE[None])
  np.testing.assert_array_equal(got[0], np.arange(71))
  assert foreign == []
  got, foreign = transforms.labels_from_colours(transforms.PALETTE[None] + np.uint8(1))
  assert not got.any() and len(foreign) == 71
  beyond = np.array([[[224, 0, 64]]], np.uint8)  # follows the bit rule, but as a class beyond 70
  got, foreign = transforms.labels_from_colours(beyond)
  assert not got.any() and foreign == [(224, 0, 64)]


def test_a_pure_mask_reads_the_same_mended_and_published():
  pure = np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8) * 255
  image = Image.fromarray(pure)
  mask, odd = transforms.mended_mask(image)
  assert odd == () and mask.dtype == np.int32
  for subset in ("S4", "MS3"):
    np.testing.assert_array_equal(transforms.published_mask(image, subset), mask)


def test_a_grey_mask_is_thresholded_and_reported_where_s4_dithers_and_ms3_softens():
  image = Image.fromarray(np.full((32, 32), 100, np.uint8))
  mask, odd = transforms.mended_mask(image)
  assert not mask.any() and odd == (100,)
  assert transforms.published_mask(image, "S4").mean() == pytest.approx(100 / 255, abs=0.02)
  np.testing.assert_allclose(transforms.published_mask(image, "MS3"), 100 / 255)


def test_ms3_reads_white_rgb_as_0_88_and_a_palette_index_as_itself():
  white = Image.fromarray(np.full((8, 8, 3), 255, np.uint8))
  np.testing.assert_allclose(transforms.published_mask(white, "MS3"), 225 / 255)
  assert transforms.mended_mask(white)[0].all()
  indexed = Image.fromarray(np.ones((8, 8), np.uint8), "L").convert("P")
  indexed.putpalette([0, 0, 0, 255, 255, 255])
  np.testing.assert_allclose(transforms.published_mask(indexed, "MS3"), 1 / 255)
  assert transforms.mended_mask(indexed)[0].all()
  assert transforms.published_mask(indexed, "S4").all()


@pytest.mark.parametrize("size", [(5, 9), (33, 20), (16, 12), (224, 224)])
def test_resizing_a_mask_is_pillows_nearest_but_for_ties_and_makes_no_new_value(size):
  """Where a centre falls on the edge between two pixels, Pillow's choice is a matter of float rounding."""
  mask = np.random.default_rng(0).integers(0, 71, (2, 16, 12)).astype(np.int32)
  got = transforms.resize_mask(mask, size)
  expected = np.stack(
    [np.asarray(Image.fromarray(m).resize(size[::-1], Image.Resampling.NEAREST)) for m in mask]
  )
  rows, columns = (
    ((2 * np.arange(n) + 1) * full % (2 * n)) > 0 for n, full in zip(size, (16, 12), strict=True)
  )
  decided = rows[:, None] & columns
  np.testing.assert_array_equal(got[:, decided], expected[:, decided])
  assert decided.any() and got.dtype == np.int32 and got.shape == (2, *size)


def test_resizing_a_mask_by_hand():
  mask = np.array([[1, 2, 3, 4]])
  np.testing.assert_array_equal(transforms.resize_mask(mask, (2, 2)), [[2, 4], [2, 4]])
  np.testing.assert_array_equal(transforms.resize_mask(mask, (1, 8)), [[1, 1, 2, 2, 3, 3, 4, 4]])


def test_resizing_frames_keeps_a_constant_and_averages_when_shrinking():
  frames = np.full((2, 8, 8, 3), 77, np.uint8)
  np.testing.assert_array_equal(transforms.resize_frames(frames, (4, 6)), 77)
  stripes = np.zeros((1, 8, 8, 3), np.uint8)
  stripes[:, :, ::2] = 200
  got = transforms.resize_frames(stripes, (4, 4))
  assert abs(int(got[0, 2, 2, 0]) - 100) < 15
  assert transforms.resize_frames(frames, (8, 8)) is frames


def test_a_broken_picture_is_named(tmp_path):
  good = tmp_path / "good.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(good)
  (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-200])
  (tmp_path / "text.png").write_text("not a picture")
  (tmp_path / "empty.png").write_bytes(b"")
  flipped = bytearray(good.read_bytes())
  flipped[60] ^= 0xFF
  (tmp_path / "flipped.png").write_bytes(bytes(flipped))
  assert transforms.to_rgb(transforms.read_image(good)).shape == (32, 32, 3)
  for name in ("cut.png", "text.png", "empty.png", "flipped.png"):
    with pytest.raises(InputError, match=rf"{name}.*truncated or damaged"):
      transforms.read_image(tmp_path / name)
  with pytest.raises(InputError, match=r"gone\.png.*no such"):
    transforms.read_image(tmp_path / "gone.png")
