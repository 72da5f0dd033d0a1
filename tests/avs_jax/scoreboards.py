"""Figures of small random masks, and the record beside them, for tests of scoreboards."""

import numpy as np

from avs_jax import metrics

RECORD = {
  "title": "robust run", "data_set": "generated multi-source clips (stand-in)", "is_stand_in": True,
  "split": "test", "clips": 3, "config": {"model": {"system": "avsbench"}}, "weights_digest": "abc123def456ffff",
  "seed": 7,
}  # fmt: skip


def figures(seed: int, loud: bool = True) -> dict:
  rng = np.random.default_rng(seed)
  masks = np.random.default_rng(0).random((3, 5, 8, 8)) > 0.7
  logits = rng.standard_normal((3, 5, 8, 8)).astype(np.float32) + (2 * masks if loud else -4)
  tally = metrics.Tally()
  counts = metrics.frame_counts(logits.reshape(15, 8, 8), masks.reshape(15, 8, 8))
  tally.add(counts, np.arange(3), np.ones((3, 5), bool))
  return metrics.summarise(tally)


def four(seed: int = 0) -> dict:
  names = ("positive", "silence", "noise", "offscreen")
  return {name: figures(i + 10 * seed, name == "positive") for i, name in enumerate(names)}
