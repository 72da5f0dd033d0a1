"""What stands in a pickle's place of things: inert, bounded, and made into arrays only when wanted."""

import io
import pickle

import numpy as np
import pytest

from avs_jax.weights import pickles
from avs_jax.weights.pickles import DamagedError, RefusedError


def storage(values, code="f4"):
  raw = np.asarray(values, "<" + code).view(np.uint8)
  made = pickles.Storage("0", code, len(values))
  made.fetch = lambda: raw
  return made


def test_a_tensor_is_a_view_of_its_storage_by_offset_and_strides():
  numbers = storage(range(12))
  tensor = pickles.Tensor(numbers, 1, (2, 3), (1, 4)).array()
  np.testing.assert_array_equal(tensor, [[1, 5, 9], [2, 6, 10]])
  assert np.shares_memory(tensor, numbers.fetch()) and not tensor.flags.writeable
  assert pickles.Tensor(numbers, 12, (0, 3), (3, 1)).array().shape == (0, 3)


def test_bfloat16_becomes_the_float32_of_the_same_bits():
  bits = (np.array([1.5, -0.25, 3e38], np.float32).view(np.uint32) >> 16).astype("<u2")
  half = pickles.Storage("0", "bf16", 3)
  half.fetch = lambda: bits.view(np.uint8)
  values = pickles.Tensor(half, 0, (3,), (1,)).array()
  assert values.dtype == np.float32
  np.testing.assert_allclose(values, [1.5, -0.25, 3e38], rtol=2**-8)


def test_a_view_of_a_storage_is_a_part_of_it():
  part = pickles.Storage("0", "f4", 2, root=storage(range(5)), start=3)
  np.testing.assert_array_equal(pickles.Tensor(part, 0, (2,), (1,)).array(), [3, 4])


@pytest.mark.parametrize(
  ("offset", "shape", "stride", "said"),
  [
    (0, (5,), (1,), "reaches beyond its storage"),
    (3, (2,), (1,), "reaches beyond its storage"),
    (0, (100, 2), (0, 1), "reaches beyond its storage"),  # as many zeros as one likes, from a few bytes
    (-1, (1,), (1,), "shape and strides disagree"),
    (0, (2, 2), (2,), "shape and strides disagree"),
  ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_damaged(offset, shape, stride, said):
  with pytest.raises(DamagedError, match=said):
    pickles.Tensor(storage(range(4)), offset, shape, stride).array()


def test_a_storage_without_its_bytes_is_damaged():
  with pytest.raises(DamagedError, match="storage 7 has no data"):
    pickles.Storage("7", "f4", 2).numbers()
  short = pickles.Storage("7", "f4", 2)
  short.fetch = lambda: np.zeros(7, np.uint8)
  with pytest.raises(DamagedError, match="holds 7 bytes of 8"):
    short.numbers()


def test_arrays_of_numpy_come_back_and_arrays_of_objects_do_not():
  for value in (np.arange(6, dtype=">i2").reshape(2, 3), np.asfortranarray(np.eye(3)), np.float32(2.5)):
    for protocol in (2, 4):
      made = pickles.load(io.BytesIO(pickle.dumps(value, protocol)))[0].array()
      np.testing.assert_array_equal(made, value)
      assert made.dtype == value.dtype
  with pytest.raises(DamagedError, match="an array of Python objects"):
    pickles.load(io.BytesIO(pickle.dumps(np.array([{}, ()], object), 2)))[0].array()


def test_what_is_not_listed_is_refused_by_name_and_what_is_listed_is_never_imported():
  reader = pickles.Reader(io.BytesIO())
  with pytest.raises(RefusedError, match=r"os\.system"):
    reader.find_class("os", "system")
  for (module, name), stand_in in pickles.ALLOWED.items():
    assert reader.find_class(module, name) is stand_in
  assert all(pickles.ALLOWED[key] is pickles.Skipped for key in pickles.COMPANY)
  with pytest.raises(RefusedError, match="the persistent object"):
    reader.persistent_load(("module", "source"))


def test_what_lies_beside_the_weights_keeps_nothing_and_cannot_be_altered():
  skipped = pickles.Skipped("a", b=1)
  skipped["key"] = skipped.append(2)
  skipped.__setstate__({"x": 1})
  assert skipped(3) is skipped and not hasattr(skipped, "x") and not hasattr(skipped, "__dict__")
  with pytest.raises(DamagedError, match="alters a class"):
    pickles.Skipped.append = None
  for stand_in, what in ((pickles.Constructor(tuple), "function"), (pickles.Kind("f4"), "type")):
    with pytest.raises(DamagedError, match=f"alters a {what}"):
      stand_in.__setstate__({})


def test_a_pickle_that_asks_for_much_memory_at_once_is_damaged():
  with pytest.raises(DamagedError, match="numbers objects that it does not have"):
    pickles.load(io.BytesIO(b"\x80\x02Nr\xff\xff\xff\x7f."))
