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
  key = jax.random.key(seed)
  values = {}
  for path, leaf in flat.items():
    if path[0] != "params":  # running statistics
      values[path] = (np.ones if path[-1] == "var" else np.zeros)(leaf.shape, leaf.dtype)
      continue
    init_fn, init_args = recorded[path[1:]]
    own = jax.random.fold_in(key, zlib.crc32("/".join(path[1:]).encode()) & 0x7FFFFFFF)
    value = np.asarray(init_fn(own, *init_args))
    if value.shape != leaf.shape:  # scanned blocks: one slice per block
      slices = [init_fn(jax.random.fold_in(own, i), *init_args) for i in range(leaf.shape[0])]
      value = np.stack([np.asarray(part) for part in slices])
    values[path] = value.astype(leaf.dtype)
  return traverse_util.unflatten_dict(values)
