"""How long a model takes for a second of somebody's video: the real-time factor of `Predictor.predict`, by system.

A video like a phone's is made (30 frames a second, 48 kHz stereo), and every system masks it with fresh weights, a
mask a second: the time does not depend on what weights say. The model that comes with the program follows. Included:
opening and decoding the file, turning sound to log-mels, resizing, the network, and masks brought to the video's
size. Not included: compiling (reported beside it) and writing anything.

  python -m benchmarks.own_video --configs=configs/quickstart.py --output=docs/benchmark_own_video.md
  python -m benchmarks.own_video --configs=configs/s4.py --systems=avsbench,sdavs        the published sizes
"""

import importlib
import os
import tempfile
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from absl import flags

from avs_jax import systems
from avs_jax.initialise import initialise
from avs_jax.logbook import versions
from avs_jax.model import build_model, example_inputs
from avs_jax.own_video.film import Film
from avs_jax.predict import Predictor
from benchmarks.in_turn import publish
from benchmarks.start import start

FPS, RATE_HZ = 30, 48_000


def make_video(path: str, seconds: int, height: int) -> None:
  """A mp4 of coarse noise that drifts, 16:9, with a stereo tone that sweeps."""
  rng, width = np.random.default_rng(0), height * 16 // 9
  cells = rng.integers(0, 256, (9, 17, 3), np.uint8)
  picture = np.repeat(np.repeat(cells, -(-height // 9), 0), -(-width // 16), 1)
  with Film(path, (height, width), float(FPS), [(RATE_HZ, 2)]) as film:
    for second in range(seconds):
      at = np.arange(RATE_HZ) / RATE_HZ + second
      tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * at) * at)
      film.sound(np.stack([tone, tone], axis=1).astype(np.float32))
      for frame in range(FPS):
        left = (FPS * second + frame) % max(1, picture.shape[1] - width)
        film.picture(picture[:height, left : left + width], second + frame / FPS)


def fresh(config: Any) -> Predictor:
  """A model that was never trained."""
  model = build_model(config)
  variables = initialise(model, *example_inputs(config), seed=0)
  variables.setdefault("batch_stats", {})
  return Predictor(config, variables)


def measure(predictor: Predictor, video: str, seconds: int) -> dict[str, float]:
  """Seconds until the first mask of a cold predictor, and per second of video of a warm one."""
  start = time.perf_counter()
  run(predictor, video, min(seconds, predictor.seconds))
  cold = time.perf_counter() - start
  start, used = time.perf_counter(), time.process_time()
  run(predictor, video, seconds)
  return {
    "first": cold,
    "factor": (time.perf_counter() - start) / seconds,
    "cpu": (time.process_time() - used) / seconds,
  }


def run(predictor: Predictor, video: str, seconds: int) -> None:
  """Predicts and asks for every mask."""
  areas = [each.mask.mean() for each in predictor.predict(video, end=float(seconds))]
  assert len(areas) == seconds, "a mask a second"


def page(rows: Iterable[tuple[str, Any, dict[str, float]]], seconds: int, height: int) -> str:
  """The figures as Markdown with every condition."""
  about = ", ".join(f"{name} {version}" for name, version in versions().items())
  return "\n".join(
    [
      f"{seconds} s of {height * 16 // 9} x {height}, {FPS} frames a second, {RATE_HZ // 1000} kHz stereo; a mask a"
      f" second; {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, load average at the end"
      f" {os.getloadavg()[0]:.1f}; {about}.",
      "",
      "| system | encoders | px | seconds of work a second of video | CPU seconds | first window, with compiling |",
      "|---|---|---:|---:|---:|---:|",
      *(
        f"| {system} | {config.model.visual}, {config.model.audio} | {config.data.size} | {each['factor']:.2f} |"
        f" {each['cpu']:.2f} | {each['first']:.1f} s |"
        for system, config, each in rows
      ),
      "",
    ]
  )


def define(into: flags.FlagValues) -> None:
  """The command's flags."""
  flags.DEFINE_string("configs", "configs/quickstart.py", "Config file that takes a system's name.", into)
  flags.DEFINE_list("systems", list(systems.NAMES), "Systems to measure.", into)
  flags.DEFINE_bool("packaged", True, "Measure the model that comes with the program too.", into)
  flags.DEFINE_integer("seconds", 20, "Length of the video.", flag_values=into)
  flags.DEFINE_integer("height", 1080, "Height of the video, 16:9.", flag_values=into)
  flags.DEFINE_string("output", None, "Markdown file to write.", into)


def command_of(values: flags.FlagValues) -> str:
  """The command that makes the page: which configs, and whatever else is not as by default."""
  named = [values[name] for name in ("configs", "systems", "packaged", "seconds", "height", "output")]
  said = [each.serialize() for each in named if each.name == "configs" or each.value != each.default]
  return " ".join(["python -m benchmarks.own_video", *said])


def main(arguments: list[str]) -> None:
  del arguments
  values = flags.FLAGS.flag_values_dict()
  seconds, height = values["seconds"], values["height"]
  name = os.path.splitext(values["configs"])[0].replace(os.sep, ".")
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    video = os.path.join(folder, "phone.mp4")
    make_video(video, seconds, height)
    for system in values["systems"]:
      config = importlib.import_module(name).get_config(system)
      rows.append((system, config, measure(fresh(config), video, seconds)))
      print(system, {key: round(value, 3) for key, value in rows[-1][2].items()}, flush=True)
    if values["packaged"]:
      predictor = Predictor.from_weights()
      rows.append(("the packaged model", predictor.config, measure(predictor, video, seconds)))
  text = page(rows, seconds, height)
  said = f"{__doc__}".split("\n\n")[1].replace("\n", " ")
  title = "# What a second of one's own video costs"
  publish(f"{title}\n\n    {command_of(flags.FLAGS)}\n\n{said}\n\n{text}", None, values["output"])


if __name__ == "__main__":
  define(flags.FLAGS)
  start(main)
