"""A true server on a free port, whose work is a fake unless a test brings another."""

import contextlib
import http.client
import itertools
import json
import threading
import time
import uuid

import numpy as np
import pytest

from avs_jax.own_video.prediction import Prediction
from avs_jax.web.jobs import Jobs, Limits
from avs_jax.web.samples import Sample
from configs import tiny
from data_pipelines import video
from tests.conftest import PATIENCE_S


class Listener:
  """In place of a `Predictor`: a disc in the middle of the picture, where the sound is loud."""

  name, weights_digest, seconds, card = "a stand-in for a model", "00000000", 5, {}

  def __init__(self):
    self.config = tiny.get_config()

  def predict(self, footage, *, every="second", end=None, **_):
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    number = 0
    for second in video.seconds(footage, every=every, end=end):
      loud = min(1.0, 6 * float(np.sqrt(np.mean(second.sound**2))))
      ends = [*second.times_s[1:], min(second.start_s + 1, footage.duration_s or 1e9)]
      for time_s, until_s in zip(second.times_s, ends, strict=True):
        disc = (np.hypot(x, y) < loud).astype(np.float32)
        yield Prediction(
          source=footage.path,
          number=number,
          time_s=time_s,
          until_s=until_s,
          picture_s=time_s,
          size=footage.size,
          coarse=0.9 * disc,
          similarity=loud,
        )
        number += 1

  def predict_under(self, footage, sounds, *, start=0.0, end=None, **_):
    del footage, start
    for said in zip(*(self.predict(each, end=end) for each in sounds.values()), strict=True):
      yield dict(zip(sounds, said, strict=True))


class Client:
  """Asks one server."""

  def __init__(self, port: int):
    self.port, self.url = port, f"http://127.0.0.1:{port}"

  def ask(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
    """(status, body, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
    try:
      connection.request(method, path, body, headers or {})
      answer = connection.getresponse()
      return answer.status, answer.read(), dict(answer.headers)
    finally:
      connection.close()

  def get(self, path: str):
    status, body, _ = self.ask("GET", path)
    return status, json.loads(body)

  def send(self, fields: dict | None = None, files: dict | None = None, headers: dict | None = None):
    """Starts a job with a form, as a browser would; (status, what the server says)."""
    mark, parts = uuid.uuid4().hex, []
    for name, value in (fields or {}).items():
      parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, (shown, data) in (files or {}).items():
      head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{shown}"\r\n'
      parts.append(f"{head}Content-Type: video/mp4\r\n\r\n".encode() + data + b"\r\n")
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}", **(headers or {})}
    status, said, _ = self.ask("POST", "/api/jobs", body, headers)
    return status, json.loads(said)

  def finish(self, job: str, timeout_s: float = PATIENCE_S):
    """The job's last state."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
      status, state = self.get(f"/api/jobs/{job}")
      if status != 200 or state["state"] in ("done", "failed"):
        return state
      time.sleep(0.05)
    raise AssertionError(f"job {job} did not end: {state}")


@pytest.fixture
def listener():
  return Listener()


@pytest.fixture
def server(tmp_path):
  """server(work, limits=…, samples=…) -> (client, jobs), its jobs in a folder of their own; stopped after the test."""
  numbers = itertools.count()
  with contextlib.ExitStack() as stack:

    def start(work, limits=None, samples=(), model=None):
      from avs_jax.web import serve as serving
      from avs_jax.web.app import make_app

      jobs = Jobs(work, tmp_path / f"jobs_{next(numbers)}", limits or Limits())
      stack.callback(jobs.close)
      samples = [Sample(name, path, title) for name, path, title in samples]
      app = make_app(jobs, model=model or {"title": "fake"}, samples=samples, hosts=("127.0.0.1",))
      running = serving.make_server(app, "127.0.0.1", 0)
      listening = serving.listen("127.0.0.1", 0)
      thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
      thread.start()

      def stop() -> None:
        running.should_exit = True
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"

      stack.callback(stop)
      while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
      return Client(listening.getsockname()[1]), jobs

    yield start
