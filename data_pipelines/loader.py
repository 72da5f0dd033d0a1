"""From a list of clips to batches: shuffle, substitute the sound, log-mel, batch, shard; run by Grain.

A batch is a dict of numpy arrays under the names of `avs_jax.types.Batch`. Training batch k is a pure
function of (seed, k): neither threads nor worker processes nor the number of hosts change which clips it
holds, so resuming at batch k needs the number k and nothing else.

A clip that cannot be read is counted, named in the log and replaced by the next one in training, up to 1 % of
the split, or one clip where that is less; evaluation refuses it. The workers of a process count together, the
processes of several hosts each for itself.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from avs_jax.errors import InputError
from data_pipelines import curriculum
from data_pipelines.audio import Recorded
from data_pipelines.clips import Clip, Source
from data_pipelines.examples import CACHE_MB, BrokenDonor, Cached, Composer, Example
from data_pipelines.negatives import EVALUATION, OFFSCREEN, POSITIVE, Negatives, Pair, whole
from data_pipelines.noising import Augment, Noising

BROKEN_SHARE = 0.01  # of the split; more than this, and more than one clip, ends training
DONOR_ATTEMPTS = 8
ENDLESS = 2**32  # epochs; Grain's own endless repeat is too long for batches of one

log = logging.getLogger(__name__)


class TrainingRow:
  """Row k of this host's stream: reads the clip that was shuffled there, in the epoch that k falls in.

  Raises:
    InputError: no clip can be read, too many cannot (`BROKEN_SHARE`), or as of `Composer`.
  """

  def __init__(self, composer: Composer, host: int, hosts: int):
    self.composer, self.host, self.hosts = composer, host, hosts
    self.broken = BrokenClips(len(whole(composer.source)))

  def __call__(self, k: int, index: int) -> Example:
    source, negatives = self.composer.source, self.composer.negatives
    epoch = (self.host + k * self.hosts) // len(source)
    for step in range(len(source)):
      number = (int(index) + step) % len(source)
      try:
        clip = source.clip(number)
      except InputError as error:
        self._count(number, error)
        continue
      pair = negatives.draw(epoch, number, source) if negatives else Pair(POSITIVE)
      return self._compose(clip, number, pair, epoch)
    raise InputError(f"{source.title}: not one of the {len(source)} clips can be read; run --mode=check.")

  def _compose(self, clip: Clip, number: int, pair: Pair, epoch: int) -> Example:
    """The row; a donor that cannot be read is replaced by the next one drawn."""
    for attempt in range(1, DONOR_ATTEMPTS):
      try:
        return self.composer(clip, number, pair, epoch)
      except BrokenDonor as error:
        self._count(pair.donor, error)
        pair = self.composer.negatives.pair(OFFSCREEN, epoch, number, self.composer.source, attempt)
    return self.composer(clip, number, pair, epoch)

  def _count(self, number: int, error: InputError) -> None:
    source = self.composer.source
    ids, allowed = whole(source).ids, BROKEN_SHARE * len(source)
    is_new, numbers = self.broken.add(number)
    names = [ids[each] for each in numbers]
    if len(names) > max(1, allowed):
      raise InputError(
        f"{source.title}: {len(names)} of {len(source)} clips cannot be read ({', '.join(names[:10])}), more"
        f" than {BROKEN_SHARE:.0%}; mend the files (--mode=check lists them)."
      ) from error
    if is_new:
      log.warning("clip %s cannot be read and is replaced by another: %s", ids[number], error)
      if len(names) > allowed:
        log.warning(
          "that is 1 of %d clips, more than %.0f %%; in so small a split one is let pass, a second ends training",
          len(source),
          100 * BROKEN_SHARE,
        )


class BrokenClips:
  """The clips of a split that could not be read, counted by all threads and worker processes together.

  The workers share a file with a byte for each clip; it is made when the first of them is started.
  """

  def __init__(self, clips: int):
    self.clips, self.path = clips, ""
    self._found: set[int] = set()
    self._lock = threading.Lock()

  def __getstate__(self):
    with self._lock:
      if not self.path:
        file, self.path = tempfile.mkstemp(prefix="avs_jax_broken_")
        os.truncate(file, self.clips)
        os.close(file)
        weakref.finalize(self, _remove, self.path)
        for number in self._found:
          self._mark(number)
    return {"clips": self.clips, "path": self.path}

  def __setstate__(self, state):
    self.__init__(state["clips"])
    self.path = state["path"]

  def add(self, number: int) -> tuple[bool, list[int]]:
    """Whether no thread of this process has met clip `number` before, and all that have been met by any, ascending."""
    with self._lock:
      is_new = number not in self._found
      self._found.add(number)
      if self.path:
        with contextlib.suppress(FileNotFoundError):  # the run is ending: nobody is left to count with
          self._mark(number)
          with open(self.path, "rb") as file:
            self._found.update(np.flatnonzero(np.frombuffer(file.read(), np.uint8)).tolist())
      return is_new, sorted(self._found)

  def _mark(self, number: int) -> None:
    with open(self.path, "r+b") as file:
      file.seek(number)
      file.write(b"\1")


def _remove(path: str) -> None:
  with contextlib.suppress(OSError):
    os.remove(path)


class EvaluationBatch:
  """Batch k of this host: clips in order, the last batch filled up with rows of index -1."""

  def __init__(self, composer: Composer, condition: int, rows: int, batch: int, offset: int, sound=None):
    self.composer, self.condition, self.sound = composer, condition, sound
    self.rows, self.batch, self.offset = rows, batch, offset

  def __call__(self, k: int) -> Example:
    source, negatives = self.composer.source, self.composer.negatives
    rows = []
    given = self.sound if callable(self.sound) else lambda index: self.sound
    for number in range(k * self.batch + self.offset, k * self.batch + self.offset + self.rows):
      index = min(number, len(source) - 1)
      pair = Pair(self.condition)
      if negatives is not None and self.sound is None:
        pair = negatives.pair(self.condition, EVALUATION, index, source)
      row = self.composer(source.clip(index), index, pair, EVALUATION, given(index))
      rows.append(row if number < len(source) else blank(row))
    return stack(rows)


def blank(row: Example) -> Example:
  """A row that only fills the batch: nothing in it, index -1."""
  empty = {name: np.zeros_like(value) for name, value in row.items()}
  return {**empty, "condition": row["condition"], "index": np.int32(-1)}


def stack(rows: list[Example]) -> Example:
  """Rows to a batch."""
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def train_batches(
  source: Source,
  *,
  batch: int,
  seed: int,
  negatives: Negatives | None = None,
  noising: Noising | None = None,
  augment: Augment | None = None,
  front_end: str = "same",
  host: int = 0,
  hosts: int = 1,
  cache: bool | float = False,
  size: int | tuple[int, int] | None = None,
  waveform: bool = False,
  pan: bool = False,
  decoys: Negatives | None = None,
  raw_decoys: bool = False,
  empty_masks: bool = True,
  parts: Sequence[str] = (),
) -> grain.MapDataset:
  """Endless training batches: element k is this host's part of batch k, each epoch a new permutation.

  Args:
    batch: clips in a batch, over all hosts; `hosts` must divide it.
    seed: of the order, of noising and of augmentation (negatives carry their own).
    negatives: None trains on positives only.
    cache: keep decoded clips in memory: a bound in MB, True for 2048, False for none.
    size: of the frames, one number for a square; None leaves them as the source gives them.
    waveform, pan: the raw sound, and where it comes from, are wanted too.
    decoys, raw_decoys: makes a second sound for every clip, one that belongs to no picture; samples, not log-mels.
    empty_masks: a negative's mask is empty.
    parts: of the data set, in the order in which an epoch goes through them (`curriculum.epoch`).

  Raises: InputError for settings that do not fit, before anything is read.
  """
  rows = rows_per_host(batch, host, hosts)
  if seed < 0:
    raise InputError(f"seed={seed} must not be negative.")
  if len(source) == 0:
    raise InputError(f"{source.title}: the training split is empty.")
  kept = keep(source, cache)
  composer = Composer(
    kept,
    negatives,
    noising=noising,
    augment=augment,
    front_end=front_end,
    size=square(size),
    waveform=waveform,
    empty_masks=empty_masks,
    seed=seed,
    pan=pan,
    decoys=decoys,
    raw_decoys=raw_decoys,
  )
  if negatives is not None and negatives.fraction and negatives.offscreen:
    negatives.donors(kept).check()  # here rather than in a worker
  order = curriculum.epoch(source, parts, seed).repeat(ENDLESS)[host::hosts]
  return order.map_with_index(TrainingRow(composer, host, hosts)).batch(rows, batch_fn=stack)


def eval_batches(
  source: Source,
  *,
  batch: int,
  condition: int = POSITIVE,
  negatives: Negatives | None = None,
  front_end: str = "same",
  host: int = 0,
  hosts: int = 1,
  cache: bool | float = False,
  size: int | tuple[int, int] | None = None,
  waveform: bool = False,
  pan: bool = False,
  sound: np.ndarray | Recorded | Callable[[int], np.ndarray | Recorded] | None = None,
) -> grain.MapDataset:
  """All clips in order under one sound, each exactly once; masks stay the object's own.

  The parts of the hosts, laid one after the other, are the whole batch. Every host gets as many batches.

  Args:
    condition: a `Condition` by value.
    negatives: how negative sounds are made; None uses the defaults. Pairs are those of epoch -1.
    sound: mono at 16 kHz or recorded, given to every clip in place of what `condition` would give (an unseen
      sound); or what finds the sound for a clip's index (published negatives).

  Raises: InputError, when iterated, for a clip or donor that cannot be read.
  """
  rows = rows_per_host(batch, host, hosts)
  kept = keep(source, cache)
  negatives = negatives or Negatives()
  if condition == OFFSCREEN and sound is None:
    negatives.donors(kept).check()
  composer = Composer(kept, negatives, front_end=front_end, size=square(size), waveform=waveform, pan=pan)
  make = EvaluationBatch(composer, int(condition), rows, batch, host * rows, sound)
  return grain.MapDataset.range(-(-len(source) // batch)).map(make)


def rows_per_host(batch: int, host: int, hosts: int) -> int:
  """This host's share of a batch.

  Raises:
    InputError: `hosts` does not divide the batch, or there is no such host.
  """
  if batch < 1 or hosts < 1 or batch % hosts or not 0 <= host < hosts:
    raise InputError(
      f"a batch of {batch} clips cannot be shared by {hosts} hosts (this is host {host}); make it a multiple."
    )
  return batch // hosts


def square(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
  """(height, width) of a size given as one number."""
  return (size, size) if isinstance(size, int) else size


def keep(source: Any, cache: bool | float) -> Any:
  """The source with its memory, if it is to have one."""
  if cache is False or cache == 0 or isinstance(source, Cached):
    return source
  return Cached(source, CACHE_MB if cache is True else cache)


def identity(source: Source, batch: int, seed: int) -> dict[str, Any]:
  """What decides which clips the k-th training batch holds; travels with a checkpoint."""
  names = hashlib.sha256("\n".join(source.ids).encode()).hexdigest()[:16]
  return {"seed": seed, "batch": batch, "data_set": source.title, "clips": len(source), "ids": names}


def check_state(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
  """Refuses to resume where the k-th batch would hold other clips than before.

  Hosts, threads and workers may differ: they do not change the batches.

  Raises:
    InputError: seed, batch size, data set or clips are others.
  """
  meaning = {
    "seed": "another seed",
    "batch": "another batch size",
    "data_set": "another data set",
    "clips": "another number of clips",
    "ids": "other clips, or the same in another order",
    "curriculum": "another order of the data's parts",
  }
  for name, what in meaning.items():
    if name in current and saved.get(name) != current[name]:
      raise InputError(
        f"the checkpoint was trained with {what} ({name}: {saved.get(name)}, now {current[name]}), so its"
        " place in the data means nothing here; restore the old setting or use a new --workdir."
      )


class BatchIterator(Iterator[Example]):
  """Batches from number `start` on, read ahead by threads or worker processes. Close it when done."""

  def __init__(self, dataset: grain.MapDataset, start: int, threads: int, workers: int):
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    stream = dataset[start:].to_iter_dataset(options)
    if workers:
      if not flags.FLAGS.is_parsed():  # Grain's workers read flags; in a notebook nobody has parsed any
        flags.FLAGS.mark_as_parsed()
      stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    self._batches = iter(stream)

  def __next__(self) -> Example:
    return next(self._batches)

  def close(self) -> None:
    """Ends threads and workers."""
    close = getattr(self._batches, "close", None)
    if close is not None:
      close()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self.close()


def iterate(
  dataset: grain.MapDataset, start_step: int = 0, *, threads: int = 2, workers: int = 0
) -> BatchIterator:
  """Runs over batches from number `start_step` on.

  Args:
    threads: batches made at once; 0 makes each when it is asked for.
    workers: processes, for machines with many cores; on two cores they gain nothing.

  Raises:
    InputError: a negative number.
  """
  if min(start_step, threads, workers) < 0:
    raise InputError(f"start_step={start_step}, threads={threads}, workers={workers}: none may be negative.")
  return BatchIterator(dataset, start_step, threads, workers)
