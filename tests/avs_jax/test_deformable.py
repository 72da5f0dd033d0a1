"""Deformable attention agrees with values worked out by hand, in both of its forms."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax.deformable import FORMS, MSDeformAttn
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from tests.conftest import JAXLIB

FORM = pytest.mark.parametrize("form", FORMS)
# The compiler's own defaults, which tests/conftest.py changes.
AS_USERS_HAVE_IT = {"xla_backend_optimization_level": 3}
if JAXLIB < (0, 11):
  AS_USERS_HAVE_IT["xla_cpu_use_fusion_emitters"] = True
if JAXLIB < (0, 12):
  AS_USERS_HAVE_IT["xla_cpu_parallel_codegen_split_count"] = 32


def sample(form, maps, places, weights=None):
  """One frame, one head, one channel: samples of `maps` (rows of numbers, a level each) at `places` [L, P, 2]."""
  maps = [np.asarray(level, np.float32) for level in maps]
  value = np.concatenate([level.reshape(-1) for level in maps]).reshape(1, -1, 1, 1)
  places = np.asarray(places, np.float32)[None, None, None]  # [N, q, M, L, P, 2]
  weights = np.ones(places.shape[:-1]) if weights is None else np.asarray(weights)[None, None, None]
  sizes = tuple(level.shape for level in maps)
  out = FORMS[form](
    *map(jnp.asarray, (value,)), sizes, jnp.asarray(places), jnp.asarray(weights, jnp.float32)
  )
  assert out.shape == (1, 1, 1, 1)
  return float(out[0, 0, 0, 0])


@FORM
@pytest.mark.parametrize(
  "place,expected",
  [
    ((0.5, 0.5), 8.0),  # the centre of the only cell
    ((0.25, 0.5), 6.0),  # a quarter of a cell to the left: a quarter of the weight lies outside
    ((0.0, 0.5), 4.0),  # its left border
    ((0.0, 0.0), 2.0),  # its corner: three of four neighbours are outside
    ((1.0, 1.0), 2.0),
    ((1.5, 0.5), 0.0),  # a whole cell outside
    ((-0.5, 0.5), 0.0),
    ((0.5, 7.0), 0.0),
    ((-90.0, 1e9), 0.0),
  ],
)
def test_one_cell_fades_to_zero_across_its_border(form, place, expected):
  assert sample(form, [[[8.0]]], [[place]]) == pytest.approx(expected, abs=1e-6)


@FORM
@pytest.mark.parametrize(
  "place,expected",
  [
    ((1 / 6, 1 / 4), 1.0),  # the centre of the top-left cell
    ((3 / 6, 1 / 4), 2.0),
    ((5 / 6, 3 / 4), 6.0),
    ((2 / 6, 1 / 4), 1.5),  # between two columns
    ((1 / 6, 1 / 2), 2.5),  # between two rows
    ((1 / 3, 1 / 2), 3.0),  # where four cells meet
    ((0.25 / 3, 0.5), 0.75 * 2.5),  # a quarter of a cell left of the first column, between two rows
    ((1.0, 1 / 2), 0.5 * 4.5),  # on the right border
    ((1 / 3, 1.0), 0.5 * 4.5),  # on the lower border
    ((1.0, 0.0), 0.25 * 3.0),
  ],
)
def test_a_map_of_two_rows_and_three_columns_by_hand(form, place, expected):
  assert sample(form, [[[1, 2, 3], [4, 5, 6]]], [[place]]) == pytest.approx(expected, abs=1e-5)


@FORM
def test_points_of_all_levels_add_up_with_their_weights(form):
  maps = [[[1, 2], [3, 4]], [[10.0]]]
  places = [[(0.25, 0.25), (0.75, 0.75)], [(0.5, 0.5), (0.0, 0.5)]]
  weights = [[0.1, 0.2], [0.3, 0.4]]
  assert sample(form, maps, places, weights) == pytest.approx(0.1 * 1 + 0.2 * 4 + 0.3 * 10 + 0.4 * 5)


def random_inputs(seed=0, sizes=((5, 7), (3, 4), (1, 2))):
  draw = np.random.default_rng(seed)
  cells = sum(rows * cols for rows, cols in sizes)
  value = draw.standard_normal((2, cells, 3, 4)).astype(np.float32)
  places = draw.uniform(-0.4, 1.4, (2, 6, 3, len(sizes), 2, 2)).astype(np.float32)
  weights = draw.uniform(0, 1, (2, 6, 3, len(sizes), 2)).astype(np.float32)
  return value, sizes, places, weights


def test_the_packed_form_equals_the_plain_one_forward_and_backward():
  value, sizes, places, weights = random_inputs()
  found = {}
  for form, function in FORMS.items():

    def total(value, places, weights, function=function):
      out = function(value, sizes, places, weights)
      return jnp.sin(out).sum(), out

    slopes, out = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(value, places, weights)
    found[form] = (out, *slopes)
  for packed, plain in zip(found["packed"], found["plain"], strict=True):
    np.testing.assert_allclose(packed, plain, rtol=1e-4, atol=1e-5)


def test_sampling_equals_a_slow_loop_over_points():
  value, sizes, places, weights = random_inputs(3)
  expected = np.zeros((2, 6, 3, 4))
  start = 0
  for level, (rows, cols) in enumerate(sizes):
    cells = value[:, start : start + rows * cols].reshape(2, rows, cols, 3, 4)
    start += rows * cols
    for n, q, m, p in np.ndindex(2, 6, 3, 2):
      x, y = places[n, q, m, level, p] * (cols, rows) - 0.5
      for row, col in np.ndindex(rows, cols):
        near = max(0, 1 - abs(x - col)) * max(0, 1 - abs(y - row))
        expected[n, q, m] += near * weights[n, q, m, level, p] * cells[n, row, col, m]
  for function in FORMS.values():
    out = function(jnp.asarray(value), sizes, jnp.asarray(places), jnp.asarray(weights))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@FORM
def test_gradients_stay_finite_far_outside_and_for_places_that_are_no_numbers(form):
  value, sizes, places, weights = random_inputs()
  places[0, 0] = 1e30
  slope = jax.jit(jax.grad(lambda *a: FORMS[form](a[0], sizes, a[1], a[2]).sum(), (0, 1, 2)))
  slopes = slope(value, places, weights)
  assert all(np.isfinite(slope).all() for slope in slopes)
  places[0, 0] = np.nan  # a diverged model reads no memory that is not its own
  out = FORMS[form](jnp.asarray(value), sizes, jnp.asarray(places), jnp.asarray(weights))
  assert np.isfinite(out[1]).all() and out.shape == (2, 6, 3, 4)


SMALL = {"width": 16, "levels": 2, "heads": 4, "points": 3}
SIZES = ((4, 6), (2, 3))


def small(seed=0, **settings):
  module = MSDeformAttn(**{**SMALL, **settings})
  draw = np.random.default_rng(seed)
  query, value = (jnp.asarray(draw.standard_normal((2, n, 16)), jnp.float32) for n in (5, 30))
  reference = jnp.asarray(draw.uniform(0, 1, (2, 5, 2, 2)), jnp.float32)
  variables = initialise(module, query, reference, value, SIZES, seed=0)
  return module, variables, query, reference, value


def test_shapes_and_dtypes_follow_the_query():
  module, variables, *inputs = small()
  out = module.apply(variables, *inputs, SIZES)
  assert out.shape == (2, 5, 16) and out.dtype == jnp.float32
  half = MSDeformAttn(**SMALL, dtype=jnp.bfloat16)
  assert jax.eval_shape(lambda v: half.apply(v, *inputs, SIZES), variables).dtype == jnp.bfloat16
  offsets = module.apply(variables, inputs[0], method="offsets")
  assert offsets.shape == (2, 5, 4, 2, 3, 2)
  assert module.apply(variables, inputs[0], method="weigh").shape == (2, 5, 4, 2, 3)


def test_weights_of_a_head_add_up_to_one():
  module, variables, query, *_ = small()
  variables = jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), variables)
  weights = module.apply(variables, query, method="weigh")
  np.testing.assert_allclose(weights.sum((-2, -1)), 1, rtol=1e-5)


def test_points_start_on_squares_around_the_reference():
  _, variables, *_ = small()
  offsets = np.asarray(variables["params"]["sampling_offsets"]["bias"]).reshape(4, 2, 3, 2)
  for head, direction in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
    for point in range(3):
      expected = np.tile(np.multiply(direction, point + 1), (2, 1))
      np.testing.assert_allclose(offsets[head, :, point], expected, atol=1e-6)
  eight = MSDeformAttn(width=16, levels=1, heads=8, points=1)
  token, place = jnp.zeros((1, 1, 16)), jnp.zeros((1, 1, 1, 2))
  variables = initialise(eight, token, place, token, [(1, 1)], seed=0)
  diagonal = np.asarray(variables["params"]["sampling_offsets"]["bias"]).reshape(8, 2)[1]
  np.testing.assert_allclose(diagonal, (1, 1), atol=1e-6)


def test_padded_cells_count_as_zero():
  module, variables, query, reference, value = small()
  padding = jnp.zeros((2, 30), bool).at[:, :10].set(True)
  padded = module.apply(variables, query, reference, value, SIZES, padding)
  other = value.at[:, :10].set(7.0)
  np.testing.assert_array_equal(padded, module.apply(variables, query, reference, other, SIZES, padding))
  assert not np.allclose(padded, module.apply(variables, query, reference, value, SIZES))


def test_permuting_frames_permutes_outputs():
  module, variables, query, reference, value = small()
  out = module.apply(variables, query, reference, value, SIZES)
  turned = module.apply(variables, query[::-1], reference[::-1], value[::-1], SIZES)
  np.testing.assert_allclose(turned, out[::-1], rtol=1e-5, atol=1e-6)


def test_gradient_is_finite_and_reaches_every_parameter():
  module, variables, *inputs = small()
  slopes = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, *inputs, SIZES)).sum()))(variables)
  for path, slope in traverse_util.flatten_dict(slopes).items():
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0, path


def test_levels_that_do_not_cover_the_cells_are_refused():
  module, variables, query, reference, value = small()
  with pytest.raises(InputError, match="have 29 cells and 30 came for 2 levels"):
    module.apply(variables, query, reference, value, ((4, 6), (1, 5)))
  with pytest.raises(InputError, match="3 numbers; give 2"):
    module.apply(variables, query, jnp.zeros((2, 5, 2, 3)), value, SIZES)
  with pytest.raises(InputError, match="model.sampling='fast' is not known; choose one of packed, plain"):
    MSDeformAttn(**SMALL, form="fast").apply(variables, query, reference, value, SIZES)


@FORM
@pytest.mark.golden
def test_every_published_output_is_reproduced(golden, rule, form):
  kept = np.load(golden("avsegformer/ms_deform_attn.npz"))
  shapes = json.loads(golden("avsegformer/ms_deform_attn.state_dict.json").read_text())
  state = {name: rule.weight(name, shape) for name, shape in shapes.items()}
  params = {}
  for name, tensor in state.items():
    part, leaf = name.split(".")
    params.setdefault(part, {})["kernel" if leaf == "weight" else "bias"] = tensor.T
  sizes = ((28, 28), (14, 14), (7, 7))
  module, variables = MSDeformAttn(form=form), {"params": params}
  query, value = (
    jnp.asarray(rule.array(*named)) for named in (("query", (2, 50, 256)), ("value", (2, 1029, 256)))
  )
  points = nn.sigmoid(rule.array("reference_points", (2, 50, 3, 2)))
  wide = jnp.asarray(0.5 + rule.array("reference_points_wide", (2, 50, 3, 2)))
  boxes = nn.sigmoid(rule.array("reference_boxes", (2, 50, 3, 4)))
  padding = jnp.asarray(rule.array("padding", (2, 1029)) > 0.5)
  grid = np.concatenate(
    [
      np.stack(np.meshgrid((np.arange(c) + 0.5) / c, (np.arange(r) + 0.5) / r), -1).reshape(-1, 2)
      for r, c in sizes
    ]
  )
  grid = jnp.asarray(np.broadcast_to(grid[None, :, None], (1, 1029, 3, 2)), jnp.float32)
  calls = {
    "output": (query, points, value, sizes),
    "output_wide": (query, wide, value, sizes),
    "output_padded": (query, points, value, sizes, padding),
    "output_boxes": (query, boxes, value, sizes),
    "output_grid": (value, grid, value, sizes),
  }
  for name, call in calls.items():
    rule.check(module.apply(variables, *call), kept[name])
  rule.check(module.apply(variables, query, method="offsets"), kept["sampling_offsets"])
  rule.check(module.apply(variables, query, method="weigh"), kept["attention_weights"])


@FORM
@pytest.mark.parametrize("heads", [1, 8])
@pytest.mark.parametrize(
  "sizes", [((7, 7), (14, 14), (28, 28)), ((5, 9), (10, 18), (20, 36)), ((16, 16), (32, 32))]
)
def test_points_on_the_centres_of_cells_are_the_same_however_the_program_is_compiled(form, heads, sizes):
  # Offsets begin as whole cells: rounding decides which of two cells is the upper left one, and weights must agree.
  cells = sum(rows * cols for rows, cols in sizes)
  rng = np.random.default_rng(cells)
  centres = [
    np.stack(np.meshgrid((np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows), -1).reshape(-1, 2)
    for rows, cols in sizes
  ]
  reference = np.concatenate(centres).astype(np.float32).reshape(1, -1, 1, 2).repeat(len(sizes), 2)
  query, value, reference = map(
    jnp.asarray, (*rng.standard_normal((2, 1, cells, 32)).astype(np.float32), reference)
  )
  module = MSDeformAttn(32, levels=len(sizes), heads=heads, form=form)
  variables = module.init(jax.random.key(0), query, reference, value, sizes)
  step_by_step = module.apply(variables, query, reference, value, sizes)
  # Weights are given too: as constants of zeros, XLA on CPU may misread them.
  given = variables, query, reference, value
  lowered = jax.jit(lambda *given: module.apply(*given, sizes)).lower(*given)
  for options in ({}, AS_USERS_HAVE_IT):
    compiled = lowered.compile(compiler_options=options)(*given)
    np.testing.assert_allclose(compiled, step_by_step, atol=1e-4)
