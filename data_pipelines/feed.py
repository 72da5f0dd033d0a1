"""From a config to streams of batches: training, labelled (warm-up) and evaluation under one sound."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from avs_jax import encoders
from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError
from data_pipelines import loader, negatives
from data_pipelines.clips import Source
from data_pipelines.noising import TONES, Augment, Noising

# Noise of a training pair: its own seed, so that the sounds of an evaluation never depend on training.
_TRAINING_STREAM = 1
_DECOY_STREAM = 1_000_000  # and the decoys theirs, or they would be the pair's own noise
_PROBED = 8  # clips whose sound is asked for before it is said that there are none; a few may be broken
# What `augment` does to samples.
_OF_SOUNDS = ("gain_db", "equaliser_db", "shift_s", "pitch", "reverberation")


def noise_recordings(config: Any, *, training: bool) -> dict[str, np.ndarray]:
  """Recorded noise of the real-media stand-in (other kinds in training and in evaluation); else none."""
  if config.data.root or config.data.stand_in != "real_media":
    return {}
  from data_pipelines import real_media

  found = real_media.noise_recordings("train" if training else "test", config.data.media_cache or None)
  return {f"recording {number}": sound for number, sound in enumerate(found)}


def negative_pairs(config: Any, *, training: bool) -> negatives.Negatives:
  """How negative sounds are made. Evaluation, of whatever split, is seeded by the data, training by the run."""
  settings, recordings = config.negatives, noise_recordings(config, training=training)
  kinds = negatives.Negatives.noise_kinds + (("recorded",) * 2 if recordings else ())
  if training:  # an evaluation's noise is the same for every recipe
    kinds += (TONES,) * settings.tones
  return negatives.Negatives(
    fraction=settings.fraction if training else 0.0,
    silence=settings.silence,
    noise=settings.noise,
    offscreen=settings.offscreen,
    seed=2 * config.seed + _TRAINING_STREAM if training else 2 * config.data.seed,
    noise_kinds=kinds,
    recordings=recordings,
    redraw=settings.redraw,
    noise_format="bytes" if settings.front_end == "as_published" else "float",
    guess=not training and config.eval.negative_audio == "any",
  )


def noising(config: Any) -> Noising | None:
  """Diffusion noise and mixed-in noise of training sounds, as `config.noising` says."""
  settings = config.noising
  if settings.where == "none" and not settings.mix_snr_db:
    return None
  diffusion = None
  if settings.where != "none":
    diffusion = Diffusion(settings.schedule, settings.steps, settings.beta_start, settings.beta_end)
  return Noising(
    share=settings.share,
    diffusion=diffusion,
    where=settings.where if diffusion else "log_mel",
    steps=(1, settings.max_step),
    snr_db=tuple(settings.mix_snr_db) or None,
  )


def augmentation(config: Any) -> Augment | None:
  """Random changes of training clips, as `config.augment` says; none where all are off."""
  chosen = Augment(**config.augment.to_dict())
  off = Augment(gain_db=0, equaliser_db=0, shift_s=0, reverberation=0, mask_bands=0, mask_frames=0)
  return None if dataclasses.asdict(chosen) == dataclasses.asdict(off) else chosen


def training(
  config: Any, source: Source, start: int = 0, *, is_labelled: bool = False
) -> loader.BatchIterator:
  """Batches of this process from number `start` on; each a pure function of the seed and its number."""
  settings, pairs = config.data, nonsense(config) if is_labelled else training_negatives(config)
  _check_sounds(config, source)
  if pairs is not None and pairs.offscreen:
    pairs.donors(source)  # refuses, before the first step, data that cannot lend any
  batches = loader.train_batches(
    source,
    batch=config.warmup.batch if is_labelled else config.schedule.batch,
    seed=config.seed,
    negatives=pairs,
    noising=noising(config),
    augment=augmentation(config),
    front_end=config.negatives.front_end,
    host=jax.process_index(),
    hosts=jax.process_count(),
    cache=settings.cache_mb,
    size=settings.size,
    waveform=takes_waveform(config),
    pan=config.model.stereo,
    decoys=None if is_labelled else decoys(config),
    raw_decoys=encoders.takes_waveform(config.model.audio),
    parts=() if is_labelled else tuple(settings.curriculum),
  )
  return loader.iterate(batches, start, threads=settings.threads, workers=settings.workers)


def _check_sounds(config: Any, source: Source) -> None:
  """Refuses, before the first step, settings that change sounds where only log-mels can be read."""
  mixes, changes = noising(config), augmentation(config)
  asked = {
    "noising.mix_snr_db": mixes is not None and mixes.snr_db is not None,
    "noising.where=waveform": config.noising.where == "waveform",
    **{f"augment.{name}": changes is not None and getattr(changes, name) > 0 for name in _OF_SOUNDS},
  }
  settings = [name for name, is_set in asked.items() if is_set]
  if not settings:
    return
  for index in range(min(len(source), _PROBED)):
    try:
      source.sound(index)
      return
    except InputError as error:
      reason = error
  if len(source):
    raise InputError(
      f"{', '.join(settings)}: the sounds themselves are needed to train so: {reason}"
    ) from None


def training_negatives(config: Any) -> negatives.Negatives | None:
  """The negative pairs of training, None where there are none."""
  return negative_pairs(config, training=True) if config.negatives.fraction else None


def decoys(config: Any) -> negatives.Negatives | None:
  """Sounds of nothing for `debias.decoys`: silence and noise in the shares of `config.negatives`."""
  if not config.debias.decoys:
    return None
  pairs = negative_pairs(config, training=True)
  if not pairs.silence + pairs.noise:
    raise InputError(
      f"debias.decoys={config.debias.decoys}: decoys are silence and noise in the shares of negatives.silence and"
      " negatives.noise, and both are 0; raise one of them, or set debias.decoys=0."
    )
  return dataclasses.replace(pairs, fraction=1.0, offscreen=0.0, seed=pairs.seed + _DECOY_STREAM)


def nonsense(config: Any) -> negatives.Negatives | None:
  """The warm-up's clips of silence and noise."""
  share = config.warmup.nonsense
  if not share:
    return None
  pairs = negative_pairs(config, training=True)
  kinds = tuple(kind for kind in pairs.noise_kinds if kind != TONES)  # recipes share one warm-up
  shares = {"silence": 1.0, "noise": 1.0, "offscreen": 0.0}
  return dataclasses.replace(pairs, fraction=share, **shares, noise_kinds=kinds, redraw=True)


