"""Overlays: picture and sound in step, masks on their own pictures, also after a turn."""

import av
import numpy as np
import pytest

from avs_jax.own_video import overlay
from avs_jax.own_video.film import Film
from avs_jax.own_video.prediction import Prediction
from data_pipelines import video

GREY = np.full((48, 64, 3), 60, np.uint8)


def said(time_s, until_s, coarse, size, **more):
  return Prediction("film", 0, time_s, until_s, time_s, size, coarse.astype(np.float32), **more)


def film(path, *, fps=30.0, flash=45, seconds=3.0, rate_hz=48_000, times=None, rotation=0):
  """Grey pictures, one of them white; a click of 2 ms when it comes on."""
  times = times or [k / fps for k in range(round(fps * seconds))]
  wave = np.zeros((round(seconds * rate_hz), 2), np.float32)
  click = round(times[flash] * rate_hz)
  wave[click : click + rate_hz // 500] = 0.9
  with Film(path, (48, 64), fps, [(rate_hz, 2)], rotation=rotation) as made:
    for k, time_s in enumerate(times):
      made.picture(np.full((48, 64, 3), 250 if k == flash else 60, np.uint8), time_s)
    made.sound(wave)
  return path


def flash_and_click(path):
  """When the brightest picture comes on, and when the loudest sample is heard."""
  with av.open(str(path)) as found:
    pictures = [(f.to_ndarray(format="gray").mean(), f.time) for f in found.decode(video=0)]
  with av.open(str(path)) as found:
    rate_hz = found.streams.audio[0].rate
    blocks = [(f.time, np.abs(f.to_ndarray()).max(axis=0)) for f in found.decode(audio=0)]
  loudest = max((wave.max(), time + int(wave.argmax()) / rate_hz) for time, wave in blocks)
  return max(pictures)[1], loudest[1]


@pytest.mark.parametrize(
  ("start", "settings"),
  [
    (0.0, {}),
    (1.2, {}),
    (0.0, {"fps": 12.5, "flash": 20, "rate_hz": 44_100}),
    (0.5, {"times": [0.0, 0.03, 0.1, 0.6, 1.37, 1.41, 2.5], "flash": 4}),
    (0.0, {"rotation": 90}),
  ],
)
def test_a_flash_and_its_click_stay_together(tmp_path, start, settings):
  footage = video.open_footage(film(tmp_path / "a.mp4", **settings))
  nothing = np.zeros((4, 4))
  marks = [said(t, min(t + 1, 3.0), nothing, footage.size) for t in (start, start + 1, start + 2) if t < 3]
  overlay.write(tmp_path / "overlay.mp4", footage, marks, start)
  before, after = flash_and_click(tmp_path / "a.mp4"), flash_and_click(tmp_path / "overlay.mp4")
  fps = settings.get("fps", 30.0)
  assert after[0] == pytest.approx(before[0] - start, abs=1e-3)
  assert abs(after[1] - after[0]) < 1 / fps  # within one picture
  assert abs((after[1] - after[0]) - (before[1] - before[0])) < 0.01


@pytest.mark.parametrize("rotation", [0, 90, -90])
def test_masks_lie_on_their_own_pictures_upright(tmp_path, rotation):
  path = tmp_path / "a.mp4"
  with Film(path, (48, 64), 10.0, rotation=rotation) as made:
    for k in range(20):
      made.picture(GREY, k / 10)
  footage = video.open_footage(path)
  top, bottom = np.zeros((2, 4, 4))
  top[0], bottom[-1] = 1, 1
  overlay.write(
    tmp_path / "o.mp4", footage, [said(0.0, 1.0, top, footage.size), said(1.0, 2.0, bottom, footage.size)]
  )
  shown = video.open_footage(tmp_path / "o.mp4")
  assert shown.size == footage.size == ((48, 64) if rotation == 0 else (64, 48))
  for picture in shown.pictures(0.0):
    green = picture.read()[..., 1].astype(int)
    strip = green.shape[0] // 8
    is_top = green[:strip].mean() > green[-strip:].mean() + 20
    assert is_top == (picture.time_s < 1 - 1e-3), picture.time_s


def test_a_mask_is_tinted_and_edged_in_white():
  mask = np.zeros((48, 64), bool)
  mask[10:20, 10:30] = True
  picture = overlay.paint(GREY, mask)
  assert (picture[10, 15] == 255).all() and (picture[15, 29] == 255).all()
  assert picture[15, 20].tolist() == [int(0.55 * 60 + 0.45 * c) for c in overlay.COLOUR]
  np.testing.assert_array_equal(picture[~mask], GREY[~mask])
  np.testing.assert_array_equal(overlay.paint(GREY, np.zeros_like(mask)), GREY)


def test_stripes_show_on_an_object_of_their_own_colour():
  """A false alarm on an orange dog: half of it is tinted, half is as it was, and its edge is white."""
  mask = np.zeros((48, 64), bool)
  mask[8:40, 8:56] = True
  picture = overlay.paint(GREY, mask, (200, 60, 60), stripes=True)
  inside = picture[10:38, 10:54, 0]
  tinted = inside == int(0.2 * 60 + 0.8 * 200)
  assert 0.4 < tinted.mean() < 0.6
  assert (inside[~tinted] == 60).all()
  assert (picture[8, 20] == 255).all()


def test_classes_have_their_own_colours_and_are_named():
  classes = np.array([[1, 1], [1, 2]], np.int32)
  each = said(0.0, 1.0, np.array([[0.9, 0.9], [0.1, 0.8]]), (48, 64), coarse_classes=classes,
              class_probability=np.array([[0.6, 0.8], [0.1, 0.7]], np.float32), class_names=("", "dog"))  # fmt: skip
  assert each.labels == ("dog", "class 2")
  assert each.scores == pytest.approx((0.7, 0.7))
  assert each.classes.shape == (48, 64) and not each.classes[~each.mask].any()
  picture = overlay.painted(GREY, each)
  assert picture[40, 60, 1] > picture[40, 60, 0] and picture[22, 50, 0] > picture[22, 50, 1]
  assert (overlay.label(GREY, "dog") == 0).any()
