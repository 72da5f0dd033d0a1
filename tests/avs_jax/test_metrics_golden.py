"""The metrics against golden values of four published programs and of the papers' own tables."""

import json

import jax
import numpy as np
import pytest

from avs_jax import metrics

pytestmark = pytest.mark.golden


def binary_cases(rule):
  x = rule.array("logits", (5, 224, 224))
  gt = (rule.array("mask", (5, 224, 224)) > 0.5).astype(np.float32)
  some = gt.copy()
  some[[1, 4]] = 0
  nothing, one = np.zeros_like(x), np.ones_like(x)
  return {
    "random": (x, gt),
    "perfect": (20 * gt - 10, gt),
    "inverted": (10 - 20 * gt, gt),
    "empty_pred_nonempty_gt": (-10 * one, gt),
    "empty_pred_noisy_nonempty_gt": (x - 10, gt),
    "empty_gt_empty_pred": (-10 * one, nothing),
    "empty_gt_full_pred": (10 * one, nothing),
    "empty_gt_random_pred": (x, nothing),
    "all_ones_pred_all_ones_gt": (10 * one, one),
    "all_ones_pred_random_gt": (10 * one, gt),
    "zero_logits_random_gt": (nothing, gt),
    "some_frames_empty_random_pred": (x, some),
    "some_frames_empty_perfect_pred": (20 * some - 10, some),
    "soft_gt_0p882": (x, gt * np.float32(225 / 255)),
    "soft_gt_0p882_perfect": (20 * gt - 10, gt * np.float32(225 / 255)),
    "gt_1_over_255": (x, gt / 255),
    "single_frame_random": (x[:1], gt[:1]),
    "ten_x_logits": (10 * x, gt),
    "correlated": (2 * (gt - 0.5) + x, gt),
    "correlated_some_empty": (2 * (some - 0.5) + x, some),
  }


def test_both_published_binary_figures_equal_avsbench_in_every_case(golden, rule):
  kept = json.loads(golden("avsbench/metrics_binary.json").read_text())
  cases = binary_cases(rule)
  assert set(cases) == set(kept)
  for name, (logits, masks) in cases.items():
    case = kept[name]
    close = {"rtol": 2e-6, "atol": 2e-6, "err_msg": name}
    np.testing.assert_allclose(metrics.iou_frame(logits, masks), case["mask_iou"], **close)
    np.testing.assert_allclose(metrics.f_max_batch(logits, masks), case["F_max"], **close)
    for i in range(len(logits)):
      one = slice(i, i + 1)
      np.testing.assert_allclose(
        metrics.iou_frame(logits[one], masks[one]), case["mask_iou_per_frame"][i], **close
      )
      np.testing.assert_allclose(
        metrics.f_max_batch(logits[one], masks[one]), case["F_max_per_frame"][i], **close
      )


def test_false_positive_rate_equals_the_robust_program(golden, rule):
  values = json.loads(golden("avsbench_robust/fpr.json").read_text())["values"]
  logits = rule.array("fpr_logits", (6, 40, 50))
  logits[1], logits[2], logits[3] = -5, 5, 0
  logits[4] -= 1.5
  tally, counts = metrics.Tally(), metrics.frame_counts(logits, np.zeros((6, 40, 50)))
  tally.add(counts, np.arange(1), np.ones((1, 6), bool))
  assert metrics.summarise(tally)["fpr"] == pytest.approx(np.mean(values), abs=1e-6)
  np.testing.assert_allclose(np.asarray(counts.active) / 2000, values, atol=1e-6)


def test_ravs_figures_are_the_same_with_its_own_threshold_and_beta(golden, rule):
  kept = np.load(golden("bias_avs/metrics.npz"))
  logits = rule.array("metric.logits", (5, 1, 64, 64))[:, 0]
  masks = rule.array("metric.target", (5, 64, 64)) > 0.5
  masks[2] = False
  np.testing.assert_allclose(metrics.iou_frame(logits, masks, threshold=0.4), kept["miou"][0], rtol=1e-5)
  np.testing.assert_allclose(metrics.f_max_batch(logits, masks, beta2=0.1), kept["fscore"][0], rtol=1e-5)


def class_cases(rule):
  x = rule.array("logits", (20, 71, 32, 32))
  gt = np.floor(20 * np.abs(rule.array("gt", (20, 32, 32)))).astype(np.int32) % 71

  def one_hot(labels):
    return (labels[:, None] == np.arange(71)[None, :, None, None]).astype(np.float32)

  background = np.zeros_like(x)
  background[:, 0] = 9
  padded, padded_gt = x.copy(), gt.copy()
  padded[5:10], padded_gt[5:10] = 0, 0
  few = x.copy()
  few[:, 4:] -= 50
  return {
    "random": (x, gt),
    "perfect": (20 * one_hot(gt), gt),
    "all_background_pred": (background, gt),
    "all_background_both": (background, gt * 0),
    "padded_zero_logits": (padded, padded_gt),
    "few_classes": (few, gt % 4),
    "few_classes_correlated": (few + 2 * one_hot(gt % 4), gt % 4),
    "last_class_everywhere": (x, np.full_like(gt, 70)),
  }


