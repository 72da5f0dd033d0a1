"""AVSegFormer's losses against every value and gradient that its published program gave."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses
from avs_jax.types import Batch, Outputs
from configs import avss, ms3, s4

pytestmark = pytest.mark.golden

CONFIGS = {
  name: module.get_config("avsegformer").loss.to_dict()
  for name, module in (("ms3", ms3), ("s4", s4), ("avss", avss))
}
# Values of the file that are figures, not losses: tests/avs_jax/test_metrics_golden.py.
FIGURES = {
  "mask_iou",
  "mask_iou_per_frame",
  "F",
  "F_all_empty",
  "avss_iou_sum",
  "avss_f_sum",
  "avss_cls_count",
}
TOTALS = (
  "ms3_dice", "ms3_bce", "ms3_dice_all_empty", "ms3_dice_all_empty_confident_empty_pred", "ms3_dice_all_full",
  "s4_dice", "s4_bce", "s4_dice_empty", "avss_v2", "avss_v1m", "avss_v1s",
)  # fmt: skip
GRADIENTS = ("ms3_dice", "ms3_bce", "s4_dice", "s4_bce", "avss_v1m")
OTHERS = {"ms3_dice_per_frame", "ms3_dice_all_empty_grad_absmax_dpred"}


@pytest.fixture(scope="module")
def kept(golden):
  """The reference's values, and the samples of its gradients."""
  values = json.loads(golden("avsegformer/losses.json").read_text())["values"]
  return values, np.load(golden("avsegformer/losses.npz"))


def batch_of(masks: np.ndarray, annotated: np.ndarray) -> Batch:
  count, seconds = masks.shape[:2]
  return Batch(
    frames=np.zeros((*masks.shape, 3), np.uint8),
    log_mel=np.zeros((count, seconds, 96, 64), np.float32),
    masks=masks.astype(np.int32),
    annotated=annotated,
    present=np.ones((count, seconds), bool),
    condition=np.zeros(count, np.int32),
    index=np.arange(count, dtype=np.int32),
  )


def semantic(rule, name: str) -> tuple[jax.Array, jax.Array, Batch]:
  """Logits, mask feature and batch of an AVSS case; its part of AVSS says how many frames are annotated."""
  logits = rule.array("logits", (10, 71, 64, 64)).transpose(0, 2, 3, 1)[None]
  labels = np.clip(np.floor((rule.array("labels", (10, 64, 64)) + 4) * 9), 0, 70).astype(np.int32)
  labels[labels < 30] = 0
  labels[[2, 9]] = 0
  annotated = np.arange(10)[None] < {"avss_v2": 10, "avss_v1m": 5, "avss_v1s": 1}[name]
  return jnp.asarray(logits), feature(rule, 1, 10), batch_of(labels[None], annotated)


def binary(rule, name: str) -> tuple[jax.Array, jax.Array, Batch]:
  """Logits, mask feature and batch of an S4 or MS3 case."""
  logits = rule.array("pred", (10, 1, 64, 64)).reshape(2, 5, 64, 64, 1)
  masks = (rule.array("gt", (10, 1, 64, 64)) > 0.5).reshape(10, 64, 64)
  masks[[3, 7]], masks[5] = 0, 1
  masks, annotated = masks.reshape(2, 5, 64, 64), np.ones((2, 5), bool)
  if name.startswith("s4"):
    annotated[:, 1:], masks = False, np.zeros_like(masks)
    masks[:, 0] = rule.array("gt_first", (2, 1, 1, 64, 64)).reshape(2, 64, 64) > 0.5
  if "empty" in name:
    masks = np.zeros_like(masks)
  elif name.endswith("full"):
    masks = np.ones_like(masks)
  if name.endswith("empty_pred"):
    logits = np.full_like(logits, -20.0)
  return jnp.asarray(logits), feature(rule, 2, 5), batch_of(masks, annotated)


def feature(rule, clips: int, seconds: int) -> jax.Array:
  kept = rule.array("mask_feature", (10, 256, 16, 16)).transpose(0, 2, 3, 1)
  return jnp.asarray(kept.reshape(clips, seconds, 16, 16, 256))


def compute(name: str, logits: jax.Array, mask_feature: jax.Array, batch: Batch) -> tuple[Any, list[Any]]:
  """The loss and its two parts, of the masks and of the mix mask."""
  outputs = Outputs(logits=logits, mix_mask=mask_feature.mean(-1))
  config = CONFIGS[name.split("_")[0]]
  if "_bce" not in name:
    value, parts = losses.objective(config)(outputs, batch)
    return value, [value, *parts.values()]
  # The form that no config of the paper's chooses: cross entropy in both parts.
  first = losses.objective({"bce": 1.0})(outputs, batch)[0]
  enlarged = jax.image.resize(outputs.mix_mask, batch.masks.shape, "bilinear", antialias=False)
  mix = config["mix_dice"] * losses.bce(enlarged, jnp.asarray(batch.masks), losses.frame_weight(batch))
  return first + mix, [first + mix, first, mix]


def case(rule, name: str) -> tuple[jax.Array, jax.Array, Batch]:
  return semantic(rule, name) if name.startswith("avss") else binary(rule, name)


@pytest.mark.parametrize("name", TOTALS)
def test_the_loss_and_its_parts_equal_the_published_program(kept, rule, name):
  _, parts = compute(name, *case(rule, name))
  np.testing.assert_allclose(parts, kept[0][name], rtol=1e-4)


@pytest.mark.parametrize("name", GRADIENTS)
def test_its_gradients_equal_the_published_program(kept, rule, name):
  logits, mask_feature, batch = case(rule, name)
  slopes = jax.grad(lambda x, f: compute(name, x, f, batch)[0], (0, 1))(logits, mask_feature)
  for slope, of in zip(slopes, ("dpred", "dfeat"), strict=True):
    flat = np.asarray(slope).reshape(10, *slope.shape[2:]).transpose(0, 3, 1, 2)
    rule.check(flat, kept[1][f"{name}_{of}"])


def test_dice_equals_the_published_program_frame_by_frame(kept, rule):
  logits, _, batch = binary(rule, "ms3_dice")
  alone = np.eye(10).reshape(10, 2, 5)
  values = [losses.dice(logits[..., 0], jnp.asarray(batch.masks), weight) for weight in alone]
  np.testing.assert_allclose(values, kept[0]["ms3_dice_per_frame"], rtol=1e-4)


def test_masks_that_are_all_empty_have_no_gradient_as_published(kept, rule):
  logits, mask_feature, batch = binary(rule, "ms3_dice_all_empty")
  slopes = jax.grad(lambda x, f: compute("ms3_dice", x, f, batch)[0], (0, 1))(logits, mask_feature)
  assert float(jnp.abs(slopes[0]).max()) == kept[0]["ms3_dice_all_empty_grad_absmax_dpred"] == 0.0
  assert float(jnp.abs(slopes[1]).max()) == 0.0


def test_the_mix_mask_may_be_given_as_features(rule, kept):
  _, mask_feature, batch = binary(rule, "ms3_dice")
  value = losses.mix_dice(mask_feature, jnp.asarray(batch.masks), jnp.ones((2, 5)))
  np.testing.assert_allclose(value, kept[0]["ms3_dice"][2] / 0.1, rtol=1e-4)


def test_no_value_of_the_published_program_is_left_out(kept):
  slopes = {f"{name}_{of}" for name in GRADIENTS for of in ("dpred", "dfeat")}
  assert set(kept[0]) == {*TOTALS, *OTHERS} | FIGURES
  assert set(kept[1].files) == set(kept[0]) | slopes
