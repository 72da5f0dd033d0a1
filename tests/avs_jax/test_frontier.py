"""A sweep says what a slow loop over masks says."""

import itertools

import numpy as np
import pytest

from avs_jax import frontier, metrics
from avs_jax.errors import InputError

SHAPE = (6, 10, 10)


def sounds(seed: int = 0, *, guided: bool = True):
  """Probabilities, masks and similarities of six frames under four sounds, and their statistics."""
  rng = np.random.default_rng(seed)
  truth = np.zeros(SHAPE, bool)
  truth[1:, 2:6, 3:8] = True  # the first frame holds no object
  maps, similar, statistics = {}, {}, {}
  for number, name in enumerate(("positive", *frontier.NEGATIVES)):
    shift = 1.5 if name == "positive" else -1.0 + 0.5 * number
    logits = (np.where(truth, shift, -1.5) + rng.standard_normal(SHAPE)).astype(np.float32)
    maps[name] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    similar[name] = rng.normal(0.5 if name == "positive" else -0.3, 0.4, SHAPE[0])
    tally = metrics.Tally()
    counts = metrics.frame_counts(logits, truth.astype(np.int32))
    tally.add(counts, np.arange(3), np.array([[True, True], [True, True], [True, False]]))
    keys, counted, stacked = tally.stacked()
    statistics[name] = {"keys": keys, "counted": counted, **vars(stacked)}
    if guided:
      statistics[name]["similarity"] = similar[name]
  return maps, truth, similar, statistics


def slow(maps, truth, similar, threshold, gate):
  """Positive IoU and G-FPR by a loop over the five counted frames."""
  figures = {}
  for name, probabilities in maps.items():
    iou, active = [], []
    for k in range(5):
      on = probabilities[k] >= threshold
      if gate is not None and similar[name][k] < gate:
        on = np.zeros_like(on)
      union = (on | truth[k]).sum()
      iou.append((on & truth[k]).sum() / union if truth[k].any() else (~on).mean())
      active.append(on.mean())
    figures[name] = np.mean(iou), np.mean(active)
  return figures["positive"][0], np.mean([figures[name][1] for name in frontier.NEGATIVES])


def test_a_point_is_what_a_loop_over_the_masks_gives():
  maps, truth, similar, statistics = sounds()
  for place, gate in itertools.product((30, 127, 229), (None, 0.0, 0.4)):
    point = frontier.point(statistics, place, gate)
    iou, g_fpr = slow(maps, truth, similar, point["threshold"], gate)
    assert point["iou_frame"] == pytest.approx(iou, abs=1e-6)
    assert point["g_fpr"] == pytest.approx(g_fpr, abs=1e-6)


def test_the_operating_point_is_the_scoreboards():
  _, _, _, statistics = sounds()
  tally = metrics.Tally()
  each = statistics["positive"]
  counts = metrics.FrameCounts(**{name: each[name] for name in metrics.FrameCounts.__dataclass_fields__})
  tally.add(counts, np.arange(3), each["counted"].reshape(3, 2))
  point = frontier.sweep(statistics)["operating"]
  assert point["iou_frame"] == pytest.approx(metrics.summarise(tally)["iou_frame"], abs=1e-5)
  assert point["gate"] is None and point["threshold"] == 0.5


def test_a_higher_threshold_or_gate_never_raises_the_false_alarms_and_a_closed_gate_ends_them():
  swept = frontier.sweep(sounds()[3])
  for which in ("mask", "gate"):
    shares = [point["g_fpr"] for point in swept[which]]
    assert shares == sorted(shares, reverse=True)
  assert len(swept["mask"]) == len(frontier.PLACES)
  assert frontier.point(sounds()[3], 127, np.inf)["g_fpr"] == 0


def test_a_run_judged_with_its_gate_is_swept_without_it():
  statistics = sounds()[3]
  fields = metrics.FrameCounts.__dataclass_fields__
  shut = {  # a gate that refuses everything
    name: {**each, "active": 0 * each["active"], "overlap": 0 * each["overlap"],
           "accepted": 0 * each["accepted"], "hits": 0 * each["hits"],
           **{f"ungated_{field}": each[field] for field in fields}}
    for name, each in statistics.items()
  }  # fmt: skip
  open_, swept = frontier.sweep(statistics), frontier.sweep(shut)
  assert (swept["mask"], swept["gate"]) == (open_["mask"], open_["gate"])
  assert swept["operating"]["g_fpr"] == 0 < open_["operating"]["g_fpr"]
  for limit in (0.05, 0.2):
    assert frontier.highest_iou(swept["best"], limit) == frontier.highest_iou(open_["best"], limit)


def test_the_best_points_are_those_no_other_beats():
  swept = frontier.sweep(sounds()[3])
  best = swept["best"]
  pairs = [(p["g_fpr"], p["iou_frame"]) for p in best]
  assert pairs == sorted(pairs) and len({iou for _, iou in pairs}) == len(pairs)
  for point in (*swept["mask"], *swept["gate"], swept["operating"]):
    assert any(fpr <= point["g_fpr"] and iou >= point["iou_frame"] for fpr, iou in pairs)


def test_a_bound_that_no_point_keeps_gives_none():
  points = [{"g_fpr": 0.1, "iou_frame": 0.8}, {"g_fpr": 0.02, "iou_frame": 0.5}]
  assert frontier.highest_iou(points, 0.05) == 0.5
  assert frontier.highest_iou(points, 0.1) == 0.8
  assert frontier.highest_iou(points, 0.01) is None


def test_without_a_guide_there_is_no_gate():
  _, _, _, statistics = sounds(guided=False)
  assert frontier.sweep(statistics)["gate"] == []
  assert frontier.similarities(statistics, "none") is None


def test_cosines_stay_cosines_and_logits_become_probabilities():
  _, _, similar, statistics = sounds()
  for each in statistics.values():
    each["similarity"] = np.clip(each["similarity"], -1, 1)
  found = frontier.similarities(statistics, "cosine")
  assert (found["scale"], found["low"], found["high"]) == ("cosine", -1.0, 1.0)
  assert sum(found["sounds"]["noise"]["counts"]) == 5  # the frame that is not counted is left out
  kept = np.clip(similar["noise"][:5], -1, 1)
  assert found["sounds"]["noise"]["mean"] == pytest.approx(kept.mean(), abs=1e-5)
  statistics["silence"]["similarity"] = np.array([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])  # as a cosine could be
  found = frontier.similarities(statistics, "cosine_calibrated")
  assert found["scale"] == "probability"
  assert found["sounds"]["silence"]["mean"] == pytest.approx(0.5, abs=1e-5)


def test_statistics_come_back_from_their_file_as_they_were(tmp_path):
  statistics = sounds()[3]
  path = frontier.save(
    str(tmp_path / "deep" / "statistics.npz"), {**statistics, "unseen_a.b": statistics["noise"]}
  )
  found = frontier.read(path)
  assert set(found) == {*statistics, "unseen_a.b"}
  for name, each in statistics.items():
    for field, values in each.items():
      np.testing.assert_array_equal(found[name][field], values)


def test_missing_or_broken_statistics_and_missing_sounds_are_one_sentence(tmp_path):
  with pytest.raises(InputError, match="evaluate the run again"):
    frontier.read(str(tmp_path / "statistics.npz"))
  (tmp_path / "statistics.npz").write_bytes(b"PK")
  with pytest.raises(InputError, match="cannot be read"):
    frontier.read(str(tmp_path / "statistics.npz"))
  statistics = sounds()[3]
  del statistics["noise"]
  with pytest.raises(InputError, match="evaluate all four"):
    frontier.sweep(statistics)
