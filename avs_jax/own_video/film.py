"""Writes an mp4: H.264 pictures at their own times, and AAC sound that stays in step with them."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from avs_jax.errors import InputError

TICKS = 90_000  # a second, of the pictures' time stamps
QUALITY = "20"  # x264's constant rate factor; ours: no difference to be seen, a third of the default's size
AAC_BITS = 96_000  # a second and channel
AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)


class Film:
  """An mp4 that is being written; used in a `with` statement. The same calls give the same bytes.

  The file gets its name when it is whole; on an exception nothing is left.

  Args:
    path: of the mp4.
    size: (H, W) of the pictures; an odd side is lengthened by a pixel, as H.264 needs.
    fps: mean frame rate.
    sounds: (rate in Hz, channels) of each sound track.
    titles: of the sound tracks.
    rotation: degrees, counter-clockwise, that players turn the pictures by.
  """

  def __init__(
    self,
    path: str | Path,
    size: tuple[int, int],
    fps: float,
    sounds: Sequence[tuple[int, int]] = (),
    *,
    titles: Sequence[str] = (),
    rotation: int = 0,
  ):
    self.path, self.size, self.fps = Path(path), size, fps
    self.sounds, self.titles, self.rotation = tuple(sounds), tuple(titles), rotation

  def __enter__(self) -> "Film":
    import av

    if not self.path.parent.is_dir():
      raise InputError(f"{self.path} cannot be written: its folder is not there; make it or give another.")
    self.partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.mp4")
    try:
      self.container = av.open(
        str(self.partial), "w", options={"movflags": "+faststart", "fflags": "+bitexact"}
      )
    except (OSError, av.FFmpegError) as error:
      raise InputError(
        f"{self.path} cannot be written ({error}); give a folder that can be written to."
      ) from None
    rate = Fraction(self.fps).limit_denominator(1001)
    # One thread: with two, one file in twenty had other bytes (x264 of PyAV 18). No B-pictures: of these a file
    # with a variable rate would give wrong durations.
    self.video: Any = self.container.add_stream("libx264", rate=rate, options={
      "crf": QUALITY, "preset": "veryfast", "threads": "1", "bf": "0", "flags": "+bitexact"})  # fmt: skip
    height, width = self.size
    self.video.width, self.video.height = width + width % 2, height + height % 2
    self.video.pix_fmt = "yuv420p"
    self.video.codec_context.time_base = Fraction(1, TICKS)
    if self.rotation:
      self.video.set_display_rotation(self.rotation)
    self.tracks: list[Any] = []
    for number, (rate_hz, channels) in enumerate(self.sounds):
      nearest = min(AAC_RATES_HZ, key=lambda known: (known < rate_hz, abs(known - rate_hz)))
      layout = _layout(channels)
      track: Any = self.container.add_stream(
        "aac", rate=nearest, layout=layout, options={"flags": "+bitexact"}
      )
      track.bit_rate = AAC_BITS * channels
      if number < len(self.titles):
        track.metadata["title"] = self.titles[number]
      self.tracks.append(track)
    self.written = [0] * len(self.sounds)
    self.resamplers = [
      av.AudioResampler(format="fltp", layout=track.layout.name, rate=track.rate, frame_size=1024)
      for track in self.tracks
    ]
    return self

  def picture(self, frame: UInt8[np.ndarray, "H W 3"], time_s: float) -> None:
    """Adds a picture that comes on at `time_s`, later than the one before."""
    import av

    odd = [(0, side % 2) for side in frame.shape[:2]]
    if any(more for _, more in odd):
      frame = np.pad(frame, (*odd, (0, 0)), mode="edge")
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    image.pts, image.time_base = round(time_s * TICKS), Fraction(1, TICKS)
    self._mux(image)

  def _mux(self, image: Any) -> None:
    with self._explained():
      for packet in self.video.encode(image):
        packet.duration = round(TICKS / self.fps)  # else the last picture lasts as long as the one before
        self.container.mux(packet)

  def sound(self, samples: Float[np.ndarray, "n channels"], track: int = 0) -> None:
    """Adds sound to a track, without a gap after what came before; the first sample is at 0 s."""
    import av

    rate_hz, channels = self.sounds[track]
    block = np.ascontiguousarray(samples.T.astype(np.float32))
    frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=_layout(channels))
    frame.sample_rate, frame.pts, frame.time_base = rate_hz, self.written[track], Fraction(1, rate_hz)
    self.written[track] += samples.shape[0]
    self._encode(track, frame)

  def _encode(self, track: int, frame: Any) -> None:
    with self._explained():
      for piece in self.resamplers[track].resample(frame):
        self.container.mux(self.tracks[track].encode(piece))

  def __exit__(self, kind: Any, *_: Any) -> None:
    is_whole = False
    try:
      if kind is None:
        for number, track in enumerate(self.tracks):
          if self.written[number]:
            self._encode(number, None)
          with self._explained():
            self.container.mux(track.encode(None))
        self._mux(None)
        with self._explained():
          self.container.close()
          os.replace(self.partial, self.path)
        is_whole = True
    finally:
      if not is_whole:
        with contextlib.suppress(Exception):
          self.container.close()
        self.partial.unlink(missing_ok=True)

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    import av

    try:
      yield
    except (OSError, av.FFmpegError) as error:
      raise InputError(
        f"{self.path} cannot be written ({error}); free space, or give another folder."
      ) from None


def _layout(channels: int) -> str:
  names = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")
  if not 1 <= channels <= len(names):
    raise InputError(
      f"a sound of {channels} channels cannot be written; mix it down to at most {len(names)}."
    )
  return names[channels - 1]
