"""What holds for every encoder, whatever it is called: `avs_jax/encoders/__init__.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders
from avs_jax.errors import InputError
from avs_jax.initialise import initialise
from avs_jax.weights.placement import AUDIO_SHAPES

# Overrides that make a visual encoder small enough to differentiate in a test.
TINY = {
  "pvt_v2_b0": {"dims": (4, 8, 12, 16), "depths": (1, 2, 1, 1), "heads": (1, 2, 3, 4)},
  "mit_b0": {
    "dims": [4, 8],
    "depths": [1, 2],
    "heads": [1, 2],
    "sr_ratios": [8, 1],
    "mlp_ratios": [4, 4],
    "scan": True,
  },
  "swin_base_w7": {
    "width": 4,
    "depths": (2, 1),
    "heads": (1, 2),
    "window": 3,
    "adapters": True,
    "drop_path": 0.1,
  },
  "resnet50": {"depths": (2, 1, 1, 1), "width": 2},
  "efficientnet_lite0": {"width": 0.1, "depthwise": "grouped"},  # compiles faster, runs slower
  "conv_pyramid": {"width": 4},
}
WEIGHTS = "params"


def tiny(name, side=64, **overrides):
  module = encoders.build(name, **TINY[name], **overrides)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, side, side, 3)), jnp.float32)
  return module, initialise(module, x, seed=0), x


@pytest.mark.parametrize("name", encoders.VISUAL)
def test_a_visual_encoder_gives_four_maps_of_its_channels(name):
  module = encoders.build(name)
  x = jax.ShapeDtypeStruct((2, 200, 252, 3), jnp.float32)
  maps, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
  sizes = [(50, 63), (25, 32), (13, 16), (7, 8)]
  assert [y.shape for y in maps] == [(2, *hw, c) for hw, c in zip(sizes, module.channels, strict=True)]
  assert len(module.MEAN) == len(module.STD) == 3


@pytest.mark.parametrize("name", encoders.AUDIO)
def test_an_audio_encoder_gives_an_embedding_of_its_width(name):
  module = encoders.build(name)
  example = jax.ShapeDtypeStruct((3, *AUDIO_SHAPES[name][1:]), jnp.float32)
  embedding, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), example)
  assert embedding.shape == (3, module.dim)


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_finite_and_reach_every_parameter(name):
  module, variables, x = tiny(name)
  rest = {key: value for key, value in variables.items() if key != WEIGHTS}
  slopes = [
    np.random.default_rng(i).standard_normal(c).astype(np.float32) for i, c in enumerate(module.channels)
  ]

  def loss(params):
    maps, _ = module.apply(
      {"params": params, **rest}, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    return sum((y * slope.reshape(1, 1, 1, -1)).mean() for y, slope in zip(maps, slopes, strict=True))

  gradients = jax.jit(jax.grad(loss))(variables[WEIGHTS])
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", TINY)
def test_stage_by_stage_is_the_whole_encoder(name):
  module, variables, x = tiny(name)
  y = x
  for i, expected in enumerate(module.apply(variables, x)):
    y = module.apply(variables, y, i, method="stage")
    seen = module.apply(variables, y, i, method=encoders.as_map)
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("name", TINY)
def test_pictures_do_not_see_one_another_outside_training(name):
  module, variables, x = tiny(name)
  for pair, turned in zip(module.apply(variables, x), module.apply(variables, x[::-1]), strict=True):
    np.testing.assert_allclose(pair[::-1], turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_any_size_of_picture_works(name):
  module, variables, _ = tiny(name)
  x = jax.ShapeDtypeStruct((1, 17, 35, 3), jnp.float32)
  maps = jax.eval_shape(module.apply, variables, x)
  assert [y.shape[1:3] for y in maps] == [(5, 9), (3, 5), (2, 3), (1, 2)][: len(maps)]


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_compute_keeps_parameters_and_comes_near(name):
  module, variables, x = tiny(name, dtype="bfloat16")
  maps = module.apply(variables, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
  for low, full in zip(maps, tiny(name)[0].apply(variables, x), strict=True):
    assert low.dtype == jnp.bfloat16
    # 8 bits of mantissa over some twenty layers: errors of a few per cent.
    assert np.abs(low.astype(jnp.float32) - full).mean() < 0.1 * np.abs(full).mean()


@pytest.mark.parametrize("name", ["pvt_v2_b0", "resnet50", "conv_pyramid"])
def test_rematerialisation_changes_no_gradient(name):
  def gradient(remat):
    module, variables, x = tiny(name, side=32, remat=remat)

    def loss(params):
      maps, _ = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"],
                             rngs={"dropout": jax.random.key(0)}, method="stage", i=0)  # fmt: skip
      return jnp.square(maps).mean()

    assert ("remat" in str(jax.make_jaxpr(jax.grad(loss))(variables[WEIGHTS]))) == remat
    return jax.jit(jax.grad(loss))(variables[WEIGHTS])

  for a, b in zip(*(jax.tree.leaves(gradient(remat)) for remat in (False, True)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_an_unknown_name_lists_the_names():
  with pytest.raises(InputError, match="no encoder 'pvt_b5'.*pvt_v2_b5.*vggish"):
    encoders.build("pvt_b5")


def test_an_unknown_setting_lists_the_settings():
  with pytest.raises(InputError, match="'pvt_v2_b0' has no setting depth; its settings are: dims, depths"):
    encoders.build("pvt_v2_b0", depth=3)


def test_settings_from_a_configuration_file_become_what_the_module_wants():
  module = encoders.build("pvt_v2_b0", depths=[1, 1, 1, 1], dtype="bfloat16")
  assert module.depths == (1, 1, 1, 1) and module.dtype == jnp.bfloat16
  hash(module)
