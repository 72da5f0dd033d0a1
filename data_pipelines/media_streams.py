"""The two tracks of a media file, each read for itself by PyAV: pictures as shown, and sound without gaps.

Seconds count from the first picture. What cannot be decoded is left out and said in `notes`; only a file of which
nothing can be read is an error. One frame is in memory at a time.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

from avs_jax.errors import InputError

JITTER_S = 0.02  # time stamps of sound are rounded: smaller gaps and overlaps are none
SEEK_BACK_S = 1.0  # sound is sought so much earlier; what is too early is dropped
LOUDEST = 1e3  # samples beyond this are no sound: full scale is 1
# What is read: containers that hold their own pictures and sound. Playlists (hls, dash, concat ...) name other files,
# also of other people, and are refused.
CONTAINERS = (
  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,vc1,ivf,ogg,asf,gif,apng,"
  "mjpeg,dv,mxf,nut,rm,wtv,nsv,yuv4mpegpipe,wav,w64,mp3,aac,flac,aiff,caf,amr,amrnb,amrwb,au,ac3,eac3,dts,wv,ape,tta,"
  "loas,voc,truehd"
)
OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
SCALE = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A frame that is turned into an array only when it is wanted.

  Attributes:
    time_s: when it comes on, from the first picture.
    duration_s: how long it stays, as the file says.
    read: gives uint8 [H, W, 3], RGB, upright.
  """

  time_s: float
  duration_s: float
  read: Callable[[], UInt8[np.ndarray, "H W 3"]]


@dataclasses.dataclass(frozen=True)
class VideoTrack:
  """What is known of a file's pictures. `origin_s` is the first picture's time stamp."""

  path: str
  origin_s: float
  size: tuple[int, int]
  fps: float
  duration_s: float | None


@dataclasses.dataclass(frozen=True)
class SoundTrack:
  """What is known of a file's sound."""

  path: str
  rate_hz: int
  channels: int
  duration_s: float | None


def say(notes: list[str], sentence: str) -> None:
  """Notes it once, however often the file is read."""
  if sentence not in notes:
    notes.append(sentence)


