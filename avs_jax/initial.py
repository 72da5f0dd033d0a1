"""Initial values of parameters, drawn by jax or by numpy from one description.

Drawing with jax compiles a program for every shape, which takes a B5 network half a minute; numpy draws the
same distribution at once. `initialise` uses numpy, a bare `module.init` uses jax.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Initial:
  """A distribution whose width may depend on the shape.

  Attributes:
    form: "normal", "truncated" (a normal cut at two standard deviations), "uniform", or "constant".
    value: the constant; else the standard deviation (half width for "uniform"), or with `fan` the factor f
      in sqrt(f / fan).
    fan: "" for a fixed width, "in" or "out" for the number of inputs or outputs of one unit, "both" for their
      sum. A kernel is [*taps, in, out].
    depthwise: the kernel is [*taps, 1, C], so one unit has its taps alone.
  """

  form: str
  value: float
  fan: str = ""
  depthwise: bool = False

  def width(self, shape: tuple[int, ...]) -> float:
    if not self.fan:
      return self.value
    taps = math.prod(shape[:-2])
    if self.fan == "both":
      return math.sqrt(self.value / (taps * (shape[-2] + shape[-1])))
    units = 1 if self.depthwise else shape[-2] if self.fan == "in" else shape[-1]
    return math.sqrt(self.value / (taps * units))

  def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
    draws = {
      "normal": lambda: jax.random.normal(key, shape, dtype),
      "truncated": lambda: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
      "uniform": lambda: jax.random.uniform(key, shape, dtype, -1.0, 1.0),
      "constant": lambda: jnp.ones(shape, dtype),
    }
    return draws[self.form]() * self.width(shape)

  def sample(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 array of `shape`."""
    if self.form == "constant":
      return np.full(shape, self.value, np.float32)
    if self.form == "uniform":
      return random.uniform(-1, 1, shape).astype(np.float32) * np.float32(self.width(shape))
    drawn = random.standard_normal(shape, np.float32)
    while self.form == "truncated" and (far := np.abs(drawn) > 2).any():
      drawn[far] = random.standard_normal(int(far.sum()), np.float32)
    return drawn * np.float32(self.width(shape))


def constant(value: float) -> Initial:
  return Initial("constant", value)


def normal(deviation: float) -> Initial:
  return Initial("normal", deviation)


zeros, ones = constant(0.0), constant(1.0)
# Normal with variance 2 / fan_out: the convolutions of PVT-v2 and ResNet.
he_fan_out = Initial("normal", 2.0, "out")
# The same for a depthwise kernel, whose fan_out is its k * k taps alone.
he_fan_out_depthwise = Initial("normal", 2.0, "out", depthwise=True)
# Normal with variance 2 / fan_in: networks of ours that learn from scratch.
he_fan_in = Initial("normal", 2.0, "in")
# Truncated normal 0.02: the linear layers of every transformer here.
trunc_normal = Initial("truncated", 0.02)
# Uniform +-1/sqrt(fan_in): PyTorch's default for convolutions and linear layers.
torch_default = Initial("uniform", 1.0, "in")
# Uniform +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio): the heads of the query-based systems.
xavier_uniform = Initial("uniform", 6.0, "both")
