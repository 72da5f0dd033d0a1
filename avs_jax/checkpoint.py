"""Saving and restoring a run: the state, where the data stood, and a digest that notices a flipped bit.

Layout under the work directory:
  checkpoints/<step>/   state (parameters, statistics, optimiser, step), meta.json with data position
  best/<step>/          parameters and statistics of the best validation score, same meta
Orbax writes each folder under a temporary name and renames it last, so a kill leaves no half checkpoint.
"""

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from avs_jax.errors import InputError

log = logging.getLogger(__name__)

Tree = Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Only errors of absl's log are shown inside."""
  before = absl.logging.get_verbosity()
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    yield
  finally:
    absl.logging.set_verbosity(before)


def digest(tree: Tree) -> dict[str, int]:
  """CRC-32 of every array, by path. Arrays that no host holds whole are left out."""
  sums = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if is_here(leaf):
      sums[name_of(path)] = zlib.crc32(np.ascontiguousarray(leaf).tobytes())
  return sums


def name_of(path: tuple) -> str:
  """ "params/head/kernel": the same for a dataclass, a tuple and what they become in a file."""
  return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def is_here(x: Any) -> bool:
  """Whether this process can read all of an array."""
  return not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated


def meta_digest(meta: Mapping[str, Any]) -> int:
  """CRC-32 of what lies beside the arrays: data position, scores, config."""
  rest = {name: value for name, value in meta.items() if name != "meta_digest"}
  return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def combined(sums: Mapping[str, int]) -> str:
  """One short name for a set of weights."""
  return f"{zlib.crc32(repr(sorted(sums.items())).encode()):08x}"


