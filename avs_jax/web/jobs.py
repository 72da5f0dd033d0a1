"""The page's work: one job at a time, a bounded queue before it, a bounded number of results behind it.

ROOT/<job id>/in/    what was uploaded, under names of ours; removed when the job ends
ROOT/<job id>/out/   what the job wrote; only files that it listed are ever handed out

A job's id is random and the only key to it.
"""

import contextlib
import dataclasses
import logging
import re
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avs_jax.errors import InputError

log = logging.getLogger(__name__)

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one server takes on.

  Attributes:
    upload_mb: of one request, all its files.
    upload_s: that a request may take to arrive; its place in the queue is then free again.
    seconds: of a video; more is refused with a sentence.
    job_minutes: that one job may take; it ends with a sentence.
    waiting: jobs that may wait or be on their way in, beside the one that runs.
    kept: finished jobs whose results are kept; while they are all young, no other is let in.
    kept_mb: disk that finished jobs may take together; the oldest go first.
    kept_minutes, young_s: how long a finished job is kept at most, and at least.
  """

  upload_mb: float = 200.0
  upload_s: float = 300.0
  seconds: float = 60.0
  job_minutes: float = 30.0
  waiting: int = 8
  kept: int = 16
  kept_mb: float = 2000.0
  kept_minutes: float = 120.0
  young_s: float = 60.0


class Full(Exception):
  """The queue is full, or all results that can be kept are young."""


class Cancelled(Exception):
  """Somebody removed the job while it ran."""


@dataclasses.dataclass
class Job:
  """One wish of a visitor, and what became of it.

  Attributes:
    ask: what the work is given, as JSON can say it; paths are those of `uploads`.
    uploads: path of each uploaded file -> the name its owner knows it by.
    state: waiting, running, done or failed.
    done: share of the work that is done, 0 to 1.
    doing: what is being done, in words.
    error: the sentence of a failed job.
    summary: what the page shows beside the files.
    files: the names that may be fetched -> what they are, in words.
  """

  id: str
  folder: Path
  ask: dict[str, Any] = dataclasses.field(default_factory=dict)
  uploads: dict[str, str] = dataclasses.field(default_factory=dict)
  state: str = WAITING
  done: float = 0.0
  doing: str = ""
  error: str = ""
  summary: dict[str, Any] = dataclasses.field(default_factory=dict)
  files: dict[str, str] = dataclasses.field(default_factory=dict)
  ended_s: float = 0.0
  size_mb: float = 0.0
  is_cancelled: bool = False

  @property
  def inbox(self) -> Path:
    return self.folder / "in"

  @property
  def outbox(self) -> Path:
    return self.folder / "out"


Tell = Callable[[float, str], None]
# work(ask, outbox, tell) -> (summary, {file name: what it is}); raises InputError for what the visitor can mend.
Work = Callable[[Mapping[str, Any], Path, Tell], tuple[dict[str, Any], dict[str, str]]]


class Jobs:
  """Runs `work` for one job after the other in a thread of its own.

  Args:
    root: folder of the jobs; emptied of jobs when closed.
  """

  def __init__(self, work: Work, root: str | Path, limits: Limits = Limits()):  # noqa: B008  frozen
    self.work, self.root, self.limits = work, Path(root), limits
    self.root.mkdir(parents=True, exist_ok=True)
    self._jobs: dict[str, Job] = {}  # in the order of their coming
    self._queue: deque[Job] = deque()
    self._arriving = 0
    self._is_closed = False
    self._changed = threading.Condition()
    self._thread = threading.Thread(target=self._run, name="avs_jax jobs", daemon=True)
    self._thread.start()

  def __len__(self) -> int:
    return len(self._jobs)

  @contextlib.contextmanager
  def arriving(self) -> Iterator[Job]:
    """Holds a place in the queue for a job whose files are still on their way; without `submit` it is given up.

    Raises:
      Full: no place is left.
    """
    with self._changed:
      self._tidy()
      ended = sum(job.ended_s > 0 for job in self._jobs.values())
      is_full = len(self._queue) + self._arriving >= self.limits.waiting or ended > self.limits.kept
      if self._is_closed or is_full:
        raise Full
      self._arriving += 1
    job = Job(secrets.token_urlsafe(18), Path())
    job.folder = self.root / job.id
    try:
      job.inbox.mkdir(parents=True)
      job.outbox.mkdir()
      yield job
    finally:
      with self._changed:
        self._arriving -= 1
        if job.id not in self._jobs:
          shutil.rmtree(job.folder, ignore_errors=True)

  def submit(self, job: Job) -> None:
    """Puts a job that has arrived at the end of the queue."""
    with self._changed:
      self._jobs[job.id] = job
      self._queue.append(job)
      self._changed.notify_all()

  def get(self, job_id: str) -> Job | None:
    with self._changed:
      self._tidy()
      job = self._jobs.get(job_id)
      return None if job is None or job.is_cancelled else job

  def position(self, job: Job) -> int:
    """Jobs before this one; 0 once it runs."""
    with self._changed:
      busy = sum(each.state == RUNNING for each in self._jobs.values())
      return self._queue.index(job) + busy if job in self._queue else 0

  def file(self, job: Job, name: str) -> Path | None:
    """Path of a file that the job listed; None for every other name."""
    return job.outbox / name if job.state == DONE and name in job.files else None

  def remove(self, job: Job) -> None:
    """Deletes a job and its files; one that runs ends at its next word."""
    with self._changed:
      job.is_cancelled = True
      if job in self._queue:
        self._queue.remove(job)
      if job.state != RUNNING:
        self._delete(job)

  def close(self) -> None:
    """Ends the work and deletes all jobs."""
    with self._changed:
      self._is_closed = True
      for job in list(self._jobs.values()):
        self.remove(job)
      self._changed.notify_all()
    self._thread.join(timeout=10)

  def _run(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._queue or self._is_closed)
        if self._is_closed:
          return
        job = self._queue.popleft()
        job.state = RUNNING
      self._do(job)
      with self._changed:
        shutil.rmtree(job.inbox, ignore_errors=True)
        job.ended_s, job.size_mb = time.monotonic(), _size_mb(job.outbox)
        if job.is_cancelled:
          self._delete(job)
        self._tidy()

  def _do(self, job: Job) -> None:
    until_s = time.monotonic() + 60 * self.limits.job_minutes

    def tell(done: float, doing: str) -> None:
      if job.is_cancelled:
        raise Cancelled
      if time.monotonic() > until_s:
        raise InputError(
          f"This took more than {self.limits.job_minutes:g} minutes and was ended; take a shorter or smaller video,"
          " or a mask a second."
        )
      job.done, job.doing = min(max(done, 0.0), 1.0), doing

    try:
      job.summary, job.files = self.work(job.ask, job.outbox, tell)
      job.done, job.state = 1.0, DONE
    except Cancelled:
      job.state = FAILED
    except InputError as error:
      job.error, job.state = _as_visitor_knows_it(str(error), job), FAILED
    except Exception:
      log.exception("a job of the page failed")
      job.error = "The model could not work on this file; the server's log says why."
      job.state = FAILED

  def _tidy(self) -> None:
    """Deletes finished jobs, the oldest first, until the limits hold; young ones stay, and are few."""
    ended = sorted((job for job in self._jobs.values() if job.ended_s), key=lambda job: job.ended_s)
    now = time.monotonic()
    while ended and now - ended[0].ended_s >= self.limits.young_s:
      is_much = len(ended) > self.limits.kept or sum(job.size_mb for job in ended) > self.limits.kept_mb
      if not is_much and now - ended[0].ended_s < 60 * self.limits.kept_minutes:
        return
      self._delete(ended.pop(0))

  def _delete(self, job: Job) -> None:
    self._jobs.pop(job.id, None)
    shutil.rmtree(job.folder, ignore_errors=True)


def _size_mb(folder: Path) -> float:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _as_visitor_knows_it(sentence: str, job: Job) -> str:
  """The sentence with the visitor's names of the files, and no folder of the server."""
  for path, name in job.uploads.items():
    sentence = sentence.replace(path, name)
  sentence = sentence.replace(str(job.folder), "")
  return re.sub(r"(?<![\w.])(?:/[\w.+-]+){2,}/([\w.+-]+)", r"\1", sentence)
