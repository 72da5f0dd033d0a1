"""The number of devices is a matter of speed: results agree to rounding, and several processes make one run."""

import os
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from avs_jax import mesh as meshes
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.model import build_model, build_objective, example_inputs
from avs_jax.step import TrainState, make_train_step
from avs_jax.types import Batch
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
# Float32 sums over the batch: 2e-6 as programs are compiled for use; where conftest.py has them compiled quickly,
# sums run one term after the other and round more.
ROUNDING = 2e-5 if "xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", "") else 2e-6


@pytest.mark.parametrize(("batch", "model", "shape"), [(8, 1, (8, 1)), (4, 1, (4, 1)), (6, 1, (6, 1)), (5, 1, (5, 1)),
                                                       (7, 2, (1, 2)), (8, 2, (4, 2)), (1, 1, (1, 1))])  # fmt: skip
def test_the_mesh_takes_as_many_devices_as_the_batch_can_be_dealt_to(batch, model, shape):
  assert tuple(meshes.make_mesh(batch, model).shape.values()) == shape


def test_a_model_axis_that_does_not_fit_is_refused():
  with pytest.raises(InputError, match="mesh.model=3 must divide the 8 devices"):
    meshes.make_mesh(8, 3)


def test_a_batch_that_several_hosts_cannot_share_is_refused_by_its_own_name(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert meshes.make_mesh(16).shape["data"] == 8
  with pytest.raises(InputError, match="eval.batch: 4 clips at a time must be a multiple of 8 devices"):
    meshes.make_mesh(4, setting="eval.batch")


def test_only_large_weights_are_split_and_along_their_longest_axis():
  mesh = meshes.make_mesh(4, 2)
  tree = {
    "large": np.zeros((512, 1024)),
    "small": np.zeros((4, 4)),
    "odd": np.zeros((511, 513)),
    "count": np.int32(0),
  }
  specs = {name: sharding.spec for name, sharding in meshes.weight_sharding(mesh, tree).items()}
  assert specs["large"] == PartitionSpec(None, "model")
  assert specs["small"] == specs["odd"] == specs["count"] == PartitionSpec()


def test_one_process_agrees_with_itself():
  assert meshes.agreed(True)
  assert not meshes.agreed(False)


def test_a_coordinator_without_numbers_is_refused(monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
  monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
  with pytest.raises(InputError, match="needs JAX_NUM_PROCESSES and JAX_PROCESS_ID as whole numbers"):
    meshes.join_hosts()


def test_auto_leaves_every_number_to_the_cluster(monkeypatch):
  seen = []
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "auto")
  monkeypatch.setattr(
    jax.distributed,
    "initialize",
    lambda *given: seen.append((given, os.environ.get("JAX_COORDINATOR_ADDRESS"))),
  )
  meshes.join_hosts()
  assert seen == [((), None)]  # jax reads the variable itself, where it is given no address


def test_a_mesh_keeps_the_devices_of_a_host_together():
  devices = [types.SimpleNamespace(process_index=k % 2, id=k) for k in range(4)]
  assert [each.id for each in meshes.by_host(devices)] == [0, 2, 1, 3]
  shuffled = meshes.make_mesh(4, 2, jax.devices()[::-1])
  assert [each.id for each in shuffled.devices.flat] == sorted(each.id for each in jax.devices())


def test_a_lone_process_joins_nothing(monkeypatch):
  monkeypatch.delenv("JAX_COORDINATOR_ADDRESS", raising=False)
  meshes.join_hosts()
  assert jax.process_count() == 1


@pytest.fixture(scope="module")
def two_steps(small):
  """two_steps(devices, model) -> state and figures after two SGD steps of eight clips on so many devices."""
  from data_pipelines import feed, sources

  config = small({"schedule.batch": 8})
  source = sources.build(config, "train")
  model, objective = build_model(config), build_objective(config)
  variables = initialise(model, *example_inputs(config), seed=0)
  with feed.training(config, source) as batches:
    rows = [next(batches) for _ in range(2)]
  rule = optax.sgd(0.05, momentum=0.9)

  def run(devices: int, model_axis: int = 1):
    mesh = meshes.make_mesh(8, model_axis, jax.devices()[:devices])
    state = TrainState(
      np.int32(0), variables["params"], variables["batch_stats"], rule.init(variables["params"])
    )
    sharding = meshes.weight_sharding(mesh, state)
    step = make_train_step(model, objective, rule, frozen=(), pieces=1, mesh=mesh, state_sharding=sharding)
    state, key = jax.device_put(state, sharding), jax.random.key(0)
    for each in rows:
      state, figures = step(state, meshes.put_batch(mesh, Batch(**each)), key)
    return jax.device_get(state), jax.device_get(figures)

  return run


@pytest.mark.slow
def test_one_two_four_and_eight_devices_agree_to_rounding(two_steps, monkeypatch):
  alone, told = two_steps(1)
  monkeypatch.setattr(meshes, "_SHARD_FROM", 256)  # so that weights this small are split over `model`
  for devices, model_axis in ((2, 1), (4, 1), (8, 1), (4, 2)):
    state, figures = two_steps(devices, model_axis)
    assert figures["loss"] == pytest.approx(told["loss"], rel=ROUNDING)
    assert figures["gradient_norm"] == pytest.approx(told["gradient_norm"], rel=5 * ROUNDING)
    for (path, x), (_, y) in zip(
      jax.tree_util.tree_leaves_with_path(alone), jax.tree_util.tree_leaves_with_path(state), strict=True
    ):
      np.testing.assert_allclose(
        y, x, rtol=0, atol=ROUNDING, err_msg=f"{jax.tree_util.keystr(path)} on {devices}"
      )


def test_running_statistics_are_those_of_the_global_batch(two_steps):
  """Of one clip a device they would be far from those of eight on one."""
  alone, spread = two_steps(1)[0].batch_stats, two_steps(8)[0].batch_stats
  moved = jax.tree.leaves(alone)
  assert moved and all(mean.any() for mean in moved)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=ROUNDING), alone, spread)


