"""Training, top to bottom: setup, data, model, optimiser, shard, restore, loop, judge."""

import contextlib
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from avs_jax import limits, perception, settings
from avs_jax import mesh as meshes
from avs_jax import optimizer as optimizers
from avs_jax.checkpoint import Checkpoints
from avs_jax.errors import InputError, make_folder
from avs_jax.evaluate import evaluate, judge, make_count, selection_metrics
from avs_jax.logbook import Logbook
from avs_jax.model import build_model, build_objective, frozen_parts, starting_variables
from avs_jax.step import TrainState, make_predict_step, make_train_step
from avs_jax.stopping import StopFlag, is_due, stop_signal
from avs_jax.types import Batch, Condition

# Clips of a step in AVSBench's training, for which the weight of its matching loss was chosen.
PUBLISHED_BATCH = 4

log = logging.getLogger(__name__)


def train(config: Any, workdir: str) -> TrainState:
  """Trains what `config` describes, judges it under four sounds, and leaves a folder that explains itself.

  Called again with the same folder it goes on where it stopped, to the same bits; with other settings it refuses
  (`settings.differences` says which may change).

  Args:
    workdir: made if absent. Holds config.json, log.txt, metrics.jsonl, checkpoints/, best/, the scoreboard
      and pictures/.

  Returns: the final state.

  Raises:
    InputError: something the user can mend; the message says what.
    SystemExit(0): SIGTERM came; the state was saved first.
  """
  with stop_signal() as stop:
    return train_until(stop, config, workdir)


