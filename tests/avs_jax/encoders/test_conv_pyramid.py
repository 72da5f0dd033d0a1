import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avs_jax import encoders
from avs_jax.errors import InputError
from avs_jax.initialise import initialise


def test_group_norms_do_not_look_at_the_rest_of_the_batch_even_in_training():
  module = encoders.build("conv_pyramid", width=4)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 32, 32, 3)), jnp.float32)
  variables = initialise(module, x, seed=0)
  for alone, among in zip(
    module.apply(variables, x[:1], train=True), module.apply(variables, x, train=True), strict=True
  ):
    np.testing.assert_allclose(alone, among[:1], rtol=1e-4, atol=1e-5)
  assert set(variables) == {"params"}


def test_the_residual_branch_by_hand():
  module = encoders.build("conv_pyramid", width=2)
  x = jnp.zeros((1, 16, 16, 3))
  variables = initialise(module, x, seed=0)
  for y in module.apply(variables, x):
    np.testing.assert_array_equal(y, np.zeros_like(y))
  first = variables["params"]["stage1"]
  first["down"]["bias"] = np.array([5, 7], np.float32)  # taken out by the norm, one group a channel
  first["norm"]["bias"] = np.array([3, -3], np.float32)  # rectified to 3, 0
  first["mix"]["kernel"] = np.zeros((3, 3, 2, 2), np.float32)
  first["mix"]["kernel"][1, 1] = np.eye(2)
  y = module.apply(variables, x)[0]
  np.testing.assert_allclose(y, np.broadcast_to([8.0, 7.0], y.shape), rtol=1e-6)


def test_it_tells_coloured_squares_apart_within_thirty_steps():
  """A linear reading of the finest map finds where red squares are and ignores blue ones."""
  random = np.random.default_rng(0)
  x = np.zeros((16, 64, 64, 3), np.float32)
  truth = np.zeros((16, 16, 16), np.float32)
  for n in range(16):
    for colour in (0, 2):
      row, col = 4 * random.integers(0, 12, 2)
      x[n, row : row + 16, col : col + 16] = np.eye(3)[colour] * 2
      truth[n, row // 4 : row // 4 + 4, col // 4 : col // 4 + 4] = colour == 0
  module = encoders.build("conv_pyramid", width=8)
  x, truth = jnp.asarray(x), jnp.asarray(truth)
  params = {"net": initialise(module, x, seed=0), "read": jnp.zeros(8)}
  rule = optax.adam(0.01)

  def loss(params):
    finest = module.apply(params["net"], x)[0]
    return optax.sigmoid_binary_cross_entropy(finest @ params["read"] - 1, truth).mean()

  @jax.jit
  def step(params, state):
    value, slope = jax.value_and_grad(loss)(params)
    change, state = rule.update(slope, state)
    return optax.apply_updates(params, change), state, value

  state = rule.init(params)
  for _ in range(30):
    params, state, value = step(params, state)
  assert value < 0.05


def test_an_odd_width_is_refused():
  with pytest.raises(InputError, match="width is 5; give an even number"):
    encoders.build("conv_pyramid", width=5).init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
