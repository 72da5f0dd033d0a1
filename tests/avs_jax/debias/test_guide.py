"""The guide says whether a sound belongs to a picture; it leaves the masks alone unless it gates."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from avs_jax import systems
from avs_jax.debias.guide import FORMS, Guided, Similarity, compare, cosine, emptied, gated, guide_loss
from avs_jax.errors import InputError
from avs_jax.initialise import abstract_variables, initialise
from avs_jax.types import Condition, Outputs

RANDOM = np.random.default_rng(0)
B, T, A, C = 3, 4, 6, 5


def draw(*shape):
  return jnp.asarray(RANDOM.standard_normal(shape), jnp.float32)


AUD, VIS = draw(B, T, A), draw(B, T, 2, 3, C)
forms = pytest.mark.parametrize("form", FORMS)


def prepared(form, **settings):
  module = Similarity(form, **{"width": 8, **settings})
  return module, initialise(module, AUD, VIS, seed=0)


@forms
def test_a_guide_gives_one_logit_a_second_and_no_clip_sees_another(form):
  module, variables = prepared(form)
  out = module.apply(variables, AUD, VIS).logits
  assert out.shape == (B, T) and out.dtype == jnp.float32 and out.std() > 1e-3
  swapped = module.apply(variables, AUD[::-1, ::-1], VIS[::-1, ::-1]).logits
  np.testing.assert_allclose(swapped, out[::-1, ::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "localised"])
def test_only_the_mean_of_the_visual_map_counts(form):
  module, variables = prepared(form)
  mean = jnp.broadcast_to(VIS.mean((2, 3), keepdims=True), VIS.shape)
  np.testing.assert_allclose(
    module.apply(variables, AUD, mean).logits, module.apply(variables, AUD, VIS).logits, rtol=1e-4, atol=1e-5
  )


@forms
def test_gradients_are_finite_and_reach_parameters_sound_and_picture(form):
  module, variables = prepared(form)
  if "bias" in variables["params"]:
    variables["params"]["bias"] = jnp.float32(0.3)

  def loss(params, aud, vis):
    return jnp.square(module.apply({"params": params}, aud, vis).logits).sum()

  params, aud, vis = jax.grad(loss, (0, 1, 2))(variables["params"], AUD, VIS)
  for path, leaf in traverse_util.flatten_dict({**params, "aud": aud, "vis": vis}).items():
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


@forms
def test_silence_and_an_empty_map_give_finite_values_and_gradients(form):
  module, variables = prepared(form)

  def total(params, aud, vis):
    return module.apply({"params": params}, aud, vis).logits.sum()

  value, slopes = jax.value_and_grad(total, (0, 1, 2))(variables["params"], 0 * AUD, 0 * VIS)
  assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@forms
def test_half_precision_features_are_compared_in_float32(form):
  module, variables = prepared(form)
  half = AUD.astype(jnp.bfloat16), VIS.astype(jnp.bfloat16)
  rough = module.apply(variables, *half).logits
  assert rough.dtype == jnp.float32
  # As if the rounded features had come in float32: nothing more is rounded on the way.
  whole = module.apply(variables, *(x.astype(jnp.float32) for x in half)).logits
  np.testing.assert_allclose(rough, whole, rtol=1e-5, atol=1e-6)


def test_parameters_of_each_form_have_their_published_or_documented_sizes():
  shapes = {
    form: {
      "/".join(path): leaf.shape
      for path, leaf in traverse_util.flatten_dict(prepared(form)[1]["params"]).items()
      if path[-1] != "bias" or len(path) == 1
    }
    for form in FORMS
  }
  assert shapes["cosine"] == shapes["cosine_released"] == {"audio_proj/kernel": (A, C)}
  both = {"audio_proj/kernel": (A, 8), "visual_proj/kernel": (C, 8)}
  assert shapes["euclidean"] == both
  assert shapes["cosine_calibrated"] == shapes["localised"] == {**both, "scale": (), "bias": ()}
  hidden = {"hidden_8/kernel": (16, 8), "hidden_4/kernel": (8, 4), "out/kernel": (4, 1)}
  assert shapes["concat"] == {**both, **hidden}


def test_the_cosine_of_two_vectors_is_the_one_computed_by_hand():
  a, b = (jnp.array(x, jnp.float32).reshape(1, 1, 2) for x in ([3, 4], [4, 3]))
  np.testing.assert_allclose(cosine(a, b), [[24 / 25]], rtol=1e-6)
  np.testing.assert_allclose(cosine(a, -7 * a), [[-1]], rtol=1e-6)
  np.testing.assert_array_equal(cosine(a, 0 * b), [[0]])


def test_the_euclidean_guide_is_minus_the_distance():
  projections = {
    "audio_proj": {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)},
    "visual_proj": {"kernel": 2 * np.eye(2, dtype=np.float32), "bias": np.ones(2, np.float32)},
  }
  aud = jnp.array([6.0, 7.0]).reshape(1, 1, 2)
  vis = jnp.array([[0.0, 2.0], [2.0, 0.0]]).reshape(1, 1, 1, 2, 2)  # mean (1, 1), projected (3, 3)
  out = Similarity("euclidean", width=2).apply({"params": projections}, aud, vis).logits
  np.testing.assert_allclose(out, [[-5]], rtol=1e-6)


@pytest.mark.parametrize("form", ["cosine", "cosine_released"])
def test_a_plain_cosine_spans_probabilities_from_27_to_73_percent(form, pairs):
  module, _ = prepared(form)
  params = {"audio_proj": {"kernel": np.eye(C, dtype=np.float32), "bias": np.zeros(C, np.float32)}}
  vis = draw(1, 2, 2, 2, C)
  alike = vis.mean((2, 3)) * jnp.array([[[100.0], [-100.0]]])
  ends = jax.nn.sigmoid(module.apply({"params": params}, alike, vis).logits)
  np.testing.assert_allclose(ends, [[0.731059, 0.268941]], rtol=1e-5)
  batch = pairs([[True, False]], [Condition.POSITIVE])
  perfect = Outputs(logits=np.zeros((1, 2, 1, 1, 1), np.float32), similarity=jnp.ones((1, 2)))
  np.testing.assert_allclose(guide_loss(perfect, batch), 0.313262, rtol=1e-5)


def test_a_calibrated_cosine_passes_beyond_those_bounds():
  module, variables = prepared("cosine_calibrated")
  eye = {"kernel": np.eye(C, 8, dtype=np.float32), "bias": np.zeros(8, np.float32)}
  params = {**variables["params"], "audio_proj": eye, "visual_proj": eye}
  vis = draw(1, 2, 2, 2, C)
  alike = vis.mean((2, 3)) * jnp.array([[[1.0], [-1.0]]])
  fresh = module.apply({"params": params}, alike, vis).logits
  np.testing.assert_allclose(fresh, [[4, -4]], rtol=1e-5)  # sigmoid 0.982 and 0.018
  learned = module.apply({"params": {**params, "scale": 10.0, "bias": -2.0}}, alike, vis).logits
  np.testing.assert_allclose(learned, [[8, -12]], rtol=1e-5)


def test_a_localised_guide_finds_the_one_cell_that_sounds():
  eye = {"kernel": np.eye(C, dtype=np.float32), "bias": np.zeros(C, np.float32)}
  params = {"audio_proj": eye, "visual_proj": eye, "scale": jnp.float32(9.0), "bias": jnp.float32(0.5)}
  aud = jnp.eye(C)[:1].reshape(1, 1, C)
  vis = jnp.broadcast_to(jnp.eye(C)[1], (1, 1, 2, 2, C)).at[0, 0, 1, 0].set(jnp.eye(C)[0])
  found = Similarity("localised", width=C).apply({"params": params}, aud, vis)
  np.testing.assert_allclose(found.logits, [[np.log((np.exp(9) + 3) / 4) + 0.5]], rtol=1e-5)


@pytest.mark.parametrize("form", ["cosine", "cosine_calibrated", "localised"])
def test_the_product_of_a_guides_embeddings_is_its_logit(form):
  module, variables = prepared(form)
  if "bias" in variables["params"]:
    variables["params"]["bias"] = jnp.float32(0.3)
  found = module.apply(variables, AUD, VIS)
  assert found.seen.shape[2] == (6 if form == "localised" else 1)
  np.testing.assert_allclose(compare(found.seen, found.heard), found.logits, rtol=1e-6)
  other = module.apply(variables, AUD[::-1], VIS)  # every sound with another clip's picture
  np.testing.assert_allclose(compare(found.seen, found.heard[::-1]), other.logits, rtol=1e-4, atol=1e-5)


def test_the_joint_guide_drops_hidden_units_in_training_only():
  module, variables = prepared("concat", width=64)
  run = functools.partial(module.apply, variables, AUD, VIS)
  np.testing.assert_array_equal(run().logits, run().logits)
  one, other = (run(train=True, rngs={"dropout": jax.random.key(i)}).logits for i in (0, 1))
  assert np.abs(one - other).max() > 1e-4


def test_an_unknown_guide_is_refused_with_the_list_of_guides():
  with pytest.raises(InputError, match="debias.guide='cosin' is not known; choose one of cosine,"):
    Similarity("cosin").apply({}, AUD, VIS)


# The wrapper.

SIDE = 32
FRAMES = RANDOM.integers(0, 256, (2, 3, SIDE, SIDE, 3), dtype=np.uint8)
LOG_MEL = RANDOM.standard_normal((2, 3, 96, 64)).astype(np.float32)


def system():
  return systems.build(
    "avsbench",
    visual="conv_pyramid",
    visual_args={"width": 4},
    audio_args={"width": 1 / 32},
    width=16,
    tpavi_stages=(4,),
  )


@pytest.fixture(scope="module")
def variables():
  return initialise(Guided(system()), FRAMES, LOG_MEL, seed=0)


def run(module, variables):
  return jax.jit(functools.partial(module.apply, train=False))(variables, FRAMES, LOG_MEL)


@pytest.fixture(scope="module")
def guided(variables):
  return run(Guided(system()), variables)


def test_parameters_stand_under_system_and_guide(variables):
  assert set(variables["params"]) == {"system", "guide"}
  bare, _ = abstract_variables(system(), FRAMES, LOG_MEL)
  assert jax.tree.structure(bare["params"]) == jax.tree.structure(variables["params"]["system"])
  assert variables["params"]["guide"]["audio_proj"]["kernel"].shape == (128, 16)
  assert set(variables["batch_stats"]) == {"system"}


def test_masks_are_those_of_the_system_alone(variables, guided):
  own = {name: tree["system"] for name, tree in variables.items()}
  bare = run(system(), own)
  np.testing.assert_allclose(guided.logits, bare.logits, rtol=1e-4, atol=1e-6)
  assert bare.similarity is None and guided.similarity.shape == (2, 3)
  agreement = cosine(
    bare.audio_features @ variables["params"]["guide"]["audio_proj"]["kernel"]
    + variables["params"]["guide"]["audio_proj"]["bias"].reshape(1, 1, -1),
    bare.visual_features.mean((2, 3)),
  )
  np.testing.assert_allclose(guided.similarity, agreement, rtol=1e-3, atol=1e-5)


def test_listening_and_segmenting_go_through_the_wrapper(variables, guided):
  module = Guided(system())
  audio = jax.jit(functools.partial(module.apply, method="listen"))(variables, LOG_MEL)
  out = jax.jit(functools.partial(module.apply, method="segment"))(variables, FRAMES, audio)
  np.testing.assert_allclose(out.similarity, guided.similarity, rtol=1e-4, atol=1e-6)


def test_the_gate_multiplies_probabilities_and_nothing_else(variables, guided):
  out = run(Guided(system(), gate=True), variables)
  agreement = guided.similarity[:, :, None, None, None]
  expected = jax.nn.sigmoid(guided.logits) * jax.nn.sigmoid(agreement) * (agreement > 0)
  np.testing.assert_allclose(jax.nn.sigmoid(out.logits), expected, rtol=1e-4)
  np.testing.assert_allclose(out.similarity, guided.similarity, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(out.fused_maps[3], guided.fused_maps[3], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.ungated, guided.logits, rtol=1e-4, atol=1e-5)
  assert guided.ungated is None  # what is not gated has no other masks


@pytest.mark.parametrize("level", [-2.0, 0.3])
def test_the_gates_level_is_the_similarity_up_to_which_a_second_is_refused(variables, guided, level):
  out = run(Guided(system(), gate=True, gate_level=level), variables)
  above = guided.similarity[:, :, None, None, None] - level
  expected = jax.nn.sigmoid(guided.logits) * jax.nn.sigmoid(above) * (above > 0)
  np.testing.assert_allclose(jax.nn.sigmoid(out.logits), expected, rtol=1e-4)
  np.testing.assert_allclose(
    out.similarity, guided.similarity, rtol=1e-4, atol=1e-6
  )  # the guide's opinion as it is


class Fixed(nn.Module):
  """A system that says the same of every clip."""

  @nn.compact
  def __call__(self, frames, log_mel, *, train=False, present=None):
    return self.segment(frames, log_mel, train=train, present=present)

  def listen(self, log_mel, *, train=False):
    return jnp.asarray(log_mel).mean(3)

  def segment(self, frames, audio, *, train=False, present=None):
    return Outputs(logits=jnp.ones((*frames.shape[:4], 1)), visual_features=VIS[:2, :3], audio_features=audio)


def test_the_gate_is_open_in_training_and_any_system_can_be_guided():
  module = Guided(Fixed(), gate=True)
  variables = initialise(module, FRAMES, LOG_MEL, seed=0)
  assert set(variables["params"]) == {"guide"}
  trained = module.apply(variables, FRAMES, LOG_MEL, train=True)
  np.testing.assert_array_equal(trained.logits, np.ones((2, 3, SIDE, SIDE, 1)))
  assert module.apply(variables, FRAMES, LOG_MEL, train=False).logits.max() < 1
  both = Guided(Fixed(), gate=True, gate_training=True)
  shut = both.apply(variables, FRAMES, LOG_MEL, train=True)
  np.testing.assert_allclose(shut.logits, gated(trained.logits, trained.similarity), rtol=1e-5)


def test_a_guide_of_projected_sound_needs_a_system_that_projects_it():
  module = Guided(Fixed(), form="cosine_released")
  with pytest.raises(InputError, match="'cosine_released' reads .*; choose 'cosine', or model.system"):
    initialise(module, FRAMES, LOG_MEL, seed=0)


def test_a_gate_is_exact_for_logits_of_any_size():
  logits = jnp.array([-200.0, -3.0, 0.0, 3.0, 200.0]).reshape(1, 1, 1, 5, 1)
  shut, open_ = (gated(logits, jnp.full((1, 1), value)).reshape(-1) for value in (-100.0, 100.0))
  np.testing.assert_allclose(open_, [-200, -3, 0, 3, 100], atol=1e-4)
  np.testing.assert_allclose(shut, [-300, -103.0486, -100.6931, -100.0486, -100], atol=1e-3)
  half = jax.nn.sigmoid(gated(logits, jnp.zeros((1, 1))).reshape(-1))
  np.testing.assert_allclose(half, [0, 0.5 * 0.0474259, 0.25, 0.5 * 0.9525741, 0.5], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_second_whose_sound_is_from_elsewhere_is_emptied_and_others_are_left(classes):
  logits = draw(1, 3, 2, 2, classes)
  out = emptied(logits, jnp.array([[-0.1, 0.0, 0.1]]))
  np.testing.assert_array_equal(out[:, 2], logits[:, 2])
  sounding = jax.nn.sigmoid(out) if classes == 1 else jax.nn.softmax(out)[..., 1:]
  assert (sounding[:, :2] == 0).all() and (sounding[:, 2] > 0).all()
  if classes == 1:  # masks do not change, only what is below one half
    before = gated(logits, jnp.array([[-0.1, 0.0, 0.1]]))
    np.testing.assert_array_equal(emptied(before, jnp.array([[-0.1, 0.0, 0.1]])) > 0, before > 0)


def test_background_takes_what_a_gate_takes_from_the_classes():
  logits, similarity = draw(1, 2, 3, 4, 5), jnp.array([[-1.0, 2.0]])
  before = jax.nn.softmax(logits, axis=-1)
  after = jax.nn.softmax(gated(logits, similarity), axis=-1)
  factor = jax.nn.sigmoid(similarity)[:, :, None, None, None]
  np.testing.assert_allclose(after[..., 1:], before[..., 1:] * factor, rtol=1e-5)
  np.testing.assert_allclose(after.sum(-1), np.ones((1, 2, 3, 4)), rtol=1e-5)


# The loss.


def says(similarity):
  similarity = jnp.asarray(similarity, jnp.float32)
  return Outputs(logits=np.zeros((*similarity.shape, 1, 1, 1), np.float32), similarity=similarity)


def test_the_loss_is_the_cross_entropy_computed_by_hand(pairs):
  batch = pairs([[True, True], [True, False]], [Condition.POSITIVE, Condition.NOISE])
  # log(1 + e^-2) + log(1 + e^1) + log(1 + e^0.5) over three real frames.
  expected = (0.126928 + 1.313262 + 0.974077) / 3
  np.testing.assert_allclose(guide_loss(says([[2, -1], [0.5, 50]]), batch), expected, rtol=1e-5)


def test_the_slope_of_the_loss_is_probability_minus_truth(pairs):
  batch = pairs([[True, True], [True, False]], [Condition.POSITIVE, Condition.SILENCE])
  slope = jax.grad(lambda similarity: guide_loss(says(similarity), batch))(jnp.zeros((2, 2)))
  np.testing.assert_allclose(slope, np.array([[-0.5, -0.5], [0.5, 0]]) / 3, rtol=1e-6)
  far = jax.grad(lambda similarity: guide_loss(says(similarity), batch))(jnp.full((2, 2), 1e4))
  np.testing.assert_allclose(far, np.array([[0, 0], [1, 0]]) / 3, atol=1e-6)


@pytest.mark.parametrize("condition", [Condition.SILENCE, Condition.NOISE, Condition.OFFSCREEN])
def test_every_kind_of_negative_counts_as_not_belonging(condition, pairs):
  batch = pairs([[True, True]], [condition])
  assert guide_loss(says([[-9, -9]]), batch) < 1e-3 < 8 < guide_loss(says([[9, 9]]), batch)


def test_a_batch_without_real_frames_has_no_loss(pairs):
  assert guide_loss(says([[3, 3]]), pairs([[False, False]], [Condition.NOISE])) == 0


def test_rows_that_fill_the_batch_count_in_no_loss(pairs):
  batch = pairs([[True, True], [True, True]], [Condition.POSITIVE, Condition.NOISE])
  filled = batch.replace(index=np.array([0, -1], np.int32))
  said = says([[2, -1], [3, 50]])
  expected = (0.126928 + 1.313262) / 2  # log(1 + e^-2) and log(1 + e^1), of the clip that is one
  np.testing.assert_allclose(guide_loss(said, filled), expected, rtol=1e-5)
  assert guide_loss(said, batch) > 10
