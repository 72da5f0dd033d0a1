"""Both forms of deformable attention are timed and shown with their memory."""

from benchmarks import deformable


def test_both_forms_are_measured_forward_and_backward():
  figures = deformable.measure(1, ((1, 1), (2, 2), (3, 3)), 1)
  text = deformable.page({"24 x 24": figures}, 1, 1)
  for direction in ("forward", "forward and backward"):
    for form in ("packed", "plain"):
      row = figures[f"{form}, {direction}"]
      assert row["seconds"] > 0 and row["temporary_bytes"] > 0
      memory = f"{row['temporary_bytes'] / 1e6:.1f}"
      assert (
        f"| 24 x 24 | {direction} | {form} | {row['seconds']:.3f} | {row['cpu_seconds']:.3f} | {memory} |"
        in text
      )
