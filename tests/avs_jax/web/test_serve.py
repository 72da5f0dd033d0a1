"""Starting the page: an address that cannot be had, or a package that is missing, is a sentence."""

import builtins
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from avs_jax.errors import InputError
from avs_jax.web import serve
from tests.conftest import PATIENCE_S

SERVED = """
import tempfile
from fastapi import FastAPI
from avs_jax.web import serve
with serve.ended_by_signals(), tempfile.TemporaryDirectory() as root, serve.listen("127.0.0.1", 0) as listening:
  app = FastAPI()
  app.router.add_event_handler("startup", lambda: print(root, flush=True))
  serve.make_server(app, "127.0.0.1", 0).run(sockets=[listening])
"""


def test_a_missing_package_is_a_sentence(monkeypatch):
  found = builtins.__import__

  def without(name, *rest, **more):
    if name == "fastapi":
      raise ImportError("no such module", name=name)
    return found(name, *rest, **more)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(InputError, match="needs the package fastapi; run: pip install -r requirements-web"):
    serve.check_packages()


def test_an_address_that_cannot_be_had_is_a_sentence(monkeypatch):
  with serve.listen("127.0.0.1", 0) as taken:
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(InputError, match=rf"--host=127.0.0.1 --port={port} cannot be had .*another --port"):
      serve.listen("127.0.0.1", port)
  with pytest.raises(InputError, match="--port=70000 cannot be had"):
    serve.listen("127.0.0.1", 70000)

  def unknown(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no name server is asked
  with pytest.raises(
    InputError, match=r"--host=no\.such\.host\.invalid --port=1 cannot be had \(Name or serv"
  ):
    serve.listen("no.such.host.invalid", 1)


def test_only_this_machine_is_served_unless_told_otherwise():
  assert serve.is_loopback("127.0.0.1") and serve.is_loopback("::1") and serve.is_loopback("localhost")
  assert not serve.is_loopback("0.0.0.0") and not serve.is_loopback("example.org")
  assert "*" not in serve.names_of("127.0.0.1")
  assert serve.names_of("0.0.0.0") == ("*",)
  assert serve.shown("::1") == "[::1]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_0_and_leaves_nothing(number):
  pytest.importorskip("uvicorn", reason="the web page is optional: pip install -r requirements-web.txt")
  with subprocess.Popen(
    [sys.executable, "-c", SERVED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    cwd=Path(__file__).parents[3],
  ) as server:  # fmt: skip
    root = Path(server.stdout.readline().strip())
    assert root.is_dir() and root != Path()
    server.send_signal(number)
    _, told = server.communicate(timeout=PATIENCE_S)
  assert server.returncode == 0, told
  assert told == "" and not root.exists()


def test_outside_the_main_thread_signals_are_left_alone():
  before, seen = signal.getsignal(signal.SIGTERM), []

  def work():
    with serve.ended_by_signals():
      seen.append(signal.getsignal(signal.SIGTERM))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]
