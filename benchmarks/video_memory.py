"""Whether the memory of `--mode=predict` grows with the length of a video: its peak for two or more lengths.

A video like a phone's is made of each length (benchmarks/own_video.py), and masked by the model that comes with the
program in a process of its own, overlay and timeline written. What is given is the largest resident size of that
process, and how much more than for the first length it is.

  python -m benchmarks.video_memory --lengths=30,180 --output=docs/benchmark_video_memory.md
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import flags

from avs_jax.logbook import versions
from benchmarks.in_turn import peak_memory, publish
from benchmarks.own_video import FPS, RATE_HZ, make_video
from benchmarks.start import start

Row = tuple[int, float, float]  # seconds of video, peak bytes, seconds of work


def mask(video: str, output: str) -> None:
  """Predicts for one video and prints the peak, in this process."""
  from avs_jax.own_video.files import predict_files
  from avs_jax.predict import Predictor

  failed = predict_files(Predictor.from_weights(), video, output)
  assert not failed, failed
  print(peak_memory())


def measure(lengths: Sequence[int], height: int) -> list[Row]:
  """The lengths in turn, each in a process of its own."""
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for seconds in lengths:
      video = os.path.join(folder, f"{seconds}.mp4")
      make_video(video, seconds, height)
      begin = time.perf_counter()
      child = subprocess.run(
        [sys.executable, "-m", "benchmarks.video_memory", f"--video={video}", f"--into={folder}/out"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
      )
      rows.append((seconds, float(child.stdout.split()[-1]), time.perf_counter() - begin))
      print(f"{seconds} s: {rows[-1][1] / 1e6:.0f} MB, {rows[-1][2]:.0f} s of work", flush=True)
  return rows


def page(rows: Sequence[Row], height: int) -> str:
  """The figures as Markdown with every condition."""
  about = ", ".join(f"{name} {version}" for name, version in versions().items())
  first = rows[0][1]
  return "\n".join(
    [
      f"{height * 16 // 9} x {height}, {FPS} frames a second, {RATE_HZ // 1000} kHz stereo; {os.cpu_count()} CPU"
      f" cores, load average at the end {os.getloadavg()[0]:.1f}; {about}.",
      "",
      "| seconds of video | largest memory | more than for the first | seconds of work, starting included |",
      "|---:|---:|---:|---:|",
      *(
        f"| {seconds} | {peak / 1e6:.0f} MB | {100 * (peak / first - 1):.1f} % | {work:.0f} |"
        for seconds, peak, work in rows
      ),
      "",
    ]
  )


def main(arguments: list[str]) -> None:
  del arguments
  values = flags.FLAGS.flag_values_dict()
  if values["video"]:
    mask(values["video"], values["into"])
    return
  rows = measure([int(each) for each in values["lengths"]], values["height"])
  said = f"{__doc__}".split("\n\n")[1].replace("\n", " ")
  lengths = ",".join(values["lengths"])
  command = f"    python -m benchmarks.video_memory --lengths={lengths} --output={values['output']}"
  title = "# Memory and the length of a video"
  publish(f"{title}\n\n{command}\n\n{said}\n\n{page(rows, values['height'])}", None, values["output"])


if __name__ == "__main__":
  flags.DEFINE_list("lengths", ["30", "180"], "Seconds of video.")
  flags.DEFINE_integer("height", 1080, "Height of the videos, 16:9.")
  flags.DEFINE_string("output", None, "Markdown file to write.")
  flags.DEFINE_string("video", None, "For the process that measures itself: what to mask.")
  flags.DEFINE_string("into", None, "For the process that measures itself: where its files go.")
  start(main)
