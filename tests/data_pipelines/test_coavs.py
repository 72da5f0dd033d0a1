"""Co-AVS scenes: known objects, and the sound of each by itself at any level."""

import numpy as np
import pytest

from avs_jax.errors import InputError
from data_pipelines import coavs
from data_pipelines.generated import Generated
from data_pipelines.sprites import CATEGORIES

SIDE, SECONDS = 48, 2


@pytest.fixture(scope="module")
def pairs():
  return list(coavs.generated(2, 8, size=SIDE, seconds=SECONDS))


def test_a_scene_shows_two_objects_of_different_categories_that_do_not_share_pixels(pairs):
  for scene in pairs:
    assert scene.frames.shape == (SECONDS, SIDE, SIDE, 3) and scene.parts.shape == (2, SECONDS, SIDE, SIDE)
    assert len(set(scene.categories)) == 2 and scene.counted.all()
    assert not (scene.parts[0] & scene.parts[1]).any()
    assert scene.parts.any((2, 3)).all()
  assert {name for scene in pairs for name in scene.categories} == set(CATEGORIES)


def test_single_objects_fill_30_to_40_percent_of_the_frame():
  shares = [scene.parts.mean() for scene in coavs.generated(1, 4, size=SIDE, seconds=1)]
  assert min(shares) > 0.2 and max(shares) < 0.45  # the border cuts some off


def test_sounds_are_equally_loud_and_mixed_by_level(pairs):
  scene = pairs[0]
  np.testing.assert_allclose(np.sqrt(np.square(scene.voices).mean(1)), coavs.LOUDNESS_RMS, rtol=1e-4)
  np.testing.assert_allclose(scene.sound((4, 0)), scene.voices[0], rtol=1e-6)
  np.testing.assert_allclose(scene.sound((2, 1)), 0.5 * scene.voices[0] + 0.25 * scene.voices[1], atol=1e-6)
  np.testing.assert_array_equal(scene.sound((0, 0)), np.zeros(SECONDS * 16000, np.float32))
  assert np.abs(scene.sound((600, 600))).max() == 1


def test_scenes_are_a_function_of_their_settings(pairs):
  again = next(coavs.generated(2, 1, size=SIDE, seconds=SECONDS))
  np.testing.assert_array_equal(again.frames, pairs[0].frames)
  np.testing.assert_array_equal(again.voices, pairs[0].voices)
  other = next(coavs.generated(2, 1, size=SIDE, seconds=SECONDS, seed=1))
  assert (other.frames != pairs[0].frames).any()


def test_a_labelled_source_lends_pictures_and_the_sounds_of_single_objects():
  source = Generated("semantic", "test", 40, size=SIDE, seconds=SECONDS)
  found = list(coavs.from_source(source, 2, 2))
  assert len(found) == 2
  for scene in found:
    index = source.ids.index(scene.id)
    assert set(scene.categories) == source.objects(index)
    masks = source.clip(index).masks
    for name, part in zip(scene.categories, scene.parts, strict=True):
      np.testing.assert_array_equal(part, masks == 1 + CATEGORIES.index(name))
    assert scene.parts[:, scene.counted].any((2, 3)).all()
    np.testing.assert_allclose(np.sqrt(np.square(scene.voices).mean(1)), coavs.LOUDNESS_RMS, rtol=1e-4)


def test_sources_that_cannot_serve_are_refused():
  with pytest.raises(InputError, match="have none; use data.name=avss, or the generated stand-in"):
    next(coavs.from_source(Generated("single", "test", 4, size=16, seconds=1), 1, 1))
  with pytest.raises(InputError, match="no clip of .* shows 2 categories that other clips hold alone"):
    next(coavs.from_source(Generated("semantic", "test", 2, size=16, seconds=1), 2, 1))
  with pytest.raises(InputError, match="one or two objects, not 3"):
    coavs.Made(3, (0.1, 0.2))


def test_silence_is_not_made_loud():
  np.testing.assert_array_equal(coavs.loud(np.zeros(10, np.float32)), np.zeros(10))
