"""Forward diffusion of a sound: how much of it each step keeps. Noising in training and the uncertainty contrast
share it; each draws its own noise."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from avs_jax.errors import InputError, check_choice

SCHEDULES = ("linear", "quadratic", "cosine", "constant")


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """Closed form x_t = sqrt(s_t) x + sqrt(1 - s_t) e, with normal e and s_t the product of 1 - beta to step t.

  "Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024), equation 12.
  Deviation: the paper's beta is constant; its released code runs linear from 1e-4 to 0.02 over 100 steps and so
    keeps 60 % of the amplitude at the last; 1000 such steps keep 0.6 %.

  Attributes:
    schedule: how beta grows: linear or quadratic (linear in its root) from start to end, constant at `beta_end`,
      or cosine, where s_t is a squared cosine.
    steps: number of steps; step 0 is the clean sound.
    settings: how the names of these settings begin where one is refused.

  Raises:
    InputError: settings that make no schedule, or a step outside it.
  """

  schedule: str = "linear"
  steps: int = 1000
  beta_start: float = 1e-4
  beta_end: float = 0.02
  settings: str = "noising."

  def __post_init__(self) -> None:
    check_choice(f"{self.settings}schedule", self.schedule, SCHEDULES)
    if self.steps < 1:
      raise InputError(f"{self.settings}steps={self.steps} must be at least 1.")
    if not 0 < self.beta_start <= self.beta_end < 1:
      raise InputError(
        f"{self.settings}beta_start={self.beta_start} and {self.settings}beta_end={self.beta_end} must rise and"
        " lie between 0 and 1."
      )

  def betas(self) -> Float[np.ndarray, "_"]:
    """float64 [steps]: variance that each step adds."""
    low, high = self.beta_start, self.beta_end
    if self.schedule == "linear":
      return np.linspace(low, high, self.steps)
    if self.schedule == "quadratic":
      return np.linspace(low**0.5, high**0.5, self.steps) ** 2
    if self.schedule == "constant":
      return np.full(self.steps, high)
    # The offset 0.008 keeps the first step from being too small, the ceiling the last from being singular.
    kept = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1 - kept[1:] / kept[:-1], 0, 0.999)

  def shares(self) -> Float[np.ndarray, "_"]:
    """float64 [steps + 1]: s_t, the share of the sound's power that is left, for t = 0 (all of it) to the last step."""
    return _shares(self)

  def kept(self, step: int) -> float:
    """s_t of one step. Raises `InputError` where there is no such step."""
    if not 0 <= step <= self.steps:
      raise InputError(f"diffusion step {step} lies outside 0 to {self.steps} ({self.settings}steps).")
    return float(self.shares()[step])


@functools.lru_cache(maxsize=16)
def _shares(diffusion: Diffusion) -> np.ndarray:
  shares = np.concatenate([[1.0], np.cumprod(1 - diffusion.betas())])
  shares.setflags(write=False)
  return shares
