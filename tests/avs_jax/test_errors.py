"""A setting that is none of its choices is refused in one sentence that names them all."""

import pytest

from avs_jax.errors import InputError, check_choice, make_folder


@pytest.mark.parametrize(("value", "allowed"), [("b", ("a", "b")), (None, (None, "a")), ("a", {"a": 1})])
def test_a_choice_is_let_through(value, allowed):
  check_choice("model.form", value, allowed)


def test_what_is_no_choice_is_named_with_those_that_are():
  with pytest.raises(InputError) as told:
    check_choice("model.form", "c", (None, "a", "b"))
  assert str(told.value) == "model.form='c' is not known; choose one of a, b."


def test_choices_may_be_read_but_once():
  with pytest.raises(InputError, match="choose one of a, b"):
    check_choice("model.form", "c", iter(("a", "b")))


def test_a_folder_is_made_or_named(tmp_path):
  make_folder(tmp_path / "a" / "b")
  make_folder(tmp_path / "a" / "b")
  assert (tmp_path / "a" / "b").is_dir()
  (tmp_path / "file").write_text("kept")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(InputError, match=f"^{path}: the folder cannot be made .*; give another"):
      make_folder(path)
  assert (tmp_path / "file").read_text() == "kept"
