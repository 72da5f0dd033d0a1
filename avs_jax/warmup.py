"""The warm-up: both encoders learn to name what they see and hear, before anything is segmented.

It stands in for ImageNet and AudioSet where no pretrained weights are given, and needs class labels. As in
AudioSet, silence and noise are classes of their own: `warmup.nonsense` of the clips get one of the two.
Ours, not a paper's. Picture and sound are compared with the SAME class prototypes, so that afterwards the two
embeddings of one class lie near each other.
"""

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import FrozenDict
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float
from tqdm import trange

from avs_jax import mesh as meshes
from avs_jax.checkpoint import Checkpoints
from avs_jax.debias.guide import cosine
from avs_jax.errors import InputError
from avs_jax.initial import constant, normal, torch_default
from avs_jax.initialise import initialise
from avs_jax.model import adopt, example_inputs
from avs_jax.optimizer import once, scale_by_prefix
from avs_jax.step import sound_of
from avs_jax.stopping import StopFlag, is_due
from avs_jax.systems.system import System
from avs_jax.types import AnyArray, Batch, Condition, Sound

log = logging.getLogger(__name__)

_STATE = ("params", "batch_stats", "memory")  # of the optimiser, in the order of a step's arguments
_DOES = "warm-up: naming what is seen and heard"
_SCALE = 16.0  # initial inverse temperature of the cosine to the prototypes; ours


class Recogniser(nn.Module):
  """A system's two encoders, each followed by a projection, compared with shared class prototypes.

  Attributes:
    system: a module with the methods of `systems.system.System`.
    num_categories: G.
    width: size of the common space, D.
  """

  system: Any
  num_categories: int
  width: int = 256

  @nn.compact
  def __call__(
    self, frames: AnyArray, sound: Sound, *, train: bool = False
  ) -> tuple[Float[Array, "b t G"], Float[Array, "B T G"]]:
    """Returns the class logits of each picture (there may be fewer than sounds) and of each second of sound."""
    clips, seconds = frames.shape[:2]
    seen = self.system.see(frames, train=train)[-1].astype(jnp.float32).mean((1, 2))  # [B*T, C]
    heard = self.system.listen(sound, train=train).astype(jnp.float32)  # [B, T, A]
    seen = nn.Dense(self.width, kernel_init=torch_default, name="visual_proj")(
      seen.reshape(clips, seconds, -1)
    )  # [B, T, D]
    heard = nn.Dense(self.width, kernel_init=torch_default, name="audio_proj")(heard)  # [B, T, D]
    shape = (self.num_categories, self.width)
    prototypes = self.param("prototypes", normal(1.0), shape)
    scale = self.param("scale", constant(_SCALE), ())

    def compare(x: Float[Array, "B T D"]) -> Float[Array, "B T G"]:
      return scale * cosine(x[:, :, None], prototypes[None, None])

    return compare(seen), compare(heard)


class Encoders(System):
  """The two encoders alone. What a system hears beside the embedding, or sees in pieces, is not warmed up, so
  that one warm-up serves every system."""

  def setup(self) -> None:
    self.build_encoders()


def some_frames(frames: AnyArray, count: int, key: Array, clips: int = 0) -> AnyArray:
  """`count` neighbouring frames of the first `clips` clips from a random second on; 0 or too many is all.

  Frames of one clip are much alike: a picture each of more clips teaches more for the same work. Where the
  pictures' encoder is pretrained and the sounds' is not, few clips of a batch need be looked at.
  """
  frames, seconds = frames[: clips or None], frames.shape[1]
  if not 0 < count < seconds:
    return frames
  start = jax.random.randint(key, (), 0, seconds - count + 1)
  return jax.lax.dynamic_slice_in_dim(jnp.asarray(frames), start, count, axis=1)


def labels(batch: Batch) -> tuple[Bool[Array, "B T G"], Bool[Array, "B T G"]]:
  """What is to be named in each picture and each second: the data set's categories, then silence, then noise.

  Where everything may be seen or heard (a clip of several categories' data set that names none), nothing is named.
  """
  assert batch.sounding is not None and batch.visible is not None  # warm_up has asked for categories
  shape = (*batch.sounding.shape[:2], 1)
  kind = jnp.broadcast_to(batch.condition[:, None, None], shape)
  nothing = jnp.zeros(shape, bool)
  seen = jnp.broadcast_to(_named(batch.visible)[:, None], batch.sounding.shape)
  is_silent, is_noise = kind == int(Condition.SILENCE), kind == int(Condition.NOISE)
  heard = _named(batch.sounding) & ~is_silent & ~is_noise
  present = batch.present[..., None]  # padding shows and says nothing
  return (
    jnp.concatenate([seen, nothing, nothing], -1) & present,
    jnp.concatenate([heard, is_silent, is_noise], -1) & present,
  )


def _named(categories: Bool[AnyArray, "... G"]) -> Bool[Array, "... G"]:
  """The categories, or none where all of several are said to be there."""
  categories = jnp.asarray(categories)
  return categories & ~(categories.all(-1, keepdims=True) & (categories.shape[-1] > 1))