class Checkpoints:
  """The checkpoints of one folder.

  Args:
    folder: made if absent; relative paths are taken from the current directory.
    keep: how many to keep; 0 only reads, so that a run in progress can be looked at without disturbing it.
  """

  def __init__(self, folder: str, keep: int = 2):
    self.folder = os.path.abspath(folder)
    if keep:
      os.makedirs(self.folder, exist_ok=True)
      # What a killed run left half written is removed.
      options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
      )
    else:
      options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    with quiet():  # Orbax warns that a folder opened for reading cannot be written
      self.manager = ocp.CheckpointManager(self.folder, options=options)

  def steps(self) -> list[int]:
    """Steps at hand, oldest first."""
    return sorted(self.manager.all_steps())

  def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> None:
    """Writes in the background; the arrays are copied before this returns.

    Raises:
      InputError: the disk is full or not writable. Earlier checkpoints are untouched.
    """
    try:
      self.manager.wait_until_finished()
      if step in self.manager.all_steps():
        return
      host = state
      if jax.process_count() == 1:  # one copy serves the digest and the file; several hosts write their parts
        host = jax.tree.map(np.asarray, state)
      # As JSON gives it back: lists, not tuples.
      names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(host)]
      meta = json.loads(json.dumps({**meta, "step": step, "digest": digest(host), "names": names}))
      meta["meta_digest"] = meta_digest(meta)
      is_taken = self.manager.save(
        step, args=ocp.args.Composite(state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta))
      )
      if not is_taken:
        raise RuntimeError(f"a later one, of step {self.steps()[-1]}, is there: see `forget_after`")
    except (OSError, ValueError, RuntimeError) as error:
      raise self._unwritable(step, error) from error

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints of later steps: broken ones, or another training's; none can be saved before them."""
    later = [each for each in self.steps() if each > step]
    for each in later:
      self.manager.delete(each)
    if later:
      log.warning("%s: deleted checkpoints %s, which this run will write anew", self.folder, later)

  def wait(self) -> None:
    """Blocks until what was saved is on disk. Raises like `save`."""
    try:
      self.manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      raise self._unwritable(None, error) from error

  def _unwritable(self, step: int | None, error: Exception) -> InputError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    last = self.steps()[-1] if self.steps() else None
    kept = f"the last good checkpoint is step {last}" if last is not None else "no checkpoint is kept yet"
    what = f"checkpoint of step {step}" if step is not None else "checkpoint"
    return InputError(
      f"{self.folder}: the {what} could not be written ({reason}); {kept}. Free space and run the same"
      " command again: it goes on from there."
    )

  def restore(self, target: Tree) -> tuple[Tree, dict] | None:
    """The newest checkpoint that is whole, laid out as `target`; None where there is none.

    A truncated, incomplete or altered checkpoint is named in the log and the one before it is tried.

    Args:
      target: arrays, or shapes with shardings, of the tree that was saved.

    Raises:
      InputError: checkpoints exist and none can be read, or the newest belongs to another model.
    """
    steps = self.steps()
    for step in reversed(steps):
      try:
        return self._restore(step, target)
      except InputError:
        raise
      except Exception as error:  # noqa: BLE001  orbax and tensorstore raise many kinds for a broken file
        reason = " ".join(str(error).split())[:200]
        log.warning("%s: checkpoint %d is unreadable (%s); trying the one before", self.folder, step, reason)
    if steps:
      raise InputError(
        f"{self.folder}: none of the checkpoints {steps} can be read; move the folder away to start anew."
      )
    return None

  def _restore(self, step: int, target: Tree) -> tuple[Tree, dict]:
    meta = self._read_meta(step)
    # Not the digest's names: several hosts cannot sum arrays that none of them holds whole.
    self._check_shapes(step, target, meta.get("names", meta["digest"]))
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), target
    )
    state = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))[
      "state"
    ]
    self._check_digest(state, meta["digest"])
    return state, meta

  def _read_meta(self, step: int) -> dict:
    meta = self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    if meta_digest(meta) != meta["meta_digest"]:
      raise ValueError("its meta is not what was written")
    return meta

  def _check_digest(self, state: Tree, saved: Mapping[str, int]) -> None:
    wrong = [name for name, value in digest(state).items() if saved.get(name, value) != value]
    if wrong:
      raise ValueError(f"the digest differs in {len(wrong)} arrays, first {wrong[0]}")

  def restore_as_saved(self) -> tuple[dict, dict] | None:
    """The newest whole checkpoint as numpy arrays in the structure it was saved with."""
    for step in reversed(self.steps()):
      try:
        meta = self._read_meta(step)
        state = _read_arrays(os.path.join(self.folder, str(step), "state"))
        self._check_digest(state, meta["digest"])
        return state, meta
      except Exception as error:  # noqa: BLE001  as in `restore`
        reason = " ".join(str(error).split())[:200]
        log.warning("%s: checkpoint %d is unreadable (%s)", self.folder, step, reason)
    return None

  def _check_shapes(self, step: int, target: Tree, saved: Collection[str]) -> None:
    wanted = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(target)}
    missing, extra = sorted(wanted - set(saved)), sorted(set(saved) - wanted)
    if missing or extra:
      raise InputError(
        f"{self.folder}: checkpoint {step} is of another model ({len(missing)} arrays missing,"
        f" {len(extra)} unknown, e.g. {(missing + extra)[0]}); use another --workdir or the config it was"
        " trained with."
      )

  def close(self) -> None:
    self.manager.close()


def _read_arrays(folder: str) -> Tree:
  # Without being told "numpy", Orbax lays arrays out as they were saved, on devices that may not be here.
  handler, path = ocp.PyTreeCheckpointHandler(), epath.Path(folder)
  tree = handler.metadata(path).tree
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def load_variables(workdir: str) -> dict[str, Any]:
  """Parameters and statistics of a run: its best checkpoint, or its newest, as numpy arrays.

  Raises:
    InputError: the folder holds no whole checkpoint.
  """
  for name in ("best", "checkpoints"):
    folder = os.path.join(os.path.abspath(workdir), name)
    if not os.path.isdir(folder):
      continue
    checkpoints = Checkpoints(folder, keep=0)
    try:
      found = checkpoints.restore_as_saved()
    finally:
      checkpoints.close()
    if found is not None:
      state = found[0]
      return {"params": state["params"], "batch_stats": state.get("batch_stats") or {}}
  raise InputError(f"{workdir}: no checkpoint there; give the --workdir of a finished or running training.")
