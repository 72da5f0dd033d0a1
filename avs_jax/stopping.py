"""When a training saves, and how a signal ends it: between two steps, after saving."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

from avs_jax import mesh as meshes

log = logging.getLogger(__name__)


def is_due(config: Any, step: int, saved_at: float, asks: bool) -> bool:
  """Whether a checkpoint is to be written now, by step where `log.checkpoint_steps` is set, else by time."""
  if config.log.checkpoint_steps:
    return step % config.log.checkpoint_steps == 0
  return asks and meshes.agreed(time.monotonic() - saved_at > 60 * config.log.checkpoint_minutes)


class StopFlag:
  """Whether a signal asked the run to end, and whether it may end at once (nothing is unsaved)."""

  is_set = False
  is_postponed = False

  @contextlib.contextmanager
  def postponed(self) -> Iterator[None]:
    """Inside, the signal only sets the flag."""
    self.is_postponed = True
    try:
      yield
    finally:
      self.is_postponed = False


@contextlib.contextmanager
def stop_signal() -> Iterator[StopFlag]:
  """Makes SIGTERM end the run with status 0: between two steps, after saving, or at once outside the loop.

  Raises:
    SystemExit(0): SIGTERM came outside the loop.
  """
  flag = StopFlag()

  def set_flag(number: int, frame: Any) -> None:
    del number, frame
    flag.is_set = True
    if not flag.is_postponed:
      log.warning("stopped by a signal outside the training steps; the same command goes on.")
      raise SystemExit(0)

  try:
    before = signal.signal(signal.SIGTERM, set_flag)
  except ValueError:  # not the main thread (a notebook's worker): signals are not ours there
    yield flag
    return
  try:
    yield flag
    # Python drops what is raised while it clears up (a weak reference's callback, `__del__`).
    if flag.is_set:
      raise SystemExit(0)
  finally:
    signal.signal(signal.SIGTERM, before)
