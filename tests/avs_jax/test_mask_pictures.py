"""Pictures of masks are read as they were meant, and what cannot be meant is refused with the file's name."""

import numpy as np
import pytest
from PIL import Image

from avs_jax import mask_pictures
from avs_jax.errors import InputError
from data_pipelines.transforms import PALETTE

MASK = np.array([[0, 1, 0], [1, 1, 0]], np.uint8)


def saved(path, values, palette=None, mode=None):
  image = Image.fromarray(values)
  if palette is not None:
    image = image.convert("P")
    image.putpalette(palette)
  image = image if mode is None else image.convert(mode)
  image.save(path / "0.png")
  return str(path / "0.png")


@pytest.mark.parametrize(
  "palette",
  [
    [0, 0, 0, 128, 0, 0],
    [0, 0, 0, 255, 255, 255],
    [0, 0, 0, 0, 64, 0, 1, 2, 3],
    [0, 0, 0, 60, 60, 60],
    [0] * 768,
  ],
)
def test_indices_0_and_1_over_black_are_a_mask_whatever_the_colour(tmp_path, palette):
  np.testing.assert_array_equal(mask_pictures.read_probabilities(saved(tmp_path, MASK, palette)), MASK)
  path = saved(tmp_path, MASK * 0, palette)
  assert not mask_pictures.read_probabilities(path).any()


def test_a_palette_of_greys_holds_grey_values(tmp_path):
  ramp = np.repeat(np.arange(256), 3).tolist()
  got = mask_pictures.read_probabilities(saved(tmp_path, MASK, ramp))
  np.testing.assert_array_equal(got, MASK.astype(np.float32) / 255)
  got = mask_pictures.read_probabilities(saved(tmp_path, MASK * 200, ramp))
  np.testing.assert_array_equal(got, MASK * np.float32(200) / 255)
  got = mask_pictures.read_probabilities(saved(tmp_path, MASK, [255] * 3 + [0] * 3))  # white first
  np.testing.assert_array_equal(got, 1 - MASK)


def test_a_palette_of_several_colours_is_no_binary_mask(tmp_path):
  path = saved(tmp_path, MASK * 2, PALETTE.reshape(-1).tolist())
  with pytest.raises(
    InputError, match=r"0\.png: its palette paints more than one object \(indices up to 2\)"
  ):
    mask_pictures.read_probabilities(path)


def test_8_and_16_bit_are_scaled_to_1(tmp_path):
  for values, most in ((MASK * 255, 255), (MASK.astype(np.uint16) * 65535, 65535)):
    got = mask_pictures.read_probabilities(saved(tmp_path, values // 3))
    np.testing.assert_array_equal(got, (values // 3).astype(np.float32) / most)
  for mode in ("1", "LA", "RGB", "RGBA"):
    got = mask_pictures.read_probabilities(saved(tmp_path, MASK * 255, mode=mode))
    np.testing.assert_array_equal(got, MASK)


def test_classes_are_ids_or_colours(tmp_path):
  labels = np.arange(71, dtype=np.uint8).reshape(1, 71)
  for values, palette, mode in (
    (labels, None, None),
    (labels, None, "LA"),
    (labels, PALETTE.reshape(-1).tolist(), None),
    (labels, [7] * 768, None),
    (PALETTE[labels], None, None),
    (PALETTE[labels], None, "RGBA"),
  ):
    np.testing.assert_array_equal(mask_pictures.read_labels(saved(tmp_path, values, palette, mode)), labels)


def test_colours_of_no_class_are_named_with_their_file(tmp_path):
  path = saved(tmp_path, np.array([[[0, 0, 0], [128, 0, 0], [200, 10, 10]]], np.uint8))
  with pytest.raises(InputError, match=r"0\.png: 1 colours belong to no class, e.g. \(200, 10, 10\); paint"):
    mask_pictures.read_labels(path)


@pytest.mark.parametrize("read", [mask_pictures.read_probabilities, mask_pictures.read_labels])
def test_a_broken_file_is_named(tmp_path, read):
  (tmp_path / "0.png").write_bytes(b"\x89PNG nothing")
  with pytest.raises(InputError, match=r"0\.png cannot be read as a picture"):
    read(str(tmp_path / "0.png"))


def test_a_mask_in_the_transparency_alone_is_refused(tmp_path):
  white = np.full((*MASK.shape, 3), 255, np.uint8)
  path = saved(tmp_path, np.dstack([white, MASK * 255]))
  with pytest.raises(InputError, match=r"0\.png: its transparency is not what its grey values are"):
    mask_pictures.read_probabilities(path)
  cut_out = np.dstack([np.repeat(MASK[..., None] * 255, 3, axis=-1), MASK * 255])  # both say the same
  np.testing.assert_array_equal(mask_pictures.read_probabilities(saved(tmp_path, cut_out)), MASK)


def test_colours_are_no_probabilities(tmp_path):
  red = np.dstack([MASK * 255, MASK * 0, MASK * 0])
  with pytest.raises(InputError, match=r"0\.png: is painted in colours"):
    mask_pictures.read_probabilities(saved(tmp_path, red))
