"""In-batch mismatches: every sound of a batch against every picture that it cannot come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax.debias.guide import mismatch_loss
from avs_jax.errors import InputError
from avs_jax.types import Outputs

RANDOM = np.random.default_rng(0)


def says(similarity):
  similarity = jnp.asarray(similarity, jnp.float32)
  return Outputs(logits=np.zeros((*similarity.shape, 1, 1, 1), np.float32), similarity=similarity)


MUSIC, HUMAN = [True, True, False], [False, False, True]  # categories guitar, drum, speaker
GROUPS = ("music", "music", "human")


def mixed(pairs, visible, sounding, present=None):
  sounding = np.asarray(sounding)
  clips, seconds = sounding.shape[:2]
  batch = pairs(np.ones((clips, seconds), bool) if present is None else present, [0] * clips)
  return batch.replace(visible=np.asarray(visible), sounding=sounding)


def embedded(seen, heard):
  seen = jnp.asarray(seen, jnp.float32)[:, :, None]
  heard = jnp.asarray(heard, jnp.float32)
  return says(np.zeros(heard.shape[:2])).replace(seen_embedding=seen, heard_embedding=heard)


def test_only_sounds_of_another_group_are_mismatches(pairs):
  guitar, drum, speaker = np.eye(3, dtype=bool)
  batch = mixed(pairs, [guitar, drum, speaker], [[guitar], [drum], [speaker]])
  seen = [[[1.0, 0]], [[2, 0]], [[0, 1]]]
  heard = [[[1.0, 0]], [[1, 1]], [[3, -1]]]
  # Pictures 0 and 1 with sound 2: logits 3 and 6. Picture 2 with sounds 0 and 1: 0 and 1.
  expected = np.mean(np.log1p(np.exp([3, 6, 0, 1])))
  np.testing.assert_allclose(mismatch_loss(embedded(seen, heard), batch, GROUPS), expected, rtol=1e-5)
  # Category by category a drum is no guitar: logits 1 (0 with 1) and 2 (1 with 0) come in.
  finer = np.mean(np.log1p(np.exp([3, 6, 0, 1, 1, 2])))
  np.testing.assert_allclose(mismatch_loss(embedded(seen, heard), batch, "abc"), finer, rtol=1e-5)


def test_silence_and_noise_match_no_picture_and_padding_counts_for_nothing(pairs):
  nothing, guitar, drum = np.zeros(3, bool), *np.eye(3, dtype=bool)[:2]
  batch = mixed(pairs, [guitar, drum], [[guitar, guitar], [nothing, nothing]], [[True, True], [True, False]])
  seen, heard = np.ones((2, 2, 1)), np.array([[[5.0], [5.0]], [[2.0], [7.0]]])
  # Picture 0 with the silent second of clip 1 is left; its second second is padding.
  np.testing.assert_allclose(
    mismatch_loss(embedded(seen, heard), batch, GROUPS), np.log1p(np.exp(2)), rtol=1e-5
  )
  alike = mixed(pairs, [guitar, drum], [[guitar], [drum]])
  assert mismatch_loss(embedded(seen[:, :1], heard[:, :1]), alike, GROUPS) == 0


def test_mismatches_need_categories_and_a_guide_of_embeddings(pairs):
  batch = mixed(pairs, [MUSIC], [[MUSIC]])
  with pytest.raises(InputError, match="debias.mismatch needs a guide that is a product of embeddings"):
    mismatch_loss(says([[1.0]]), batch, GROUPS)
  with pytest.raises(InputError, match="this data set names no categories"):
    mismatch_loss(embedded([[[1.0]]], [[[1.0]]]), pairs([[True]], [0]), GROUPS)


def test_mismatches_are_the_same_dealt_over_devices(pairs):
  from avs_jax import mesh as meshes

  visible = np.eye(3, dtype=bool)[[0, 1, 2, 2, 0, 2, 1, 0]]
  batch = mixed(pairs, visible, visible[:, None])
  outputs = embedded(RANDOM.standard_normal((8, 1, 4)), RANDOM.standard_normal((8, 1, 4)))
  mesh = meshes.make_mesh(8)
  dealt = meshes.put_batch(mesh, (outputs, batch))
  loss = jax.jit(lambda both: mismatch_loss(*both, GROUPS))(dealt)
  np.testing.assert_allclose(loss, mismatch_loss(outputs, batch, GROUPS), rtol=1e-5)
