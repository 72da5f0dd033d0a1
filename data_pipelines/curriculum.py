"""The order of an epoch: clips shuffled all together, or part after part of the data set, from easy to hard.

BiasAVS trains AVSS on V1S, then V2, then V1M (appendix B.3). Whether epochs go through all three or training as a
whole does is not said; its code chains the parts within every epoch, V2 last. Here: within every epoch, in the
order that `data.curriculum` names.
"""

import logging
from collections.abc import Sequence

import grain
import numpy as np

from avs_jax.errors import InputError
from data_pipelines.clips import PAIR, Source

SINGLE, SEVERAL = "v1s", "v1m"  # parts of a stand-in: clips of one object, and of more

log = logging.getLogger(__name__)


def epoch(source: Source, names: Sequence[str], seed: int) -> grain.MapDataset:
  """Every clip's index once; repeated, it is shuffled anew each time, within the parts where `names` order them.

  Args:
    names: parts in the order in which they come; none shuffles all clips together.

  Raises:
    InputError: as `split`.
  """
  if not names:
    return grain.MapDataset.range(len(source)).seed(seed).shuffle()
  found = [indices for indices in split(source, names) if len(indices)]
  return grain.MapDataset.concatenate(
    [grain.MapDataset.source(indices).seed(seed).shuffle() for indices in found]
  )


def split(source: Source, names: Sequence[str]) -> list[np.ndarray]:
  """The indices of each part's clips, in the order of `names`; a part that the data lack is empty, and logged.

  Raises:
    InputError: a name is given twice, the data have no parts, or one that is not named.
  """
  if len(set(names)) < len(names):
    raise InputError(f"data.curriculum={tuple(names)} names a part twice.")
  parts = np.array(parts_of(source))
  unnamed = sorted(set(parts.tolist()) - set(names))
  if unnamed:
    raise InputError(
      f"data.curriculum={tuple(names)}: {source.title} has clips of {', '.join(unnamed)} too; name every part."
    )
  found = [np.flatnonzero(parts == name) for name in names]
  lacking = [name for name, indices in zip(names, found, strict=True) if not len(indices)]
  if lacking:
    log.warning("data.curriculum: %s has no clips of %s", source.title, ", ".join(lacking))
  return found


def parts_of(source: Source) -> tuple[str, ...]:
  """Each clip's part: AVSS's column `label`; of a stand-in, by whether the clip shows one object or several.

  Raises:
    InputError: the data do not say.
  """
  known = getattr(source, "parts", None)
  if known:
    return tuple(known[: len(source)])
  if source.is_stand_in:
    return tuple(SINGLE if _is_lone(source, i) else SEVERAL for i in range(len(source)))
  raise InputError(
    f"data.curriculum: {source.title} does not say which part its clips are of; AVSS does (a copy that was packed"
    " by an earlier version has to be packed again). Set data.curriculum=() to shuffle all clips together."
  )


def _is_lone(source: Source, index: int) -> bool:
  """Whether the clip shows one object; two of a kind have one category."""
  kinds = getattr(source, "kinds", None)
  return len(source.objects(index)) == 1 and (kinds is None or PAIR not in kinds(index))
