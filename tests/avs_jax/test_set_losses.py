"""Losses of a set: which query answers for what, by hand; dormant ones learn nothing, released ones do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import losses, set_losses
from avs_jax.errors import InputError
from avs_jax.types import Batch, Outputs
from configs import ms3

PAPER = ms3.get_config("active_queries").loss.to_dict()
# As the released semantic code does it.
RELEASED = {"queries": 1.0, "queries_form": "released", "queries_last": 1.0, "queries_drop": 0.3}

WEIGHTS = (5.0, 5.0, 2.0)


def make_batch(masks, annotated=None):
  clips, seconds, rows, cols = masks.shape
  full = np.ones((clips, seconds), bool)
  return Batch(
    frames=np.zeros((clips, seconds, rows, cols, 3), np.uint8),
    log_mel=np.zeros((clips, seconds, 96, 64), np.float32),
    masks=np.asarray(masks, np.int32),
    annotated=full if annotated is None else annotated,
    present=full,
    condition=np.zeros(clips, np.int32),
    index=np.arange(clips, dtype=np.int32),
  )


def halves(clips=2, seconds=2, size=8):
  masks = np.zeros((clips, seconds, size, size), np.int32)
  masks[..., : size // 2] = 1
  return masks


def make_outputs(queries=4, layers=2, classes=1, clips=2, seconds=2, seed=0, marks=None, draw=None):
  random = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(random.standard_normal(shape), jnp.float32)

  opened = np.ones((clips, seconds, queries), np.float32) if marks is None else marks
  return Outputs(
    logits=jnp.zeros((clips, seconds, 8, 8, classes)),
    query_masks=tuple(normal(clips, seconds, 4, 4, queries) for _ in range(layers)),
    query_classes=tuple(normal(clips, seconds, queries, classes + 1) for _ in range(layers)),
    marks=jnp.asarray(opened),
    draw=draw,
  )


@functools.cache
def compiled(**changes):
  return jax.jit(losses.objective({**PAPER, **changes}))


def test_binary_targets_are_what_sounds_and_unannotated_frames_have_none():
  masks = halves()
  masks[0, 1] = 0
  annotated = np.array([[True, True], [True, False]])
  targets = set_losses.targets_of(make_batch(masks, annotated), 1, 8)
  assert targets.masks.shape == (4, 8, 8, 1) and targets.labels.tolist() == [[0]] * 4
  assert targets.valid.tolist() == [[True], [False], [True], [False]]
  assert targets.judged.tolist() == [True, True, True, False]


def test_semantic_targets_are_the_largest_classes_background_included():
  masks = np.zeros((1, 1, 4, 4), np.int32)
  masks[0, 0, 0], masks[0, 0, 1, :3], masks[0, 0, 1, 3] = 5, 2, 7  # 8 background, 4, 3 and 1 pixels
  targets = set_losses.targets_of(make_batch(masks), 9, 3)
  assert targets.labels.tolist() == [[0, 5, 2]] and targets.valid.all()
  np.testing.assert_array_equal(targets.masks.sum((1, 2)), [[8, 4, 3]])
  few = set_losses.targets_of(make_batch(np.zeros((1, 1, 4, 4))), 9, 3)
  assert few.valid.tolist() == [[True, False, False]]


def test_points_are_sampled_between_cell_centres_and_zero_lies_outside():
  maps = jnp.asarray([[[[1.0], [3.0]], [[5.0], [7.0]]]])  # 2 x 2 cells, centres at 0.25 and 0.75
  points = jnp.asarray([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.0, 0.25], [0.0, 0.0]]])
  found = set_losses.sample_points(maps, points)[0, :, 0]
  np.testing.assert_allclose(found, [1, 3, 4, 0.5, 0.25])


def test_one_pair_by_hand():
  """Logit 0 on every cell: b = log 2, so focal = 0.25 * 0.25 * log 2; Dice = 1 - (2 * 0.5 * 2 + 1) / (2 + 2 + 1)."""
  focal, dice = set_losses.focal_and_dice(jnp.zeros((1, 1, 4)), jnp.asarray([[[1.0, 1, 0, 0]]]), 0.25, 2.0)
  np.testing.assert_allclose(focal, [[0.0625 * np.log(2)]], rtol=1e-6)
  np.testing.assert_allclose(dice, [[1 - 3 / 5]], rtol=1e-6)
  plain, _ = set_losses.focal_and_dice(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1, 4)), 1.0, 0.0)
  np.testing.assert_allclose(plain, [[np.log(2)]], rtol=1e-6)


def test_pair_costs_are_the_losses_of_each_pair_less_the_chance_of_its_class():
  random = np.random.default_rng(0)
  masks, classes = random.standard_normal((2, 6, 3)), random.standard_normal((2, 3, 4))
  goal, labels = random.integers(0, 2, (2, 6, 2)).astype(float), np.array([[0, 2], [1, 1]])
  found = set_losses.pair_costs(
    *map(jnp.float32, (masks, classes, goal)), jnp.asarray(labels), (3.0, 5.0, 1.0)
  )
  for n, q, m in np.ndindex(2, 3, 2):
    p, g = 1 / (1 + np.exp(-masks[n, :, q])), goal[n, :, m]
    entropy = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
    dice = 1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1)
    chance = np.exp(classes[n, q]) / np.exp(classes[n, q]).sum()
    np.testing.assert_allclose(found[n, q, m], 3 * entropy + 5 * dice - chance[labels[n, m]], rtol=1e-5)


def test_the_class_loss_asks_matched_queries_for_their_class_and_the_others_for_nothing():
  classes = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]]))
  query, labels, matched = jnp.asarray([[1]]), jnp.asarray([[0]]), jnp.asarray([[True]])
  value = set_losses.class_loss(classes, query, labels, matched, jnp.asarray([[1.0, 1.0, 0.0]]))
  expected = (-np.log(0.2) - 0.1 * np.log(0.25)) / 1.1  # the third query is left out
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_a_set_that_is_right_costs_nearly_nothing_and_the_last_layer_counts_twice():
  masks = halves()
  good = np.where(masks[:, :, ::2, ::2, None] > 0, 20.0, -20.0)
  outputs = make_outputs(queries=2)
  right = np.concatenate([good, -20.0 * np.ones_like(good)], -1)
  kinds = np.broadcast_to(np.array([[20.0, -20.0], [-20.0, 20.0]]), (2, 2, 2, 2))
  both = outputs.replace(query_masks=(jnp.float32(right),) * 2, query_classes=(jnp.float32(kinds),) * 2)
  assert float(compiled()(both, make_batch(masks))[0]) < 1e-4
  wrong = jnp.float32(-right)
  first = both.replace(query_masks=(wrong, both.query_masks[1]))
  last = both.replace(query_masks=(both.query_masks[0], wrong))
  one, two = (float(compiled()(x, make_batch(masks))[0]) for x in (first, last))
  np.testing.assert_allclose(two, 2 * one, rtol=1e-4)


def test_the_parts_add_up_and_the_order_of_clips_does_not_matter():
  outputs, batch = make_outputs(), make_batch(halves())
  total, parts = compiled()(outputs, batch)
  assert set(parts) == {"queries_focal", "queries_dice", "queries_class"}
  np.testing.assert_allclose(total, sum(parts.values()), rtol=1e-6)
  swapped = jax.tree.map(lambda x: x[::-1], (outputs, batch))
  np.testing.assert_allclose(compiled()(*swapped)[0], total, rtol=1e-5)


MARKS = np.array([[[1, 0, 1, 0], [1, 1, 0, 0]], [[1, 0, 0, 0], [1, 0, 1, 0]]], np.float32)


def slopes(weights, outputs, batch):
  def value(masks, classes):
    changed = outputs.replace(query_masks=(masks,), query_classes=(classes,))
    return losses.objective(weights)(changed, batch)[0]

  return jax.jit(jax.grad(value, argnums=(0, 1)))(outputs.query_masks[0], outputs.query_classes[0])


def test_dormant_queries_are_neither_matched_nor_classified():
  """Dormant queries paint the target perfectly; active ones get the pair and the gradient all the same."""
  batch, outputs = make_batch(halves()), make_outputs(layers=1, marks=MARKS)
  dormant = MARKS[:, :, None, None] == 0
  perfect = np.where(batch.masks[:, :, ::2, ::2, None] > 0, 9.0, -9.0)
  outputs = outputs.replace(query_masks=(jnp.where(dormant, perfect, outputs.query_masks[0]),))
  masks, classes = slopes(PAPER, outputs, batch)
  reached = np.abs(masks).max((2, 3)) > 0
  np.testing.assert_array_equal(reached.sum(-1), np.ones((2, 2)))  # one target a frame
  assert not (reached & (MARKS == 0)).any()
  np.testing.assert_array_equal(np.abs(classes).max(-1) > 0, MARKS > 0)


def test_the_released_form_matches_dormant_queries_and_teaches_them(monkeypatch):
  """The leak: seen through its mark a dormant query says 0 everywhere, which is cheaper than being wrong."""
  monkeypatch.setattr(set_losses, "POINTS", 64)
  batch = make_batch(halves())
  marks = np.clip(MARKS, 1e-6, 1 - 1e-6)
  outputs = make_outputs(layers=1, marks=marks)
  wrong = np.where(batch.masks[:, :, ::2, ::2, None] > 0, -9.0, 9.0)
  outputs = outputs.replace(query_masks=(jnp.where(MARKS[:, :, None, None] > 0, wrong, 1.0),))
  masks, classes = slopes(RELEASED, outputs, batch)
  reached = np.abs(masks).max((2, 3)) > 0
  assert not (reached & (MARKS > 0)).any() and reached.sum() == 4
  assert (np.abs(classes).max(-1) > 0).all()
  masks, _ = slopes(PAPER, outputs, batch)
  assert ((np.abs(masks).max((2, 3)) > 0) <= (MARKS > 0)).all()


def test_silence_teaches_active_queries_to_answer_for_nothing():
  outputs = make_outputs(layers=1)
  batch = make_batch(np.zeros((2, 2, 8, 8)))
  parts = compiled()(outputs, batch)[1]
  assert parts["queries_focal"] == 0 and parts["queries_dice"] == 0 and parts["queries_class"] > 0
  masks, classes = slopes(PAPER, outputs, batch)
  assert not masks.any() and (np.asarray(classes)[..., -1] < 0).all()


def test_the_best_learned_share_of_the_pairs_is_easy():
  focal = jnp.asarray([[0.5, 0.1], [0.3, 0.2], [0.4, 0.0]])
  matched = jnp.asarray([[True, True], [True, True], [True, False]])
  easy = set_losses.easy_pairs(focal, matched)  # 2/5 of five pairs
  assert easy.tolist() == [[False, True], [False, True], [False, False]]


def test_a_dropped_pair_leaves_all_three_losses_and_dropping_is_for_training_alone():
  random = np.random.default_rng(0)
  masks, classes = (jnp.float32(random.standard_normal(shape)) for shape in ((5, 4, 4, 1), (5, 1, 2)))
  targets = set_losses.targets_of(make_batch(halves(5, 1)), 1, 8)
  active = jnp.ones((5, 1), bool)
  layer = jax.jit(lambda masks, classes, luck, drop: set_losses.paper_layer(
    masks, classes, active, targets, WEIGHTS, drop, luck), static_argnums=3)  # fmt: skip
  low, high = jnp.zeros((5, 1)), jnp.ones((5, 1))
  kept, dropped = layer(masks, classes, high, 0.4), layer(masks, classes, low, 0.4)
  assert all(np.allclose(kept[name], layer(masks, classes, None, 0.4)[name]) for name in kept)

  def reached(luck):
    slope = jax.grad(lambda m, c: sum(layer(m, c, luck, 0.4).values()), argnums=(0, 1))(masks, classes)
    return [np.abs(x).reshape(5, -1).max(1) > 0 for x in slope]

  for of_masks, of_classes in (reached(low),):
    np.testing.assert_array_equal(of_masks, of_classes)
    assert of_masks.sum() == 3  # floor(0.4 * 5) of five are gone
  assert dropped["focal"] < kept["focal"]


def test_training_draws_by_frame_and_other_draws_change_the_loss():
  outputs, batch = make_outputs(clips=5, seconds=2), make_batch(halves(5))
  draw = jnp.arange(10, dtype=jnp.uint32).reshape(5, 2)
  values = [compiled(queries_drop=0.9)(outputs.replace(draw=x), batch)[0] for x in (draw, draw, draw + 50)]
  assert values[0] == values[1] != values[2]


def test_the_loss_of_a_set_needs_a_system_that_predicts_one_and_a_form_that_exists():
  with pytest.raises(InputError, match="predicts no set; set it to 0 or choose 'active_queries'"):
    losses.objective(PAPER)(Outputs(logits=np.zeros((2, 2, 8, 8, 1))), make_batch(halves()))
  with pytest.raises(
    InputError, match="loss.queries_form='soft' is not known; choose one of paper, released"
  ):
    losses.objective({**PAPER, "queries_form": "soft"})


@pytest.mark.parametrize(("form", "last", "drop"), [("paper", 2.0, 0.4), ("released", 1.0, 0.3)])
def test_one_word_chooses_the_form_with_its_weights(form, last, drop):
  given = ms3.get_config("active_queries").loss
  with given.unlocked():
    given.queries_form = form
  chosen = losses.settings(given.to_dict())
  assert (chosen["queries_last"], chosen["queries_drop"]) == (last, drop)
  assert losses.settings({**given.to_dict(), "queries_drop": 0.0})["queries_drop"] == 0
