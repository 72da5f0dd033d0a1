"""Published weights in, Flax variables out: reading, renaming, converting and storing without PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from avs_jax.weights.containers import read, read_pickled_tensor

__all__ = ["from_torch", "read", "read_pickled_tensor"]


def from_torch(name: str, state: Mapping[str, np.ndarray], **overrides: Any) -> dict[str, Any]:
  """Flax variables of the encoder or system `name` from a PyTorch state_dict; see `convert.from_torch`."""
  from avs_jax.weights import convert  # imports jax, which reading a file does not need

  return convert.from_torch(name, state, **overrides)
