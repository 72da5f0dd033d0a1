import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.encoders import vggish
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

SMALL = 1 / 32


@pytest.fixture(scope="module")
def variables(golden, rule):
  names = json.loads(golden("backbones/vggish.orig.json").read_text())
  return weights.from_torch("vggish", {name: rule.weight(name, shape) for name, shape in names.items()})


def small(**overrides):
  module = encoders.build("vggish", width=SMALL, **overrides)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 96, 64)), jnp.float32)
  return module, initialise(module, x, seed=0), x


@pytest.mark.golden
def test_embeddings_equal_the_pytorch_port(golden, rule, variables):
  kept = np.load(golden("backbones/vggish.orig.npz"))
  x = jnp.asarray(rule.array("log_mel", (5, 1, 96, 64))[:, 0])
  module = encoders.build("vggish")
  rule.check(module.apply(variables, x), kept["embedding"])
  rule.check(module.apply(variables, x, method="features").transpose(0, 3, 1, 2), kept["features"])
  slim = encoders.build("vggish", last_relu=False)  # TF-slim's semantics
  rule.check(slim.apply(variables, x), kept["embedding_preactivation"])


@pytest.mark.golden
def test_embeddings_equal_the_one_inside_avsbench(golden, rule, variables):
  kept = np.load(golden("avsbench/vggish.npz"))
  x = jnp.asarray(rule.array("logmel", (2, 1, 96, 64))[:, 0])
  module = encoders.build("vggish")
  rule.check(module.apply(variables, x), kept["embedding"])
  rule.check(module.apply(variables, x, method="features"), kept["features__channel_last"])
  rule.check(encoders.build("vggish", last_relu=False).apply(variables, x), kept["fc3_before_last_relu"])


@pytest.mark.golden
@pytest.mark.parametrize(
  ("fixture", "listed", "mel", "kept"),
  [
    ("backbones/vggish.orig.npz", "backbones/vggish_pca.orig.json", ("log_mel", 5), "postprocessed"),
    ("avsbench/vggish.npz", "avsbench/vggish_postprocessor.state_dict.json", ("logmel", 2), "pca_quantized"),
  ],
)
def test_post_processing_equals_the_ports_to_the_last_whole_number(
  golden, rule, variables, fixture, listed, mel, kept
):
  names = json.loads(golden(listed).read_text())
  state = {f"pproc.{name}": rule.weight(name, shape) for name, shape in names.items()}
  x = jnp.asarray(rule.array(mel[0], (mel[1], 1, 96, 64))[:, 0])
  embeddings = encoders.build("vggish").apply(variables, x)
  got = vggish.postprocess(embeddings, *weights.postprocessing_from_torch(state))
  rule.check(got, np.load(golden(fixture))[kept])


def test_post_processing_by_hand():
  vectors = np.array([[0, 1], [2, 0]], np.float32)
  means = np.array([1, 0], np.float32)
  embeddings = np.array([[1, 0], [1.5, -9], [9, 0.3]], np.float32)
  got = vggish.postprocess(embeddings, vectors, means)  # [[0, 0], [-9, 1], [0.3, 16]] before it is cut
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, [[128, 128], [0, 191], [147, 255]])  # 127.5, 191.25, 146.625


def test_width_scales_every_hidden_layer_and_out_dim_the_embedding():
  module, variables, x = small(out_dim=16)
  params = variables["params"]
  assert params["features_0"]["kernel"].shape == (3, 3, 1, 2)
  assert params["embeddings_0"]["kernel"].shape == (6 * 4 * 16, 128)
  assert module.dim == 16 and module.apply(variables, x).shape == (3, 16)


def test_the_last_rectification_is_a_switch():
  module, variables, x = small()
  raw = small(last_relu=False)[0].apply(variables, x)
  assert (raw < 0).any()
  np.testing.assert_array_equal(module.apply(variables, x), np.maximum(raw, 0))


def test_a_convolution_of_ones_by_hand():
  module, variables, _ = small(last_relu=False)
  params = jax.tree.map(np.zeros_like, variables["params"])
  params["embeddings_4"]["bias"][:] = np.arange(128)
  np.testing.assert_array_equal(
    module.apply({"params": params}, jnp.ones((1, 96, 64))), np.arange(128, dtype=np.float32)[None]
  )


def test_seconds_do_not_hear_one_another():
  module, variables, x = small()
  y = module.apply(variables, x)
  np.testing.assert_allclose(module.apply(variables, x[::-1])[::-1], y, rtol=1e-5, atol=1e-5)


def test_fresh_weights_pass_the_sound_on():
  module, variables, x = small(last_relu=False)
  assert np.std(module.apply(variables, x), axis=0).mean() > 0.1


def test_gradients_are_finite_and_reach_every_parameter():
  module, variables, x = small(last_relu=False)
  gradients = jax.jit(jax.grad(lambda v: jnp.square(module.apply(v, x)).mean()))(variables)
  for leaf in jax.tree.leaves(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf)


@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"width": -1.0}, {"out_dim": 0}])
def test_a_width_of_nothing_is_refused(wrong):
  with pytest.raises(InputError, match="vggish: width is .* and out_dim .*; both must be above 0"):
    encoders.build("vggish", **wrong).init(jax.random.key(0), jnp.zeros((1, 96, 64)))