def train_until(stop: StopFlag, config: Any, workdir: str) -> TrainState:
  """`train`, which a signal may end.

  Raises:
    InputError, SystemExit(0): as of `train`.
  """
  # --- setup
  settings.refuse_variants(config, "train_all")
  check_settings(config)
  settings.refuse_other(config, workdir)
  make_folder(workdir)
  book = Logbook(workdir, config)
  mesh = meshes.make_mesh(
    config.schedule.batch // config.schedule.accumulate,
    config.mesh.model,
    setting="schedule.batch / schedule.accumulate",
  )
  judge_mesh = meshes.make_mesh(config.eval.batch, setting="eval.batch")

  # --- data
  from data_pipelines import feed, sounds, sources
  from data_pipelines.training_manifest import TrainingManifest

  source = sources.build(config, "train")
  val_source = sources.build(config, "val", limit=config.eval.clips)
  sounds.check_evaluation(config)
  steps, steps_per_epoch = planned_steps(config, len(source))
  manifest = TrainingManifest(
    workdir,
    feed.training_negatives(config),
    source,
    config.schedule.batch,
    is_writer=jax.process_index() == 0,
  )

  # --- model
  model = build_model(config)
  variables = starting_variables(config, model)
  if config.warmup.steps:
    from avs_jax.warmup import warm_up

    variables = warm_up(config, variables, source, workdir, stop)
  mark = perception.build(config, model, variables, workdir)
  frozen = frozen_parts(config)
  for prefixes in (frozen, config.optimizer.multipliers, config.optimizer.freeze_epochs):
    optimizers.label(variables["params"], tuple(prefixes))  # refuses names of nothing
  learns, stays = optimizers.split_trainable(variables["params"], frozen)

  # --- optimiser
  rule = optimizers.build(config.optimizer, config.schedule, steps, steps_per_epoch)
  rate = optimizers.learning_rate(config.optimizer, config.schedule, steps)

  # --- shard
  state = TrainState(np.zeros((), np.int32), variables["params"], variables["batch_stats"], None)
  state = state.replace(opt_state=jax.eval_shape(rule.init, learns))
  sharding = meshes.weight_sharding(mesh, state)
  opt_state = jax.jit(rule.init, out_shardings=sharding.opt_state)(learns)
  state = jax.device_put(state.replace(opt_state=opt_state), sharding)
  step_fn = make_train_step(
    model,
    build_objective(config, source.broad or source.categories),
    rule,
    frozen=frozen,
    pieces=config.schedule.accumulate,
    mesh=mesh,
    state_sharding=sharding,
  )
  predict, count = make_predict_step(model, judge_mesh), make_count(judge_mesh)
  book.start(mesh, steps, steps_per_epoch, learns, stays, source)
  del variables, learns, stays  # the starting weights, which the state holds too

  # --- restore: 1 own checkpoint in workdir, 2 init.run, 3 other init files, 4 scratch (2-4 done above)
  checkpoints = Checkpoints(os.path.join(workdir, "checkpoints"), config.log.keep)
  best = Checkpoints(os.path.join(workdir, "best"), 1)
  restored = checkpoints.restore(state)
  best_score = -math.inf
  if restored is not None:
    state, meta = restored
    feed.check_state(config, source, meta["data"])
    best_score = meta["best_score"] if meta["best_score"] is not None else -math.inf
  begin = int(state.step)
  for kept in (checkpoints, best):
    kept.forget_after(begin if restored is not None else -1)
  if not best.steps():
    best_score = -math.inf  # the weights that had it are gone: any score is better than none
  book.begin_at(begin)

  # --- loop
  key = jax.jit(lambda: jax.random.key(config.seed), out_shardings=meshes.replicated(mesh))()
  validate_at = validation_steps(config, steps, steps_per_epoch)
  recent: deque[tuple[int, np.ndarray, dict]] = deque()
  saved_at = time.monotonic()

  def save(step: int) -> None:
    best.wait()  # Do not move: a checkpoint that knows a best score must not outlive the weights that had it.
    meta = {
      "data": feed.state(config, source, step),
      "best_score": None if best_score == -math.inf else best_score,
      "config": json.loads(config.to_json_best_effort()),
    }
    checkpoints.save(step, state, meta)

  with contextlib.closing(feed.training(config, source, begin)) as batches, stop.postponed():
    for step in range(begin + 1, steps + 1):
      manifest.begin(step)
      with book.waiting():
        rows = next(batches)
      rows = mark(rows, source)  # asks the model's ear where marks are made of sounds: work, not waiting
      batch = meshes.put_batch(mesh, Batch(**rows))
      state, figures = step_fn(state, batch, key)
      recent.append((step, rows["index"], figures))
      logs = step % config.log.every_steps == 0 or step in (begin + 1, steps)
      asks = logs or jax.process_count() == 1  # several hosts agree at logged steps only
      stops = asks and meshes.agreed(stop.is_set)
      due = step == steps or step in validate_at or stops or is_due(config, step, saved_at, asks)
      if logs or due:
        # Do not move: no state is saved before its losses are known to be finite.
        figures = check_finite(recent, source)
        book.log(step, {**figures, "lr": float(rate(step - 1))}, clips=config.schedule.batch)
      if step in validate_at:
        score = validate(config, predict, count, state.variables, val_source, judge_mesh, mark)
        book.log_validation(step, score)
        if score[config.eval.metric] > best_score:
          best_score = score[config.eval.metric]
          weights = {"params": state.params, "batch_stats": state.batch_stats}
          best.save(step, weights, {"config": json.loads(config.to_json_best_effort()), "val": score})
      if due:
        save(step)
        saved_at = time.monotonic()
      if stops:
        stop.is_set = True  # on this host too, if the signal came to another
        break
    checkpoints.wait()
    best.wait()
  checkpoints.close()
  best.close()

  if stop.is_set:
    log.warning("stopped by a signal at step %d; the same command goes on from here.", int(state.step))
    raise SystemExit(0)

  # --- judge
  evaluate(config, workdir)
  book.finish()
  return state


