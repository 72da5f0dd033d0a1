"""Published weights in, Flax variables out: reading, renaming, converting and storing without PyTorch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from avs_jax.weights.containers import read, read_pickled_tensor
from avs_jax.weights.storage import convert, load, load_metadata, save

__all__ = [
  "convert", "from_torch", "guide_from_torch", "load", "load_metadata", "postprocessing_from_torch", "read",
  "read_pickled_tensor", "save", "to_torch_names",
]  # fmt: skip


def from_torch(name: str, state: Mapping[str, np.ndarray], **overrides: Any) -> dict[str, Any]:
  """Flax variables of the encoder or system `name` from a PyTorch state_dict; see `placement.from_torch`."""
  from avs_jax.weights import placement  # imports jax, which reading a file does not need

  return placement.from_torch(name, state, **overrides)


def guide_from_torch(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
  """Variables of the guide that a system's checkpoint holds beside it; see `placement.guide_from_torch`."""
  from avs_jax.weights import placement

  return placement.guide_from_torch(name, state)


def postprocessing_from_torch(state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """The two tensors of VGGish's post-processing; see `placement.postprocessing_from_torch`."""
  from avs_jax.weights import placement

  return placement.postprocessing_from_torch(state)


def to_torch_names(name: str, **overrides: Any) -> dict[str, tuple[int, ...]]:
  """The tensors that `from_torch(name, ...)` expects and their shapes; see `placement.to_torch_names`."""
  from avs_jax.weights import placement

  return placement.to_torch_names(name, **overrides)