def test_class_figures_equal_avsbench_semantic_in_its_convention_and_in_ours(golden, rule):
  kept = json.loads(golden("avsbench/metrics_avss.json").read_text())
  sums = np.load(golden("avsbench/metrics_avss.npz"))
  cases = class_cases(rule)
  assert set(cases) == set(kept)
  for name, (logits, labels) in cases.items():
    tally = metrics.Tally()
    counts = metrics.class_counts(logits.transpose(0, 2, 3, 1), labels)
    tally.add(counts, np.arange(2), np.ones((2, 10), bool))
    per_class = metrics._class_frame_means(jax.device_get(counts))
    for figure, key in zip(per_class, ("iou_sum", "fscore_sum", "count"), strict=True):
      np.testing.assert_allclose(figure, sums[f"{name}.{key}_per_class"], rtol=1e-5, atol=1e-6)
    figures, case = metrics.summarise_classes(tally), kept[name]
    for short, theirs in (("iou", "miou"), ("f", "fscore")):
      expected = {
        f"{short}_class_frame_published": case[theirs],
        f"{short}_class_frame": case[f"{theirs}_over_seen_only"],
      }
      dropped = "miou_noBg_as_upstream_drops_last" if short == "iou" else "fscore_noBg_as_upstream"
      expected[f"{short}_class_frame_published_no_last"] = case[dropped]
      for key, value in expected.items():
        assert figures[key] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, key)
    foreground = figures["iou_class_frame_no_background"]
    met = figures["classes_met"]
    if met:  # theirs divides by 70 whether met or not
      assert foreground * met / 70 == pytest.approx(case["miou_drop_class0"], rel=1e-5, abs=1e-7)
    else:
      assert foreground is None and case["miou_drop_class0"] == 0


def test_global_scores_follow_the_arithmetic_of_every_printed_table(golden):
  table = json.loads(golden("avsbench_robust/global_metrics_paper_tables.json").read_text())
  assert len(table["rows"]) > 30
  for name, row in table["rows"].items():
    negatives = {
      sound: dict(zip(("iou", "f", "fpr"), row[sound], strict=True))
      for sound in ("silence", "noise", "offscreen")
    }
    got = metrics.global_scores({"iou": row["miou_p"], "f": row["f_p"]}, negatives)
    fractions = metrics.global_scores(
      {"iou": row["miou_p"] / 100, "f": row["f_p"] / 100},
      {k: {**v, "iou": v["iou"] / 100, "f": v["f"] / 100} for k, v in negatives.items()},
    )
    for ours, theirs in (("g_iou", "g_miou"), ("g_f", "g_f"), ("g_fpr", "g_fpr")):
      assert got[ours] == pytest.approx(row["recomputed"][theirs], rel=1e-9), name
    assert fractions["g_iou"] == pytest.approx(got["g_iou"] / 100, rel=1e-9)
    assert fractions["g_fpr"] == got["g_fpr"]


def test_avsegformer_s_figures_are_the_same_ones(golden, rule):
  kept = json.loads(golden("avsegformer/losses.json").read_text())["values"]
  logits = rule.array("pred", (10, 1, 64, 64))[:, 0]
  masks = rule.array("gt", (10, 1, 64, 64))[:, 0] > 0.5
  masks[[3, 7]], masks[5] = False, True
  close = {"rtol": 2e-6, "atol": 2e-6}
  np.testing.assert_allclose(metrics.iou_frame(logits, masks), kept["mask_iou"], **close)
  frames = [metrics.iou_frame(logits[i : i + 1], masks[i : i + 1]) for i in range(10)]
  np.testing.assert_allclose(frames, kept["mask_iou_per_frame"], **close)
  np.testing.assert_allclose(metrics.f_max_batch(logits, masks), kept["F"], **close)
  assert metrics.f_max_batch(logits, np.zeros_like(masks)) == kept["F_all_empty"]


def test_avsegformer_s_class_figures_are_the_same_ones(golden, rule):
  kept = json.loads(golden("avsegformer/losses.json").read_text())["values"]
  logits = rule.array("logits", (10, 71, 64, 64)).transpose(0, 2, 3, 1)
  labels = np.clip(np.floor((rule.array("labels", (10, 64, 64)) + 4) * 9), 0, 70).astype(np.int32)
  labels[labels < 30] = 0
  labels[[2, 9]] = 0
  per_class = metrics._class_frame_means(jax.device_get(metrics.class_counts(logits, labels)))
  for figure, key in zip(per_class, ("avss_iou_sum", "avss_f_sum", "avss_cls_count"), strict=True):
    np.testing.assert_allclose(figure, kept[key], rtol=1e-5, atol=1e-6, err_msg=key)
