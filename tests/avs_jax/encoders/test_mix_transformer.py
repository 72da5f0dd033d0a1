import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders
from avs_jax.encoders import mix_transformer
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

TINY = {"dims": (4, 8), "depths": (2, 1), "heads": (1, 2), "sr_ratios": (4, 1), "mlp_ratios": (2, 2)}


def tiny(side=32, seed=0, **overrides):
  module = encoders.build("pvt_v2_b0", **{**TINY, **overrides})
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, side, side, 3)), jnp.float32)
  return module, initialise(module, x, seed=seed), x


def test_sizes_have_the_published_numbers_of_parameters():
  counts = {}
  for name in ("pvt_v2_b0", "mit_b0", "pvt_v2_b5"):
    shapes = jax.eval_shape(encoders.build(name).init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    counts[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
  # Papers, without the classifier; B5 as counted in AVSBench's model.
  assert (
    counts["pvt_v2_b5"] == 81.443008 and mix_transformer.SIZES["mit_b5"] == mix_transformer.SIZES["pvt_v2_b5"]
  )
  assert round(counts["pvt_v2_b0"], 1) == 3.4 and round(counts["mit_b0"], 1) == 3.3


def test_scanned_blocks_give_the_unrolled_maps_and_gradients():
  one = {"dims": (4,), "depths": (3,), "heads": (2,), "sr_ratios": (1,), "mlp_ratios": (2,)}
  module, variables, x = tiny(**one)
  scanned = tiny(**one, scan=True)[0]
  stacked = mix_transformer.stack_blocks(variables["params"])

  def loss(params, module):
    maps = module.apply({"params": params}, x)
    return sum((y * jnp.arange(y.shape[-1]).reshape(1, 1, 1, -1)).mean() for y in maps), maps

  gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
  ours, maps = gradient(stacked, scanned)
  theirs, expected = gradient(variables["params"], module)
  for a, b in zip(maps, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  theirs = mix_transformer.stack_blocks(theirs)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


def test_stacking_puts_the_blocks_of_a_stage_in_their_order():
  params = tiny()[1]["params"]
  stacked = mix_transformer.stack_blocks(params)
  scale = stacked["block1"]["norm1"]["scale"]
  assert scale.shape == (2, 4) and "block1_0" not in stacked
  for place in range(2):
    jax.tree.map(
      lambda whole, own, place=place: np.testing.assert_array_equal(whole[place], own),
      stacked["block1"],
      params[f"block1_{place}"],
    )
  others = {name for name in params if not name.startswith("block")}
  assert others and all(stacked[name] is params[name] for name in others)


def test_scanned_parameters_are_named_and_shaped_as_stacked_ones():
  module, variables, x = tiny(scan=True)
  stacked = mix_transformer.stack_blocks(tiny()[1]["params"])
  assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, variables["params"])


def test_training_drops_branches_and_a_rate_of_zero_does_not():
  module, variables, x = tiny(drop_path=0.9)
  rngs = {"dropout": jax.random.key(1)}
  still, moved = (module.apply(variables, x, train=train, rngs=rngs)[-1] for train in (False, True))
  assert np.abs(still - moved).max() > 1e-3
  never = encoders.build("pvt_v2_b0", **TINY, drop_path=0.0).apply(variables, x, train=True)[-1]
  np.testing.assert_array_equal(never, still)


def test_the_first_block_is_never_dropped():
  module, variables, x = tiny(depths=(1, 0), drop_path=0.9)
  y = module.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
  np.testing.assert_allclose(y[0], module.apply(variables, x)[0], rtol=1e-5, atol=1e-6)


def test_a_block_whose_branches_are_zero_passes_its_input_on():
  block = mix_transformer.Block(1, 2, 2, (1e-6, 1e-5), "shift", jnp.float32)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 4)), jnp.float32)
  variables = jax.tree.map(np.zeros_like, initialise(block, x, seed=0))
  np.testing.assert_array_equal(block.apply(variables, x), x)


def test_rows_left_over_by_the_reduction_are_not_seen_as_keys():
  attention = mix_transformer.Attention(1, 2, 1e-5, jnp.float32)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 4, 4)), jnp.float32)
  variables = initialise(attention, x, seed=0)
  changed = x.at[:, 4].add(1.0)  # the fifth row: its own queries change, nobody else's answer
  np.testing.assert_allclose(attention.apply(variables, x)[:, :4], attention.apply(variables, changed)[:, :4])


def test_a_map_smaller_than_one_reduction_cell_still_has_a_key():
  attention = mix_transformer.Attention(1, 8, 1e-5, jnp.float32)
  x = jnp.ones((1, 2, 3, 4))
  variables = initialise(attention, x, seed=0)
  padded = jnp.zeros((1, 8, 8, 4)).at[:, :2, :3].set(1.0)
  expected = attention.apply(variables, padded)[:, :2, :3]
  np.testing.assert_allclose(attention.apply(variables, x), expected, rtol=1e-5, atol=1e-7)


def test_fresh_depthwise_kernels_have_the_spread_of_nine_inputs():
  kernel = tiny(dims=(64, 8), heads=(1, 1))[1]["params"]["block1_0"]["mlp"]["dwconv"]["dwconv"]["kernel"]
  assert abs(np.std(kernel) - np.sqrt(2 / 9)) < 0.05


def test_unknown_epsilons_are_refused_by_name():
  with pytest.raises(InputError, match="epsilons is 'torch'; give one of original, hf_pvt, hf_mit"):
    tiny(epsilons="torch")


@pytest.mark.parametrize("wrong", [{"depths": (1, 1, 1)}, {"heads": (3, 2)}])
def test_stages_that_do_not_fit_together_are_refused(wrong):
  with pytest.raises(InputError, match="one number a stage, each of dims a multiple of its heads"):
    tiny(**wrong)


def test_branches_are_kept_as_often_as_their_rate_says_and_scaled_up():
  keep = np.asarray(mix_transformer.drawn(jax.random.key(0), np.float32([0, 0.5]), 2000))
  np.testing.assert_array_equal(keep[0], 1)
  assert set(np.unique(keep[1])) == {0, 2} and abs(keep[1].mean() - 1) < 0.05
