"""Fresh variables of a module, without compiling its forward pass.

Compiling the init of a B5 backbone takes minutes; tracing it takes seconds. So the module is traced
abstractly, each parameter's own initialiser is written down on the way, and each is then run by itself.
"""

import zlib
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from flax.core import scope

from avs_jax.initial import Initial

Variables = dict[str, Any]


def abstract_variables(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Variables, dict]:
  """Shapes of the variables, and each parameter's initialiser with its arguments, by path."""
  recorded: dict[tuple[str, ...], tuple] = {}
  plain_param = scope.Scope.param

  def param(self: Any, name: str, init_fn: Any, *init_args: Any, **rest: Any) -> Any:
    recorded[(*self.path, name)] = (init_fn, init_args)
    return plain_param(self, name, init_fn, *init_args, **rest)

  def init(key: jax.Array) -> Any:
    return module.init({"params": key, "dropout": key}, *args, **kwargs)

  with mock.patch.object(scope.Scope, "param", param):
    shapes = jax.eval_shape(init, jax.random.key(0))
  return shapes, recorded


def initialise(module: nn.Module, *args: Any, seed: int, **kwargs: Any) -> Variables:
  """Variables of `module` for example arguments `args`, as numpy arrays.

  A parameter's values depend on the seed, its own path and its shape, and on nothing else in the model:
  adding a layer changes no other layer's start.
  """
  shapes, recorded = abstract_variables(module, *args, **kwargs)
  flat = traverse_util.flatten_dict(shapes)
  values = {}
  for path, leaf in flat.items():
    if path[0] != "params":  # running statistics
      values[path] = (np.ones if path[-1] == "var" else np.zeros)(leaf.shape, leaf.dtype)
      continue
    init_fn, init_args = recorded[path[1:]]
    shape = tuple(init_args[0])
    own = [seed, zlib.crc32("/".join(path[1:]).encode())]
    if shape == leaf.shape:
      value = _draw(init_fn, init_args, own)
    else:  # scanned blocks: one slice per block
      value = np.stack([_draw(init_fn, init_args, [*own, i]) for i in range(leaf.shape[0])])
    values[path] = value.astype(leaf.dtype)
  return traverse_util.unflatten_dict(values)


def _draw(init_fn: Any, init_args: tuple, entropy: list[int]) -> np.ndarray:
  shape = tuple(init_args[0])
  if init_fn in (nn.initializers.zeros, nn.initializers.ones):
    return np.full(shape, float(init_fn is nn.initializers.ones), np.float32)
  if isinstance(init_fn, Initial):
    return init_fn.sample(np.random.default_rng(entropy), shape)
  bits = np.random.SeedSequence(entropy).generate_state(1)[0] & 0x7FFFFFFF
  return np.asarray(init_fn(jax.random.key(int(bits)), *init_args))
