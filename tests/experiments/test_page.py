"""A study's part of a page is renewed and nothing else is touched."""

import pytest

from avs_jax.errors import InputError
from experiments import page
from experiments.study import Row, Study, Table

STUDY = Study("s", "S", (Row("a", "x.py"),), (Table("table_2", "Two", "globals", ("x",), ()),))


def test_tables_come_in_the_studys_order_and_figures_by_links_from_the_page(tmp_path):
  paths = []
  for name, text in (
    ("table_2.md", "## Two\n\n| x |\n"),
    ("runs.md", "# S\n\nruns\n"),
    ("table_2.tex", "no"),
  ):
    (tmp_path / name).write_text(text)
    paths.append(str(tmp_path / name))
  paths += [str(tmp_path / "tables" / name) for name in ("similarity_a-guide.png", "frontier.png")]
  text = page.compose(STUDY, paths, str(tmp_path / "docs" / "results.md"))
  start, similarity, frontier = text.partition("\n\nSimilarity")[0], *text.split("\n\n![")[1:]
  assert start == "## S\n\nruns\n\n### Two\n\n| x |"
  assert (
    similarity.startswith("Similarity of sound and picture")
    and "](../tables/similarity_a-guide.png)" in similarity
  )
  assert "(as figure 4): a-guide:" in text  # whose it is
  assert frontier.startswith("Positive IoU against G-FPR")
  assert text.endswith("](../tables/frontier.png)")


def test_a_part_is_put_at_the_end_once_and_then_replaced(tmp_path):
  path = tmp_path / "new.md"
  page.insert(str(path), STUDY, "one")
  assert path.read_text() == "<!-- study s -->\n\none\n\n<!-- end of study s -->\n"
  path.write_text("Before.\n\n" + path.read_text() + "\nAfter.\n")
  page.insert(str(path), STUDY, "two")
  assert path.read_text() == "Before.\n\n<!-- study s -->\n\ntwo\n\n<!-- end of study s -->\n\nAfter.\n"


def test_marks_in_disorder_are_one_sentence(tmp_path):
  path = tmp_path / "page.md"
  path.write_text("<!-- end of study s --> <!-- study s -->")
  with pytest.raises(InputError, match="must both be there, in this order"):
    page.insert(str(path), STUDY, "one")