def check_settings(config: Any) -> None:
  """Refuses at the start what would otherwise be noticed hours later.

  Raises:
    InputError: names the setting.
  """
  limits.check_values(config)
  if not config.steps and not config.schedule.epochs:
    raise InputError("steps and schedule.epochs are both 0, so nothing would be trained; give one of them.")
  if config.schedule.batch % config.schedule.accumulate:
    raise InputError(
      f"schedule.accumulate={config.schedule.accumulate} must divide schedule.batch={config.schedule.batch}."
    )
  if config.debias.mismatch and config.schedule.batch == 1:
    raise InputError(
      f"debias.mismatch={config.debias.mismatch} holds each sound against the other pictures of its batch, and"
      " schedule.batch=1 leaves none; make the batch larger, or set debias.mismatch=0."
    )
  if config.optimizer.weight_decay and config.optimizer.name in ("adam", "sgd"):
    log.warning(
      "optimizer.weight_decay=%g does nothing: optimizer.name=%s decays no weights, adamw and adamw_all do",
      config.optimizer.weight_decay,
      config.optimizer.name,
    )
  if config.loss.matching != "none" and not config.loss.matching_weight:
    log.warning("loss.matching=%s does nothing: loss.matching_weight is 0", config.loss.matching)
  if config.loss.matching == "kl" and config.loss.matching_weight and config.model.num_classes == 1:
    times = config.schedule.batch / PUBLISHED_BATCH
    if times != 1:
      log.warning(
        "loss.matching=kl is a sum over the batch, so that with schedule.batch=%d it weighs %g times what it does with"
        " the published %d; loss.matching_weight=%g weighs the same",
        config.schedule.batch,
        times,
        PUBLISHED_BATCH,
        config.loss.matching_weight / times,
      )
  known = selection_metrics(config.model.num_classes)
  if config.eval.metric not in known:
    raise InputError(
      f"eval.metric={config.eval.metric!r} cannot choose the best checkpoint; use one of {', '.join(known)}."
    )


def planned_steps(config: Any, clips: int) -> tuple[int, int]:
  """Steps of the whole training on so many clips, and of an epoch."""
  steps_per_epoch = max(clips // config.schedule.batch, 1)
  return config.steps or config.schedule.epochs * steps_per_epoch, steps_per_epoch


def validation_steps(config: Any, steps: int, steps_per_epoch: int) -> set[int]:
  """Steps after which the validation split is scored; the last step always is."""
  every = max(round(config.eval.every_epochs * steps_per_epoch), 1)
  first = config.eval.from_epoch * steps_per_epoch
  return {step for step in range(every, steps + 1, every) if step >= first} | {steps}


def check_finite(recent: deque[tuple[int, np.ndarray, dict]], source: Any) -> dict[str, float]:
  """Fetches the figures of the steps since the last look and empties `recent`. Returns the newest.

  Raises:
    InputError: a loss or gradient is not finite; names the step range and the clips of the first such step.
  """
  first = recent[0][0]
  newest: dict[str, float] = {}
  while recent:
    step, index, figures = recent.popleft()
    newest = {name: float(value) for name, value in jax.device_get(figures).items()}
    bad = [name for name in ("loss", "gradient_norm", "parameter_norm") if not math.isfinite(newest[name])]
    if bad:
      clips = ", ".join(source.ids[i] for i in index if i >= 0)
      raise InputError(
        f"{' and '.join(bad)} not finite at step {step} (steps {first} to {step} were being checked), clips"
        f" {clips}; look at these clips or lower optimizer.lr. The last checkpoint is from before."
      )
  return newest


def validate(
  config: Any, predict: Any, count: Any, variables: Mapping[str, Any], source: Any, mesh: Any, mark: Any
) -> dict[str, Any]:
  """Figures of the validation split with its own sounds.

  Raises:
    InputError: `eval.metric` is not defined on these clips.
  """
  from data_pipelines import feed

  batches = (mark(rows, source) for rows in feed.evaluation(config, source, Condition.POSITIVE))
  variables = jax.device_put(variables, meshes.replicated(mesh))
  figures = judge(predict, count, variables, batches, mesh, describe="validation").figures
  if figures.get(config.eval.metric) is None:
    raise InputError(
      f"eval.metric={config.eval.metric!r} is not defined on the validation clips; choose from"
      f" {', '.join(name for name, value in figures.items() if value is not None)}."
    )
  return figures
