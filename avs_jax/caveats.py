"""What a reader must know before a scoreboard's figures."""

from collections.abc import Iterable, Mapping
from typing import Any

from avs_jax import weight_origin


def warnings(record: Mapping[str, Any]) -> list[str]:
  """What a reader must know before the figures: a sentence each."""
  config = record.get("config") or {}
  found = []
  if record.get("is_stand_in"):
    found.append(
      f"STAND-IN DATA: measured on {record.get('data_set')}; these figures say nothing of a published data set."
    )
  if record.get("missing_clips"):
    found.append(
      f"NOT THE WHOLE SPLIT: {record['missing_clips']}; not comparable with figures of all its clips."
    )
  if config.get("negatives", {}).get("front_end") == "as_published":
    found.append(
      "TELL-TALE FORMAT: silence, noise and off-screen sounds have another front end than own sounds"
      " (negatives.front_end=as_published), so a model can tell them apart by their format alone."
    )
  if config.get("eval", {}).get("negative_audio") == "any":
    found.append(
      "UNKNOWN OBJECTS: where no clip of the split names its objects, off-screen sounds are any other clip's"
      " (eval.negative_audio=any) and may belong to the picture; not comparable with published figures."
    )
  if config.get("marks", {}).get("kind") == "file":
    found.append(
      "TELL-TALE MARKS: marks of files are those of a clip's own sound; silence, noise and off-screen sound open"
      " query 0 alone (marks.kind=file) and can be told by that, and an own sound under noise keeps its clean marks."
    )
  if config.get("debias", {}).get("gate"):
    found.append(
      "GATED: in seconds whose sound the guide finds likelier to come from elsewhere the mask is emptied, and its"
      " probability is the less the less it agrees (debias.gate=True); the columns ..._ungated are of the masks alone."
    )
  return found + weight_origin.untaught(config)


def mixed(records: Iterable[Mapping[str, Any]]) -> list[str]:
  """What a reader must know before figures of several scoreboards side by side: a sentence each.

  A scoreboard of before these were written down has its size in its config, and of its sounds nothing.
  """
  records = list(records)
  sizes = {r.get("size") or r.get("config", {}).get("data", {}).get("size") for r in records} - {None}
  sounds = {r["negatives"] for r in records if r.get("negatives")}
  found = []
  if len(sizes) > 1:
    found.append(
      f"SEVERAL SIZES: masks are judged at {', '.join(map(str, sorted(sizes)))} px; compare within a size."
    )
  if len(sounds) > 1:
    found.append(
      f"SEVERAL SOUNDS: negative sounds are {' and '.join(sorted(sounds))}; compare within one of them."
    )
  return found
