"""Predicted masks of other programs, read from picture files as they meant them, or refused by name."""

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from avs_jax.errors import InputError


def _read(path: str) -> Image.Image:
  try:
    with Image.open(path) as image:
      image.load()
      return image
  except (OSError, ValueError, SyntaxError) as error:
    raise InputError(f"{path} cannot be read as a picture ({error}); write it again.") from None


def read_probabilities(path: str) -> Float[np.ndarray, "H W"]:
  """Probabilities, float32: the grey value over 255, or over 65535 where a pixel has 16 bit.

  A palette of black and a colour, with indices 0 and 1, is a mask whatever the colour: 0 and 1.

  Raises:
    InputError: the file cannot be read, paints in colours, or is transparent elsewhere than it is black.
  """
  image = _read(path)
  if image.mode == "P":
    used = np.unique(np.asarray(image))
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    is_mask = bool(used.max() <= 1) and _is_black_then_painted(image)
    if is_mask:
      return np.asarray(image).astype(np.float32)
    if (colours != colours[:, :1]).any():
      raise InputError(
        f"{path}: its palette paints more than one object (indices up to {used.max()}), but the masks are binary;"
        " write 0 and 255 as grey values, or a palette's indices 0 and 1 with 0 black."
      )
  if image.mode not in ("L", "I;16", "I"):
    image = _grey(path, image)
  values = np.asarray(image)
  return values.astype(np.float32) / (65535 if values.dtype.itemsize > 1 else 255)


def _grey(path: str, image: Image.Image) -> Image.Image:
  """The grey values of a picture in any other mode.

  Raises:
    InputError: its colours or its transparency say something else than its grey values.
  """
  *colours, alpha = np.moveaxis(np.asarray(image.convert("RGBA")).astype(np.int16), -1, 0)
  if (np.max(colours, axis=0) - np.min(colours, axis=0)).max() > 32:  # a JPEG's greys differ by a few
    raise InputError(
      f"{path}: is painted in colours, whose grey values are no probabilities; write the mask as 0 and 255 in grey."
    )
  if ((alpha > 127) != (colours[0] > 127)).any() and alpha.min() < 255:
    raise InputError(
      f"{path}: its transparency is not what its grey values are, and which is the mask cannot be told; write the"
      " mask as grey values, 0 and 255, without transparency."
    )
  return image.convert("L")


def _is_black_then_painted(image: Image.Image) -> bool:
  """Whether index 0 is black and index 1 is more than the second step of a ramp of greys, which is a grey value."""
  first, second = np.reshape((image.getpalette("RGB") or [])[:6] + [0] * 6, (-1, 3))[:2].tolist()
  return first == [0, 0, 0] and second != [1, 1, 1]


def read_labels(path: str) -> Int[np.ndarray, "H W"]:
  """Class ids: grey values, indices of a palette, or colours (RGB) of AVSS's own palette.

  Raises:
    InputError: the file cannot be read, or holds colours that belong to no class.
  """
  from data_pipelines.transforms import labels_from_colours, to_rgb  # here: it reads data, models do not

  image = _read(path)
  if image.mode not in ("RGB", "RGBA"):
    return np.asarray(image.convert("L") if image.mode == "LA" else image).astype(np.int32)
  labels, foreign = labels_from_colours(to_rgb(image))
  if foreign:
    named = ", ".join(map(str, foreign[:5]))
    raise InputError(
      f"{path}: {len(foreign)} colours belong to no class, e.g. {named}; paint the classes in AVSS's palette (PASCAL"
      " VOC's rule; a picture that was resized smoothly has other colours), or write class ids as grey values."
    )
  return labels
