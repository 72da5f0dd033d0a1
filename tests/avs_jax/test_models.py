"""The model that comes with the program: small enough, whole, and it listens."""

import os
import pathlib

import numpy as np

from avs_jax import bundle
from avs_jax.predict import DEFAULT, Predictor

SAMPLE = pathlib.Path(DEFAULT).parents[1] / "web" / "samples" / "a_barking_dog.mp4"


def test_it_is_under_8_mb_and_names_what_it_was_trained_on():
  assert os.path.getsize(DEFAULT) < 8_000_000
  _, config, card = bundle.load(DEFAULT)
  assert card["is_stand_in"] and "stand-in" in card["title"]
  assert config["data"]["media_cache"] == "" and config["warmup"]["folder"] == ""


def test_it_marks_the_dog_that_barks_and_nothing_when_it_is_silent():
  predictor = Predictor.from_weights()
  barking = [each.area for each in predictor.predict(str(SAMPLE))]
  quiet = [each.area for each in predictor.predict(str(SAMPLE), np.zeros(16_000 * 5, np.float32))]
  assert len(barking) == len(quiet) == 5
  assert min(barking) > 0.05 and max(barking) < 0.3  # the dog covers a seventh of the picture
  assert max(quiet) == 0
