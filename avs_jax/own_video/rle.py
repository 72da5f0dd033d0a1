"""Masks as COCO writes them: run lengths down the columns, packed into a short text. No compiled code needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from avs_jax.errors import InputError


def encode(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
  """{"size": [H, W], "counts": text}, as the COCO tools read it."""
  return {"size": list(mask.shape), "counts": pack(counts_of(mask))}


def decode(segmentation: dict[str, Any]) -> Bool[np.ndarray, "H W"]:
  """The mask of `encode`; counts may be text or a list of numbers.

  Raises:
    InputError: the runs do not fill the picture.
  """
  (height, width), counts = segmentation["size"], segmentation["counts"]
  runs = unpack(counts) if isinstance(counts, str) else list(counts)
  if sum(runs) != height * width or min(runs, default=0) < 0:
    raise InputError(
      f"an RLE mask of {sum(runs)} pixels does not fill {height} x {width}; write the file again."
    )
  values = np.arange(len(runs)) % 2 == 1
  return np.repeat(values, runs).reshape(width, height).T


def counts_of(mask: Bool[np.ndarray, "H W"]) -> list[int]:
  """Lengths of the runs of 0, 1, 0 ... down each column in turn; the first may be 0 long."""
  flat = mask.T.reshape(-1)
  changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
  edges = np.concatenate([[0], changes, [flat.size]])
  runs = np.diff(edges).tolist()
  return [0, *runs] if flat.size and flat[0] else runs


def pack(counts: Sequence[int]) -> str:
  """From the fourth run on the difference to the run two before is written; each number as base-32 digits, lowest
  first, the last of them with its sign in bit 4, all others with bit 5 set; a digit is the character 48 + value."""
  text = []
  for i, count in enumerate(counts):
    rest = count - counts[i - 2] if i > 2 else count
    while True:
      digit, rest = rest & 31, rest >> 5
      is_last = rest == (-1 if digit & 16 else 0)
      text.append(chr(48 + (digit if is_last else digit | 32)))
      if is_last:
        break
  return "".join(text)


def unpack(text: str) -> list[int]:
  """The inverse of `pack`."""
  counts: list[int] = []
  value = shift = 0
  for character in text:
    digit = ord(character) - 48
    value |= (digit & 31) << shift
    shift += 5
    if digit & 32:
      continue
    if digit & 16:
      value -= 1 << shift
    counts.append(value + counts[-2] if len(counts) > 2 else value)
    value = shift = 0
  return counts
