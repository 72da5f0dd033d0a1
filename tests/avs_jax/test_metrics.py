"""The metrics: a slow loop, order and batch size, G arithmetic, hand values."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avs_jax import metrics
from avs_jax.errors import InputError


def tally_of(logits, masks, counted=None, batch=None, order=None) -> metrics.Tally:
  """Clips [B, T, H, W] counted in batches of `batch` clips, in `order`."""
  count, seconds = logits.shape[:2]
  counted = np.ones((count, seconds), bool) if counted is None else counted
  order = np.arange(count) if order is None else np.asarray(order)
  tally = metrics.Tally()
  for start in range(0, count, batch or count):
    rows = order[start : start + (batch or count)]
    flat = (x[rows].reshape(-1, *x.shape[2:]) for x in (logits, masks))
    tally.add(metrics.frame_counts(*flat), rows, counted[rows])
  return tally


def slow_figures(logits, masks, counted):
  """An independent account: one frame at a time, one threshold at a time, float64."""
  p = np.asarray(jax.nn.sigmoid(logits), np.float32)
  kept = [(p[b, t], masks[b, t]) for b, t in np.argwhere(counted)]
  iou, fpr, half, curves, inter, union = [], [], [], [], 0, 0
  for prediction, mask in kept:
    on, truth = prediction > 0.5, mask > 0
    fpr.append(on.mean())
    inter, union = inter + (on & truth).sum(), union + (on | truth).sum()
    if not truth.any():
      iou.append((~on).mean())
      curves.append(None)
      continue
    iou.append((on & truth).sum() / (on | truth).sum())

    def f(accepted, truth=truth):
      hit = (accepted & truth).sum()
      if hit == 0:
        return 0.0
      precision, recall = hit / accepted.sum(), hit / truth.sum()
      return 1.3 * precision * recall / (0.3 * precision + recall)

    half.append(f(on))
    curves.append([f(prediction >= threshold) for threshold in metrics.THRESHOLDS])

  def maxima(size):
    runs = [
      [c for c in curves[start : start + size] if c is not None] for start in range(0, len(curves), size)
    ]
    return [np.mean(met, axis=0).max() if met else None for met in runs]

  groups = maxima(20)
  met = [c for c in curves if c is not None]
  return {
    "iou_frame": np.mean(iou),
    "iou_frame_nonempty": np.mean([v for v, c in zip(iou, curves, strict=True) if c is not None]),
    "f_max_batch20": np.mean([g or 0 for g in groups]),
    "f_max_batch20_nonempty": np.mean([g for g in groups if g is not None]),
    **{f"f_max_batch{size}": np.mean([g or 0 for g in maxima(size)]) for size in (5, 10, 40)},
    "iou_dataset": inter / union,
    "f_max_dataset": np.mean(met, axis=0).max(),
    "f_at_half": np.mean(half),
    "fpr": np.mean(fpr),
    "iou_frame_empty": 1 - np.mean(fpr),
    "quiet_frames": np.mean([v == 0 for v in fpr]),
    "iou_frame_floor": np.mean([c is None for c in curves]),
    "f_max_batch20_floor": np.mean(
      [
        np.mean([c[0] for c in group]) if (group := [c for c in curves[s : s + 20] if c is not None]) else 0
        for s in range(0, len(curves), 20)
      ]
    ),
    "f_max_batch20_ceiling": np.mean([g is not None for g in groups]),
    "f_max_dataset_floor": np.mean([c[0] for c in met]),
    "frames": len(kept),
    "clips": int(counted.any(1).sum()),
  }


def example(seed=0, clips=9, seconds=5, size=12):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.standard_normal((clips, seconds, size, size)).astype(np.float32)
  masks = rng.random((clips, seconds, size, size)) < rng.random((clips, seconds, 1, 1)) * 0.6
  masks[4:8] = False  # frames 20 to 39: a group without any object
  masks[0, 2] = False
  logits += 1.5 * masks
  logits[1, 0] = -8
  return logits, masks.astype(np.int32)


def test_all_figures_equal_a_slow_loop_over_frames_and_thresholds():
  logits, masks = example()
  counted = np.ones(masks.shape[:2], bool)
  for chosen in (counted, np.random.default_rng(1).random(masks.shape[:2]) > 0.3):
    got, expected = metrics.summarise(tally_of(logits, masks, chosen)), slow_figures(logits, masks, chosen)
    assert set(got) == set(expected)
    for name, value in expected.items():
      assert got[name] == pytest.approx(value, rel=1e-6), name


WHOLE = example(3, clips=10, size=6)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(10)), batch=st.sampled_from([1, 2, 3, 10]))
def test_batch_size_and_order_change_no_figure(order, batch):
  whole = metrics.summarise(tally_of(*WHOLE))
  assert metrics.summarise(tally_of(*WHOLE, batch=batch, order=order)) == whole


def test_tallies_of_several_processes_merge_into_the_whole():
  whole, parts = metrics.summarise(tally_of(*WHOLE)), []
  for process in range(3):
    rows = np.arange(10)[process::3]
    tally = metrics.Tally()
    flat = (x[rows].reshape(-1, *x.shape[2:]) for x in WHOLE)
    tally.add(metrics.frame_counts(*flat), rows, np.ones((len(rows), 5), bool))
    parts.append(tally)
  parts[2].merge(parts[0])
  parts[2].merge(parts[1])
  parts[2].merge(metrics.Tally())
  assert len(parts[2]) == 50
  assert metrics.summarise(parts[2]) == whole


def test_rows_that_fill_the_batch_and_frames_given_twice_count_once():
  logits, masks = (x[:4] for x in WHOLE)
  once = metrics.summarise(tally_of(logits, masks))
  flat = [np.concatenate([x, x[1:2], x[:1]]).reshape(-1, *x.shape[2:]) for x in (logits, masks)]
  tally = metrics.Tally()
  tally.add(metrics.frame_counts(*flat), np.array([0, 1, 2, 3, -1, 0]), np.ones((6, 5), bool))
  assert metrics.summarise(tally) == once


def test_frames_can_be_given_one_by_one_with_their_second():
  logits, masks = WHOLE
  tally = metrics.Tally()
  for b, t in np.ndindex(10, 5):
    counts = metrics.frame_counts(logits[b, t][None], masks[b, t][None])
    tally.add(counts, np.array([b]), np.ones((1, 1), bool), second=np.array([[t]]))
  assert metrics.summarise(tally) == metrics.summarise(tally_of(logits, masks))


def test_empty_ground_truth_counts_background_accuracy():
  logits = np.full((1, 10, 10), -5, np.float32)
  logits[0, :3] = 5
  empty = np.zeros((1, 10, 10), np.int32)
  assert metrics.iou_frame(logits, empty) == pytest.approx(0.7)
  assert metrics.f_max_batch(logits, empty) == 0.0


def test_a_bigger_call_can_only_lower_the_published_f_where_every_frame_has_an_object():
  rng = np.random.default_rng(5)
  masks = rng.random((20, 16, 16)) < 0.4
  logits = (rng.standard_normal((20, 16, 16)) + masks + 2 * rng.standard_normal((20, 1, 1))).astype(
    np.float32
  )
  values = [
    np.mean([metrics.f_max_batch(logits[i : i + n], masks[i : i + n]) for i in range(0, 20, n)])
    for n in (1, 5, 10, 20)
  ]
  assert (np.diff(values) < 0).all()


def test_an_all_empty_prediction_sits_on_the_floors():
  _, masks = example()
  figures = metrics.summarise(tally_of(np.full(masks.shape, -9, np.float32), masks))
  for name in ("iou_frame", "f_max_batch20", "f_max_dataset"):
    assert figures[name] == pytest.approx(figures[f"{name}_floor"], rel=1e-6)
  area = masks.reshape(45, -1).mean(1)
  area = area[area > 0]
  assert figures["f_max_dataset_floor"] == pytest.approx(np.mean(1.3 * area / (0.3 * area + 1)))
  assert figures["fpr"] == 0 and figures["quiet_frames"] == 1 and figures["iou_frame_empty"] == 1


def test_a_set_without_any_object_leaves_the_undefined_figures_open():
  shape = (1, 5, 8, 8)
  figures = metrics.summarise(tally_of(np.full(shape, -9, np.float32), np.zeros(shape, np.int32)))
  for name in ("f_max_dataset", "f_at_half", "iou_dataset", "iou_frame_nonempty", "f_max_batch20_nonempty"):
    assert figures[name] is None
  assert figures["iou_frame"] == pytest.approx(1) and figures["f_max_batch20"] == 0


def test_a_prediction_that_is_not_a_number_stops_the_evaluation():
  logits = np.zeros((1, 2, 4, 4), np.float32)
  logits[0, 1, 0, 0] = np.nan
  with pytest.raises(InputError, match="second 1 of clip 0 holds values that are not numbers; judge other"):
    tally_of(logits, np.zeros((1, 2, 4, 4), np.int32))


def test_a_prediction_of_classes_that_is_not_a_number_stops_it_too():
  logits = np.zeros((2, 4, 4, 3), np.float32)
  logits[1, 0, 0, 2] = np.nan
  tally = metrics.Tally()
  with pytest.raises(InputError, match="second 1 of clip 0 holds values that are not numbers"):
    tally.add(
      metrics.class_counts(logits, np.zeros((2, 4, 4), np.int32)), np.array([0]), np.ones((1, 2), bool)
    )


@pytest.mark.parametrize("figure", [metrics.iou_frame, metrics.f_max_batch])
def test_one_call_refuses_masks_of_255_and_logits_that_are_no_numbers(figure):
  logits = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
  masks = logits > 0
  for whole in (masks, masks.astype(np.uint8), masks.astype(np.float32), jax.numpy.asarray(masks)):
    assert figure(logits, whole) == pytest.approx(1)
  assert figure(jax.numpy.asarray(logits, jax.numpy.bfloat16), masks * np.float32(225 / 255)) > 0.8
  for wrong in (masks * np.uint8(255), masks * np.int32(-1), np.where(masks, np.nan, np.float32(0))):
    with pytest.raises(InputError, match=r"masks must lie in \[0, 1\] but reach from .* to"):
      figure(logits, wrong)
  for value in (np.nan, np.inf, -np.inf):
    with pytest.raises(InputError, match="logits hold values that are not finite"):
      figure(np.where(logits > 1, np.float32(value), logits), masks)


def test_counts_under_a_compilation_are_not_checked():
  logits, masks = np.zeros((1, 4, 4), np.float32), np.full((1, 4, 4), 255, np.uint8)

  def checked(logits, masks):
    metrics._check_call(logits, masks)
    return metrics.frame_counts(logits, masks).truth

  assert jax.jit(checked)(logits, masks)[0] == 16 * 255


def test_class_figures_leave_padding_out_and_pool_over_the_set_too():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, (2, 3, 8, 8)).astype(np.int32)
  logits = rng.standard_normal((2, 3, 8, 8, 6)).astype(np.float32)
  counted = np.array([[True, True, False], [True, False, True]])
  tally = metrics.Tally()
  tally.add(metrics.class_counts(logits.reshape(6, 8, 8, 6), labels.reshape(6, 8, 8)), np.arange(2), counted)
  figures, chosen = metrics.summarise_classes(tally), logits.argmax(-1)
  mine = {"frame": [], "dataset": []}
  for k in range(6):
    pairs = [(chosen[b, t] == k, labels[b, t] == k) for b, t in np.argwhere(counted)]
    pairs = [(p, g) for p, g in pairs if (p | g).any()]
    mine["frame"].append(np.mean([(p & g).sum() / (p | g).sum() for p, g in pairs]))
    mine["dataset"].append(sum((p & g).sum() for p, g in pairs) / sum((p | g).sum() for p, g in pairs))
  for family, values in mine.items():
    assert figures[f"iou_class_{family}"] == pytest.approx(np.mean(values))
    assert figures[f"iou_class_{family}_no_background"] == pytest.approx(np.mean(values[1:]))
  assert figures["fpr"] == pytest.approx((chosen[counted] != 0).mean())
  assert figures["frames"] == 4 and figures["clips"] == 2 and figures["classes_met"] == 5


def test_hand_values_of_the_global_scores():
  row = {"iou": 0.2, "f": 0.4, "fpr": 0.1}
  other = {"iou": 0.4, "f": 0.4, "fpr": 0.3}
  got = metrics.global_scores({"iou": 0.7, "f": 0.6}, {"silence": row, "noise": other})
  assert got == pytest.approx({"g_iou": 0.7, "g_f": 0.6, "g_fpr": 0.2})
  nothing = metrics.global_scores({"iou": 0, "f": 0}, {"silence": {"iou": 1, "f": 1, "fpr": 1}})
  assert nothing == {"g_iou": 0.0, "g_f": 0.0, "g_fpr": 1.0}


@pytest.mark.parametrize(
  ("positive", "negatives", "words"),
  [
    ({"iou": 0.5, "f": 0.5}, {}, "at least one negative"),
    ({"iou": 0.5}, {"silence": {"iou": 0, "f": 0, "fpr": 0}}, "positive: the figure 'f'"),
    ({"iou": 0.5, "f": 0.5}, {"noise": {"iou": 0.1, "f": 0.1}}, "noise: the figure 'fpr'"),
    ({"iou": 0.5, "f": 0.5}, {"noise": {"iou": 20.0, "f": 30.0, "fpr": 0.1}}, "use one unit"),
    ({"iou": float("nan"), "f": 0.5}, {"noise": {"iou": 0.1, "f": 0.1, "fpr": 0}}, "must be a number"),
  ],
)
def test_global_scores_refuse_missing_and_mixed_figures(positive, negatives, words):
  with pytest.raises(InputError, match=words):
    metrics.global_scores(positive, negatives)


def test_an_empty_tally_and_one_without_masks_are_refused():
  with pytest.raises(InputError, match="no frame to score"):
    metrics.summarise(metrics.Tally())
  shape = (1, 2, 4, 4)
  with pytest.raises(InputError, match="no frame of the evaluation set has a mask"):
    metrics.summarise(tally_of(np.zeros(shape, np.float32), np.zeros(shape), np.zeros((1, 2), bool)))


def test_the_example_of_the_metrics_page_prints_what_the_page_says(capsys):
  page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
  code = page.split("```python\n")[1].split("```")[0]
  said = page.split("```text\n")[1].split("```")[0]
  exec(code, {})
  assert capsys.readouterr().out == said


def test_tallies_of_different_kinds_are_not_merged():
  binary, classes = metrics.Tally(), metrics.Tally()
  counts = metrics.frame_counts(np.zeros((1, 4, 4), np.float32), np.ones((1, 4, 4), np.int32))
  binary.add(counts, np.array([0]), np.ones((1, 1), bool))
  counts = metrics.label_counts(np.zeros((1, 4, 4), np.int32), np.ones((1, 4, 4), np.int32), 3)
  classes.add(counts, np.array([1]), np.ones((1, 1), bool))
  for first, second in ((binary, classes), (classes, binary)):
    with pytest.raises(InputError, match="mixes binary masks and classes"):
      first.merge(second)
  empty = metrics.Tally()
  empty.merge(binary)
  assert metrics.summarise(empty) == metrics.summarise(binary)


@pytest.mark.parametrize("metric", [metrics.iou_frame, metrics.f_max_batch])
def test_no_frame_has_no_score(metric):
  with pytest.raises(InputError, match=r"there is no frame to score: the masks are \[0, 4, 4\]"):
    metric(np.zeros((0, 4, 4), np.float32), np.zeros((0, 4, 4), np.int32))
