"""One job at a time, in order; nothing grows without bound and nothing of the server is told."""

import threading
import time

import pytest

from avs_jax.errors import InputError
from avs_jax.web.jobs import DONE, FAILED, RUNNING, WAITING, Full, Job, Jobs, Limits
from tests.conftest import PATIENCE_S


def wait(condition) -> None:
  end = time.monotonic() + PATIENCE_S
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


def write(ask, outbox, tell):
  (outbox / "result.txt").write_text("x" * ask.get("bytes", 1))
  (outbox / "hidden.txt").write_text("not listed")
  return {"asked": ask["name"]}, {"result.txt": "the result"}


@pytest.fixture
def make(tmp_path):
  made = []

  def start(work=write, **limits):
    made.append(Jobs(work, tmp_path, Limits(**limits)))
    return made[-1]

  yield start
  for jobs in made:
    jobs.close()


def enter(jobs: Jobs, **ask) -> Job:
  with jobs.arriving() as job:
    job.ask = {"name": "a", **ask}
    jobs.submit(job)
  return job


def test_a_job_gives_only_the_files_that_it_listed(make):
  jobs = make()
  with jobs.arriving() as job:
    (job.inbox / "video.mp4").write_text("uploaded")
    job.ask = {"name": "a"}
    jobs.submit(job)
  wait(lambda: job.ended_s)
  assert (job.state, job.done, job.summary) == (DONE, 1.0, {"asked": "a"})
  assert jobs.file(job, "result.txt").read_text() == "x"
  for name in ("hidden.txt", "../in/video.mp4", "/etc/passwd", ""):
    assert jobs.file(job, name) is None
  assert not job.inbox.exists()
  assert jobs.get(job.id) is job and jobs.get("another") is None
  assert len(job.id) >= 20


def test_jobs_run_one_at_a_time_in_their_order_and_a_full_queue_refuses(make):
  go, running, most, order = threading.Event(), [], [], []

  def work(ask, outbox, tell):
    running.append(ask["name"])
    most.append(len(running))
    assert go.wait(PATIENCE_S)
    order.append(running.pop())
    return {}, {}

  jobs = make(work, waiting=3)
  first = enter(jobs, name=0)
  wait(lambda: first.state == RUNNING)
  later = [enter(jobs, name=k) for k in (1, 2, 3)]
  assert [jobs.position(job) for job in (first, *later)] == [0, 1, 2, 3]
  assert all(job.state == WAITING for job in later)
  with pytest.raises(Full):
    enter(jobs)
  jobs.remove(later[1])
  assert jobs.position(later[2]) == 2
  go.set()
  wait(lambda: later[2].state == DONE)
  assert (order, max(most)) == ([0, 1, 3], 1)
  assert jobs.get(later[1].id) is None and not later[1].folder.exists()


def test_a_place_is_held_while_files_arrive_and_given_up_when_they_do_not(make):
  jobs = make(waiting=1)
  with pytest.raises(KeyError), jobs.arriving() as job:
    folder = job.folder
    with pytest.raises(Full):
      enter(jobs)
    raise KeyError("the sender went away")
  assert not folder.exists()
  enter(jobs)


def test_old_results_go_by_number_by_size_and_by_age(make, tmp_path):
  jobs = make(kept=3, kept_mb=1.0, young_s=0.0)
  entered = []
  for _ in range(6):
    entered.append(enter(jobs))
    wait(lambda: entered[-1].ended_s)
  wait(lambda: len(jobs) == 3 and len(list(tmp_path.iterdir())) == 3)
  assert [jobs.get(job.id) is not None for job in entered] == [False] * 3 + [True] * 3
  enter(jobs, bytes=1_500_000)
  wait(lambda: len(jobs) == 0 and not list(tmp_path.iterdir()))
  last = enter(jobs)
  wait(lambda: last.ended_s)
  last.ended_s -= 60 * 121
  assert jobs.get(last.id) is None


def test_young_results_stay_and_hold_the_door_closed(make):
  jobs = make(kept=1, waiting=5, young_s=PATIENCE_S)
  entered = []
  for _ in range(2):
    entered.append(enter(jobs))
    wait(lambda: entered[-1].ended_s)
  with pytest.raises(Full):
    enter(jobs)
  assert all(jobs.get(job.id) is job for job in entered)
  jobs.remove(entered[0])
  enter(jobs)


def test_an_error_is_told_in_the_visitors_words(make):
  def work(ask, outbox, tell):
    if ask["name"] == "defect":
      raise RuntimeError("secret")
    raise InputError(f"{ask['video']} cannot be read; see /var/lib/avs/thing.mp4 or 3/4 of it.")

  jobs = make(work)
  with jobs.arriving() as job:
    path = str(job.inbox / "video.mp4")
    job.ask, job.uploads = {"name": "a", "video": path}, {path: "my film.mp4"}
    jobs.submit(job)
  wait(lambda: job.state == FAILED)
  assert job.error == "my film.mp4 cannot be read; see thing.mp4 or 3/4 of it."
  defect = enter(jobs, name="defect")
  wait(lambda: defect.state == FAILED)
  assert defect.error == "The model could not work on this file; the server's log says why."


def test_a_running_job_ends_at_its_next_word_when_it_is_removed(make):
  told, go = [], threading.Event()

  def work(ask, outbox, tell):
    tell(0.5, "half")
    assert go.wait(PATIENCE_S)
    tell(0.6, "more")
    told.append("too far")
    return {}, {}

  jobs = make(work)
  job = enter(jobs)
  wait(lambda: job.doing == "half")
  assert job.done == 0.5
  jobs.remove(job)
  assert jobs.get(job.id) is None
  go.set()
  wait(lambda: not job.folder.exists())
  assert not told and len(jobs) == 0


def test_a_job_that_takes_too_long_ends_with_a_sentence_and_lets_the_next_one_in(make):
  def work(ask, outbox, tell):
    while ask["name"] == "long":
      time.sleep(0.01)
      tell(0.5, "working")
    return {}, {}

  jobs = make(work, job_minutes=0.001)
  job, after = enter(jobs, name="long"), enter(jobs)
  wait(lambda: after.ended_s)
  assert job.error.startswith(
    "This took more than 0.001 minutes and was ended; take a shorter or smaller video"
  )
  assert after.state == DONE


def test_closing_deletes_everything(make, tmp_path):
  jobs = make()
  job = enter(jobs)
  wait(lambda: job.ended_s)
  jobs.close()
  assert not list(tmp_path.iterdir())
  with pytest.raises(Full):
    enter(jobs)
