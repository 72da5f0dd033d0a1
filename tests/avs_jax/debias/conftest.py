"""What the tests of the guide share."""

import numpy as np
import pytest

from avs_jax.types import Batch


@pytest.fixture(scope="session")
def pairs():
  def make(present, condition):
    """A batch of which the guide's loss reads only who is present and which sounds belong."""
    present = np.asarray(present)
    clips, seconds = present.shape
    return Batch(
      frames=np.zeros((clips, seconds, 1, 1, 3), np.uint8),
      log_mel=np.zeros((clips, seconds, 96, 64), np.float32),
      masks=np.zeros((clips, seconds, 1, 1), np.int32),
      annotated=present,
      present=present,
      condition=np.asarray([int(kind) for kind in condition], np.int32),
      index=np.arange(clips, dtype=np.int32),
    )

  return make
