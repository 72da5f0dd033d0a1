"""Programs are timed in turn, so that a busy machine is busy for all, and their medians are told."""

import itertools
import json
import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import in_turn


def test_programs_take_turns_after_one_warm_up_and_medians_are_given(monkeypatch):
  """A clock that only moves while a program runs: the second form once takes long."""
  now, called, lasts = [0.0], [], {"short": itertools.repeat(1.0), "long": iter((9.0, 2.0, 50.0, 4.0))}
  monkeypatch.setattr(in_turn, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
  monkeypatch.setattr(in_turn, "cpu_seconds", lambda: now[0] / 2)

  class Program:
    def __init__(self, name):
      self.name = name

    def memory_analysis(self):
      return types.SimpleNamespace(temp_size_in_bytes=7)

    def __call__(self, x):
      called.append(self.name)
      now[0] += next(lasts[self.name])
      return x

  figures = in_turn.measure({name: Program(name) for name in lasts}, (1,), 3)
  assert called == ["short", "long"] * 4
  assert figures == {
    "short": {"temporary_bytes": 7, "seconds": 1, "cpu_seconds": 0.5},
    "long": {"temporary_bytes": 7, "seconds": 4, "cpu_seconds": 2},
  }


def test_true_programs_are_measured():
  x = jnp.ones(4)
  program = jax.jit(lambda x: x + 1).lower(x).compile()
  (figures,) = in_turn.measure({"plus": program}, (x,), 1).values()
  assert figures["seconds"] > 0 and figures["cpu_seconds"] >= 0 and figures["temporary_bytes"] >= 0


@pytest.mark.parametrize("is_written", [False, True])
def test_the_page_is_shown_and_written_where_asked_with_its_figures(tmp_path, capsys, is_written):
  path = tmp_path / "page.md"
  in_turn.publish("# Page\n", {"a": {"b": 1.5}}, str(path) if is_written else None)
  assert capsys.readouterr().out == "# Page\n\n"
  assert sorted(each.name for each in tmp_path.iterdir()) == (["page.json", "page.md"] if is_written else [])
  if is_written:
    assert path.read_text() == "# Page\n"
    assert json.loads((tmp_path / "page.json").read_text()) == {"a": {"b": 1.5}}


def test_what_was_written_by_hand_below_an_older_page_stays(tmp_path):
  path = tmp_path / "page.md"
  path.write_text(f"# Old\n\n{in_turn.BY_HAND}\n\nWhy it is so.\n")
  for text in ("# New\n", "# Newer\n"):
    in_turn.publish(text, None, str(path))
    assert path.read_text() == f"{text}\n{in_turn.BY_HAND}\n\nWhy it is so.\n"
  assert not (tmp_path / "page.json").exists()


def test_the_conditions_name_machine_versions_and_load():
  said = in_turn.conditions(5)
  for part in (jax.devices()[0].device_kind, f"jax {jax.__version__}", "median of 5 calls", "load average"):
    assert part in said


def test_the_peak_counts_what_this_process_has_held():
  before = in_turn.peak_memory()
  held = np.ones(100_000_000, np.uint8)
  assert in_turn.peak_memory() >= max(before, 100e6) and held[-1] == 1


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot forget a peak")
def test_a_forgotten_peak_is_that_of_what_is_held_now():
  held = np.ones(200_000_000, np.uint8)
  before = in_turn.peak_memory()
  del held
  in_turn.forget_peak()
  assert in_turn.peak_memory() <= before - 150e6
