"""Starts the page: `run.py --mode=serve`."""

import contextlib
import ipaddress
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avs_jax.errors import InputError

log = logging.getLogger(__name__)


def serve(predictor: Any, host: str = "127.0.0.1", port: int = 8000) -> None:
  """Serves the page until Ctrl-C or SIGTERM; all jobs are deleted then.

  Raises:
    InputError: the packages of requirements-web.txt are missing, or the address cannot be had.
  """
  check_packages()
  from avs_jax.web import samples, work
  from avs_jax.web.app import make_app
  from avs_jax.web.jobs import Jobs, Limits

  listening = listen(host, port)
  with (
    ended_by_signals(),
    tempfile.TemporaryDirectory(prefix="avs_jax_web_") as root,
    contextlib.ExitStack() as stack,
  ):
    limits = Limits()
    jobs = Jobs(work.Work(predictor, limits), Path(root) / "jobs", limits)
    stack.callback(jobs.close)
    shelf = samples.make_samples(Path(root) / "samples")
    app = make_app(jobs, model=work.about(predictor), samples=shelf, hosts=names_of(host))
    log.info("open http://%s:%d in a browser; Ctrl-C ends it", shown(host), listening.getsockname()[1])
    if not is_loopback(host):
      log.warning("everybody who reaches this machine at %s can use the page; it asks for no password", host)
    make_server(app, host, port).run(sockets=[listening])


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
  """Ctrl-C and SIGTERM leave the block by its end, with status 0, so that it tidies up.

  The server stops by itself at a signal, and then raises it once more, which would end the process where it stands.
  """
  if threading.current_thread() is not threading.main_thread():  # only there are signals heard
    yield
    return

  def end(*_: Any) -> None:
    raise SystemExit(0)

  before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def check_packages() -> None:
  """Raises `InputError` where the page's own packages are not installed."""
  try:
    import fastapi  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
  except ImportError as error:
    raise InputError(
      f"--mode=serve needs the package {error.name}; run: pip install -r requirements-web.txt."
    ) from None


def listen(host: str, port: int) -> socket.socket:
  """A socket at that address; port 0 takes a free one. Raises `InputError` where it cannot be had."""
  try:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
  except (OSError, OverflowError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise InputError(f"--host={host} --port={port} cannot be had ({reason}); give another --port.") from None
  return listening


def make_server(app: Any, host: str, port: int) -> Any:
  """A uvicorn server that is quiet and ends open connections soon."""
  import uvicorn

  return uvicorn.Server(
    uvicorn.Config(
      app,
      host=host,
      port=port,
      log_level="warning",
      access_log=False,
      timeout_graceful_shutdown=3,
      limit_concurrency=200,
    )
  )


def is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def names_of(host: str) -> tuple[str, ...]:
  """The names by which the page may be called: this machine's own, unless it is opened to others."""
  return ("localhost", "127.0.0.1", "[::1]", host) if is_loopback(host) else ("*",)


def shown(host: str) -> str:
  return f"[{host}]" if ":" in host else host
