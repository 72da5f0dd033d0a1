"""One step: saving memory changes nothing, what is frozen stays, and half precision stays near."""

import ctypes
import resource

import jax
import numpy as np
import optax
import pytest

from avs_jax import mesh as meshes
from avs_jax import optimizer as optimizers
from avs_jax import step as steps
from avs_jax.initialise import initialise
from avs_jax.model import build_model, build_objective, example_inputs
from avs_jax.step import TrainState, make_predict_step, make_train_step
from avs_jax.types import Batch, Outputs


@pytest.fixture(scope="module")
def one_step(small):
  """one_step(changes, ...) -> state before, state after one step of four clips on one device, figures."""
  from data_pipelines import feed, sources

  def run(changes: dict, *, pieces: int = 1, frozen: tuple = (), rule=None, devices: int = 1):
    config = small({"schedule.batch": 4, **changes})
    source = sources.build(config, "train")
    model = build_model(config)
    variables = initialise(model, *example_inputs(config), seed=0)
    variables.setdefault("batch_stats", {})
    rule = rule or optax.sgd(1.0)  # parameters move by the gradient itself
    with feed.training(config, source) as batches:
      rows = next(batches)
    learns, _ = optimizers.split_trainable(variables["params"], frozen)
    mesh = meshes.make_mesh(4, 1, jax.devices()[:devices])
    before = TrainState(np.int32(0), variables["params"], variables["batch_stats"], rule.init(learns))
    sharding = meshes.weight_sharding(mesh, before)
    step = make_train_step(
      model, build_objective(config), rule, frozen=frozen, pieces=pieces, mesh=mesh, state_sharding=sharding
    )
    batch = meshes.put_batch(mesh, Batch(**rows))
    after, figures = step(jax.device_put(before, sharding), batch, jax.random.key(0))
    return before, jax.device_get(after), jax.device_get(figures)

  return run


def near(a, b, atol: float) -> None:
  for (path, x), (_, y) in zip(
    jax.tree_util.tree_leaves_with_path(a), jax.tree_util.tree_leaves_with_path(b), strict=True
  ):
    np.testing.assert_allclose(
      np.asarray(y, np.float32), x, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path)
    )


DEAF = {"model.tpavi_stages": ()}  # no batch normalisation and no dropout anywhere


@pytest.fixture(scope="module")
def plain(one_step):
  return one_step(DEAF)


@pytest.fixture(scope="module")
def usual(one_step):
  return one_step({})


@pytest.mark.slow
@pytest.mark.parametrize(("pieces", "devices"), [(4, 1), (2, 2)])
def test_accumulating_over_pieces_gives_the_gradient_of_the_whole_batch(one_step, plain, pieces, devices):
  """Exact only where no batch normalisation and no dropout is involved, which see a piece at a time."""
  _, after, figures = one_step(DEAF, pieces=pieces, devices=devices)
  near(plain[1].params, after.params, 2e-6)
  assert figures["loss"] == pytest.approx(plain[2]["loss"], rel=1e-6)


def test_rematerialisation_gives_the_same_step(one_step, plain):
  _, after, figures = one_step({**DEAF, "model.remat": True})
  near(plain[1].params, after.params, 1e-6)
  assert figures["loss"] == pytest.approx(plain[2]["loss"], rel=1e-6)


def test_equal_blocks_may_be_one_loop_in_training(one_step):
  sizes = {"dims": (8, 8, 8, 8), "heads": (1, 1, 1, 1), "depths": (3, 1, 1, 1), "drop_path": 0.0}
  scanned = {**DEAF, "model.visual": "pvt_v2_b0", "model.visual_args": {**sizes, "scan": True}}
  before, after, figures = one_step(scanned)
  assert np.isfinite(figures["loss"])
  started, ended = (
    jax.tree.leaves(state.params["visual_encoder"]["block1"]["mlp"]) for state in (before, after)
  )
  for x, y in zip(started, ended, strict=True):
    assert (
      x.shape[0] == 3 and (np.abs(x - y).reshape(3, -1).max(-1) > 0).all()
    )  # every block of the three moved


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_keeps_float32_parameters(one_step, usual):
  _, exact, told = usual
  _, after, figures = one_step({"model.dtype": "bfloat16"})
  assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.batch_stats))} == {np.dtype("float32")}
  assert figures["loss"] == pytest.approx(told["loss"], rel=0.02)
  assert figures["gradient_norm"] == pytest.approx(told["gradient_norm"], rel=0.2)
  assert figures["loss"] != told["loss"]
  near(exact.params, after.params, 0.1)


