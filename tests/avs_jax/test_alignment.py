"""Contrastive alignment: two groups by hand, one empty side, and which frames count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses
from avs_jax.alignment import alignment, contrast, response, sounding_groups
from avs_jax.errors import InputError
from avs_jax.types import Batch, Condition, Outputs
from configs import ms3

PAPER = ms3.get_config("ravs").loss.to_dict()

B, T, P = 2, 2, 3


def batch(**changes):
  full = np.ones((B, T), bool)
  fields = {
    "frames": np.zeros((B, T, 4, 4, 3), np.uint8),
    "log_mel": np.zeros((B, T, 96, 64), np.float32),
    "masks": np.zeros((B, T, 4, 4), np.int32),
    "annotated": full,
    "present": full,
    "condition": np.zeros(B, np.int32),
    "index": np.arange(B, dtype=np.int32),
  }
  return Batch(**{**fields, **changes})


def outputs(agreement, **fields):
  return Outputs(
    logits=jnp.zeros((B, T, 4, 4, 1)), group_agreement=jnp.asarray(agreement, jnp.float32), **fields
  )


def test_two_groups_come_out_as_computed_by_hand():
  # sigmoid(10 * .5) > .5 and sigmoid(10 * -.25) < .5; log(e^1 + e^-.5) - 1 at a temperature of one half.
  ours = contrast(jnp.asarray([0.5, -0.25]), temperature=0.5)
  np.testing.assert_allclose(ours, np.log(np.exp(1) + np.exp(-0.5)) - 1, rtol=1e-5)


def test_several_positives_and_negatives_are_added_up_before_the_logarithm():
  agreement = np.array([0.3, 0.1, -0.2, -0.4, -0.1])
  e = np.exp(agreement / 0.07)
  np.testing.assert_allclose(contrast(agreement), -np.log(e[:2].sum() / e.sum()), rtol=1e-4)


def test_the_threshold_and_the_scale_say_who_is_positive():
  np.testing.assert_allclose(response(np.array([0.0])), [0.5])
  high = contrast(jnp.asarray([0.5, 0.1]), threshold=0.9, scale=10.0)  # sigmoid(5) = .993, sigmoid(1) = .73
  np.testing.assert_allclose(high, np.log1p(np.exp((0.1 - 0.5) / 0.07)), rtol=1e-4)
  assert contrast(jnp.asarray([0.5, 0.1]), threshold=0.9, scale=1.0) == 0  # nobody is


@pytest.mark.parametrize("agreement", [[0.5, 0.2], [-0.5, -0.2], [0.0, 0.0], [0.0, 0.3], [1.0, -1.0], [0.4]])
def test_value_and_gradient_are_finite_and_zero_where_a_side_is_empty(agreement):
  value, slope = jax.value_and_grad(contrast)(jnp.asarray(agreement))
  assert np.isfinite(value) and np.isfinite(slope).all()
  has_both = max(agreement) > 0 > min(agreement)
  assert has_both or (value == 0 and not slope.any())


def test_the_gradient_pulls_positives_to_the_sound_and_pushes_negatives_away():
  slope = jax.grad(contrast)(jnp.asarray([0.1, -0.05]))
  assert slope[0] < 0 < slope[1]


def test_the_sum_is_over_real_frames_of_clips_with_their_own_sound():
  agreement = np.array([[[0.3, -0.1, -0.2], [0.1, -0.1, -0.2]], [[0.2, -0.1, 0.1], [0.1, -0.3, 0.2]]])
  each = np.asarray(contrast(agreement))
  own = np.array([int(Condition.POSITIVE), int(Condition.NOISE)], np.int32)
  half = np.array([[True, False], [True, True]])
  np.testing.assert_allclose(alignment(outputs(agreement), batch()), each.mean(), rtol=1e-5)
  np.testing.assert_allclose(alignment(outputs(agreement), batch(condition=own)), each[0].mean(), rtol=1e-5)
  np.testing.assert_allclose(alignment(outputs(agreement), batch(present=half)), each[half].mean(), rtol=1e-5)
  not_annotated = batch(annotated=np.zeros((B, T), bool))
  np.testing.assert_allclose(alignment(outputs(agreement), not_annotated), each.mean(), rtol=1e-5)
  assert alignment(outputs(agreement), batch(condition=own + 1)) == 0


def test_a_system_without_groups_is_refused():
  nothing = Outputs(logits=jnp.zeros((B, T, 4, 4, 1)))
  with pytest.raises(InputError, match="loss.alignment: this system makes no groups; set it to 0"):
    alignment(nothing, batch())


def test_the_objective_adds_its_parts_at_the_papers_weights():
  agreement = np.broadcast_to(np.array([0.3, -0.1, -0.2]), (B, T, P))
  total, parts = losses.objective(PAPER)(outputs(agreement), batch())
  assert set(parts) == {"bce", "dice", "soft_iou", "alignment"}
  np.testing.assert_allclose(parts["alignment"], 0.1 * contrast(agreement).mean(), rtol=1e-5)
  np.testing.assert_allclose(total, sum(parts.values()), rtol=1e-6)


def test_the_masks_say_which_groups_sound_where_half_of_their_area_does():
  masks = np.zeros((1, 4, 4), np.int32)
  masks[0, :2, :3] = 5  # the first row of cells: whole, and half of the second
  groups = np.array([[[0, 1], [1, 2]]])
  found = sounding_groups(groups, 4, masks)
  assert found.tolist() == [[True, False, False, False]]
  assert sounding_groups(np.array([[[0, 1], [2, 2]]]), 3, masks).tolist() == [[True, True, False]]


def test_the_ground_truth_filter_takes_positives_from_masks_of_annotated_frames():
  agreement = np.broadcast_to(np.array([-0.3, 0.1, 0.2]), (B, T, P))
  groups = jnp.asarray(np.broadcast_to(np.array([[0, 1], [2, 2]]), (B, T, 2, 2)))
  masks = np.zeros((B, T, 4, 4), np.int32)
  masks[0, 0, :2, :2] = 1  # group 0 of one second; the others hold nothing that sounds
  told = batch(masks=masks)
  e = np.exp(np.array([-0.3, 0.1, 0.2]) / 0.07)
  found = alignment(outputs(agreement, groups=groups), told, truth=True)
  np.testing.assert_allclose(found, -np.log(e[0] / e.sum()) / (B * T), rtol=1e-4)
  first = np.zeros((B, T), bool)
  first[0, 0] = True
  found = alignment(outputs(agreement, groups=groups), told.replace(annotated=first), truth=True)
  np.testing.assert_allclose(found, -np.log(e[0] / e.sum()), rtol=1e-4)
  total = losses.objective({**PAPER, "alignment_truth": True})(outputs(agreement, groups=groups), told)
  np.testing.assert_allclose(total[1]["alignment"] * 10, -np.log(e[0] / e.sum()) / (B * T), rtol=1e-4)