def naming_loss(logits: Float[Array, "B T G"], labels: Bool[Array, "B T G"]) -> Float[Array, ""]:
  """Cross entropy against the labels shared out evenly, mean over the seconds that have any label."""
  labels = labels.astype(jnp.float32)
  total = labels.sum(-1, keepdims=True)
  target = labels / jnp.maximum(total, 1.0)
  loss = -(target * jax.nn.log_softmax(logits)).sum(-1)  # [B, T]
  has_label = (total[..., 0] > 0).astype(jnp.float32)
  return (loss * has_label).sum() / jnp.maximum(has_label.sum(), 1.0)


def accuracy(logits: Float[Array, "B T G"], labels: Bool[Array, "B T G"]) -> Float[Array, ""]:
  """Share of the labelled seconds whose likeliest class is one of the labels."""
  best = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
  hit = (best & labels).any(-1)
  has_label = labels.any(-1)
  return (hit & has_label).sum() / jnp.maximum(has_label.sum(), 1)


def warm_up(
  config: Any, variables: Mapping[str, Any], source: Any, workdir: str, stop: StopFlag | None = None
) -> dict[str, Any]:
  """Returns `variables` with warmed encoders (and the guide's projections, where it has the same ones).

  The result is kept under `config.warmup.folder` (default: `warmup` in the work directory), in a folder named
  by what it was made with, and used again by every run that would make the same. One that is not finished is saved
  as often as training is, in `warmup_begun` of the work directory (of this run alone: several may share the result),
  and goes on from there, to the same bits.

  Raises:
    InputError: the data set names no categories.
    SystemExit(0): `stop` was set by a signal; the warm-up was saved first.
  """
  if not source.categories:
    raise InputError(
      f"warmup.steps={config.warmup.steps}: {source.title} has no class labels; set warmup.steps=0 and give"
      " init.visual and init.audio."
    )
  variables = dict(variables)
  made_with = ingredients(config, source)
  name = f"{config.model.visual}_{config.model.audio}_{zlib.crc32(json.dumps(made_with).encode()):08x}"
  folder = os.path.join(config.warmup.folder or os.path.join(workdir, "warmup"), name)
  kept = Checkpoints(folder, 1)
  found = kept.restore_as_saved()
  if found is None:
    begun, stop = os.path.join(workdir, "warmup_begun", name), stop or StopFlag()
    trained, figures = _train(config, variables, source, begun, stop)
    with stop.postponed():
      kept.save(config.warmup.steps, trained, {"made_with": made_with, "figures": figures})
      kept.wait()
      if jax.process_index() == 0:
        shutil.rmtree(os.path.dirname(begun), ignore_errors=True)
    if meshes.agreed(stop.is_set):
      log.warning("stopped by a signal after the warm-up; the same command goes on.")
      raise SystemExit(0)
  else:
    trained = found[0]
    log.info("warm-up found in %s, %s", folder, found[1]["figures"])
  kept.close()
  adopt(variables, _as_guide(trained), "the warm-up")
  return variables


def ingredients(config: Any, source: Any) -> dict[str, Any]:
  """All that decides what the warm-up learns, as JSON holds it."""
  chosen = config.to_dict()
  found = {
    "seed": config.seed,
    "data_set": [
      source.title,
      len(source),
      zlib.crc32("\n".join(source.ids).encode()),
      config.data.size,
      config.data.seconds,
    ],
    "categories": source.categories,
    "warmup": {
      key: chosen["warmup"][key] for key in ("steps", "batch", "lr", "frames", "pictures", "nonsense")
    },
    "model": {key: chosen["model"][key] for key in ("visual", "visual_args", "audio", "audio_args", "dtype")},
    "noising": chosen["noising"],
    "augment": chosen["augment"],
    "init": chosen["init"],
    "front_end": chosen["negatives"]["front_end"],
    "multipliers": chosen["optimizer"]["multipliers"],
  }
  if chosen["data"]["audio"] != "auto":  # else left out, so that results keep the names they have
    found["audio"] = chosen["data"]["audio"]
  return json.loads(json.dumps(found, sort_keys=True))


def _as_guide(trained: Mapping[str, Any]) -> dict[str, Any]:
  """The recogniser's variables under the names they have in a guided system."""
  params = dict(trained["params"])
  del params["prototypes"], params["scale"]
  guide = {name: params.pop(name) for name in ("audio_proj", "visual_proj")}
  return {"params": {**params, "guide": guide}, "batch_stats": trained["batch_stats"]}


def build_recogniser(config: Any, count: int) -> Recogniser:
  """The encoders that a config names, to be warmed up on `count` classes; its system has no say."""
  settings = {key: config.model[key] for key in ("visual", "audio", "dtype", "remat")}
  for key in ("visual_args", "audio_args"):
    settings[key] = FrozenDict(config.model[key].to_dict())
  return Recogniser(system=Encoders(**settings), num_categories=count)


