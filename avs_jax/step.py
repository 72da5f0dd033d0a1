"""The two compiled programs: one optimiser step, and the prediction for one batch."""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avs_jax import optimizer as optimizers
from avs_jax.errors import InputError
from avs_jax.systems.system import innermost
from avs_jax.types import Batch, Outputs, Stereo, unchecked

Objective = Callable[[Outputs, Batch], tuple[jax.Array, dict[str, jax.Array]]]
Given = ParamSpec("Given")
Made = TypeVar("Made")


class Program(Generic[Given, Made]):
  """A jitted function whose first call compiles, gives back what memory that freed, and only then runs.

  Attributes:
    jitted: the function itself, to trace or to lower.
  """

  def __init__(self, jitted: Any) -> None:
    self.jitted = jitted
    self._is_compiled = False

  def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Made:
    if not self._is_compiled:
      traced = self.jitted.trace(*args, **kwargs)
      with unchecked():
        traced.lower().compile()  # kept: the call below finds it
      give_back_freed_memory()
      self._is_compiled = True
    return self.jitted(*args, **kwargs)


def give_back_freed_memory() -> None:
  """Gives memory that was freed back to the system, where the C library can (glibc).

  It keeps most of what a compiler used in small pieces. A process would then need that and what the program needs.
  """
  with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems; TypeError: Windows
    ctypes.CDLL(None).malloc_trim(0)


@flax.struct.dataclass
class TrainState:
  """All that a step changes: the count of finished steps, variables, and the optimiser's memory."""

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    return {"params": self.params, "batch_stats": self.batch_stats}


def told(batch: Batch) -> dict[str, Any]:
  """What a model is told of a batch beside frames and sound: which frames are real, and marks if there are any."""
  marks = {} if batch.marks is None else {"marks": batch.marks}
  return {"present": batch.present, **marks}


def decoy_of(model: nn.Module, batch: Batch) -> dict[str, Any]:
  """A batch's decoys as the model hears them, if there are any; from where the clip's own sound comes."""
  return {} if batch.decoy is None else {"decoy": _from_there(innermost(model)[0], batch.decoy, batch)}


def sound_of(model: nn.Module, batch: Batch) -> Any:
  """What the model's audio encoder hears of a batch: samples or VGGish examples, and from where if it asks.

  Raises:
    InputError: the model asks where sounds come from, and the batch does not say.
  """
  system, _ = innermost(model)
  return _from_there(
    system, batch.waveform if getattr(system, "takes_waveform", False) else batch.log_mel, batch
  )


def _from_there(system: Any, mono: Any, batch: Batch) -> Any:
  if not getattr(system, "stereo", False):
    return mono
  if batch.pan is None:
    raise InputError("model.stereo=True needs sounds with a direction; take it back, or data that have one.")
  return Stereo(mono, batch.pan)


