"""The file says of every training clip what the batches held, whatever the batch size and however often resumed."""

import numpy as np
import pytest

from data_pipelines.generated import Generated
from data_pipelines.loader import train_batches
from data_pipelines.negatives import CONDITIONS, OFFSCREEN, POSITIVE, Negatives, read_manifest
from data_pipelines.training_manifest import TrainingManifest

CLIPS = 10


@pytest.fixture(scope="module")
def source():
  return Generated("single", "train", CLIPS, size=16, seconds=2)


@pytest.mark.parametrize(("batch", "steps"), [(4, 8), (25, 1)])
def test_it_says_what_the_batches_held(source, tmp_path, batch, steps):
  negatives = Negatives(0.6, seed=3)
  batches = train_batches(source, batch=batch, seed=1, negatives=negatives, waveform=True)
  written, held = TrainingManifest(str(tmp_path), negatives, source, batch), []
  for step in range(1, steps + 1):
    written.begin(step)
    rows = batches[step - 1]
    for place, (index, condition) in enumerate(zip(rows["index"], rows["condition"], strict=True)):
      epoch = ((step - 1) * batch + place) // CLIPS
      held.append((epoch, int(index), int(condition), rows["waveform"][place].reshape(-1)))
  listed = {(row.epoch, row.clip): row for row in read_manifest(tmp_path / TrainingManifest.NAME)}
  whole_epochs = held[: len(held) // CLIPS * CLIPS]  # the last one may have begun only
  replaced = {
    (epoch, source.ids[index]) for epoch, index, condition, _ in whole_epochs if condition != POSITIVE
  }
  assert replaced == {key for key in listed if key[0] < len(held) // CLIPS} and len(replaced) > CLIPS
  for epoch, index, condition, wave in held:
    row = listed.get((epoch, source.ids[index]))
    assert CONDITIONS[condition] == (row.condition if row else "positive")
    if condition == OFFSCREEN:
      np.testing.assert_array_equal(wave, source.sound(source.ids.index(row.donor)))


def test_an_epoch_is_added_when_it_begins_and_a_resumed_run_repeats_none(source, tmp_path):
  def epochs():
    return sorted({row.epoch for row in read_manifest(tmp_path / TrainingManifest.NAME)})

  def run(begin, end):
    written = TrainingManifest(str(tmp_path), Negatives(1.0), source, 4)
    for step in range(begin + 1, end + 1):
      written.begin(step)

  run(0, 2)
  assert epochs() == [0]
  run(2, 3)  # rows 8 to 11 of clips 0 to 9
  assert epochs() == [0, 1]
  run(0, 13)
  whole = (tmp_path / TrainingManifest.NAME).read_text()
  assert epochs() == list(range(6)) and len(whole.splitlines()) == 1 + 6 * CLIPS
  for begin in (4, 7, 12):  # the steps after the checkpoint are lost, and what was written of them
    run(begin, 13)
    assert (tmp_path / TrainingManifest.NAME).read_text() == whole


def test_nothing_is_written_without_negatives_or_by_another_process(source, tmp_path):
  TrainingManifest(str(tmp_path), None, source, 4).begin(1)
  TrainingManifest(str(tmp_path), Negatives(1.0), source, 4, is_writer=False).begin(1)
  assert not list(tmp_path.iterdir())
