"""COCO masks: what was packed is unpacked, and a few texts are those that the COCO tools write."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from avs_jax.errors import InputError
from avs_jax.own_video import rle


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_what_was_packed_is_unpacked(mask):
  packed = rle.encode(mask)
  np.testing.assert_array_equal(rle.decode(packed), mask)
  plain = {"size": packed["size"], "counts": rle.counts_of(mask)}
  np.testing.assert_array_equal(rle.decode(plain), mask)


def test_the_text_is_the_one_that_the_coco_tools_write():
  """Written by pycocotools 2.0 (with which 300 random masks were compared too)."""
  square = np.zeros((40, 300), bool)
  square[5:30, 20:24] = True
  assert rle.encode(np.eye(4, dtype=bool))["counts"] == "01400000"
  assert rle.encode(np.ones((2, 3), bool))["counts"] == "06"
  assert rle.encode(square)["counts"] == "Ui0i0?00000kh:"


def test_long_runs_and_falling_runs_keep_their_sign():
  counts = [0, 1, 100_000, 1, 3, 70_000, 2]
  assert rle.unpack(rle.pack(counts)) == counts


def test_runs_that_do_not_fill_the_picture_are_refused():
  with pytest.raises(InputError, match="an RLE mask of 6 pixels does not fill 2 x 4"):
    rle.decode({"size": [2, 4], "counts": "06"})
