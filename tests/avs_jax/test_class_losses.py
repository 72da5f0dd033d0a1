"""Region losses of classes: one frame by hand, and what a frame of background alone teaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses
from avs_jax.class_losses import class_dice, class_iou
from avs_jax.errors import InputError
from avs_jax.types import Batch, Outputs

BOTH = pytest.mark.parametrize("loss", [class_dice, class_iou])
ONE = np.ones((1, 1))


def certain(labels, classes):
  return 50.0 * jax.nn.one_hot(jnp.asarray(labels), classes)


def test_one_frame_of_two_pixels_comes_out_as_computed_by_hand():
  logits = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])).reshape(1, 1, 1, 2, 3)
  labels = np.array([0, 1]).reshape(1, 1, 1, 2)
  # Classes 0 and 1 alike: in common .5, predicted .75, true 1; class 2 is not in the frame.
  np.testing.assert_allclose(class_dice(logits, labels, ONE), 1 - 2 / 2.75, rtol=1e-5)
  np.testing.assert_allclose(class_iou(logits, labels, ONE), 1 - 1.5 / 2.25, rtol=1e-5)


@BOTH
def test_a_perfect_frame_costs_nothing_and_a_wrong_one_much(loss):
  labels = np.array([[0, 1], [2, 0]])[None, None]
  assert loss(certain(labels, 4), labels, ONE) < 1e-5
  assert loss(certain((labels + 1) % 4, 4), labels, ONE) > 0.4


@BOTH
def test_background_alone_teaches_silence(loss):
  labels = np.zeros((1, 1, 2, 2), np.int32)
  value, slope = jax.value_and_grad(loss)(jnp.zeros((1, 1, 2, 2, 3)), labels, ONE)
  assert value > 0.1 and (slope[..., 0] < 0).all() and (slope[..., 1:] > 0).all()


@BOTH
def test_frames_of_weight_zero_do_not_count_and_none_at_all_give_zero(loss):
  labels = np.zeros((1, 2, 2, 2), np.int32)
  logits = jnp.concatenate([certain(labels[:, :1], 3), certain(labels[:, :1] + 1, 3)], axis=1)
  assert loss(logits, labels, np.array([[1, 0]])) < 1e-5
  assert loss(logits, labels, np.zeros((1, 2))) == 0


@pytest.mark.parametrize("name", ["class_dice", "class_iou"])
def test_one_class_is_refused(name):
  full = np.ones((1, 1), bool)
  batch = Batch(
    frames=np.zeros((1, 1, 4, 4, 3), np.uint8),
    log_mel=np.zeros((1, 1, 96, 64), np.float32),
    masks=np.zeros((1, 1, 4, 4), np.int32),
    annotated=full,
    present=full,
    condition=np.zeros(1, np.int32),
    index=np.zeros(1, np.int32),
  )
  with pytest.raises(InputError, match=f"loss.{name}: the system has one class; use bce"):
    losses.objective({name: 1.0})(Outputs(logits=jnp.zeros((1, 1, 4, 4, 1))), batch)
