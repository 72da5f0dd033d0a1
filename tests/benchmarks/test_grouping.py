"""The grouping benchmark measures both forms and says that they agree."""

from benchmarks import grouping


def test_both_forms_are_measured_and_give_the_same_groups():
  figures = grouping.measure(1, (100, 8, 4), 1)
  text = grouping.page({"10 x 10": figures}, 1, 1)
  for form in ("blocks", "dense"):
    assert f"| 10 x 10 | {form} |" in text
    assert figures[form]["seconds"] > 0 and figures[form]["equal"] == 1.0
  assert figures["blocks"]["temporary_bytes"] < figures["dense"]["temporary_bytes"]
