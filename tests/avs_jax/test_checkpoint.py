"""Whatever happens to the newest checkpoint, a whole one is found, or a sentence says why not."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avs_jax import checkpoint
from avs_jax.checkpoint import Checkpoints, digest, load_variables
from avs_jax.errors import InputError
from avs_jax.mesh import make_mesh, weight_sharding
from avs_jax.step import TrainState
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def state_of(step: int, rows: int = 64) -> TrainState:
  """A state whose numbers depend on `step`."""
  rng = np.random.default_rng(step)
  params = {
    "head": {"kernel": rng.normal(size=(rows, 16)).astype(np.float32), "bias": np.zeros(16, np.float32)}
  }
  stats = {"norm": {"mean": rng.normal(size=16).astype(np.float32)}}
  return TrainState(np.int32(step), params, stats, optax.adam(1e-3).init(params))


def saved(folder: Path, *steps: int) -> Checkpoints:
  checkpoints = Checkpoints(str(folder), keep=5)
  for step in steps:
    checkpoints.save(step, state_of(step), {"data": {"next_index": step}, "config": {"betas": (0.9, 0.999)}})
  checkpoints.wait()
  return checkpoints


def largest(folder: Path) -> Path:
  """The file that holds the arrays."""
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_what_was_saved_comes_back_to_the_bit(tmp_path, same):
  checkpoints = saved(tmp_path, 3)
  state, meta = checkpoints.restore(state_of(0))
  same(state, state_of(3))
  assert isinstance(state, TrainState)
  assert meta["data"] == {"next_index": 3}
  assert meta["step"] == 3


def test_an_empty_folder_gives_none(tmp_path):
  assert Checkpoints(str(tmp_path / "new")).restore(state_of(0)) is None


def test_only_so_many_are_kept(tmp_path):
  checkpoints = Checkpoints(str(tmp_path), keep=2)
  for step in (1, 2, 3):
    checkpoints.save(step, state_of(step), {})
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3]


def test_saving_a_step_twice_keeps_the_first(tmp_path, same):
  checkpoints = saved(tmp_path, 3)
  checkpoints.save(3, state_of(9), {})
  checkpoints.wait()
  same(checkpoints.restore(state_of(0))[0], state_of(3))


def test_what_another_training_left_is_never_taken_for_what_could_not_be_saved(tmp_path, same, caplog):
  checkpoints = saved(tmp_path, 100, 150)
  with pytest.raises(
    InputError, match=r"checkpoint of step 120 could not be written \(a later one, of step 150"
  ):
    checkpoints.save(120, state_of(120), {})
  with caplog.at_level(logging.WARNING, logger=checkpoint.log.name):
    checkpoints.forget_after(100)
  assert "deleted checkpoints [150]" in caplog.text
  checkpoints.save(120, state_of(120), {})
  checkpoints.wait()
  assert checkpoints.steps() == [100, 120]
  same(checkpoints.restore(state_of(0))[0], state_of(120))


@pytest.mark.parametrize("part", ["state", "meta"])
def test_a_truncated_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, same, caplog, part):
  saved(tmp_path, 1, 2).close()
  path = largest(tmp_path / "2" / part)
  os.truncate(path, path.stat().st_size // 2)
  with caplog.at_level(logging.WARNING):
    state, meta = Checkpoints(str(tmp_path)).restore(state_of(0))
  same(state, state_of(1))
  assert meta["data"] == {"next_index": 1}
  assert "checkpoint 2 is unreadable" in caplog.text


def test_one_flipped_byte_among_the_arrays_is_noticed(tmp_path, same, caplog):
  saved(tmp_path, 1, 2).close()
  path = largest(tmp_path / "2" / "state")
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  same(Checkpoints(str(tmp_path)).restore(state_of(0))[0], state_of(1))
  assert "checkpoint 2 is unreadable" in caplog.text


def test_one_changed_digit_of_the_data_position_is_noticed(tmp_path, caplog):
  saved(tmp_path, 1, 2).close()
  path = largest(tmp_path / "2" / "meta")
  text = path.read_text()
  assert text.count('"next_index": 2') == 1
  path.write_text(text.replace('"next_index": 2', '"next_index": 3'))
  assert Checkpoints(str(tmp_path)).restore(state_of(0))[1]["data"] == {"next_index": 1}
  assert "its meta is not what was written" in caplog.text


def test_the_digest_alone_notices_another_value(tmp_path, same, caplog, monkeypatch):
  saved(tmp_path, 1).close()
  other = state_of(2)
  other.params["head"]["bias"][7] = np.float32(1e-30)
  monkeypatch.setattr(
    checkpoint, "digest", lambda tree: digest(other)
  )  # as if a bit turned on the way to disk
  saved(tmp_path, 2).close()
  monkeypatch.undo()
  same(Checkpoints(str(tmp_path)).restore(state_of(0))[0], state_of(1))
  assert "digest differs in 1 arrays, first params/head/bias" in caplog.text
  state, meta = Checkpoints(str(tmp_path), keep=0).restore_as_saved()
  assert meta["step"] == 1
  assert state["step"] == 1


def test_no_readable_checkpoint_is_one_sentence(tmp_path):
  saved(tmp_path, 1).close()
  os.truncate(largest(tmp_path / "1" / "state"), 3)
  with pytest.raises(InputError, match=r"none of the checkpoints \[1\] can be read; move the folder away"):
    Checkpoints(str(tmp_path)).restore(state_of(0))


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
  saved(tmp_path, 1)
  other = state_of(0)
  other.params["tail"] = other.params.pop("head")
  with pytest.raises(InputError, match=r"checkpoint 1 is of another model .*params/"):
    Checkpoints(str(tmp_path)).restore(other)


def test_a_half_written_folder_is_passed_over_and_removed(tmp_path, same):
  saved(tmp_path, 1).close()
  half = tmp_path / "2.orbax-checkpoint-tmp"
  (half / "state").mkdir(parents=True)
  (half / "state" / "manifest.ocdbt").write_bytes(b"half")
  same(Checkpoints(str(tmp_path)).restore(state_of(0))[0], state_of(1))
  assert not half.exists()


def test_reading_disturbs_nothing(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  saved(tmp_path / "checkpoints", 1).close()
  half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  half.mkdir()
  variables = load_variables(str(tmp_path))
  np.testing.assert_array_equal(variables["params"]["head"]["kernel"], state_of(1).params["head"]["kernel"])
  assert half.exists()
  assert not (tmp_path / "best").exists()


def test_the_best_weights_go_before_the_newest(tmp_path):
  saved(tmp_path / "checkpoints", 1, 2).close()
  saved(tmp_path / "best", 1).close()
  variables = load_variables(str(tmp_path))
  np.testing.assert_array_equal(
    variables["batch_stats"]["norm"]["mean"], state_of(1).batch_stats["norm"]["mean"]
  )


def test_a_folder_without_checkpoint_is_one_sentence(tmp_path):
  with pytest.raises(InputError, match="no checkpoint there; give the --workdir"):
    load_variables(str(tmp_path))


@pytest.mark.parametrize("count", [1, 4])
def test_saved_on_eight_devices_loads_on_fewer(tmp_path, same, count):
  state = state_of(1, rows=8192)
  wide = make_mesh(8, 4)
  spread = jax.device_put(state, weight_sharding(wide, state))
  assert not spread.params["head"]["kernel"].is_fully_replicated
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(1, spread, {})
  checkpoints.wait()
  narrow = make_mesh(count, 1, jax.devices()[:count])
  target = jax.device_put(state_of(0, rows=8192), weight_sharding(narrow, state))
  found, _ = checkpoints.restore(target)
  same(found, state)
  assert found.params["head"]["kernel"].sharding.device_set == set(jax.devices()[:count])


def test_the_state_may_be_given_away_while_it_is_written(tmp_path, same):
  step = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf + 1, x), donate_argnums=0)
  state = jax.device_put({"big": jnp.ones((1024, 1024))})
  checkpoints = Checkpoints(str(tmp_path))
  checkpoints.save(1, state, {})
  for _ in range(5):
    state = step(state)
  checkpoints.wait()
  same(checkpoints.restore(state)[0], {"big": np.ones((1024, 1024), np.float32)})


def test_the_digest_names_arrays_alike_in_memory_and_from_a_file(tmp_path):
  saved(tmp_path, 4).close()
  state, meta = Checkpoints(str(tmp_path), keep=0).restore_as_saved()
  assert digest(state) == digest(state_of(4)) == meta["digest"]


FULL_DISK = """
import resource, sys
import numpy as np
from avs_jax.checkpoint import Checkpoints
from avs_jax.errors import InputError

checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": np.zeros(4)}, {})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # a file may grow no further, as on a full disk
try:
  checkpoints.save(2, {"x": np.random.default_rng(0).normal(size=1_000_000)}, {})
  checkpoints.wait()
except InputError as error:
  print(error)
"""


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path):
  command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
  assert re.search(
    r"checkpoint.* could not be written \(.*\); the last good checkpoint is step 1\. Free space", done.stdout
  ), done.stdout + done.stderr
  checkpoints = Checkpoints(str(tmp_path))
  assert checkpoints.steps() == [1]
  assert checkpoints.restore({"x": np.ones(4)})[0]["x"].tolist() == [0, 0, 0, 0]
