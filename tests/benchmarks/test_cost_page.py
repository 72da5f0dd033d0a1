"""The page sets every claim beside what was counted and measured."""

from benchmarks import efficiency
from benchmarks.cost_page import page


def counted() -> dict:
  """Figures of made-up sizes for every row of the page."""
  names = [subject.name for subject in efficiency.asked(efficiency.parse([]))]
  one = {"parameters": 2e8, "trainable": 1e8, "audio_encoder": 7e7, "gflop": 100.0, "open_loops": 0}
  found = {name: dict(one) for name in names}
  found["sdavs:pvt_v2_b5:224"] |= {"trainable": 9e7, "gflop": 40.0}
  found["ravs:pvt_v2_b5:224"]["open_loops"] = 1
  return found


def test_the_page_sets_every_claim_beside_what_was_found():
  one = {
    "device": "cpu", "temporary_bytes": None, "fps": 2.0, "cpu_seconds_per_frame": 1.0, "peak_bytes": 3e9,
    "dtype": "float32", "repeats": 5, "together": "a, b", "load": 1.0,
  }  # fmt: skip
  measured = {
    "avsegformer:pvt_v2_b5:224": one,
    "sdavs:pvt_v2_b5:224": {**one, "fps": 3.0, "cpu_seconds_per_frame": 0.5},
  }
  text = page({"counted": counted(), "measured": measured, "versions": {"jax": "1"}}, "the command")
  assert "| trainable parameters, both without VGGish | 48 % fewer | 10 % fewer |" in text
  assert "| FLOPs at 224 px | 60 % fewer | 60 % fewer |" in text
  assert "| frames a second at 224 px | 2.19 times (32.25 against 14.71) | 1.50 times (3 against 2) |" in text
  assert "| CPU seconds a frame at 224 px | – | 1 / 2.00 |" in text
  assert "| ravs | pvt_v2_b5 | 224 | 200.00 | 100.00 | 100.0* | 20.0 |" in text
  assert "| w/o STC | 426.7 | 50.0 | 100.0 | 103 | 100.00 |" in text
  assert "## Speed" not in page({"counted": counted()}, "the command")
