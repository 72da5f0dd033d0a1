"""The run's folder tells what happened, also after a kill."""

import json
import os

import numpy as np
import pytest

from avs_jax import visualize
from avs_jax.errors import InputError
from avs_jax.logbook import Logbook, count_parameters, duration, versions, write_config
from avs_jax.mesh import make_mesh
from configs import common
from data_pipelines.generated import Generated


@pytest.fixture
def book(small, tmp_path):
  return Logbook(str(tmp_path), small())


def test_rows_after_the_checkpoint_are_dropped_when_the_run_goes_on(book, tmp_path):
  book.begin_at(0)
  for step in (1, 2, 3):
    book.write(step, {"loss": 1.0 / step})
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "lo')  # a kill in the middle of a line
  book.begin_at(2)
  assert [row["step"] for row in book.rows()] == [1, 2]
  assert "resumed from the checkpoint of step 2" in (tmp_path / "log.txt").read_text()


def test_a_kill_while_a_run_goes_on_leaves_its_config_and_its_rows(book, tmp_path, monkeypatch):
  book.begin_at(0)
  book.write(1, {"loss": 1.0})
  before = {name: (tmp_path / name).read_bytes() for name in ("config.json", "metrics.jsonl")}

  def killed(source, target):
    raise KeyboardInterrupt  # after the text was written, before it has its name

  monkeypatch.setattr("os.replace", killed)
  for write in (lambda: book.begin_at(1), lambda: write_config(book.config, str(tmp_path))):
    with pytest.raises(KeyboardInterrupt):
      write()
  assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_disk_that_is_full_is_one_sentence(book, tmp_path):
  if not os.path.exists("/dev/full"):
    pytest.skip("this system has no /dev/full, a file that cannot be written")
  book.begin_at(0)
  for name, write in (
    ("metrics.jsonl", lambda: book.write(1, {"loss": 1.0})),
    ("log.txt", lambda: book.say("so")),
  ):
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(
      InputError, match=f"{name} cannot be written .*No space left.*run the same command again"
    ):
      write()


def test_a_run_that_starts_anew_forgets_the_rows_of_the_one_before(book):
  book.write(1, {"loss": 1.0})
  book.begin_at(0)
  assert book.rows() == []


def test_the_config_is_written_when_the_run_begins_and_can_be_read_back(book, small, tmp_path):
  assert not (tmp_path / "config.json").exists()
  book.begin_at(0)
  assert common.from_workdir(str(tmp_path)).to_dict() == small().to_dict()
  write_config(small({"seed": 3}), str(tmp_path))
  assert json.loads((tmp_path / "config.json").read_text())["seed"] == 3


@pytest.mark.parametrize("has_driver", [True, False])
def test_an_accelerator_that_is_not_used_is_said(book, tmp_path, monkeypatch, has_driver):
  exists = os.path.exists
  monkeypatch.setattr(os.path, "exists", lambda path: has_driver if "nvidia" in str(path) else exists(path))
  source = Generated("single", "train", 2, size=16, seconds=1)
  book.start(make_mesh(1), 1, 1, {}, {}, source)
  said = (tmp_path / "log.txt").read_text()
  assert ("jax uses the CPU alone, though this machine has an NVIDIA driver" in said) == has_driver


def test_a_logged_line_has_losses_norms_speed_and_time_left(book, tmp_path):
  book.begin_at(0)
  book.steps = 10
  figures = {
    "loss": 0.5,
    "bce": 0.5,
    "gradient_norm": 1.0,
    "update_norm": 0.1,
    "parameter_norm": 9.0,
    "lr": 1e-3,
  }
  book.log(1, figures, clips=4)
  with book.waiting():
    pass
  book.log(3, figures, clips=4)
  book.log(3, figures, clips=4)  # nothing new
  first, second = (tmp_path / "log.txt").read_text().splitlines()[-2:]
  assert "first step after" in first
  assert all(word in second for word in ("step 3/10 ", "loss 0.5000", "grad 1 ", "clips/s wait", "eta "))
  assert [row["step"] for row in book.rows()] == [1, 3]
  assert 0 <= book.rows()[1]["data_wait"] <= 1


def test_validation_is_written_with_its_name(book, tmp_path):
  book.begin_at(0)
  book.log_validation(4, {"iou_frame": 0.25, "fpr": 0.5, "f_at_half": 0.75, "clips": 2, "absent": None})
  row = book.rows()[-1]
  assert row["val_iou_frame"] == 0.25
  assert "val_absent" not in row
  assert "validation, own sound: iou_frame 0.2500 fpr 0.5000" in (tmp_path / "log.txt").read_text()


def test_the_curves_are_drawn_at_the_end_with_the_data_they_are_of(book, tmp_path, monkeypatch):
  captions = []
  draw = visualize.curves
  monkeypatch.setattr(
    visualize,
    "curves",
    lambda path, rows, caption: captions.append(caption) or draw(path, rows, caption=caption),
  )
  source = Generated("single", "train", 2, size=8, seconds=1)
  book.start(make_mesh(4), 1, 1, {}, {}, source)
  book.begin_at(0)
  book.write(1, {"loss": 1.0})
  book.finish()
  assert (tmp_path / "pictures" / "curves.png").stat().st_size > 1000
  assert "(stand-in)" in captions[0] and source.title in captions[0]


def test_tensorboard_has_the_scalars_under_their_names(book, tmp_path):
  book.begin_at(0)
  book.write(1, {"loss": 1.0, "val_iou_frame": 0.5})
  book.finish()
  (events,) = (tmp_path / "tensorboard").glob("events*")
  assert all(name in events.read_bytes() for name in (b"loss", b"val_iou_frame"))


def test_durations_are_told_as_a_clock_does():
  assert [duration(s) for s in (5.0, 65.0, 3605.9)] == ["0:05", "1:05", "1:00:05"]


def test_versions_name_what_computed():
  assert {"python", "jax", "flax", "optax", "orbax-checkpoint", "numpy"} <= set(versions())


def test_parameters_are_counted_by_top_level_name():
  ones = np.ones((3, 2))
  assert count_parameters({"head": {"kernel": ones, "bias": ones[0]}}) == {"head": 8}
  wrapped = {"system": {"head": {"kernel": ones}}, "guide": {"proj": {"bias": ones[0]}}}
  assert count_parameters(wrapped) == {"head": 6, "guide": 2}
