from benchmarks import deformable


def test_both_forms_are_measured_forward_and_backward():
  figures = deformable.measure(1, ((1, 1), (2, 2), (3, 3)), 1)
  text = deformable.page({"24 x 24": figures}, 1, 1)
  for direction in ("forward", "forward and backward"):
    for form in ("packed", "plain"):
      assert f"| 24 x 24 | {direction} | {form} |" in text
      assert figures[f"{form}, {direction}"]["seconds"] > 0