def labelled(config: Any, source: Source, start: int = 0) -> loader.BatchIterator:
  """Pairs for the warm-up, from batch number `start` on: own sounds, and some silence and noise."""
  return training(config, source, start, is_labelled=True)


def evaluation(config: Any, source: Source, condition: int) -> Iterator[Mapping[str, np.ndarray]]:
  """Every clip in order under one sound, read ahead by a thread."""
  batches = loader.eval_batches(
    source,
    batch=config.eval.batch,
    condition=int(condition),
    negatives=negative_pairs(config, training=False),
    front_end=config.negatives.front_end,
    host=jax.process_index(),
    hosts=jax.process_count(),
    size=config.data.size,
    waveform=takes_waveform(config),
    pan=config.model.stereo,
  )
  stream = loader.iterate(batches, threads=config.data.threads, workers=0)
  try:
    yield from stream
  finally:
    stream.close()


def takes_waveform(config: Any) -> bool:
  """Whether batches carry raw sound: for marks, or for an audio encoder with a front end of its own.

  Raises:
    InputError: such an encoder does not hear what other settings do to log-mels.
  """
  if not encoders.takes_waveform(config.model.audio):
    return config.marks.kind == "classifier"
  for setting, is_set in (
    ("noising.where=log_mel", config.noising.where == "log_mel"),
    ("augment.mask_bands", config.augment.mask_bands > 0),
    ("augment.mask_frames", config.augment.mask_frames > 0),
    ("negatives.front_end=as_published", config.negatives.front_end == "as_published"),
  ):
    if is_set:
      raise InputError(
        f"{setting} changes VGGish's log-mels, and model.audio={config.model.audio} hears the sound itself;"
        " take it back, or set model.audio=vggish."
      )
  return True


def training_sounds(config: Any, *, waveform: bool) -> Iterator[Mapping[str, np.ndarray]]:
  """The training clips once, in order, each with its own unchanged sound and tiny frames."""
  from data_pipelines import sources

  batches = loader.eval_batches(
    sources.build(config, "train"),
    batch=config.eval.batch,
    front_end=config.negatives.front_end,
    size=8,
    waveform=waveform,
  )
  stream = loader.iterate(batches, threads=config.data.threads, workers=0)
  try:
    yield from stream
  finally:
    stream.close()


def state(config: Any, source: Source, step: int) -> dict[str, Any]:
  """Where the data stand after `step` batches, for the checkpoint."""
  parts = list(config.data.curriculum) or None  # None as in checkpoints that are older than the setting
  return {
    **loader.identity(source, config.schedule.batch, config.seed),
    "curriculum": parts,
    "next_index": step,
  }


def check_state(config: Any, source: Source, saved: Mapping[str, Any]) -> None:
  """Refuses to go on with other clips, another seed or batch size than the checkpoint's."""
  loader.check_state(saved, state(config, source, saved["next_index"]))