@pytest.mark.slow
def test_frozen_parts_stay_to_the_bit_and_have_no_optimiser_memory(one_step, same):
  before, after, _ = one_step({}, frozen=("audio_encoder", "tpavi_4"), rule=optax.adam(1e-2))
  for name in ("audio_encoder", "tpavi_4"):
    same(after.params[name], before.params[name])
  same(after.batch_stats["tpavi_4"], before.batch_stats["tpavi_4"])  # frozen runs as in inference
  assert any(
    x.any() for x in jax.tree.leaves(jax.tree.map(np.subtract, after.params["head"], before.params["head"]))
  )
  memory = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(after.opt_state)}
  assert any("head" in name for name in memory)
  assert not any("audio_encoder" in name or "tpavi_4" in name for name in memory)


def test_running_statistics_move_where_nothing_is_frozen(usual):
  before, after, _ = usual
  for x, y in zip(jax.tree.leaves(before.batch_stats), jax.tree.leaves(after.batch_stats), strict=True):
    assert (np.asarray(x) != y).any()


def test_a_step_counts_itself_and_tells_norms(plain):
  before, after, figures = plain
  assert int(after.step) == 1
  change = jax.tree.map(np.subtract, after.params, before.params)
  norm = float(np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(change))))
  assert figures["update_norm"] == pytest.approx(norm, rel=1e-5)
  assert figures["gradient_norm"] == pytest.approx(norm, rel=1e-5)  # SGD at rate 1
  assert {"loss", "bce", "parameter_norm"} <= set(figures)


def test_predicting_a_clip_does_not_depend_on_its_neighbours(small):
  config = small(DEAF)
  model = build_model(config)
  variables = initialise(model, *example_inputs(config), seed=0)
  predict = make_predict_step(model, meshes.make_mesh(2, 1, jax.devices()[:1]))
  rng = np.random.default_rng(0)

  def batch(order):
    frames = rng_frames[order]
    count = len(order)
    return Batch(
      frames=frames, log_mel=np.zeros((count, 2, 96, 64), np.float32), masks=np.zeros((count, 2, 32, 32), np.int32),
      annotated=np.ones((count, 2), bool), present=np.ones((count, 2), bool),
      condition=np.zeros(count, np.int32), index=np.arange(count, dtype=np.int32),
    )  # fmt: skip

  rng_frames = rng.integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
  forth, back = predict(variables, batch([0, 1])), predict(variables, batch([1, 0]))
  assert isinstance(forth, Outputs)
  np.testing.assert_allclose(forth.logits[0], back.logits[1], atol=1e-5)
  assert forth.fused_maps is None


def test_an_encoder_of_samples_gets_the_sound_itself(one_step):
  ear = {"width": 4, "depths": (1,), "heads": (1,), "window": 4, "side": 64, "high_hz": 8000.0}
  changes = {"model.audio": "htsat", "model.audio_args": {**ear, "sample_rate_hz": 16_000}}
  _, after, figures = one_step(changes)
  assert np.isfinite(figures["loss"])
  # A tenth of the way from 0 to the mean decibels, which for sounds in [-1, 1] lie around -40 in each band.
  moved = after.batch_stats["audio_encoder"]["bn0"]["mean"]
  assert (moved < -1).all() and (moved > -10).all()


def test_a_program_is_compiled_once_and_what_that_freed_is_given_back_before_it_runs(monkeypatch, caplog):
  order = []
  monkeypatch.setattr(steps, "give_back_freed_memory", lambda: order.append("given back"))
  function = jax.jit(lambda x: jax.debug.callback(lambda: order.append("runs")) or x + 1)
  program = steps.Program(function)
  for _ in range(2):
    np.testing.assert_array_equal(jax.block_until_ready(program(np.arange(3))), [1, 2, 3])
    jax.effects_barrier()
  assert order == ["given back", "runs", "runs"]
  with jax.log_compiles():
    steps.Program(jax.jit(lambda x: x * 3 + 1))(np.arange(5.0))
  assert caplog.text.count("Finished XLA compilation") == 1


def test_freed_memory_goes_back_to_the_system():
  if not hasattr(ctypes.CDLL(None), "malloc_trim"):
    pytest.skip("the C library of this system has no malloc_trim (glibc has), so there is nothing to call")

  def resident() -> int:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * resource.getpagesize()

  pieces = [b"x" * 60_000 for _ in range(4000)]  # 240 MB, below the size that has a mapping of its own
  last = b"x" * 60_000
  del pieces
  before = resident()
  steps.give_back_freed_memory()
  assert len(last) == 60_000 and before - resident() > 100e6


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_system_without_that_call_goes_on(monkeypatch, error):
  asked = []

  def library(name: None) -> None:
    asked.append(name)
    raise error

  monkeypatch.setattr(ctypes, "CDLL", library)
  steps.give_back_freed_memory()
  assert asked == [None]
