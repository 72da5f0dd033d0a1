"""Diffusion: the closed form equals the steps, and the schedules keep what they are said to keep."""

import numpy as np
import pytest

from avs_jax.diffusion import SCHEDULES, Diffusion
from avs_jax.errors import InputError


def rng(seed=0):
  return np.random.default_rng(seed)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closed_form_equals_step_by_step_iteration(schedule):
  """x_t = sqrt(1 - b) x + sqrt(b) e, 40 times, on many numbers at once: the same mean and variance."""
  diffusion = Diffusion(schedule, steps=50, beta_start=0.001, beta_end=0.1)
  x = np.full(200_000, 3.0, np.float32)
  stepped, draw = x.astype(np.float64), rng(1)
  for beta in diffusion.betas()[:40]:
    stepped = np.sqrt(1 - beta) * stepped + np.sqrt(beta) * draw.standard_normal(x.shape)
  kept = diffusion.kept(40)
  at_once = np.sqrt(kept) * x + np.sqrt(1 - kept) * rng(2).standard_normal(x.shape)
  assert at_once.mean() == pytest.approx(stepped.mean(), abs=0.01)
  assert at_once.std() == pytest.approx(stepped.std(), abs=0.01)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_closed_form_is_exact_when_the_steps_use_the_noise_it_adds_up_to(schedule):
  diffusion = Diffusion(schedule, steps=20, beta_start=0.001, beta_end=0.1)
  draws = rng(0).standard_normal((20, 7))
  x = stepped = rng(1).standard_normal(7)
  total = np.zeros(7)
  for beta, drawn in zip(diffusion.betas(), draws, strict=True):
    stepped = np.sqrt(1 - beta) * stepped + np.sqrt(beta) * drawn
    total = np.sqrt(1 - beta) * total + np.sqrt(beta) * drawn
  np.testing.assert_allclose(np.sqrt(diffusion.kept(20)) * x + total, stepped, atol=1e-12)
  variance = sum(b * np.prod(1 - diffusion.betas()[i + 1 :]) for i, b in enumerate(diffusion.betas()))
  assert variance == pytest.approx(1 - diffusion.kept(20), abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_less_is_kept_at_every_further_step(schedule):
  diffusion = Diffusion(schedule, steps=30)
  kept = [diffusion.kept(t) for t in range(31)]
  assert kept[0] == 1 and all(a > b > 0 for a, b in zip(kept, kept[1:], strict=False))


def test_released_and_paper_like_schedules_keep_what_the_fact_sheet_says():
  assert Diffusion(steps=100).kept(100) == pytest.approx(0.36, abs=0.01)
  assert Diffusion(steps=1000).kept(1000) == pytest.approx(4e-5, rel=0.05)


def test_what_is_kept_is_what_is_computed_by_hand():
  np.testing.assert_allclose(Diffusion("constant", 4, beta_end=0.5).shares(), [1, 0.5, 0.25, 0.125, 0.0625])
  linear = Diffusion("linear", 3, 0.1, 0.3)
  np.testing.assert_allclose(linear.shares(), [1, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
  assert linear.kept(2) == pytest.approx(0.9 * 0.8)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Diffusion("square"), "noising.schedule='square' is not known; choose one of linear, quadratic"),
    (lambda: Diffusion(steps=0), "noising.steps=0 must be at least 1"),
    (lambda: Diffusion(beta_start=0.1, beta_end=0.01), "noising.beta_start=0.1 and noising.beta_end=0.01"),
    (lambda: Diffusion().kept(1001), "1001 lies outside 0 to 1000"),
    (lambda: Diffusion(steps=0, settings="debias.contrast_"), "debias.contrast_steps=0"),
  ],
)
def test_a_wrong_setting_is_named(make, message):
  with pytest.raises(InputError, match=message):
    make()
