"""Numbers, their spread, and the two forms of a table."""

import statistics

import pytest

from avs_jax import tables


def test_mean_and_deviation_are_those_of_a_sample():
  values = [0.8, 0.9, 0.85]
  mean, deviation = tables.mean_std(values)
  assert mean == pytest.approx(statistics.mean(values))
  assert deviation == pytest.approx(statistics.stdev(values))
  assert tables.spread(values) == "0.8500 ± 0.0500"
  assert tables.spread([0.5], 2) == "0.50"
  assert tables.spread([]) == "–"


def test_a_figure_that_a_seed_lacks_has_no_mean():
  assert tables.mean_std([0.5, None]) is None
  assert tables.spread([None]) == "–"


def test_numbers_have_four_digits_and_other_things_stay():
  assert [tables.number(x) for x in (0.5, 3, None, "S4")] == ["0.5000", "3", "–", "S4"]


def test_a_markdown_table_has_its_words_on_the_left():
  lines = tables.markdown(["a", "b", "c"], [["x", "y", "1"]], left=2)
  assert lines == ["| a | b | c |", "|---|---|---:|", "| x | y | 1 |"]


def test_latex_escapes_every_special_character_once():
  assert tables.escape("a_b 5% ± \\x {y} – †1") == (r"a\_b 5\% $\pm$ \textbackslash x \{y\} -- \dag{}1")
  text = tables.latex(["a", "b"], [["x_1", "0.5 ± 0.1"]], "50 % of {it}")
  assert "\\begin{tabular}{lr}" in text and r"x\_1 & 0.5 $\pm$ 0.1 \\" in text
  assert text.count("\\begin{") == text.count("\\end{")


def test_a_file_is_written_whole_into_a_new_folder(tmp_path):
  tables.save(str(tmp_path / "a" / "b.md"), "text")
  assert (tmp_path / "a" / "b.md").read_text() == "text"
  assert not (tmp_path / "a" / "b.md.part").exists()
