"""What may be asked of the page's server, and what it refuses; 50 visitors at once lose nothing."""

import http.client
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the web page is optional: pip install -r requirements-web.txt")

from avs_jax.errors import InputError
from avs_jax.web.app import BUSY, HEADERS, STATIC
from avs_jax.web.jobs import Limits
from tests.conftest import PATIENCE_S

VIDEO = {"video": ("C:\\films\\../my film.MP4", b"\x00video" * 100)}


def wait(condition) -> None:
  end = time.monotonic() + PATIENCE_S
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.01)


def fake(ask, outbox, tell):
  data = Path(ask["video"]).read_bytes()
  if data == b"bad":
    raise InputError(f"{ask['video']} cannot be read as a video; convert it to mp4.")
  tell(0.5, "looking")
  (outbox / "overlay.mp4").write_bytes(data)
  (outbox / "log.txt").write_text("secret")
  return {"name": ask["name"], "sound": ask["sound"], "four": ask["four"]}, {"overlay.mp4": "Video"}


@pytest.fixture
def page(server, tmp_path):
  sample = tmp_path / "bell.mp4"
  sample.write_bytes(b"0123456789")
  return server(fake, samples=[("bell.mp4", sample, "A bell")])[0]


def test_the_page_and_what_it_is_made_of_are_served_with_strict_headers(page):
  for path in ("/", *(f"/{file.name}" for file in STATIC.iterdir())):
    status, body, headers = page.ask("GET", path)
    assert status == 200 and body
    assert headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    text = body.decode()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text, (
      "no foreign host"
    )
  status, about = page.get("/api/about")
  assert about["limits"] == {"upload_mb": 200.0, "seconds": 60.0}
  assert about["samples"] == [{"name": "bell.mp4", "title": "A bell"}]
  assert list(about["sounds"])[:4] == ["own", "silence", "noise", "offscreen"]


def test_a_video_goes_in_and_its_listed_file_comes_out(page):
  status, job = page.send({"sound": "silence", "four": "yes"}, VIDEO)
  assert status == 202
  state = page.finish(job["id"])
  assert state["summary"] == {"name": "my film.MP4", "sound": "silence", "four": True}
  (file,) = state["files"]
  assert (file["title"], file["bytes"]) == ("Video", 600)
  status, body, headers = page.ask("GET", file["url"], headers={"Range": "bytes=1-5"})
  assert (status, body, headers["content-type"]) == (206, b"video", "video/mp4")
  _, _, headers = page.ask("GET", f"{file['url']}?save")
  assert headers["content-disposition"].startswith("attachment")
  assert page.ask("DELETE", f"/api/jobs/{job['id']}")[0] == 204
  assert page.get(f"/api/jobs/{job['id']}") == (
    404,
    {"error": "This result is no longer kept; start it again."},
  )


def test_a_sample_is_taken_by_name_and_shown(page):
  _, job = page.send({"sample": "bell.mp4"})
  assert page.finish(job["id"])["summary"]["name"] == "A bell"
  assert page.ask("GET", "/samples/bell.mp4")[1] == b"0123456789"


@pytest.mark.parametrize(
  ("fields", "files", "said"),
  [
    ({}, {}, "Choose a video first."),
    ({"sample": "../../etc/passwd"}, {}, "There is no sample '../../etc/passwd'."),
    ({"sample": "bell.mp4", "sound": "thunder"}, {}, "The sound must be one of own, silence"),
    ({"sample": "bell.mp4", "sound": "file"}, {}, "Choose the file with the other sound"),
    ({"sample": "bell.mp4", "sound": "recorded"}, {}, "Record first."),
    ({"sample": "bell.mp4", "every": "hour"}, {}, "every second or every frame"),
  ],
)
def test_a_wrong_wish_is_a_sentence(page, fields, files, said):
  status, answer = page.send(fields, files)
  assert status == 400
  assert said in answer["error"]


def test_a_bad_file_is_a_sentence_with_the_visitors_name_of_it(page):
  _, job = page.send({}, {"video": ("talk.mov", b"bad")})
  state = page.finish(job["id"])
  assert (state["state"], state["files"]) == ("failed", [])
  assert state["error"] == "talk.mov cannot be read as a video; convert it to mp4."


