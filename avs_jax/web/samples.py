"""Videos for who has none at hand."""

import dataclasses
from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"


@dataclasses.dataclass(frozen=True)
class Sample:
  """A video that the page offers."""

  name: str
  path: Path
  title: str


def make_samples(folder: Path, size: int = 256) -> list[Sample]:
  """The videos that the page offers: those that come with it, and two that are drawn here and now."""
  from avs_jax.own_video.film import Film
  from data_pipelines.clips import SAMPLE_RATE_HZ
  from data_pipelines.generated import Generated

  folder.mkdir(parents=True, exist_ok=True)
  samples = [
    Sample(path.name, path, path.stem.replace("_", " ").capitalize())
    for path in sorted(SAMPLES.glob("*.mp4"))
  ]
  for subset, title in (("single", "One drawn thing"), ("multi", "Drawn things in turn")):
    clip = Generated(subset, "test", num_clips=1, size=size).clip(0)
    path = folder / f"{subset}.mp4"
    with Film(path, clip.frames.shape[1:3], 1.0, [(SAMPLE_RATE_HZ, 1)]) as film:
      for second, frame in enumerate(clip.frames):
        film.picture(frame, float(second))
      film.sound(clip.waveform[:, None])
    samples.append(Sample(path.name, path, title))
  return samples
