"""A bank comes back from disk as it was written, and a broken one is refused by name."""

import json

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines.media_bank import Bank, Item, load_bank, write_bank


def _bank() -> Bank:
  rng = np.random.default_rng(0)
  make = lambda kind, category, split, name, array: Item(  # noqa: E731
    kind, category, split, name, f"package 1.0: {name}", "GPL-2", "Ann", array
  )
  return Bank(
    {"cow": "animal"},
    (
      make("picture", "cow", "train", "a.png", rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)),
      make("sound", "cow", "train", "a.ogg", rng.standard_normal(50).astype(np.float32)),
      make("background", "", "test", "b.jpg", rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)),
      make("noise", "", "train", "n.ogg", rng.standard_normal(30).astype(np.float32)),
      make("picture", "cow", "unseen", "c.png", rng.integers(0, 256, (3, 2, 4), dtype=np.uint8)),
    ),
  )


def test_a_bank_comes_back_as_it_was_written(tmp_path):
  bank = _bank()
  write_bank(bank, tmp_path)
  again = load_bank(tmp_path)
  assert again.broad == bank.broad
  for old, new in zip(bank.items, again.items, strict=True):
    np.testing.assert_array_equal(old.array, new.array)
    assert old.array.dtype == new.array.dtype
    assert (old.kind, old.category, old.split, old.name, old.origin) == (
      new.kind,
      new.category,
      new.split,
      new.name,
      new.origin,
    )


def test_items_are_selected_by_kind_split_and_class(tmp_path):
  bank = _bank()
  assert [item.name for item in bank.select("picture", "train", "cow")] == ["a.png"]
  assert [item.name for item in bank.select("background", "test")] == ["b.jpg"]
  assert bank.select("picture", "train", "dog") == ()


def test_credits_name_owner_licence_and_package():
  assert _bank().credits(["a.png", "a.png"]) == ["a.png: Ann, GPL-2 (package 1.0: a.png)"]


def test_writing_again_replaces_the_bank(tmp_path):
  write_bank(_bank(), tmp_path)
  assert len(load_bank(tmp_path).items) == 5
  write_bank(Bank({"cow": "animal"}, _bank().items[:2]), tmp_path)
  assert len(load_bank(tmp_path).items) == 2
  assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_missing_bank_is_an_input_error(tmp_path):
  with pytest.raises(InputError, match="no media bank in"):
    load_bank(tmp_path)


def test_a_truncated_bank_is_an_input_error(tmp_path):
  folder = write_bank(_bank(), tmp_path)
  np.save(folder / "pixels.npy", np.zeros(10, np.uint8))
  with pytest.raises(InputError, match="broken or of another version"):
    load_bank(tmp_path)


def test_a_bank_of_another_format_is_an_input_error(tmp_path):
  folder = write_bank(_bank(), tmp_path)
  manifest = json.loads((folder / "manifest.json").read_text())
  (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
  with pytest.raises(InputError, match="format 99, not 1"):
    load_bank(tmp_path)