def test_no_path_of_the_server_is_reachable(page):
  _, job = page.send({}, VIDEO)
  page.finish(job["id"])
  base = f"/api/jobs/{job['id']}/files"
  for path in (
    *(f"{base}/log.txt", f"{base}/../in/video.mp4", f"{base}/..%2f..%2fin", f"{base}/%2fetc%2fpasswd"),
    *(
      "/..%2fapp.py",
      "/%2e%2e/app.py",
      "/app.py",
      "/samples/..%2fjobs",
      "/api/jobs/..",
      "/docs",
      "/openapi.json",
    ),
  ):
    status, body, _ = page.ask("GET", path)
    assert status == 404, path
    assert b"secret" not in body and b"/tmp" not in body


def test_too_much_is_refused_before_it_is_read(page):
  for headers, status, said in (
    ({"Content-Length": str(10**12)}, 413, b"at most 200 MB can be sent"),
    ({"Transfer-Encoding": "chunked"}, 411, b"must say its length"),
  ):
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/api/jobs")
    for name, value in headers.items():
      connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == status
    assert said in answer.read()
    connection.close()


def test_a_stalled_or_broken_upload_gives_its_place_back(server):
  head = b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n"
  head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"

  def begin(client):
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE_S)
    connection.sendall(head)
    return connection

  client, jobs = server(fake, Limits(waiting=1, upload_s=0.3))
  with begin(client) as stalled, stalled.makefile("rb") as answers:
    answer = b"".join(iter(answers.readline, b"\r\n"))
    answer += answers.read(int(re.search(rb"content-length: (\d+)", answer)[1]))
  assert answer.startswith(b"HTTP/1.1 408") and b"took more than 0.3 s" in answer
  wait(lambda: not list(jobs.root.iterdir()))

  client, jobs = server(fake, Limits(waiting=1, upload_s=PATIENCE_S))
  with begin(client):
    wait(lambda: list(jobs.root.iterdir()))
    assert client.send({}, VIDEO)[0] == 503, "its place is held while it may still come"
  wait(lambda: client.send({}, VIDEO)[0] == 202)
  wait(lambda: len(list(jobs.root.iterdir())) == 1)


def test_other_pages_and_other_names_of_this_machine_are_refused(page):
  status, answer = page.send({"sample": "bell.mp4"}, headers={"Origin": "http://evil.example"})
  assert (status, answer["error"]) == (403, "Another page may not use this server.")
  assert page.send({"sample": "bell.mp4"}, headers={"Origin": "null"})[0] == 403
  assert page.send({"sample": "bell.mp4"}, headers={"Origin": page.url})[0] == 202
  assert page.ask("GET", "/", headers={"Host": "evil.example"})[0] == 400


def test_fifty_visitors_at_once_lose_nothing_and_leave_a_bounded_trace(server):
  alone, was_full, most = threading.Lock(), threading.Event(), []

  def work(ask, outbox, tell):
    assert alone.acquire(blocking=False), "two jobs ran at once"
    try:
      assert was_full.wait(PATIENCE_S), "the queue was never full"  # the first job; for all others it was
      most.append(len(jobs))
      return fake(ask, outbox, tell)
    finally:
      alone.release()

  client, jobs = server(work, Limits(waiting=8, kept=12, young_s=PATIENCE_S))
  end = time.monotonic() + PATIENCE_S

  def visit(number: int):
    data = f"film {number}".encode() * 1000
    while True:
      status, said = client.send({}, {"video": (f"{number}.mp4", data)})
      if status == 202:
        break
      assert (status, said["error"]) == (503, BUSY)
      was_full.set()
      assert time.monotonic() < end, "never let in"
      time.sleep(0.05)
    state = client.finish(said["id"])
    assert state["state"] == "done", state["error"]
    _, body, _ = client.ask("GET", state["files"][0]["url"])
    client.ask("DELETE", f"/api/jobs/{said['id']}")
    return body == data and state["summary"]["name"] == f"{number}.mp4"

  with ThreadPoolExecutor(50) as visitors:
    assert all(visitors.map(visit, range(50)))
  assert was_full.is_set()
  assert len(most) == 50 and max(most) <= 1 + 8 + 12
  assert len(jobs) == 0
  assert not list(jobs.root.iterdir())
