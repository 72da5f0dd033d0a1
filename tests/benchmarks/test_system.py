"""What one configuration costs: inputs of its size, calls timed in turn with a plain convolution, and a page."""

import types

import numpy as np
import pytest

from avs_jax.report import commit
from avs_jax.types import unchecked
from benchmarks import system
from configs import tiny


def test_the_batch_has_the_configs_sizes_and_samples_only_for_who_hears_them():
  config = tiny.get_config()
  with config.unlocked():
    config.data.seconds = 2
  batch = system.example_batch(config, 3)
  assert batch.frames.shape == (3, 2, 32, 32, 3) and batch.masks.shape == (3, 2, 32, 32)
  assert set(np.unique(batch.masks)) == {0, 1}
  assert batch.waveform is None
  with config.unlocked():
    config.model.audio = "beats"
  assert system.example_batch(config, 1).waveform.shape == (1, 2, 16_000)


def test_every_call_is_timed_beside_the_plain_convolution(monkeypatch):
  now, order, lasts = [0.0], [], iter((5.0, 1.0, 3.0))
  monkeypatch.setattr(system, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

  def plain():
    order.append("plain")
    now[0] += 2.0

  def call():
    order.append("call")
    now[0] += next(lasts)

  monkeypatch.setattr(system, "plain_convolution", lambda: (plain, 8e9))
  assert system.in_turn(call, 3) == {"seconds": 3.0, "plain_flop_per_s": 4e9, "best": 1.0}
  assert order == ["plain", "call"] * 3


def test_the_work_of_the_plain_convolution_is_two_operations_a_product():
  run, work = system.plain_convolution()
  assert run().shape == (5, 56, 56, 256)
  assert work == 2 * 5 * 56 * 56 * 256 * 256 * 9


def test_the_page_gives_rates_of_the_measured_seconds():
  part = {
    "trace_s": 1.0, "compile_s": 2.0, "flop": 8e9, "temporary_bytes": 3e9, "argument_bytes": 1.0, "seconds": 4.0,
    "plain_flop_per_s": 8e9, "best": 3.0, "peak_rss_bytes": 5e9, "compile_cpu_s": 3.5, "operations": 1500,
    "instructions": 2000, "running_rss_bytes": 4e9,
  }  # fmt: skip
  figures = {
    "start_s": 0.5, "parameters": 1234567, "trainable": 1000, "inference": part,
    "training": {**part, "seconds": 8.0, "first_step_s": 9.0}, "data_set": "a stand-in", "feed_clips_per_s": 10.0,
    "waiting_share": 0.021,
  }  # fmt: skip
  text = system.table(tiny.get_config(), figures, 2, 3)
  for row in (
    f"| commit | {commit()} |",
    "| system | avsbench, conv_pyramid, vggish, 1 class(es) |",
    "| parameters | 1,234,567, trainable 1,000 |",
    "| inference: trace, compile | 1.0 s, 2.0 s (3.5 CPU s; loading, where the program was kept) |",
    "| inference: program | 1,500 operations, 2,000 instructions compiled |",
    "| inference: work | 4.0 GFLOP a clip (compiled program) |",
    "| inference: time | 2.000 s a clip (best 1.500) |",
    "| inference: rate | 0.500 clips/s, 2.0 GFLOP/s |",
    "| inference: share of a plain 3x3 convolution | 25% of 8.0 GFLOP/s measured in turn |",
    "| inference: memory | peak 5.00 GB resident until compiled, 4.00 GB from then on; program's temporaries 3.00 GB |",
    "| training: rate | 0.250 clips/s, 1.0 GFLOP/s |",
    "| waiting for data | 2.1% of the time of 3 training steps |",
    "| data pipeline alone | 10.0 clips/s (a stand-in), 40 times what the training step takes |",
  ):
    assert row in text


@pytest.mark.slow
def test_a_small_configuration_is_measured_whole():
  config = tiny.get_config()
  with config.unlocked():
    config.data.seconds = 2
    config.model.audio_args.width = 1 / 64
    config.model.width = 8
    config.model.tpavi_stages = ()
    config.schedule.batch = 2
  with unchecked():
    figures = system.measure(config, 1, 1)
  assert 0 < figures["trainable"] <= figures["parameters"]
  for name in ("inference", "training"):
    known = ("seconds", "compile_s", "compile_cpu_s", "flop", "peak_rss_bytes", "running_rss_bytes")
    assert all(figures[name][key] > 0 for key in known)
    assert figures[name]["operations"] > 0 and figures[name]["instructions"] > 0
  assert 0 < figures["waiting_share"] < 1 and figures["feed_clips_per_s"] > 0
  assert figures["training"]["flop"] > figures["inference"]["flop"]
  assert "generated single-source clips (stand-in)" in system.table(config, figures, 1, 1)
