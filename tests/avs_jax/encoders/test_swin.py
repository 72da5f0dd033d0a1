import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avs_jax import encoders, weights
from avs_jax.encoders import swin
from avs_jax.errors import InputError
from avs_jax.initialise import initialise

TINY = {"width": 4, "depths": (2, 1), "heads": (1, 2), "window": 3}


def tiny(side=24, **overrides):
  module = encoders.build("swin_base_w7", **{**TINY, **overrides})
  x = jnp.asarray(np.random.default_rng(0).standard_normal((2, side, side, 3)), jnp.float32)
  return module, initialise(module, x, seed=0), x


def run(module, variables, x, **kwargs):
  """One program for all operations."""
  return jax.jit(lambda variables, x: module.apply(variables, x, **kwargs))(variables, x)


def block(**overrides):
  settings = {"heads": 1, "window": 3, "shift": 0, "is_classic": False, "mlp_ratio": 2, "adapters": False}
  return swin.SwinBlock(**{**settings, **overrides}, drop_mlp=True, dtype=jnp.float32)


def test_the_base_size_and_the_tiny_one_have_the_published_numbers_of_parameters():
  def count(**overrides):
    module = encoders.build("swin_base_w7", **overrides)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    sizes = {jax.tree_util.keystr(path): x.size for path, x in jax.tree_util.tree_leaves_with_path(shapes)}
    added = sum(size for path, size in sizes.items() if "swin_adapt" in path)
    return sum(sizes.values()) - added, added

  # Swin, table 1: 88 M and 28 M, of which 1.0 M and 0.8 M are the classifier's; bias_in_AVS's adapters.
  base, added = count(adapters=True)
  assert round(base / 1e6) == 87 and added == 7_009_664
  small, added = count(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24))
  assert round(small / 1e6, 1) == 27.5 and added == 0


def test_windows_are_put_together_again():
  x = jnp.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2).astype(jnp.float32)
  windows = swin.partition(x, 3)
  np.testing.assert_array_equal(windows[1], x[0, :3, 3:6].reshape(9, 2))
  np.testing.assert_array_equal(swin.assemble(windows, 6, 9), x)


def test_relative_positions_of_two_by_two_cells_by_hand():
  # Row (dy + 1) * 3 + (dx + 1), d from the key to the query.
  expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
  assert swin.relative_positions(2, 2).tolist() == expected
  # A window smaller than the table uses the middle of it.
  assert swin.relative_positions(1, 2).tolist() == [[4]]


def test_shifted_windows_keep_apart_what_rolling_brought_together():
  rows, cols, window, shift = 6, 9, 3, 1
  regions = swin.shifted_regions(rows, cols, window, shift)
  cells = np.stack(np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), -1)
  rolled = np.roll(cells, (-shift, -shift), (0, 1))[None].astype(np.float32)
  windows = np.asarray(swin.partition(jnp.asarray(rolled), window)).astype(int)
  for cells, numbers in zip(windows, regions, strict=True):
    for a in range(window**2):
      for b in range(window**2):
        near = np.abs(cells[a] - cells[b]).max() < window
        assert (numbers[a] == numbers[b]) == near


def test_four_neighbours_are_merged_down_the_columns_and_odd_sides_get_zeros():
  merging = swin.PatchMerging(jnp.float32)
  x = jnp.arange(1.0, 10).reshape(1, 3, 3, 1)
  params = {"norm": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}}
  params["reduction"] = {"kernel": np.eye(4, 2, dtype=np.float32)}
  y = merging.apply({"params": params}, x)
  assert y.shape == (1, 2, 2, 2)
  for place, four in (((0, 0), [1, 4, 2, 5]), ((1, 1), [9, 0, 0, 0])):
    four = np.array(four, np.float32)
    normed = (four - four.mean()) / np.sqrt(four.var() + 1e-5)
    np.testing.assert_allclose(y[0][place], normed[:2], rtol=1e-5)


def test_without_a_shift_windows_do_not_see_one_another_and_with_one_neighbours_do():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 6, 4)), jnp.float32)
  changed = x.at[0, 0, 0, 0].add(1.0)
  for shift in (0, 1):
    module = block(shift=shift)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, initialise(module, x, seed=0))
    seen = np.abs(run(module, variables, x) - run(module, variables, changed)).max(-1)[0] > 1e-7
    expected = np.zeros((6, 6), bool)
    # Shifted by one, the corner cell shares a window with nothing: three cuts pass around it.
    expected[: 3 if shift == 0 else 1, : 3 if shift == 0 else 1] = True
    np.testing.assert_array_equal(seen, expected)


def test_the_two_window_rules_differ_only_where_the_map_is_not_larger_than_the_window():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 3, 4)), jnp.float32)
  dense, classic, still = block(shift=1), block(shift=1, is_classic=True), block()
  variables = jax.tree.map(lambda leaf: leaf + 0.1, initialise(dense, x, seed=0))
  assert np.abs(run(dense, variables, x) - run(classic, variables, x)).max() > 1e-3
  np.testing.assert_array_equal(run(classic, variables, x), run(still, variables, x))
  wide = jnp.concatenate([x, x], 2)
  np.testing.assert_array_equal(run(classic, variables, wide), run(dense, variables, wide))
  small = run(classic, variables, x[:, :2, :2])  # a window of two by two cells
  assert small.shape == (1, 2, 2, 4)