def open_container(path: str | Path) -> Any:
  """Raises `InputError` where the file is missing, empty or of no known kind."""
  if Path(path).is_dir():
    raise InputError(f"{path} is a folder, and a file with a sound or video track is wanted; give one.")
  if not Path(path).is_file():
    raise InputError(f"{path}: there is no such file; give a video, a picture or a folder of frames.")
  try:
    # A whole path: before a colon in a relative one FFmpeg would see the name of a protocol.
    container = av.open(os.path.abspath(path), options=OPTIONS)
    reason = "" if container.streams.video or container.streams.audio else "no track was found"
  except (av.FFmpegError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
  if reason:
    raise InputError(
      f"{path} cannot be read as a video or sound ({reason}); it is cut short or of an unknown kind: copy it"
      " again or convert it to mp4."
    )
  return container


def probe_video(path: str | Path) -> VideoTrack:
  """Decodes the first picture. Raises `InputError` where there is none."""
  with open_container(path) as container:
    stream = _pictures_of(container)
    if stream is None:
      raise InputError(
        f"{path} holds no pictures; give a video, or a picture or folder of frames with --sound={path}."
      )
    frame = next(_decoded(container, stream, [], "pictures"), None)
    if frame is None:
      raise InputError(f"{path}: not one of its pictures can be decoded; the file is damaged: copy it again.")
    upright = turned(np.zeros((frame.height, frame.width, 1), np.uint8), frame.rotation)
    rate = stream.average_rate or stream.guessed_rate or 25
    duration = float(stream.duration * stream.time_base) if stream.duration else None
    if duration is None and container.duration:
      duration = container.duration / av.time_base
    return VideoTrack(str(path), _time_of(frame) or 0.0, upright.shape[:2], float(rate), duration)


def probe_sound(path: str | Path, notes: list[str]) -> SoundTrack | None:
  """Decodes the first block of sound; None where the file has no track, or none that can be decoded."""
  with open_container(path) as container:
    if not container.streams.audio:
      return None
    stream = container.streams.audio[0]
    frame = next(_decoded(container, stream, [], "sound"), None)
    if frame is None:
      say(notes, f"{path}: its sound cannot be decoded and counts as silence")
      return None
    duration = float(stream.duration * stream.time_base) if stream.duration else None
    return SoundTrack(str(path), frame.sample_rate, len(frame.layout.channels), duration)


def pictures(track: VideoTrack, notes: list[str], start_s: float = 0.0) -> Iterator[Picture]:
  """Every picture from the one that is on at `start_s`, in the order of their time stamps."""
  found = _pictures_from(track, notes, start_s, seek=start_s > 0)
  first = next(found, None)
  if start_s > 0 and (first is None or first.time_s > start_s):  # sought too far: not all kinds can be sought
    found = _pictures_from(track, notes, start_s, seek=False)
    first = next(found, None)
  if first is not None:
    yield first
    yield from found


def _pictures_from(track: VideoTrack, notes: list[str], start_s: float, *, seek: bool) -> Iterator[Picture]:
  with open_container(track.path) as container:
    stream = _pictures_of(container)
    stream.thread_type = "AUTO"
    if seek:
      _seek(container, stream, track.origin_s + start_s)
    before, time_s, end_s = None, -1.0 / track.fps, 0.0
    for frame in _decoded(container, stream, notes, f"{track.path}: pictures"):
      stamp = _time_of(frame)
      # A picture without a time stamp, or that goes back in time, follows the one before it.
      expected = time_s + 1 / track.fps
      time_s = expected if stamp is None or stamp - track.origin_s <= time_s else stamp - track.origin_s
      lasts_s = float(frame.duration * frame.time_base) if frame.duration else 1 / track.fps
      if track.duration_s and time_s + lasts_s > track.duration_s + 1 / track.fps:
        lasts_s = 1 / track.fps  # of a variable rate the file may give a neighbour's duration
      end_s = time_s + lasts_s
      picture = Picture(time_s, lasts_s, functools.partial(_upright, frame, track.size))
      if time_s > start_s:
        if before is not None:
          yield before
          before = None
        yield picture
      else:
        before = picture
    if before is not None:
      yield before
    whole_s = track.duration_s or 0.0
    if container.duration:  # the track's own length says nothing of a sound that outlasts it
      whole_s = max(
        whole_s, ((container.start_time or 0) + container.duration) / av.time_base - track.origin_s
      )
    if end_s < whole_s - max(1.0, 2 / track.fps):
      say(
        notes,
        f"{track.path}: its pictures end after {end_s:.1f} s of {whole_s:.1f} s: the file is cut short or"
        " damaged, or its sound goes on alone; what is there is used",
      )


def blocks(
  track: SoundTrack, notes: list[str], start_s: float = 0.0, origin_s: float | None = None
) -> Iterator[Float[np.ndarray, "n channels"]]:
  """The sound from `start_s` on, at its own rate, in pieces of at most a second; gaps are filled with silence.

  Args:
    origin_s: time stamp that counts as 0; None takes the sound's own first one.
  """
  with open_container(track.path) as container:
    stream = container.streams.audio[0]
    if origin_s is not None and start_s > SEEK_BACK_S:
      _seek(container, stream, origin_s + start_s - SEEK_BACK_S)
    rate, position, end = track.rate_hz, round(start_s * track.rate_hz), None
    for frame in _decoded(container, stream, notes, f"{track.path}: sound"):
      if frame.sample_rate != rate:
        say(notes, f"{track.path}: its sound changes its rate from {rate} to {frame.sample_rate} Hz; what follows"
                   " counts as silence")  # fmt: skip
        return
      stamp = _time_of(frame)
      origin_s = (stamp or 0.0) if origin_s is None else origin_s
      first = end if stamp is None else round((stamp - origin_s) * rate)
      first = position if first is None else first
      if end is not None and abs(first - end) <= JITTER_S * rate:
        first = end
      end = first + frame.samples
      while first > position:
        gap = min(first - position, rate)
        yield np.zeros((gap, track.channels), np.float32)
        position += gap
      if end > position:
        samples = _samples(frame, track.channels)[position - first :]
        if not np.abs(samples).max() <= LOUDEST:
          raise InputError(
            f"{track.path}: its sound has NaN, infinite or absurdly large samples at {position / rate:.2f} s, where"
            " full scale is 1; the file is damaged: export it again, or give another --sound."
          )
        yield samples
        position = end


def length_s(track: SoundTrack) -> float:
  """How long the sound lasts; decodes all of it where the file does not say."""
  if track.duration_s:
    return track.duration_s
  return sum(len(block) for block in blocks(track, [])) / track.rate_hz


def turned(picture: np.ndarray, degrees: int) -> np.ndarray:
  """[H, W, C] as it is shown, after quarter turns counter-clockwise, as phones ask for."""
  return np.rot90(picture, round(degrees / 90) % 4)


def _upright(frame: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
  # Not `frame.side_data`, which would tell of mirrorings too: with PyAV 18 it keeps the frame in memory for ever.
  picture = turned(frame.to_ndarray(format="rgb24"), frame.rotation)
  if picture.shape[:2] != size:  # streams may change their size under way
    from data_pipelines.transforms import resize_frames

    picture = resize_frames(picture[None], size)[0]
  return np.ascontiguousarray(picture)


def _pictures_of(container: Any) -> Any:
  """The first stream of moving pictures; the cover of a song is none."""
  cover = av.stream.Disposition.attached_pic
  return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _time_of(frame: Any) -> float | None:
  return None if frame.pts is None else float(frame.pts * frame.time_base)


def _seek(container: Any, stream: Any, time_s: float) -> None:
  # Where it fails reading starts at the beginning, and drops what is too early.
  with contextlib.suppress(av.FFmpegError):
    container.seek(int(time_s / stream.time_base), stream=stream, backward=True)


def _decoded(container: Any, stream: Any, notes: list[str], what: str) -> Iterator[Any]:
  """Frames of a stream; packets that cannot be decoded are left out, and a broken file ends where it breaks."""
  bad = 0
  try:
    for packet in container.demux(stream):
      try:
        yield from packet.decode()
      except av.FFmpegError:
        bad += 1
  except av.FFmpegError as error:
    say(notes, f"{what} break off ({error.strerror}); what came before is used")
  if bad:
    say(notes, f"{what}: {bad} damaged packets were left out")


def _samples(frame: Any, channels: int) -> Float[np.ndarray, "n channels"]:
  """float32 in [-1, 1]; another number of channels than the track's becomes their mean in each."""
  data = frame.to_ndarray()
  kind = frame.format.name.removesuffix("p")
  data = data.astype(np.float64) - (128 if kind == "u8" else 0)
  data = data.T if frame.format.is_planar else data.reshape(frame.samples, -1)  # [n, channels]
  if data.shape[1] != channels:
    data = np.repeat(data.mean(axis=1, keepdims=True), channels, axis=1)
  return (data * SCALE[kind]).astype(np.float32)
