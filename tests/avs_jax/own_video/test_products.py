"""What a prediction leaves on disk reads back as what was predicted."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from avs_jax.errors import InputError
from avs_jax.own_video import products, rle
from avs_jax.own_video.prediction import Prediction
from data_pipelines import video

SIZE = (12, 16)


def predictions(classes: bool = False, count: int = 3) -> list[Prediction]:
  rng = np.random.default_rng(0)
  found = []
  for k in range(count):
    more = {}
    if classes:
      more = {
        "coarse_classes": rng.integers(1, 3, (6, 8), np.int32),
        "class_probability": rng.uniform(0.5, 1, (6, 8)).astype(np.float32),
        "class_names": ("background", "dog", "man, young"),
        "coarse_uncertainty": rng.uniform(0, 1, (6, 8)).astype(np.float32),
      }
    coarse = rng.uniform(0, 1, (6, 8)).astype(np.float32) * (k != 1)
    found.append(Prediction("a.mp4", k, k + 0.0, k + 1.0, k + 0.5, SIZE, coarse, similarity=0.25 * k, **more))
  return found


def write(folder, names, said):
  folder.mkdir(exist_ok=True)
  footage = video.of_arrays(np.zeros((3, *SIZE, 3), np.uint8))
  footage.notes.append("something to say")
  for name in names:
    with products.WRITERS[name](folder, footage, {"source": "a.mp4"}, 0.0) as writer:
      for each in said:
        writer.add(each)
  return folder


@pytest.mark.parametrize("classes", [False, True])
def test_everything_reads_back(tmp_path, classes):
  said = predictions(classes)
  folder = write(tmp_path / "out", ("masks", "rle", "csv", "npz"), said)
  assert sorted(p.name for p in folder.iterdir()) == ["arrays.npz", "masks", "masks.json", "timeline.csv"]

  pictures = [np.asarray(Image.open(folder / "masks" / f"{k:05d}.png")) for k in range(3)]
  for each, picture in zip(said, pictures, strict=True):
    np.testing.assert_array_equal(picture, each.classes if classes else 255 * each.mask)

  whole = json.loads((folder / "masks.json").read_text())
  assert (whole["schema"], whole["source"], whole["notes"]) == (
    "avs_jax.masks/1",
    "a.mp4",
    ["something to say"],
  )
  for each, entry in zip(said, whole["predictions"], strict=True):
    np.testing.assert_array_equal(rle.decode(entry["segmentation"]), each.mask)
    assert (entry["time_s"], entry["until_s"]) == (each.time_s, each.until_s)
    for own in entry.get("classes", []):
      np.testing.assert_array_equal(rle.decode(own["segmentation"]), each.classes == own["id"])

  with np.load(folder / "arrays.npz") as arrays:
    np.testing.assert_array_equal(arrays["probability"], [each.coarse for each in said])
    np.testing.assert_array_equal(arrays["time_s"], [0, 1, 2])
    np.testing.assert_array_equal(arrays["size"], SIZE)
    assert ("classes" in arrays) == ("uncertainty" in arrays) == classes

  with open(folder / "timeline.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["sounds"] for row in rows if row["start_s"] == "1.0"] == ["0"]
  assert len(rows) == (5 if classes else 3)
  assert {row["class_name"] for row in rows} == ({"dog", "man, young", ""} if classes else {""})
  assert float(rows[-1]["similarity"]) == 0.5


def test_the_same_predictions_give_the_same_bytes(tmp_path):
  names = tuple(products.WRITERS)
  one, other = (write(tmp_path / name, names, predictions()) for name in "ab")
  listed, again = ([path.relative_to(each) for path in sorted(each.rglob("*"))] for each in (one, other))
  assert listed == again and len(listed) > len(names)
  for name in listed:
    if (one / name).is_file():
      assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_every_writer_says_where_it_writes(tmp_path):
  folder = write(tmp_path / "out", tuple(products.WRITERS), predictions())
  assert {path.name for path in folder.iterdir()} == set(products.FILES.values())


def test_another_word_is_refused():
  assert products.chosen("csv, rle,csv") == ("csv", "rle")
  with pytest.raises(
    InputError, match="--write=csv,gif: 'gif' cannot be written; choose from overlay, masks"
  ):
    products.chosen("csv,gif")
  with pytest.raises(InputError, match="'nothing' cannot be written"):
    products.chosen("")
