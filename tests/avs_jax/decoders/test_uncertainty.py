"""Doubtful places weigh less: the variance by hand, the decision at one half, and time's own attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.decoders.uncertainty import (
  EPSILON,
  UncertaintyDecoder,
  dirichlet_variance,
  evidence,
  scale,
  weigh,
)
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

RANDOM = np.random.default_rng(0)
B, T, H, W, D = 2, 3, 2, 4, 16


def draw(*shape):
  return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


def test_the_variance_of_one_two_three_is_as_computed_by_hand():
  # s = 6: 1*5, 2*4 and 3*3, over 36 * 7.
  ours = dirichlet_variance(jnp.asarray([[1.0, 2.0, 3.0]]))
  np.testing.assert_allclose(ours, [[5 / 252, 8 / 252, 9 / 252]], rtol=1e-6)


def test_one_evidence_has_no_variance_and_two_have_the_same():
  assert not dirichlet_variance(jnp.asarray([[3.0]])).any()
  two = dirichlet_variance(jnp.asarray([[1.0, 2.0]]))
  np.testing.assert_allclose(two, [[2 / 36, 2 / 36]], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_class_with_nearly_all_evidence_has_its_variance_too(classes):
  """In float64 by the printed formula; its difference is what float32 would lose."""
  alpha = np.full((1, classes), 2.1e-9)
  alpha[0, -1] = 20.0
  total = alpha.sum(-1, keepdims=True)
  expected = alpha * (total - alpha) / (total**2 * (total + 1))
  np.testing.assert_allclose(dirichlet_variance(jnp.asarray(alpha, jnp.float32)), expected, rtol=1e-5)


def test_no_evidence_at_all_is_still_a_number():
  extreme = jnp.asarray([[-1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]])
  value, slope = jax.value_and_grad(lambda x: dirichlet_variance(evidence(x)).sum())(extreme)
  assert np.isfinite(value) and np.isfinite(slope).all()


def test_scaling_is_linear_by_frame_or_over_the_clip():
  x = jnp.asarray([[[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]]]).reshape(1, 2, 1, 3, 1)
  np.testing.assert_allclose(scale(x).reshape(2, 3), [[0, 0.5, 1], [0, 0.5, 1]])
  np.testing.assert_allclose(scale(x, "clip").reshape(2, 3), [[0, 0.125, 0.25], [0.5, 0.75, 1]])
  alone = scale(x, "clip", jnp.asarray([[True, False]]), 1.0)  # the second is padding
  np.testing.assert_allclose(alone.reshape(2, 3), [[0, 0.5, 1], [1, 1, 1]])


def test_where_nothing_is_more_doubtful_the_given_value_stands_with_zero_gradient():
  even = jnp.full((1, 1, 2, 2, 1), 0.1)
  for flat in (0.0, 1.0):
    np.testing.assert_array_equal(scale(even, flat=flat), np.full(even.shape, flat))
  assert not jax.grad(lambda x: scale(x).sum())(even).any()


def test_a_binary_pixel_is_on_exactly_where_the_published_quotient_exceeds_one_half():
  logits, doubt = 6 * draw(4000, 1), jnp.asarray(RANDOM.uniform(0, 1, (4000, 1)) ** 3, jnp.float32)
  quotient = np.asarray(jax.nn.sigmoid(logits), np.float64) / (np.asarray(doubt, np.float64) + EPSILON)
  apart = np.abs(quotient - 0.5) > 1e-5
  ours = np.asarray(weigh(logits, doubt)) > 0
  np.testing.assert_array_equal(ours[apart], (quotient > 0.5)[apart])
  np.testing.assert_allclose(weigh(logits, jnp.ones_like(doubt)), logits, atol=1e-5)


def test_the_softmax_of_weighed_class_logits_is_the_published_quotient_added_up_to_one():
  logits, doubt = draw(50, 5), jnp.asarray(RANDOM.uniform(0, 1, (50, 5)), jnp.float32)
  quotient = np.asarray(jax.nn.softmax(logits)) / (np.asarray(doubt) + EPSILON)
  ours = jax.nn.softmax(weigh(logits, doubt))
  np.testing.assert_allclose(ours, quotient / quotient.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 4])
def test_a_discount_lowers_what_is_doubtful_and_leaves_what_is_sure(classes):
  logits, doubt = draw(50, classes), jnp.asarray(RANDOM.uniform(0, 1, (50, classes)), jnp.float32)
  squash = jax.nn.sigmoid if classes == 1 else jax.nn.softmax
  p, ours = np.asarray(squash(logits)), np.asarray(squash(weigh(logits, doubt, "discount")))
  first = 0 if classes == 1 else 1
  np.testing.assert_allclose(
    ours[:, first:], p[:, first:] / (1 + np.asarray(doubt)[:, first:]), rtol=1e-4, atol=1e-6
  )
  sure = squash(weigh(logits, jnp.zeros_like(doubt), "discount"))
  np.testing.assert_allclose(sure, p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["paper", "discount"])
@pytest.mark.parametrize("classes", [1, 3])
def test_extreme_logits_and_certainty_have_finite_gradients(form, classes):
  logits = jnp.asarray([[-200.0] * classes, [200.0] * classes, [0.0] * classes])
  for doubt in (0.0, 1.0):
    out, slope = jax.value_and_grad(lambda m, u: weigh(m, u, form).sum(), (0, 1))(
      logits, jnp.full(logits.shape, doubt)
    )
    assert np.isfinite(out) and all(np.isfinite(x).all() for x in slope)


def build(**changes):
  return UncertaintyDecoder(**{"num_classes": 1, "width": D, "heads": 4, **changes})


@pytest.fixture(scope="module")
def fused():
  return draw(B, T, H, W, D)


@pytest.fixture(scope="module")
def variables(fused):
  start = initialise(build(), fused, seed=0)
  return jax.tree.map(lambda x: x + 0.2 * np.asarray(draw(*x.shape)), start)


@pytest.fixture(scope="module")
def run():
  return jax.jit(build().apply)


def test_masks_and_uncertainty_have_twice_the_size_of_the_maps(run, variables, fused):
  logits, doubt = run(variables, fused)
  assert logits.shape == doubt.shape == (B, T, 2 * H, 2 * W, 1)
  assert logits.dtype == doubt.dtype == jnp.float32
  np.testing.assert_allclose(np.asarray(doubt).min((2, 3)), 0, atol=1e-6)
  np.testing.assert_allclose(np.asarray(doubt).max((2, 3)), 1, atol=1e-6)


def test_permuting_clips_or_seconds_permutes_outputs(run, variables, fused):
  logits, doubt = run(variables, fused)
  turned = run(variables, fused[::-1, ::-1])
  # Where nothing is less doubtful a logit holds the log of next to nothing, and with it the rounding of sums.
  np.testing.assert_allclose(jax.nn.sigmoid(turned[0][::-1, ::-1]), jax.nn.sigmoid(logits), atol=1e-4)
  np.testing.assert_allclose(turned[1][::-1, ::-1], doubt, rtol=1e-3, atol=1e-4)


def test_a_place_remembers_itself_in_other_seconds_of_its_clip_and_no_other_place(variables, fused):
  remember = jax.jit(lambda x: build().apply(variables, x, method="remember"))
  change = np.abs(np.asarray(remember(fused.at[0, 1, 1, 2].add(draw(D))) - remember(fused))).max(-1)
  assert (change[0, :, 1, 2] > 1e-5).all()
  change[0, :, 1, 2] = 0
  assert change.max() < 1e-6


def test_padding_is_not_remembered(variables, fused):
  present = jnp.asarray([[True, True, False], [True, True, True]])
  remember = jax.jit(lambda x: build().apply(variables, x, present, method="remember"))
  before, after = remember(fused), remember(fused.at[0, 2].add(draw(H, W, D)))
  np.testing.assert_array_equal(before[0, :2], after[0, :2])


@pytest.mark.parametrize("classes", [1, 3])
def test_gradients_are_finite_and_reach_both_heads(fused, classes):
  module, weight = build(num_classes=classes), draw(B, T, 2 * H, 2 * W, classes)
  start = initialise(module, fused, seed=1)
  start = jax.tree.map(lambda x: x + 0.2 * np.asarray(draw(*x.shape)), start)

  def loss(params):
    return (jax.nn.log_sigmoid(module.apply({"params": params}, fused)[0]) * weight).sum()

  for path, leaf in traverse_util.flatten_dict(jax.jit(jax.grad(loss))(start["params"])).items():
    assert np.isfinite(leaf).all(), path
    assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(("setting", "message"), [
  ({"form": "printed"}, "model.uncertainty_form='printed' is not known; choose one of paper, discount, none"),
  ({"span": "video"}, "model.uncertainty_span='video' is not known; choose one of frame, clip"),
])  # fmt: skip
def test_an_unknown_setting_is_refused_by_name(fused, setting, message):
  with pytest.raises(InputError, match=message):
    jax.eval_shape(lambda x: build(**setting).init(jax.random.key(0), x), fused)
