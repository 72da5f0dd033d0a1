"""The page's server: what may be asked over HTTP, and what is refused with a sentence.

GET    /                              the page; /page.css, /page.js ...
GET    /api/about                     model, limits, sounds, samples
GET    /samples/<name>                a shipped video
POST   /api/jobs                      a form: video (file) or sample (name), sound, sound_file, every, four
GET    /api/jobs/<id>                 state, progress, and at the end summary and files
GET    /api/jobs/<id>/files/<name>    a file that the job listed
DELETE /api/jobs/<id>

Nothing that is asked becomes a path: names are looked up in tables of what there is.
"""

import asyncio
import logging
import mimetypes
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from avs_jax.web import jobs as queue
from avs_jax.web.jobs import Full, Job, Jobs
from avs_jax.web.samples import Sample

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
SOUNDS = {
  "own": "Its own sound",
  "silence": "Silence",
  "noise": "Noise",
  "offscreen": "A sound from elsewhere",
  "file": "Another file",
  "recorded": "Your voice",
}
EVERY = ("second", "frame")
BUSY = "The server is busy with other videos; try again in a minute or two."
DRAINED_MB = 16  # of a refused upload is read, so that its sender hears the answer
HEADERS = {
  "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:;"
  " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}
for kind, ending in (("video/mp4", ".mp4"), ("video/webm", ".webm"), ("text/javascript", ".js")):
  mimetypes.add_type(kind, ending)


class Refused(Exception):
  """A request that is answered with a sentence."""

  def __init__(self, status: int, sentence: str):
    super().__init__(sentence)
    self.status, self.sentence = status, sentence


def make_app(
  jobs: Jobs, *, model: Mapping[str, Any], samples: Sequence[Sample] = (), hosts: Sequence[str] = ("*",)
) -> FastAPI:
  """The application around a queue.

  Args:
    model: what the page says of the model: title, trained_on, is_stand_in ...
    hosts: names by which the server may be called; a page elsewhere that resolves its own name to this machine is
      refused by it.
  """
  app = FastAPI(title="avs_jax", docs_url=None, redoc_url=None, openapi_url=None)
  shelf = {sample.name: sample for sample in samples}
  pages = {path.name: path for path in STATIC.iterdir() if path.is_file()}
  limits = jobs.limits

  async def guard(request: Request, call_next: Any) -> Response:
    origin = request.headers.get("origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if request.method not in ("GET", "HEAD") and is_foreign:
      return answer(Refused(403, "Another page may not use this server."))
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response

  app.middleware("http")(guard)
  app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

  async def page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in pages:
      raise Refused(404, "There is nothing of that name here.")
    return FileResponse(pages[name], headers={"Cache-Control": "no-cache"})

  async def about(request: Request) -> Response:
    del request
    return JSONResponse(
      {
        "model": dict(model),
        "sounds": SOUNDS,
        "limits": {"upload_mb": limits.upload_mb, "seconds": limits.seconds},
        "samples": [{"name": each.name, "title": each.title} for each in samples],
      }
    )

  async def sample(request: Request) -> Response:
    found = shelf.get(request.path_params["name"])
    if found is None:
      raise Refused(404, "There is no such sample.")
    return FileResponse(found.path)

  async def start(request: Request) -> Response:
    check_length(request, limits.upload_mb)
    try:
      with jobs.arriving() as job:
        async with asyncio.timeout(limits.upload_s), request.form(max_files=2, max_fields=8) as form:
          job.ask = read_form(form, shelf)
          for field in ("video", "sound_file"):
            if isinstance(form.get(field), UploadFile) and form[field].filename:
              await run_in_threadpool(keep, job, field, form[field])
        jobs.submit(job)
    except Full:
      await drain(request)
      raise Refused(503, BUSY) from None
    except TimeoutError:
      raise Refused(408, f"The upload took more than {limits.upload_s:g} s; send a smaller file.") from None
    except ClientDisconnect:
      raise Refused(400, "The upload broke off.") from None
    return JSONResponse(state_of(jobs, job), status_code=202)

  def find(request: Request) -> Job:
    job = jobs.get(request.path_params["job"])
    if job is None:
      raise Refused(404, "This result is no longer kept; start it again.")
    return job

  async def state(request: Request) -> Response:
    return JSONResponse(state_of(jobs, find(request)), headers={"Cache-Control": "no-store"})

  async def remove(request: Request) -> Response:
    jobs.remove(find(request))
    return Response(status_code=204)

  async def file(request: Request) -> Response:
    job, name = find(request), request.path_params["name"]
    path = jobs.file(job, name)
    if path is None:
      raise Refused(404, "This job has no such file.")
    saves = "attachment" if "save" in request.query_params else "inline"
    return FileResponse(path, filename=name, content_disposition_type=saves)

  app.add_route("/", page, methods=["GET"])
  app.add_route("/api/about", about, methods=["GET"])
  app.add_route("/api/jobs", start, methods=["POST"])
  app.add_route("/api/jobs/{job}", state, methods=["GET"])
  app.add_route("/api/jobs/{job}", remove, methods=["DELETE"])
  app.add_route("/api/jobs/{job}/files/{name}", file, methods=["GET"])
  app.add_route("/samples/{name}", sample, methods=["GET"])
  app.add_route("/{name}", page, methods=["GET"])
  app.add_exception_handler(Refused, refused)
  app.add_exception_handler(HTTPException, refused)
  return app


def answer(error: Refused) -> Response:
  return JSONResponse({"error": error.sentence}, status_code=error.status, headers=HEADERS)


async def refused(request: Request, error: Exception) -> Response:
  """Every refusal has one form, the framework's own too."""
  del request
  if isinstance(error, HTTPException):
    words = {404: "There is nothing of that name here.", 405: "That cannot be done here."}
    error = Refused(error.status_code, words.get(error.status_code, f"{error.detail}."))
  assert isinstance(error, Refused)
  return answer(error)


def check_length(request: Request, most_mb: float) -> None:
  """The server reads no more than a request announces, so what it announces is what it may be.

  Raises:
    Refused: no length is said, or too great a one.
  """
  length = request.headers.get("content-length", "")
  if not length.isdecimal():
    raise Refused(411, "The upload must say its length.")
  if int(length) > most_mb * 1e6:
    raise Refused(
      413, f"The files have {int(length) / 1e6:.0f} MB; at most {most_mb:g} MB can be sent: cut the video."
    )


async def drain(request: Request) -> None:
  """Reads a refused upload away."""
  read = 0
  async for piece in request.stream():
    read += len(piece)
    if read > DRAINED_MB * 1e6:
      return


def read_form(form: FormData, shelf: Mapping[str, Sample]) -> dict[str, Any]:
  """What is asked, as the work is given it; files are added by `keep`.

  Raises:
    Refused: an unknown choice or sample, or a file is missing.
  """
  fields = {name: value for name, value in form.items() if isinstance(value, str)}
  given = {name for name, value in form.items() if isinstance(value, UploadFile) and value.filename}
  sound, every = fields.get("sound", "own"), fields.get("every", "second")
  if sound not in SOUNDS:
    raise Refused(400, f"The sound must be one of {', '.join(SOUNDS)}.")
  if every not in EVERY:
    raise Refused(400, "Masks are made for every second or every frame.")
  if sound in ("file", "recorded") and "sound_file" not in given:
    raise Refused(
      400, "Choose the file with the other sound, or record one." if sound == "file" else "Record first."
    )
  ask = {"sound": sound, "every": every, "four": fields.get("four") == "yes"}
  if "video" in given:
    return ask
  name = fields.get("sample", "")
  if name not in shelf:
    raise Refused(400, f"There is no sample '{name[:40]}'." if name else "Choose a video first.")
  return {**ask, "video": str(shelf[name].path), "name": shelf[name].title}


def keep(job: Job, field: str, upload: UploadFile) -> None:
  """Stores an uploaded file in the job's own folder, under a name of ours."""
  shown = Path((upload.filename or "").replace("\\", "/")).name[:80] or "the file"
  ending = "".join(c for c in Path(shown).suffix.lower()[1:8] if c.isascii() and c.isalnum())
  path = job.inbox / (f"{field}.{ending}" if ending else field)
  with open(path, "wb") as target:
    shutil.copyfileobj(upload.file, target, 1 << 20)
  job.uploads[str(path)] = shown
  job.ask[field] = str(path)
  job.ask["name" if field == "video" else "sound_name"] = shown


def state_of(jobs: Jobs, job: Job) -> dict[str, Any]:
  """What the page is told of a job."""
  base = f"/api/jobs/{job.id}"
  files = [
    {"name": name, "title": title, "url": f"{base}/files/{name}", "bytes": (job.outbox / name).stat().st_size}
    for name, title in (job.files if job.state == queue.DONE else {}).items()
    if (job.outbox / name).is_file()
  ]
  return {
    "id": job.id,
    "state": job.state,
    "done": round(job.done, 3),
    "doing": job.doing,
    "before": jobs.position(job),
    "error": job.error,
    "summary": job.summary,
    "files": files,
  }
