"""A signal ends a run at once where nothing is unsaved, and waits for the step elsewhere."""

import signal
import time

import pytest

from avs_jax import stopping


def test_sigterm_outside_the_loop_ends_at_once():
  with pytest.raises(SystemExit) as stopped, stopping.stop_signal():
    signal.raise_signal(signal.SIGTERM)
  assert stopped.value.code == 0


def test_sigterm_inside_the_loop_waits_for_the_step():
  reached = []
  with pytest.raises(SystemExit) as stopped, stopping.stop_signal() as stop, stop.postponed():
    assert not stop.is_set
    signal.raise_signal(signal.SIGTERM)
    assert stop.is_set
    reached.append("the end of the step")
  assert stopped.value.code == 0 and reached


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_while_python_clears_up_is_not_forgotten():
  class Dying:
    def __del__(self):
      signal.raise_signal(signal.SIGTERM)  # what the handler raises here is dropped

  reached = []
  with pytest.raises(SystemExit), stopping.stop_signal() as stop:
    Dying()
    assert stop.is_set
    reached.append("what follows")
  assert reached


def test_a_checkpoint_is_due_by_steps_where_they_are_set_else_by_minutes(small):
  by_steps = small({"log.checkpoint_steps": 3})
  long_ago = time.monotonic() - 3600
  assert [step for step in range(1, 8) if stopping.is_due(by_steps, step, long_ago, True)] == [3, 6]
  by_minutes = small({"log.checkpoint_steps": 0, "log.checkpoint_minutes": 5.0})
  assert stopping.is_due(by_minutes, 1, long_ago, True)
  assert not stopping.is_due(by_minutes, 1, time.monotonic(), True)
  assert not stopping.is_due(by_minutes, 1, long_ago, False)  # several hosts agree at logged steps only