def forward(
  model: nn.Module, variables: Mapping[str, Any], batch: Batch, key: jax.Array, frozen: tuple[str, ...] = ()
) -> tuple[Outputs, Any]:
  """A training forward pass; modules under a `frozen` prefix run as in inference (norms and dropout stand still).

  Returns the outputs and the moved running statistics.
  """

  def stay(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
    if "train" in kwargs and any(optimizers.matches(context.module.path, prefix) for prefix in frozen):
      kwargs = {**kwargs, "train": False}
    return call(*args, **kwargs)

  with nn.intercept_methods(stay):
    outputs, moved = model.apply(
      variables,
      batch.frames,
      sound_of(model, batch),
      train=True,
      **told(batch),
      **decoy_of(model, batch),
      rngs={"dropout": key},
      mutable=["batch_stats"],
    )
  return outputs, moved.get("batch_stats", variables["batch_stats"])


def forward_in_pieces(
  model: nn.Module,
  variables: Mapping[str, Any],
  batch: Batch,
  key: jax.Array,
  frozen: tuple[str, ...],
  pieces: int,
  mesh: Mesh,
) -> tuple[Outputs, Any]:
  """`forward` over the batch cut into pieces, one after the other, each recomputed in the backward pass.

  The loss is then taken over the outputs of the whole batch, so whatever its form (sums, means, weights) it
  is the loss of the whole batch, and memory holds the activations of one piece. What differs from an uncut
  batch: batch normalisation sees a piece at a time, and dropout draws other numbers.
  """

  leaves, is_batch = jax.tree.flatten(batch)
  forms = []  # how the outputs of a piece are put together from arrays

  def cut(x: jax.Array) -> jax.Array:
    # Clip i goes to piece i mod `pieces`, so that every piece is spread over all devices.
    x = x.reshape(x.shape[0] // pieces, pieces, *x.shape[1:]).swapaxes(0, 1)  # [pieces, B/pieces, ...]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, "data")))

  def glue(x: jax.Array) -> jax.Array:
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])  # [B, ...]

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one(params: Any, statistics: Any, piece: list, number: jax.Array) -> tuple[list, Any]:
    own = {"params": params, "batch_stats": statistics}
    clips = jax.tree.unflatten(is_batch, piece)
    outputs, statistics = forward(model, own, clips, jax.random.fold_in(key, number), frozen)
    arrays, form = jax.tree.flatten(outputs)
    forms.append(form)
    return arrays, statistics

  def body(statistics: Any, item: tuple[list, jax.Array]) -> tuple[Any, list]:
    arrays, statistics = one(variables["params"], statistics, *item)
    return statistics, arrays

  items = ([cut(leaf) for leaf in leaves], jnp.arange(pieces))
  statistics, arrays = jax.lax.scan(body, variables["batch_stats"], items)
  return jax.tree.unflatten(forms[0], [glue(x) for x in arrays]), statistics


def make_train_step(
  model: nn.Module,
  objective: Objective,
  rule: optax.GradientTransformation,
  *,
  frozen: tuple[str, ...],
  pieces: int,
  mesh: Mesh,
  state_sharding: Any,
) -> Program[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
  """A program `step(state, batch, key) -> (state, figures)`; the state's memory is reused.

  Figures: `loss`, its parts, and global norms of gradient, update and trainable parameters.
  Gradients exist only for parameters that learn.
  """

  def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    key = jax.random.fold_in(key, state.step)
    learns, stays = optimizers.split_trainable(state.params, frozen)

    def loss(learns: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
      variables = {"params": optimizers.merge(learns, stays), "batch_stats": state.batch_stats}
      if pieces > 1:
        outputs, statistics = forward_in_pieces(model, variables, batch, key, frozen, pieces, mesh)
      else:
        outputs, statistics = forward(model, variables, batch, key, frozen)
      total, parts = objective(outputs, batch)
      return total, (parts, statistics)

    (total, (parts, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(learns)
    update, opt_state = rule.update(gradient, state.opt_state, learns)
    learns = optax.apply_updates(learns, update)
    figures = {
      "loss": total,
      **parts,
      "gradient_norm": optimizers.norm(gradient),
      "update_norm": optimizers.norm(update),
      "parameter_norm": optimizers.norm(learns),
    }
    params = optimizers.merge(learns, stays)
    return TrainState(state.step + 1, params, statistics, opt_state), figures

  replicated = NamedSharding(mesh, PartitionSpec())
  by_clip = NamedSharding(mesh, PartitionSpec("data"))
  return Program(
    jax.jit(
      step,
      in_shardings=(state_sharding, by_clip, replicated),
      out_shardings=(state_sharding, replicated),
      donate_argnums=0,
    )
  )


def make_predict_step(model: nn.Module, mesh: Mesh) -> Program[[Mapping[str, Any], Batch], Outputs]:
  """A program `predict(variables, batch) -> Outputs` holding what is judged or drawn: masks, and what explains them."""
  kept = ("logits", "ungated", "similarity", "uncertainty", "groups", "group_agreement")

  def predict(variables: Mapping[str, Any], batch: Batch) -> Outputs:
    outputs = model.apply(variables, batch.frames, sound_of(model, batch), train=False, **told(batch))
    return Outputs(**{name: getattr(outputs, name) for name in kept})

  replicated = NamedSharding(mesh, PartitionSpec())
  by_clip = NamedSharding(mesh, PartitionSpec("data"))
  return Program(jax.jit(predict, in_shardings=(replicated, by_clip), out_shardings=by_clip))
