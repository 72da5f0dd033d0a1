"""Clips of one kind are scored by themselves beside all clips, and get rows of their own in the scoreboard."""

import numpy as np

from avs_jax import evaluate, mesh, report
from avs_jax.types import Outputs
from data_pipelines.generated import Generated

SIDE = 8


def rows(first: int):
  """Two clips of a second; half of every picture sounds."""
  masks = np.zeros((2, 1, SIDE, SIDE), np.int32)
  masks[..., :4] = 1
  return {
    "frames": np.zeros((2, 1, SIDE, SIDE, 3), np.uint8),
    "log_mel": np.zeros((2, 1, 96, 64), np.float32),
    "masks": masks,
    "annotated": np.ones((2, 1), bool),
    "present": np.ones((2, 1), bool),
    "condition": np.zeros(2, np.int32),
    "index": np.arange(first, first + 2, dtype=np.int32),
  }


def predict(variables, batch):
  """Right for even clips, empty for odd ones; with groups to be drawn."""
  right = np.asarray(batch.index) % 2 == 0
  logits = np.where(right[:, None, None, None] & (np.asarray(batch.masks) > 0), 9.0, -9.0)
  groups = np.zeros((2, 1, 2, 2), np.int32)
  agreement = np.asarray(batch.index, np.float32).reshape(2, 1, 1)
  return Outputs(logits[..., None].astype(np.float32), groups=groups, group_agreement=agreement)


def test_parts_are_scored_apart_and_evidence_is_kept_of_the_pictured_clips():
  one = mesh.make_mesh(1)
  seen = evaluate.judge(
    predict,
    evaluate.make_count(one),
    {},
    [rows(0), rows(2)],
    one,
    keep=(3,),
    parts={"pair": [0, 2], "switch": [1]},
  )
  assert abs(seen.figures["iou_frame"] - 0.5) < 1e-6 and seen.figures["clips"] == 4
  assert abs(seen.parts["pair"]["iou_frame"] - 1) < 1e-6 and seen.parts["pair"]["clips"] == 2
  assert abs(seen.parts["switch"]["iou_frame"]) < 1e-6 and seen.parts["switch"]["clips"] == 1
  assert list(seen.evidence) == [3] and seen.evidence[3]["group_agreement"].item() == 3
  header, table = report.table(
    {"positive": seen.figures, **{f"positive_{name}": part for name, part in seen.parts.items()}}
  )
  said = {row[0]: row[header.index("iou_frame")] for row in table}
  assert said["own sound, two of a kind"].startswith("1.0") and "own sound, where sounds come and go" in said


def test_a_kind_that_all_clips_share_is_no_part():
  source = Generated("vpo_msmi", "test", 40, size=8, seconds=3)
  found = evaluate.clips_by_kind(source)
  assert set(found) == {"pair", "switch"} and not set(found["pair"]) & set(found["switch"])
  assert evaluate.clips_by_kind(Generated("vpo_ss", "test", 4, size=8)) == {}
  assert evaluate.clips_by_kind([]) == {}
