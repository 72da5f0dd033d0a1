"""Parts of the active queries go one after the other, and marks change alone."""

import pytest

from avs_jax import losses
from avs_jax.errors import InputError
from experiments import queries, study


@pytest.mark.parametrize("arg", queries.SETTINGS)
def test_each_row_has_the_parts_that_its_label_says(arg):
  configs = {row.name: study.configure(row, 0) for row in queries.get_study(arg).rows}

  def parts(c):
    drop = losses.settings(c.loss.to_dict())["queries_drop"]
    return c.debias.contrast, drop, c.model.interaction, c.model.first_query, c.marks.kind

  found = {name: parts(config) for name, config in configs.items()}
  assert found == {
    "whole": ("uncertainty", 0.4, "active", True, "kmeans"),
    "no_contrast": ("none", 0.4, "active", True, "kmeans"),
    "no_drop": ("none", 0.0, "active", True, "kmeans"),
    "no_interaction": ("none", 0.0, "all", True, "kmeans"),
    "no_first": ("none", 0.0, "all", False, "kmeans"),
    "no_marks": ("none", 0.0, "all", True, "none"),
    "gmm": ("uncertainty", 0.4, "active", True, "gmm"),
    "none": ("uncertainty", 0.4, "active", True, "none"),
  }


def test_printed_lines_stand_with_ours():
  for table in queries.get_study().tables:
    assert [row.labels for row in table.paper] == [line.labels for line in table.lines]


def test_unknown_data_is_one_sentence():
  with pytest.raises(InputError, match="experiments/queries.py:x: there is no such data; choose generated"):
    queries.get_study("x")
