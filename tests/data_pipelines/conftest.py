"""S4, MS3 and AVSS in a handful of files, made by hand in the published layout."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from configs import tiny
from data_pipelines import audio, transforms

SIZE = 24
RNG = np.random.default_rng(0)


@pytest.fixture
def config():
  """Four clips of five seconds to be judged."""
  config = tiny.get_config()
  with config.unlocked():
    config.data.clips.test, config.data.seconds, config.eval.batch = 4, 5, 2
  return config


def png(path, pixels) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path)


def sound(path, seconds: float = 5, seed: int = 0) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  audio.write_wav(path, 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000)))


def table(path, *rows) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


def noise(side: int = SIZE) -> np.ndarray:
  return RNG.integers(0, 256, (side, side, 3)).astype(np.uint8)


def blob(side: int = SIZE) -> np.ndarray:
  return RNG.integers(0, 2, (side, side)).astype(np.uint8) * 255


def log_mel_pickles(golden, ms3, names=("x1", "x2")) -> None:
  sample = golden("avsbench/log_mel_sample.pkl").read_bytes()
  for name in names:
    path = ms3 / f"ms3_data/audio_log_mel/val/{name}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample)


@pytest.fixture
def s4(tmp_path):
  """Two training clips and a test clip; every path is written out here, not taken from the reader."""
  home = tmp_path / "Single-source"
  clips = [
    ("aa_1", "dog_barking", "train"),
    ("bb_2", "playing_piano", "train"),
    ("cc_3", "helicopter", "test"),
  ]
  table(
    home / "s4_meta_data.csv", ("name", "start", "category", "split"), *((n, 0, c, s) for n, c, s in clips)
  )
  for name, category, split in clips:
    place = home / "s4_data"
    for k in range(1, 6):
      png(place / f"visual_frames/{split}/{category}/{name}/{name}_{k}.png", noise())
      if k == 1 or split != "train":
        png(place / f"gt_masks/{split}/{category}/{name}/{name}_{k}.png", blob())
    sound(place / f"audio_wav/{split}/{category}/{name}.wav")
  return home


@pytest.fixture
def ms3(tmp_path):
  home = tmp_path / "Multi-sources"
  table(home / "ms3_meta_data.csv", ("video_id", "split"), ("x1", "val"), ("x2", "val"))
  for name in ("x1", "x2"):
    for k in range(1, 6):
      png(home / f"ms3_data/visual_frames/{name}/{name}.mp4_{k}.png", noise())
      png(home / f"ms3_data/gt_masks/val/{name}/{name}_{k}.png", blob())
    sound(home / f"ms3_data/audio_wav/val/{name}.wav")
  return home


@pytest.fixture
def avss(tmp_path):
  """A clip of each label in training and v1s in test; labels hold the classes 0, 5 and 70."""
  home = tmp_path / "AVSBench-semantic"
  clips = [
    ("p", "v1s", "train"),
    ("q", "v1m", "train"),
    ("r", "v2", "train"),
    ("s", "v1s", "test"),
  ]
  rows = [(u, lab, s, "man_piano") for u, lab, s in clips]
  table(home / "metadata.csv", ("uid", "label", "split", "a_obj"), *rows)
  names = {("background" if k == 0 else f"thing{k}"): k for k in range(71)}
  (home / "label2idx.json").write_text(json.dumps(names))
  for uid, label, split in clips:
    count = 10 if label == "v2" else 5
    for k in range(count):
      png(home / label / uid / f"frames/{k}.jpg", RNG.integers(0, 256, (30, 48, 3)).astype(np.uint8))
      if k == 0 or (label, split) != ("v1s", "train"):
        classes = np.zeros((30, 48), int)
        classes[:, 16:32] = 5 if k % 2 else 70
        png(home / label / uid / f"labels_rgb/{k}.png", transforms.PALETTE[classes])
    sound(home / label / uid / "audio.wav", count)
  return home
