"""The released criterion gives the published losses, draw by draw, and matches the pairs that were published."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import set_losses
from avs_jax.fusion.semantic_queries import released_marks

pytestmark = [pytest.mark.golden]

ACTIVE = ([0, 7, 21, 45], [0, 3, 51, 99])
BOXES = (
  ((20, 120, 30, 100), (100, 200, 120, 210), (0, 60, 150, 224)),
  ((50, 180, 40, 160), (150, 224, 0, 90), None),
)
LABELS = np.array([[1, 5, 30], [70, 0, 0]], np.int32)
VALID = np.array([[True, True, True], [True, True, False]])
LOUDER = (
  (0, 7, 0, 4),
  (0, 21, 1, 4),
  (0, 45, 2, 4),
  (0, 10, 0, 8),
  (1, 3, 0, 4),
  (1, 51, 1, 4),
  (1, 20, 0, 8),
)  # fmt: skip  image, query, target, amplitude
PLAIN, FOCAL = (1.0, 0.0), (0.5, 2.0)


@pytest.fixture(scope="module")
def inputs(rule):
  marks = np.zeros((2, 100), np.float32)
  for row, active in zip(marks, ACTIVE, strict=True):
    row[active] = 1
  masks = np.zeros((2, 224, 224, 3), np.float32)
  for image, boxes in enumerate(BOXES):
    for slot, box in enumerate(boxes):
      if box:
        masks[image, box[0] : box[1], box[2] : box[3], slot] = 1
  targets = set_losses.Targets(*map(jnp.asarray, (masks, LABELS, VALID, np.ones(2, bool))))

  def logits(prefix, informed):
    drawn = np.moveaxis(rule.array(f"d.{prefix}mask_logits", (2, 100, 56, 56)), 1, -1)
    if informed and not prefix:
      for image, query, target, louder in LOUDER:
        drawn[image, :, :, query] += louder * (2 * masks[image, ::4, ::4, target] - 1)
    return jnp.asarray(drawn), jnp.asarray(rule.array(f"d.{prefix}class_logits", (2, 100, 151)))

  return released_marks(jnp.asarray(marks)), targets, logits


def draws_of(rule, tag, layer, pairs, is_train):
  """The upstream draws of one prediction, put into the slots of the targets they were made for."""

  def fraction(name, shape):
    drawn = rule.array(f"{tag}.{name}", shape)
    return drawn - np.floor(drawn)

  first = 4 * layer
  match = np.concatenate([fraction(f"rand{first + i}", (1, 12544, 2)) for i in range(2)])
  candidates, extra = fraction(f"rand{first + 2}", (5, 37632, 2)), fraction(f"rand{first + 3}", (5, 3136, 2))
  slots = [(image, target) for image, (_, goals) in enumerate(pairs) for target in goals]
  wide, more, luck = np.zeros((2, 3, 37632, 2)), np.zeros((2, 3, 3136, 2)), np.ones((2, 3))
  fortune = 1 - fraction(f"bern{layer}", (5,)) if is_train else np.ones(5)
  for place, slot in enumerate(slots):
    wide[slot], more[slot], luck[slot] = candidates[place], extra[place], fortune[place]
  found = (match, wide, more, luck if is_train else None)
  return set_losses.Draws(*(None if x is None else jnp.asarray(x, jnp.float32) for x in found))


@functools.cache
def compiled(focal):
  layer = functools.partial(set_losses.released_layer, weights=(1.0, 1.0, 1.0), drop=0.3, focal=focal)
  return jax.jit(
    lambda masks, classes, marks, targets, draws: layer(masks, classes, marks, targets, draws=draws)
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("code", "case"),
  [
    ("AVS", "noise"),
    ("AVS", "informed"),
    ("AVSS", "noise"),
    ("AVSS", "noise.train"),
    ("AVSS", "informed"),
    ("AVSS", "informed.train"),
  ],
)
def test_each_published_loss_is_reproduced(golden, rule, inputs, code, case):
  """float32 sums over 12,544 points in another order: 1e-4."""
  marks, targets, logits = inputs
  kept = np.load(golden(f"bias_avs/d_loss_{code}.npz"))
  notes = json.loads(golden(f"bias_avs/d_loss_{code}.json").read_text())[f"d.{case}"]
  layer = compiled(PLAIN if code == "AVS" else FOCAL)
  total = 0.0
  for number, (prefix, suffix) in enumerate((("", ""), ("aux_", "_0"))):
    pairs, is_train = notes["pairs"][number], case.endswith("train")
    draws = draws_of(rule, f"d.{case}", number, pairs, is_train)
    found = layer(*logits(prefix, "informed" in case), marks, targets, draws)
    for name, theirs in (("focal", "mask"), ("dice", "dice"), ("class", "cross_entropy")):
      expected = kept[f"{case}.loss_{theirs}{suffix}"][0]
      np.testing.assert_allclose(found[name], expected, rtol=1e-4, err_msg=f"{name}{suffix}")
    total += 5 * found["focal"] + 5 * found["dice"] + 2 * found["class"]
  np.testing.assert_allclose(total, kept[f"{case}.weighted_total"][0], rtol=1e-4)


@pytest.mark.parametrize("case", ["noise", "informed"])
def test_dormant_queries_are_matched_as_published_where_active_ones_are_wrong(golden, rule, inputs, case):
  """The leak: a dormant query shows a logit of 0, which costs less than an active one that is wrong."""
  marks, targets, logits = inputs
  notes = json.loads(golden("bias_avs/d_loss_AVSS.json").read_text())[f"d.{case}"]
  masks, classes = logits("", case == "informed")
  points = jnp.asarray(draws_of(rule, f"d.{case}", 0, notes["pairs"][0], False).match)
  goal = set_losses.sample_points(targets.masks, points)

  def pairs(seen):
    cost = set_losses.pair_costs(seen, classes, goal, targets.labels, (5.0, 5.0, 1.0))
    query, matched = jax.device_get(set_losses.assign(cost, None, targets.valid))
    every = [
      sorted((int(q), m) for m, q in enumerate(row) if ok[m]) for row, ok in zip(query, matched, strict=True)
    ]
    return [[[q for q, _ in row], [m for _, m in row]] for row in every]

  found = pairs(set_losses.sample_points(masks * marks[:, None, None], points))
  assert found == notes["pairs"][0]
  dormant = [[q for q in row[0] if q not in ACTIVE[image]] for image, row in enumerate(found)]
  assert all(dormant) == (case == "noise")
  assert pairs(set_losses.sample_points(masks, points)) == notes["pairs_if_marks_were_ignored"]