def test_padding_is_a_key_like_any_other():
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 4)), jnp.float32)
  module = block()
  variables = initialise(module, x, seed=0)
  variables["params"]["attn"]["qkv"]["bias"] += 1.0
  normed = swin.LayerNorm(swin.EPSILON).apply({"params": variables["params"]["norm1"]}, x)
  padded = jnp.pad(normed, ((0, 0), (0, 1), (0, 0), (0, 0)))
  bound = module.bind(variables)
  expected = swin.WindowAttention(1, 3, False, jnp.float32).apply(
    {"params": variables["params"]["attn"]}, padded.reshape(1, 9, 4)
  )
  mlp = swin.MLP(8, False, jnp.float32)
  y = x + expected.reshape(1, 3, 3, 4)[:, :2]
  inner = swin.LayerNorm(swin.EPSILON).apply({"params": variables["params"]["norm2"]}, y)
  y = y + mlp.apply({"params": variables["params"]["mlp"]}, inner)
  np.testing.assert_allclose(bound(x), y, rtol=1e-5, atol=1e-6)


def test_a_ramp_never_drops_the_first_block_and_a_constant_rate_spares_the_mlp():
  module, variables, x = tiny(depths=(1, 1), drop_path=0.9)
  training = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
  still, moved = run(module, variables, x), run(module, variables, x, **training)
  np.testing.assert_allclose(moved[0], still[0], rtol=1e-5, atol=1e-6)
  assert np.abs(moved[1] - still[1]).max() > 1e-4
  constant, *_ = tiny(depths=(1, 1), drop_path=0.9, drop_path_rule="constant")
  assert np.abs(run(constant, variables, x, **training)[0] - still[0]).max() > 1e-4
  silenced = jax.tree.map(np.array, variables)
  for i in range(2):
    silenced["params"][f"layers_{i}"]["blocks_0"]["attn"]["proj"]["kernel"][:] = 0
  for a, b in zip(*(run(constant, silenced, x, **more) for more in (training, {})), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rematerialisation_changes_no_gradient():
  def gradient(remat):
    module, variables, x = tiny(side=12, depths=(1,), heads=(1,), remat=remat)

    def loss(params):
      y = module.apply({"params": params}, x, train=True, rngs={"dropout": jax.random.key(0)})[0]
      return (y * jnp.arange(4.0)[None, None, None]).mean()

    return jax.jit(jax.grad(loss))(variables["params"])

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), gradient(False), gradient(True)
  )


def test_adapters_that_add_nothing_change_nothing():
  module, variables, x = tiny(adapters=True)
  plain, without, _ = tiny()
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: np.zeros_like(leaf) if "swin_adapt" in jax.tree_util.keystr(path) else leaf,
    variables["params"],
  )
  assert params["layers_0"]["blocks_0"]["attn"]["swin_adapt_1_0"]["kernel"].shape == (4, 1)
  for a, b in zip(run(module, {"params": params}, x), run(plain, without, x), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_adapters_are_found_under_the_names_of_hugging_face():
  ours = weights.to_torch_names("swin_base_w7", **TINY, adapters=True)
  random = np.random.default_rng(0)
  state = {name: random.normal(size=shape).astype(np.float32) for name, shape in ours.items()}
  theirs = {}
  for name, value in state.items():
    for a, b in (
      ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
      ("patch_embed.norm", "embeddings.norm"),
      ("layers.", "encoder.layers."),
      (".norm1", ".layernorm_before"),
      (".norm2", ".layernorm_after"),
      (".attn.proj", ".attention.output.dense"),
      (".attn.swin_adapt.1", ".attention.output.swin_adapt_1"),
      (".mlp.swin_adapt.3", ".output.swin_adapt_3"),
      (".attn.relative", ".attention.self.relative"),
      (".mlp.fc1", ".intermediate.dense"),
      (".mlp.fc2", ".output.dense"),
      ("norm0", "hidden_states_norms.stage1"),
      ("norm1.", "hidden_states_norms.stage2."),
    ):
      name = name.replace(a, b)
    if ".attn.qkv" in name:
      for part, rows in zip(("query", "key", "value"), np.split(value, 3), strict=True):
        theirs["model.encoder." + name.replace(".attn.qkv", f".attention.self.{part}")] = rows
    else:
      theirs["model.encoder." + name] = value
  expected, got = (weights.from_torch("swin_base_w7", s, **TINY, adapters=True) for s in (state, theirs))
  jax.tree.map(np.testing.assert_array_equal, expected, got)


def test_norms_have_variables_even_where_only_stages_are_run():
  module, variables, x = tiny()
  only = jax.eval_shape(lambda: module.init(jax.random.key(0), x, 0, method="stage"))
  assert "norm0" in only["params"]


@pytest.mark.parametrize(
  "wrong, words",
  [
    ({"window_rule": "hf"}, "window_rule is 'hf'; give one of dense, classic"),
    ({"drop_path_rule": "none"}, "drop_path_rule is 'none'; give one of ramp, constant"),
    ({"heads": (3, 2)}, "be a multiple of its heads"),
    ({"depths": (1,)}, "one number a stage"),
    ({"window": 0}, "window be 1 or more"),
  ],
)
def test_settings_that_fit_no_network_are_refused(wrong, words):
  with pytest.raises(InputError, match=words):
    tiny(**wrong)
