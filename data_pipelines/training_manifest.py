"""Which clips get another sound in training, epoch by epoch, as CSV beside the run's checkpoints.

The pairs are drawn again here, from `Negatives.draw`: a pure function of seed, epoch and clip, which the data workers
call too. Only clips whose sound is replaced have a row; the file has the columns of `negatives.Row`.
What the file cannot know: a clip that cannot be read is shown as the next one, with that one's sound, and a donor
that cannot be read is drawn again. The log names both.
"""

import os

from data_pipelines.clips import Source
from data_pipelines.negatives import (
  CONDITIONS,
  POSITIVE,
  Negatives,
  Row,
  add_to_manifest,
  whole,
  write_manifest,
)

SPLIT = "train"


def drawn(negatives: Negatives, source: Source, epoch: int) -> list[Row]:
  """The clips of an epoch that get another sound, in the order of the split."""
  rows, ids = [], whole(source).ids
  for index, clip in enumerate(source.ids):
    pair = negatives.draw(epoch, index, source)
    if pair.condition != POSITIVE:
      donor = ids[pair.donor] if pair.donor >= 0 else ""
      rows.append(Row(SPLIT, epoch, clip, CONDITIONS[pair.condition], donor, pair.kind, negatives.seed))
  return rows


class TrainingManifest:
  """The file of one run; told of every step, it grows by an epoch whenever one begins.

  A run that goes on from a checkpoint writes the epochs so far anew: none is there twice, and none of the steps that
  it has lost.

  Args:
    folder: of the run.
    negatives: of training; None writes nothing.
    batch: clips in a step, over all hosts.
    is_writer: whether this process writes; the others would write the same.
  """

  NAME = "train_manifest.csv"

  def __init__(
    self, folder: str, negatives: Negatives | None, source: Source, batch: int, *, is_writer: bool = True
  ):
    self.path, self.negatives = os.path.join(folder, self.NAME), negatives if is_writer else None
    self.source, self.batch, self.epochs = source, batch, 0

  def begin(self, step: int) -> None:
    """Step `step`, counted from 1, is about to be made: adds the epochs that its batch is the first to touch."""
    begun = (step * self.batch - 1) // len(self.source) + 1
    if self.negatives is None or begun == self.epochs:
      return
    rows = [row for epoch in range(self.epochs, begun) for row in drawn(self.negatives, self.source, epoch)]
    (add_to_manifest if self.epochs else write_manifest)(self.path, rows)
    self.epochs = begun
