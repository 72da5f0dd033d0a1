"""Observation tools: known listeners give the figures that they must."""

import json

import numpy as np
import pytest

from avs_jax import observe
from avs_jax.errors import InputError
from avs_jax.types import Outputs
from data_pipelines.coavs import PAIRS, Scene

T, SIDE, RATE = 2, 8, 16000


def scene(count, name="clip", categories=("dog", "car")):
  """Object 0 is the left half of the frame, object 1 the right; their sounds are two tones."""
  parts = np.zeros((2, T, SIDE, SIDE), bool)
  parts[0, :, :, : SIDE // 2] = parts[1, :, :, SIDE // 2 :] = True
  time = np.arange(T * RATE) / RATE
  voices = np.stack([0.1 * np.sin(2 * np.pi * f * time) for f in (500, 1500)]).astype(np.float32)
  frames = np.full((T, SIDE, SIDE, 3), 128, np.uint8)
  return Scene(name, frames, parts[:count], np.ones(T, bool), categories[:count], voices[:count])


def hearing(rule):
  """A listener that segments the half of each tone for which rule(power of tone, power of the other)."""

  def hear(frames, sounds):
    spectrum = np.abs(np.fft.rfft(sounds, axis=-1)) / sounds.shape[-1]
    powers = [spectrum[:, f * T] for f in (500, 1500)]
    logits = np.full((*frames.shape[:4], 1), -9.0, np.float32)
    for n in (0, 1):
      on = rule(powers[n], powers[1 - n])
      half = slice(0, SIDE // 2) if n == 0 else slice(SIDE // 2, SIDE)
      logits[:, :, :, half] = np.where(on, 9.0, -9.0)[:, None, None, None, None]
    return Outputs(logits=logits)

  return hear


FAIR = hearing(lambda own, other: own > 1e-3)
LOUDEST = hearing(lambda own, other: (own > 1e-3) & (own > 0.999 * other))
DEAF_TO_SOFT = hearing(lambda own, other: own > 0.03)


def test_overlap_and_coverage_are_those_computed_by_hand():
  a = np.zeros((T, 4, 4), bool)
  b = a.copy()
  a[0, :2], b[0, 1:3] = True, True  # second 1: both empty
  assert observe.overlap(a, b) == pytest.approx((1 / 3 + 1) / 2)
  assert observe.coverage(a, b) == pytest.approx(0.5)  # of the one second in which b is seen


def test_a_fair_listener_superposes_and_a_greedy_one_is_dominated():
  scenes = [scene(2), scene(2, "other")]
  fair = observe.summary([], observe.mixing(FAIR, scenes, PAIRS))
  assert set(fair["co_avs"]) == {"2-6", "3-5", "4-4", "5-3", "6-2"}
  assert set(fair["co_avs"].values()) == set(fair["superposition"].values()) == {1.0}
  assert fair["dominance"] == 0 and fair["robustness"] == 0
  greedy = observe.summary([], observe.mixing(LOUDEST, scenes, PAIRS))
  assert greedy["covered"]["2-6"] == [0, 1] and greedy["covered"]["6-2"] == [1, 0]
  assert greedy["covered"]["4-4"] == [1, 1] and greedy["superposition"]["2-6"] == 0.5
  assert greedy["dominance"] == 0  # an even mixture hides neither
  assert greedy["robustness"] == pytest.approx(np.std([0.5, 0.5, 1, 0.5, 0.5]))


def test_guiding_ability_grows_with_the_level_for_one_who_does_not_hear_soft_sounds():
  rows = observe.guiding_ability(DEAF_TO_SOFT, [scene(1)], (1, 2, 3, 4, 5, 6))
  assert [row["iou"] for row in rows] == [0, 0, 1, 1, 1, 1]  # amplitude 0.1 l / 4, half of it in the spectrum
  figures = observe.summary(rows, [])
  assert figures["category"] == {"dog": pytest.approx(4 / 6)} and figures["spread"] == 0
  assert "co_avs" not in figures


def test_only_counted_seconds_count():
  whole = scene(1)
  half = Scene(whole.id, whole.frames, whole.parts.copy(), np.array([True, False]), ("dog",), whole.voices)
  half.parts[0, 1] = False  # a second whose mask nobody knows
  assert observe.guiding_ability(FAIR, [half], (4,))[0]["iou"] == 1


def test_both_studies_and_their_pictures_are_written(tmp_path):
  def with_queries(frames, sounds):
    found = FAIR(frames, sounds)
    clips = len(frames)
    masks = np.ones((clips, T, 4, 4, 3), np.float32)
    classes = np.zeros((clips, T, 3, 2), np.float32)
    return found.replace(
      query_masks=(masks,), query_classes=(classes,), marks=np.ones((clips, T, 3), np.float32)
    )

  singles = [scene(1), scene(1, "b", ("cat",))]
  figures = observe.observe(with_queries, singles, [scene(2)], str(tmp_path), "a test")
  kept = json.loads((tmp_path / "observe.json").read_text())
  assert kept["co_avs_mean"] == figures["co_avs_mean"] == 1 and kept["clips"] == {"single": 2, "pair": 1}
  assert len(kept["guiding_rows"]) == 12
  for name in ("observe.png", "queries.png"):
    assert (tmp_path / name).stat().st_size > 5000
  (tmp_path / "queries.png").unlink()
  observe.observe(FAIR, singles, [scene(2)], str(tmp_path), "a system without queries")
  assert not (tmp_path / "queries.png").exists()


def test_a_model_listens_in_batches_and_marks_are_given(small):
  import jax

  from avs_jax.initialise import initialise
  from avs_jax.model import build_model, example_inputs

  config = small({"model.tpavi_stages": (), "eval.batch": 2})
  model = build_model(config)
  variables = initialise(model, *example_inputs(config), seed=0)
  asked = []

  def mark(rows, source):
    asked.append(rows["log_mel"].shape[0])
    return rows

  hear = observe.listener(config, model, variables, mark)
  frames = np.random.default_rng(0).integers(0, 255, (3, T, 32, 32, 3), np.uint8)
  found = hear(frames, np.zeros((3, T * RATE), np.float32))
  assert found.logits.shape == (3, T, 32, 32, 1) and asked == [2, 2]
  again = hear(frames[2:], np.zeros((1, T * RATE), np.float32))
  np.testing.assert_allclose(again.logits, found.logits[2:], rtol=1e-4, atol=1e-5)
  assert isinstance(jax.tree.leaves(found)[0], np.ndarray)
  with pytest.raises(InputError, match="marks.kind=file tells of no mixed sounds"):
    observe.listener(small({"marks.kind": "file"}), model, variables, mark)