def _train(
  config: Any, variables: Mapping[str, Any], source: Any, folder: str, stop: StopFlag
) -> tuple[dict[str, Any], dict[str, float]]:
  """Variables and last figures after `warmup.steps`; goes on from what `folder` holds, and saves there.

  Raises:
    SystemExit(0): `stop` is set; the state was saved.
  """
  from data_pipelines import feed

  mesh = meshes.make_mesh(config.warmup.batch, setting="warmup.batch")
  whole = meshes.replicated(mesh)
  recogniser = build_recogniser(config, len(source.categories) + 2)
  frames, sound = example_inputs(config)
  mono = getattr(sound, "mono", sound)  # it hears no direction
  start = initialise(recogniser, frames, mono, seed=config.seed)
  start.setdefault("batch_stats", {})
  adopt(start, variables, "the model's start")
  rule = optax.chain(
    optax.adamw(once(optax.cosine_decay_schedule(config.warmup.lr, config.warmup.steps)), weight_decay=1e-4),
    # Or pretrained weights would not survive the start.
    scale_by_prefix(dict(config.optimizer.multipliers), {}),
  )
  step = make_step(recogniser, rule, config.warmup.frames, config.warmup.pictures, mesh)
  params, statistics = (jax.device_put(start[name], whole) for name in ("params", "batch_stats"))
  state = {
    "params": params,
    "batch_stats": statistics,
    "memory": jax.jit(rule.init, out_shardings=whole)(params),
  }
  key, count, begin = jax.random.key(config.seed), config.warmup.steps, 0
  saves = Checkpoints(folder, 1)
  restored = saves.restore(state)
  if restored is not None:
    state, begin = restored[0], restored[1]["step"]
    log.info("warm-up resumed from step %d of %d", begin, count)
  saves.forget_after(begin)
  figures: dict[str, Any] = {}
  bar = trange(begin, count, desc=_DOES, unit="step", initial=begin, total=count, disable=None)
  saved_at = time.monotonic()
  with contextlib.closing(feed.labelled(config, source, begin)) as batches, stop.postponed():
    for number in bar:
      batch = meshes.put_batch(mesh, Batch(**next(batches)))
      own = jax.random.fold_in(key, number)
      *kept, figures = step(*(state[name] for name in _STATE), batch, own)
      state = dict(zip(_STATE, kept, strict=True))
      logs = number % 50 == 49 or number == count - 1
      if logs:
        shown = {name: round(float(value), 3) for name, value in figures.items()}
        bar.set_postfix(shown)
        log.info("warm-up step %d/%d %s", number + 1, count, shown)
      asks = logs or jax.process_count() == 1  # several hosts agree at logged steps only
      stops = asks and meshes.agreed(stop.is_set)
      if number + 1 < count and (stops or is_due(config, number + 1, saved_at, asks)):
        _refuse_infinite(figures)
        saves.save(number + 1, state, {})
        saved_at = time.monotonic()
      if stops and number + 1 < count:
        saves.wait()
        saves.close()
        log.warning("stopped by a signal at step %d of the warm-up; the same command goes on.", number + 1)
        raise SystemExit(0)
  saves.close()
  _refuse_infinite(figures)
  return jax.device_get({name: state[name] for name in ("params", "batch_stats")}), {
    name: float(value) for name, value in figures.items()
  }


def make_step(
  recogniser: Recogniser, rule: optax.GradientTransformation, frames: int, pictures: int, mesh: Mesh
) -> Callable[..., tuple]:
  """One compiled update: (params, batch statistics, the rule's memory, batch, key) -> the first three and figures.

  Args:
    frames, pictures: as of `some_frames`; 0 is all.
  """

  def step(params: Any, statistics: Any, memory: Any, batch: Batch, key: Array) -> tuple:
    def loss(params: Any) -> tuple[Array, tuple]:
      (seen, heard), moved = recogniser.apply(
        {"params": params, "batch_stats": statistics},
        some_frames(batch.frames, frames, key, pictures),
        sound_of(recogniser, batch),
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
      )
      visible, sounding = labels(batch)
      visible = visible[: seen.shape[0], : seen.shape[1]]
      total = naming_loss(seen, visible) + naming_loss(heard, sounding)
      figures = {"loss": total, "seen": accuracy(seen, visible), "heard": accuracy(heard, sounding)}
      return total, (figures, moved.get("batch_stats", statistics))

    (_, (figures, statistics)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    update, memory = rule.update(gradient, memory, params)
    return optax.apply_updates(params, update), statistics, memory, figures

  whole = meshes.replicated(mesh)
  shardings = (whole, whole, whole, meshes.by_clip(mesh), whole)
  return jax.jit(step, in_shardings=shardings, donate_argnums=(0, 1, 2))


def _refuse_infinite(figures: Mapping[str, Any]) -> None:
  """Raises `InputError` where the loss is not finite."""
  if not np.isfinite(float(figures["loss"])):
    raise InputError("the warm-up's loss is not finite; lower warmup.lr.")