HOST = """
import json, sys
import jax
from avs_jax import mesh
mesh.join_hosts()
assert jax.process_count() == 2 and jax.device_count() == 4
from avs_jax.train import train
from configs import common
state = train(common.from_json(json.load(open(sys.argv[1] + ".json")), "the test"), sys.argv[1])
norm = sum(float(abs(leaf.addressable_data(0)).sum()) for leaf in jax.tree.leaves(state.params))
print("steps", int(state.step), "norm", repr(norm), "agreed", mesh.agreed(jax.process_index() == 1))
"""


def two_hosts(folder: Path, cache: dict[str, str]) -> tuple[list[int], list[str], list[str]]:
  """Statuses, outputs and errors of two processes of one run; neither outlives the other's failure."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  hosts, texts = (
    [],
    [[folder.with_suffix(f".{kind}{number}") for number in (0, 1)] for kind in ("out", "err")],
  )
  try:
    for number, (out, err) in enumerate(zip(*texts, strict=True)):
      environment = {
        **cache,
        "XLA_FLAGS": cache["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
      }  # fmt: skip
      command = [sys.executable, "-c", HOST, str(folder)]
      with out.open("w") as output, err.open("w") as error:
        hosts.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=error))
    end = time.monotonic() + PATIENCE_S
    while None in (found := [host.poll() for host in hosts]) and not any(found) and time.monotonic() < end:
      time.sleep(0.1)
  finally:
    for host in hosts:
      host.kill()
      host.wait()
  outputs, errors = ([path.read_text() for path in paths] for paths in texts)
  return [host.returncode for host in hosts], outputs, errors


@pytest.mark.slow
def test_two_processes_train_and_save_one_run_and_one_process_goes_on(small, devices, tmp_path, with_cache):
  from avs_jax.train import train

  config = small({"schedule.batch": 4, "eval.batch": 4, "log.checkpoint_steps": 2, "optimizer.name": "sgd"})
  folder = tmp_path / "run"
  (tmp_path / "run.json").write_text(config.to_json_best_effort())
  for _ in range(5):
    statuses, outputs, errors = two_hosts(folder, with_cache)
    if "Failed to add port to server" not in errors[0]:  # said where another took the port meanwhile
      break
  assert statuses == [0, 0], "\n".join(error[-3000:] for error in errors)
  lines = [output.strip().splitlines()[-1] for output in outputs]
  assert lines[0] == lines[1]
  assert lines[0].startswith("steps 4 norm") and lines[0].endswith("agreed True")
  assert (folder / "scoreboard.json").exists()
  config.steps = 6
  assert int(train(config, str(folder)).step) == 6  # one device goes on from the four of two processes
  assert "resumed from the checkpoint of step 4" in (folder / "log.txt").read_text()
