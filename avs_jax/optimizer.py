"""The optimiser of a config: one base rule, learning-rate multipliers and frozen parts by prefix."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from avs_jax.errors import InputError, check_choice

Params = Mapping[str, Any]
_SMALL_LEAF = 2**16  # elements; smaller ones are never split over devices (see `mesh.weight_sharding`)


def learning_rate(optimizer: Any, schedule: Any, steps: int) -> optax.Schedule:
  """Learning rate by step: linear warm-up, then constant, cosine to zero, polynomial, or falling at steps.

  Raises:
    InputError: unknown `schedule.decay`, a rate that is none, or steps at shares of the training that are none.
  """
  peak, warm = optimizer["lr"], schedule["lr_warmup_steps"]
  if not 0 <= peak < math.inf:
    raise InputError(f"optimizer.lr={peak} is no learning rate; give a number from 0 up.")
  after = max(steps - warm, 1)
  forms = {
    "constant": lambda: optax.constant_schedule(peak),
    "cosine": lambda: optax.cosine_decay_schedule(peak, after),
    "polynomial": lambda: optax.polynomial_schedule(peak, 0.0, schedule["decay_power"], after),
    "steps": lambda: optax.piecewise_constant_schedule(peak, _falls(schedule, steps, warm)),
  }
  check_choice("schedule.decay", schedule["decay"], forms)
  main = forms[schedule["decay"]]()
  if not warm:
    return main
  return optax.join_schedules([optax.linear_schedule(0.0, peak, warm), main], [warm])


def once(schedule: optax.Schedule) -> optax.Schedule:
  """The same rate, worked out once a step.

  XLA would copy a few scalar operations into the update of every parameter. A cosine there is a call of the C library,
  and the loader of cached CPU programs nests such kernels in a stack of 2 MB: with hundreds of them a second start
  ended in a segmentation fault. A branch is never copied. On other devices the
  host would wait for it: there the rate is as it was.
  """
  if jax.default_backend() != "cpu":
    return schedule

  def rate(count: Any) -> Any:
    return jax.lax.cond(
      count >= 0, schedule, lambda count: jnp.zeros_like(schedule(count)), jnp.asarray(count)
    )

  return rate


def matches(path: tuple[str, ...], prefix: str) -> bool:
  """Whether `prefix` ("visual_encoder" or "visual_encoder/block1_0") begins at any level of `path`."""
  wanted = tuple(prefix.split("/"))
  return any(path[i : i + len(wanted)] == wanted for i in range(len(path)))


def label(params: Params, prefixes: Mapping[str, Any] | tuple[str, ...]) -> Any:
  """A tree like `params` naming for each leaf the first prefix that holds it, "" for none.

  A prefix written "!name" holds nothing: it takes what lies under `name` out of the others.

  Raises:
    InputError: a prefix that holds no parameter (a mistyped name would silently do nothing).
  """
  flat = traverse_util.flatten_dict(params)
  excepted = tuple(prefix[1:] for prefix in prefixes if prefix.startswith("!"))
  for prefix in prefixes:
    if not any(matches(path, prefix.removeprefix("!")) for path in flat):
      tops = sorted({path[0] for path in flat} | {path[1] for path in flat if len(path) > 2})
      raise InputError(f"optimizer: no parameter lies under {prefix!r}; the model has {', '.join(tops)}.")
  found = {path: next((p for p in prefixes if matches(path, p)), "") for path in flat}
  found = {path: "" if any(matches(path, p) for p in excepted) else name for path, name in found.items()}
  return traverse_util.unflatten_dict(found)


def split_trainable(params: Params, frozen: tuple[str, ...]) -> tuple[dict, dict]:
  """Parameters that learn and those that do not, each as a nested dict; "!name" in `frozen` learns."""
  names = traverse_util.flatten_dict(label(params, frozen))
  flat = traverse_util.flatten_dict(params)
  learns = {path: leaf for path, leaf in flat.items() if not names[path]}
  stays = {path: leaf for path, leaf in flat.items() if names[path]}
  return traverse_util.unflatten_dict(learns), traverse_util.unflatten_dict(stays)


def merge(learns: Params, stays: Params) -> dict:
  """The inverse of `split_trainable`."""
  return traverse_util.unflatten_dict(
    {**traverse_util.flatten_dict(learns), **traverse_util.flatten_dict(stays)}
  )


def norm(tree: Any) -> jax.Array:
  """Global Euclidean norm, as `optax.tree.norm` gives it.

  Small leaves are joined first: with a sum for each of a thousand, the three norms of a training step were a
  sixth of all that XLA compiled for it.
  """
  leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
  parts = [leaf for leaf in leaves if leaf.size >= _SMALL_LEAF]
  small = [leaf for leaf in leaves if leaf.size < _SMALL_LEAF]
  parts += [jnp.concatenate(small)] if small else []
  return jnp.sqrt(sum((jnp.square(part.astype(jnp.float32)).sum() for part in parts), jnp.float32(0)))


def scale_by_prefix(
  multipliers: Mapping[str, float], hold_until: Mapping[str, int]
) -> optax.GradientTransformation:
  """Multiplies updates of parameters under a prefix; holds them still before a given step."""

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> tuple[Any, Any]:
    del params

    def scaled(path: tuple[str, ...], value: jax.Array) -> jax.Array:
      for prefix, factor in multipliers.items():
        if matches(path, prefix):
          value = value * factor
      for prefix, step in hold_until.items():
        if matches(path, prefix):
          value = jnp.where(jnp.greater_equal(state.count, step), value, jnp.zeros_like(value))
      return value

    flat = traverse_util.flatten_dict(updates)
    moved = {path: scaled(path, value) for path, value in flat.items()}
    return traverse_util.unflatten_dict(moved), optax.ScaleByScheduleState(count=state.count + 1)

  return optax.GradientTransformation(init, update)


def joined(rule: optax.GradientTransformation) -> optax.GradientTransformation:
  """The same rule with all small parameters in one row; for rules that treat every element alone.

  A B5 has a thousand biases and norm scales. One by one they were most of what XLA had to compile, load from its
  cache and start for a training step. The state holds moments under {"large": nested dict, "small": row}.
  """

  def init(params: Any) -> Any:
    return rule.init(_join(params))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    moved, state = rule.update(_join(updates), state, None if params is None else _join(params))
    return _part(moved, updates), state

  return optax.GradientTransformation(init, update)


def _small(flat: Mapping[tuple[str, ...], jax.Array]) -> list[tuple[str, ...]]:
  return [path for path, leaf in flat.items() if leaf.size < _SMALL_LEAF]


def _join(tree: Any) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(tree)
  small = _small(flat)
  found: dict[str, Any] = {}
  if len(small) < len(flat):
    found["large"] = traverse_util.unflatten_dict(
      {path: leaf for path, leaf in flat.items() if path not in set(small)}
    )
  if small:
    found["small"] = jnp.concatenate([jnp.ravel(flat[path]) for path in small])
  return found


def _part(found: Mapping[str, Any], like: Any) -> dict[str, Any]:
  """The inverse of `_join`, with the shapes of `like`."""
  flat = traverse_util.flatten_dict(like)
  parted = traverse_util.flatten_dict(found.get("large", {}))
  small = _small(flat)
  ends = np.cumsum([flat[path].size for path in small])
  for path, end in zip(small, ends, strict=True):
    shape = flat[path].shape
    parted[path] = jax.lax.slice(found["small"], (int(end) - math.prod(shape),), (int(end),)).reshape(shape)
  return traverse_util.unflatten_dict({path: parted[path] for path in flat})


def decayed(params: Any) -> Any:
  """Which parameters `adamw` decays: no norm scales and no biases, stacked over blocks (`scan`) or not."""

  def is_decayed(path: tuple, x: Any) -> bool:
    return x.ndim > 1 and getattr(path[-1], "key", "") not in ("scale", "bias")

  return jax.tree_util.tree_map_with_path(is_decayed, params)


def restart_adam(b1: float, b2: float, hold_until: Mapping[str, int]) -> optax.GradientTransformation:
  """Adam's bias correction counts from the step at which a held parameter starts to move, not from the first.

  Without it a parameter's first step after many steps of rest is (1 - b1) / sqrt(1 - b2) = 3.2 times too
  long: its moments are as empty as at step one, but no longer corrected for that. To be placed right behind
  `scale_by_adam`, whose epsilon it scales along.
  """

  def init(params: Any) -> optax.ScaleByScheduleState:
    del params
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> tuple[Any, Any]:
    del params
    count = state.count + 1

    def correction(steps: jax.Array) -> jax.Array:
      return jnp.sqrt(1 - b2 ** steps.astype(jnp.float32)) / (1 - b1 ** steps.astype(jnp.float32))

    def corrected(path: tuple[str, ...], value: jax.Array) -> jax.Array:
      for prefix, step in hold_until.items():
        if matches(path, prefix):
          return value * (correction(jnp.maximum(count - step, 1)) / correction(count)).astype(value.dtype)
      return value

    flat = traverse_util.flatten_dict(updates)
    moved = {path: corrected(path, value) for path, value in flat.items()}
    return traverse_util.unflatten_dict(moved), optax.ScaleByScheduleState(count=count)

  return optax.GradientTransformation(init, update)


def _falls(schedule: Any, steps: int, warm: int) -> dict[int, float]:
  """Steps after the warm-up at which the rate falls, and the factor there; those inside it count at its end."""
  at = tuple(schedule["decay_at"])
  if not all(0 < part < 1 for part in at):
    raise InputError(f"schedule.decay_at={at} must be shares of the training, between 0 and 1.")
  found: dict[int, float] = {}
  for part in at:
    step = max(round(part * steps) - warm, 0)
    found[step] = found.get(step, 1.0) * schedule["decay_factor"]
  return found


def build(config: Any, schedule: Any, steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
  """The optimiser over the nested dict of the trainable parameters.

  Args:
    config: `config.optimizer`: name, lr, weight_decay, betas, clip_norm, multipliers, freeze_epochs.

  Raises:
    InputError: unknown `optimizer.name`, or `optimizer.betas` that are no two numbers from 0 to below 1.
  """
  if len(config["betas"]) != 2 or not all(0 <= beta < 1 for beta in config["betas"]):
    raise InputError(f"optimizer.betas={config['betas']} must be two numbers from 0 to below 1.")
  hold = {name: epochs * steps_per_epoch for name, epochs in config["freeze_epochs"].items()}
  b1, b2 = config["betas"]
  adam = [joined(optax.scale_by_adam(b1, b2)), *([restart_adam(b1, b2, hold)] if hold else [])]
  rules = {
    "adam": lambda: adam,
    "adamw": lambda: [
      *adam,
      optax.add_decayed_weights(config["weight_decay"], decayed),
    ],
    # As PyTorch does with one group of parameters: norm scales and biases are decayed too.
    "adamw_all": lambda: [*adam, optax.add_decayed_weights(config["weight_decay"])],
    "sgd": lambda: [optax.trace(b1)],
  }
  check_choice("optimizer.name", config["name"], rules)
  clip = [optax.clip_by_global_norm(config["clip_norm"])] if config["clip_norm"] else []
  # Gradients of held parameters are zeroed first, so that no moments gather while they stand still.
  still = [scale_by_prefix({}, hold)] if hold else []
  rate = once(learning_rate(config, schedule, steps))
  return optax.chain(
    *still,
    *clip,
    *rules[config["name"]](),
    optax.scale_by_learning_rate(rate),
    scale_by_prefix(dict(config["multipliers"]), hold),
  )
