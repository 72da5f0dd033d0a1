"""Learning rates, multipliers and frozen parts, on parameters small enough to compute by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avs_jax import optimizer as optimizers
from avs_jax import train
from avs_jax.errors import InputError

PARAMS = {
  "visual_encoder": {"block1_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}},
  "audio_encoder": {"fc": {"kernel": jnp.ones((2, 2))}},
  "head": {"kernel": jnp.ones((2, 2))},
}


def settings(**changes):
  chosen = {
    "name": "sgd", "lr": 0.1, "betas": (0.0, 0.999), "weight_decay": 0.0, "clip_norm": 0.0,
    "multipliers": {}, "freeze_epochs": {},
  }  # fmt: skip
  return {**chosen, **changes}


def schedule(**changes):
  chosen = {
    "lr_warmup_steps": 0,
    "decay": "constant",
    "decay_at": (0.5, 0.75),
    "decay_factor": 0.1,
    "decay_power": 2.0,
  }
  return {**chosen, **changes}


def moved(steps=1, steps_per_epoch=4, **changes):
  """How far each parameter goes in `steps` steps of a gradient of ones."""
  rule = optimizers.build(settings(**changes), schedule(), 100, steps_per_epoch)
  params, state = PARAMS, rule.init(PARAMS)
  for _ in range(steps):
    update, state = rule.update(jax.tree.map(jnp.ones_like, params), state, params)
    params = optax.apply_updates(params, update)
  return jax.tree.map(lambda new, old: np.round(np.asarray(old - new), 6), params, PARAMS)


def rates(steps, **changes):
  rate = optimizers.learning_rate(settings(), schedule(**changes), steps)
  return [round(float(rate(step)), 6) for step in range(steps)]


def test_a_plain_step_moves_by_the_learning_rate():
  assert {float(x.ravel()[0]) for x in jax.tree.leaves(moved())} == {np.float32(0.1).round(6).item()}


def test_a_multiplier_scales_one_prefix_only():
  far = moved(multipliers={"visual_encoder": 0.1})
  np.testing.assert_allclose(far["visual_encoder"]["block1_0"]["bias"], 0.01, rtol=1e-5)
  np.testing.assert_allclose(far["head"]["kernel"], 0.1, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_multiplier_scales_what_any_rule_would_do(name):
  far = moved(name=name, betas=(0.9, 0.999), multipliers={"head": 0.5}, steps=3)
  np.testing.assert_allclose(far["head"]["kernel"] * 2, far["audio_encoder"]["fc"]["kernel"], rtol=1e-3)


def test_a_part_held_for_two_epochs_starts_at_the_first_step_of_the_third():
  kernel = [moved(steps, freeze_epochs={"head": 2})["head"]["kernel"][0, 0] for steps in (7, 8, 9)]
  np.testing.assert_allclose(kernel, [0, 0, 0.1], rtol=1e-5)


def test_a_held_part_is_not_decayed_and_gathers_no_momentum():
  still = moved(8, name="adamw", betas=(0.9, 0.999), weight_decay=0.5, freeze_epochs={"head": 2})
  assert not still["head"]["kernel"].any()
  after = moved(9, name="sgd", betas=(0.9, 0.999), freeze_epochs={"head": 2})["head"]["kernel"]
  np.testing.assert_allclose(after, 0.1, rtol=1e-5)  # one plain step, not nine steps of momentum


def test_scales_and_biases_are_not_decayed():
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  rule = optimizers.build(settings(name="adamw", weight_decay=0.5), schedule(), 10, 1)
  update, _ = rule.update(zero, rule.init(PARAMS), PARAMS)
  assert not np.asarray(update["visual_encoder"]["block1_0"]["bias"]).any()
  np.testing.assert_allclose(update["visual_encoder"]["block1_0"]["kernel"], -0.05, rtol=1e-5)


def test_scanned_blocks_are_decayed_as_unrolled_ones_are():
  block = {
    "kernel": jnp.ones((3, 4)),
    "bias": jnp.ones(4),
    "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
  }
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), block)
  assert optimizers.decayed({"block1": stacked})["block1"] == optimizers.decayed(block)
  assert optimizers.decayed(block) == {
    "kernel": True, "bias": False, "norm": {"scale": False, "bias": False},
  }  # fmt: skip


def test_adamw_all_decays_scales_and_biases_too():
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  rule = optimizers.build(settings(name="adamw_all", weight_decay=0.5), schedule(), 10, 1)
  update, _ = rule.update(zero, rule.init(PARAMS), PARAMS)
  for leaf in jax.tree.leaves(update):
    np.testing.assert_allclose(leaf, -0.05, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw_all"])
def test_a_part_that_wakes_late_moves_as_if_its_adam_were_new(name):
  common = {"name": name, "betas": (0.9, 0.999), "weight_decay": 0.1}
  late, new = (
    optimizers.build(settings(**common, freeze_epochs=freeze), schedule(), 100, 4)
    for freeze in ({"head": 3}, {})
  )
  draw = np.random.default_rng(0)
  gradients = [
    jax.tree.map(lambda x: jnp.asarray(draw.standard_normal(x.shape), jnp.float32), PARAMS) for _ in range(20)
  ]
  state, steps = late.init(PARAMS), []
  for gradient in gradients:
    update, state = late.update(gradient, state, PARAMS)
    steps.append(update["head"]["kernel"])
  state = new.init(PARAMS)
  for gradient, step in zip(gradients[12:], steps[12:], strict=True):
    update, state = new.update(gradient, state, PARAMS)
    np.testing.assert_allclose(step, update["head"]["kernel"], rtol=1e-4)
  assert not np.asarray(steps[:12]).any()


def test_the_gradient_is_clipped_by_its_norm_over_all_parameters():
  count = sum(x.size for x in jax.tree.leaves(PARAMS))
  np.testing.assert_allclose(moved(clip_norm=1.0)["head"]["kernel"], 0.1 / count**0.5, rtol=1e-4)


def test_the_learning_rate_warms_up_and_then_stays():
  assert rates(6, lr_warmup_steps=4) == [0.0, 0.025, 0.05, 0.075, 0.1, 0.1]


def test_cosine_ends_near_zero_and_is_half_at_half():
  assert rates(4, decay="cosine") == [0.1, 0.085355, 0.05, 0.014645]


def test_polynomial_falls_by_its_power():
  assert rates(4, decay="polynomial") == [0.1, 0.05625, 0.025, 0.00625]


def test_steps_fall_at_shares_of_the_whole_run_even_inside_the_warm_up():
  assert rates(8, decay="steps") == [0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
  assert rates(8, decay="steps", lr_warmup_steps=2) == [0.0, 0.05, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


def test_steps_that_fall_together_both_count_and_none_is_early():
  assert rates(20, decay="steps", lr_warmup_steps=10, decay_at=(0.2, 0.4))[9:12] == [0.09, 0.001, 0.001]
  assert rates(4, decay="steps", decay_at=(0.5, 0.5)) == [0.1, 0.1, 0.001, 0.001]
  assert rates(100, decay="steps", decay_at=(0.29, 0.58)) == [0.1] * 29 + [0.01] * 29 + [0.001] * 42


def test_unknown_rules_are_refused():
  with pytest.raises(InputError, match="optimizer.name='lamb' is not known; choose one of adam, .*sgd"):
    optimizers.build(settings(name="lamb"), schedule(), 10, 1)
  with pytest.raises(
    InputError, match="schedule.decay='linear' is not known; choose one of constant, cosine"
  ):
    optimizers.learning_rate(settings(), schedule(decay="linear"), 10)


def test_a_prefix_is_found_at_any_level_and_only_as_whole_names():
  assert optimizers.matches(("system", "visual_encoder", "block1_0", "kernel"), "visual_encoder/block1_0")
  assert not optimizers.matches(("visual_encoder", "block1_01"), "visual_encoder/block1_0")
  assert not optimizers.matches(("audio_encoder",), "audio")


def test_parting_and_merging_gives_the_same_tree():
  learns, stays = optimizers.split_trainable(PARAMS, ("audio_encoder", "visual_encoder/block1_0"))
  assert set(learns) == {"head"}
  assert set(stays) == {"audio_encoder", "visual_encoder"}
  assert jax.tree.structure(optimizers.merge(learns, stays)) == jax.tree.structure(PARAMS)


def test_a_frozen_name_of_nothing_is_refused():
  with pytest.raises(
    InputError, match="no parameter lies under 'audio_encodr'; the model has .*audio_encoder"
  ):
    optimizers.split_trainable(PARAMS, ("audio_encodr",))


def test_what_an_exception_names_learns_although_a_frozen_part_holds_it():
  params = {
    "eye": {"block": {"qkv": jnp.ones(2), "adapter": jnp.ones(1)}, "stem": jnp.ones(3)},
    "head": jnp.ones(4),
  }
  learns, stays = optimizers.split_trainable(params, ("eye", "!adapter"))
  assert set(learns) == {"eye", "head"} and set(learns["eye"]["block"]) == {"adapter"}
  assert set(stays["eye"]) == {"block", "stem"} and set(stays["eye"]["block"]) == {"qkv"}
  with pytest.raises(InputError, match="no parameter lies under '!adaptor'"):
    optimizers.split_trainable(params, ("eye", "!adaptor"))


def test_the_norm_is_that_of_all_leaves_together():
  tree = {"a": jnp.full((300, 300), 0.01), "b": {"c": jnp.full((3,), 2.0), "d": jnp.ones(())}}
  np.testing.assert_allclose(optimizers.norm(tree), np.sqrt(9 + 12 + 1), rtol=1e-6)


@pytest.mark.parametrize("shapes", [((2, 3), (), (300, 300)), ((4,), (2, 2)), ((300, 300),)])
def test_joining_small_parameters_changes_no_update(shapes):
  params = {f"part{i}": {"kernel": jnp.ones(shape)} for i, shape in enumerate(shapes)}
  plain, joined = optax.scale_by_adam(0.9, 0.99), optimizers.joined(optax.scale_by_adam(0.9, 0.99))
  states = [rule.init(params) for rule in (plain, joined)]
  assert len(jax.tree.leaves(states[1])) == 1 + 2 * (
    1 + (len(shapes) == 3)
  )  # count, and two moments of each kind
  for seed in range(3):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    gradient = {
      name: {"kernel": jax.random.normal(key, part["kernel"].shape)}
      for key, (name, part) in zip(keys, params.items(), strict=True)
    }
    wanted, states[0] = plain.update(gradient, states[0], params)
    found, states[1] = joined.update(gradient, states[1], params)
    chex.assert_trees_all_equal_structs(found, wanted)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)


def test_the_rate_is_worked_out_once_a_step_and_not_in_the_update_of_every_parameter():
  config = {"name": "adamw", "lr": 0.1, "weight_decay": 0.01, "betas": (0.9, 0.999), "clip_norm": 0.0,
            "multipliers": {}, "freeze_epochs": {}}  # fmt: skip
  schedule = {"lr_warmup_steps": 0, "decay": "cosine"}
  rule = optimizers.build(config, schedule, 10, 10)
  params = {f"p{k}": jnp.ones((300, 200 + k)) for k in range(6)}  # too large to be joined
  state = rule.init(params)
  text = jax.jit(rule.update).lower(params, state, params).compile().as_text()
  assert text.count(" cosine(") == 1
  plain = optimizers.learning_rate(config, schedule, 10)
  found = [float(optimizers.once(plain)(step)) for step in range(11)]
  assert found == pytest.approx([float(plain(step)) for step in range(11)], rel=1e-5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: "gpu")
    assert optimizers.once(plain) is plain


@pytest.mark.parametrize(
  ("changes", "plan", "said"),
  [
    ({"betas": (0.9,)}, {}, r"optimizer\.betas=\(0\.9,\) must be two numbers"),
    ({"betas": (2.0, 1.0)}, {}, r"optimizer\.betas=\(2\.0, 1\.0\) must be two numbers"),
    ({"lr": -1.0}, {}, r"optimizer\.lr=-1\.0 is no learning rate"),
    ({"lr": float("inf")}, {}, r"optimizer\.lr=inf is no learning rate"),
    ({}, {"decay": "steps", "decay_at": (0.5, 1.5)}, r"schedule\.decay_at=\(0\.5, 1\.5\) must be shares"),
  ],
)
def test_numbers_that_no_training_can_have_are_refused(changes, plan, said):
  with pytest.raises(InputError, match=said):
    optimizers.build(settings(**changes), schedule(**plan), 10, 1)


@pytest.mark.parametrize(
  ("name", "is_said"), [("adam", True), ("sgd", True), ("adamw", False), ("adamw_all", False)]
)
def test_a_weight_decay_that_decays_nothing_is_said(small, caplog, name, is_said):
  train.check_settings(small({"optimizer.name": name, "optimizer.weight_decay": 0.01}))
  assert (f"optimizer.weight_decay=0.01 does nothing: optimizer.name={name}" in caplog.text) == is_said
