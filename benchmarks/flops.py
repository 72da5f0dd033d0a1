"""Floating-point operations of a program that is traced and lowered, not compiled and not run.

XLA's cost analysis counts the body of a loop once. A loop whose length the trace knows (`lax.map`, `lax.scan`) is
counted here as often as it runs; one whose length depends on data is counted once, and said to be.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Work:
  """What a program does.

  Attributes:
    flop: additions and multiplications apart, so a multiply-add is two. XLA also counts what is elementwise.
    open_loops: loops of unknown length, whose bodies are in `flop` once.
  """

  flop: float
  open_loops: int = 0


def count(function: Callable[..., Any], *shapes: Any) -> Work:
  """The work of a call of `function`.

  Args:
    shapes: trees of arrays or `jax.ShapeDtypeStruct`.
  """
  traced = jax.jit(function).trace(*shapes)
  missing, open_loops = _in_loops(traced.jaxpr.jaxpr)
  return Work(_once(traced.lower()) + missing, open_loops)


def _once(lowered: Any) -> float:
  """XLA's own count, in which loops run once."""
  cost = lowered.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  return float(cost.get("flops", 0.0))


def _in_loops(jaxpr: Any) -> tuple[float, int]:
  """The operations that `_once` leaves out, and the loops of unknown length."""
  missing, open_loops = 0.0, 0
  for equation in jaxpr.eqns:
    inner = [_in_loops(body) for body in _bodies(equation.params)]
    below, loops = sum(each[0] for each in inner), sum(each[1] for each in inner)
    length = 1
    if equation.primitive.name == "scan":
      length = int(equation.params["length"])
      missing += (length - 1) * _body_once(equation.params["jaxpr"]) if length > 1 else 0.0
    open_loops += loops + (equation.primitive.name == "while")
    missing += length * below
  return missing, open_loops


def _bodies(params: dict[str, Any]) -> Iterator[Any]:
  """The programs inside an operation."""
  for value in params.values():
    for each in value if isinstance(value, tuple | list) else (value,):
      if isinstance(each, core.ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, core.Jaxpr):
        yield each


def _body_once(body: Any) -> float:
  inputs = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in body.in_avals]
  return _once(jax.jit(core.jaxpr_as_fun(body)).lower(*inputs))
