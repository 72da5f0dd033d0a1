"""What happens to a picture or a mask between the file and the model: reading, colours to classes, resizing.

Everything is pure and takes or gives numpy arrays. Pixel geometry, everywhere: the centre of the top-left
pixel is (0.5, 0.5); resizing maps outer edges onto each other; nothing is read from beyond an edge.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image

from avs_jax.errors import InputError

AVSS_CLASSES = 71
# The visual encoders' mean colour: a padded frame is (nearly) zero after normalisation, as AVSS pads.
PADDING_RGB = (124, 116, 104)


def _palette() -> UInt8[np.ndarray, "71 3"]:
  """PASCAL VOC's rule: bit 3i of the class goes to bit 7-i of red, 3i+1 to green, 3i+2 to blue."""
  classes = np.arange(AVSS_CLASSES)
  colours = np.zeros((AVSS_CLASSES, 3), np.uint8)
  for bit in range(AVSS_CLASSES.bit_length()):
    colours[:, bit % 3] |= ((classes >> bit & 1) << 7 - bit // 3).astype(np.uint8)
  return colours


PALETTE = _palette()


def read_image(path: str | Path) -> Image.Image:
  """An opened and fully decoded picture. Raises `InputError` naming the file when it is missing or broken."""
  try:
    with Image.open(path) as image:
      image.load()
      return image
  except FileNotFoundError as error:
    raise InputError(f"{path}: there is no such picture") from error
  except Image.DecompressionBombError as error:
    raise InputError(f"{path}: the picture is far too large to be a frame") from error
  except (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
  ) as error:  # Pillow raises all of these for damaged files
    raise InputError(f"{path}: the picture is truncated or damaged ({error}); copy it again") from error


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
  return np.asarray(image.convert("RGB"))


def mended_mask(image: Image.Image) -> tuple[Int32[np.ndarray, "H W"], tuple[int, ...]]:
  """{0, 1} by a threshold at 128 on the grey value, and the values met that are neither 0 nor 255.

  Such values mean that the file was resized smoothly, saved with loss or painted with a palette; they deserve
  a warning. Mask files that hold 0 and 255 only read the same here and as published.
  """
  grey = np.asarray(image.convert("L"))
  values = np.flatnonzero(np.bincount(grey.reshape(-1), minlength=256))
  return (grey >= 128).astype(np.int32), tuple(int(v) for v in values if v not in (0, 255))


def published_mask(image: Image.Image, subset: Literal["S4", "MS3"]) -> Float[np.ndarray, "H W"]:
  """The target in [0, 1] that the published loaders make of a mask file.

  S4: conversion to one bit, which dithers (Floyd-Steinberg) greys and colours and thresholds palettes.
  MS3: palette INDEX / 255, so a white RGB mask becomes 225/255 and an index-1 mask 1/255.
  """
  if subset == "S4":
    return np.asarray(image.convert("1"), np.float32)
  return np.asarray(image.convert("P"), np.float32) / 255


def labels_from_colours(rgb: UInt8[np.ndarray, "H W 3"]) -> tuple[Int32[np.ndarray, "H W"], list[tuple]]:
  """AVSS classes 0..70 of a painted label, and the colours met that belong to no class.

  A foreign colour becomes background, as published; there it happens in silence.
  """
  red, green, blue = (rgb[..., c].astype(np.int32) for c in range(3))
  classes = np.zeros(rgb.shape[:2], np.int32)
  for bit, channel in enumerate((red, green, blue) * 2 + (red,)):
    classes |= (channel >> 7 - bit // 3 & 1) << bit
  classes[classes >= AVSS_CLASSES] = 0
  foreign = (PALETTE[classes] != rgb).any(axis=-1)
  if not foreign.any():
    return classes, []
  colours = np.unique(rgb[foreign], axis=0)
  return np.where(foreign, 0, classes).astype(np.int32), [tuple(int(v) for v in c) for c in colours]


def resize_frames(
  frames: UInt8[np.ndarray, "T H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "T h w 3"]:
  """Bilinear to (h, w), aspect not kept; averages over the source pixels when shrinking (Pillow's filter)."""
  if frames.shape[1:3] == tuple(size):
    return frames
  height, width = size
  return np.stack([_resized(frame, (width, height), Image.Resampling.BILINEAR) for frame in frames])


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Nearest to (h, w) over the last two axes: pixel i reads source pixel floor((i + 0.5) H / h)."""
  if mask.shape[-2:] == tuple(size):
    return mask
  sides = zip(size, mask.shape[-2:], strict=True)
  rows, columns = ((2 * np.arange(side) + 1) * full // (2 * side) for side, full in sides)
  return mask[..., rows[:, None], columns]


def avss_train_crop(image: np.ndarray, size: int = 224, *, nearest: bool = False) -> np.ndarray:
  """AVSS in training: shorter side to `size` keeping the aspect, then the centre square.

  Deterministic, as published. The longer side is truncated to whole pixels; the crop's offset is half the
  slack, halves rounded to even.
  """
  height, width = image.shape[:2]
  shape = (int(size * width / height), size) if width > height else (size, int(size * height / width))
  scaled = _resized(image, shape, Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR)
  top, left = (round((side - size) / 2) for side in scaled.shape[:2])
  return scaled[top : top + size, left : left + size]


def avss_eval_resize(image: np.ndarray, size: int = 224, *, nearest: bool = False) -> np.ndarray:
  """AVSS in validation and test: straight to a square, aspect not kept."""
  return _resized(image, (size, size), Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR)


def _resized(image: np.ndarray, shape: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize(shape, filter))
