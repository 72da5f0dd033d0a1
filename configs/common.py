"""The settings every config starts from: AVSBench's recipe, and where data lie (a flag, never a path)."""

import copy
import json
import os
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from avs_jax.errors import InputError
from configs.recipes import active_queries, avsegformer, ravs, sdavs

# Settings that only one system has; `select_system` puts them into `config.model`.
SYSTEMS = {
  "avsbench": {
    "width": 256,
    "head_channels": 0,  # 0: an eighth of the width
    "tpavi_stages": (1, 2, 3, 4),
    "tpavi_modes": ("va",),
    "group_seconds": placeholder(int),
  },
  "avsegformer": avsegformer.SETTINGS,
  "active_queries": active_queries.SETTINGS,
  "ravs": ravs.SETTINGS,
  "sdavs": sdavs.SETTINGS,
}

# What a system's own paper trains otherwise than AVSBench's, by benchmark; `follow_paper` applies it.
RECIPES = {
  "avsegformer": avsegformer.RECIPES,
  "active_queries": active_queries.RECIPES,
  "ravs": ravs.RECIPES,
  "sdavs": sdavs.RECIPES,
}


def select_system(config: ConfigDict, name: str) -> None:
  """Sets `config.model.system` and gives it that system's own settings at the paper's values.

  Raises:
    InputError: there is no such system.
  """
  if name not in SYSTEMS:
    raise InputError(f"there is no system {name!r}; choose one of {', '.join(SYSTEMS)}.")
  with config.unlocked():
    for key in {key for settings in SYSTEMS.values() for key in settings}:
      if key in config.model.keys():  # noqa: SIM118  pyright does not know ConfigDict's `in`
        del config.model[key]
    config.model.system = name
    config.model.update(copy.deepcopy(SYSTEMS[name]))


def from_workdir(workdir: str) -> ConfigDict:
  """The config of a run, from its folder's config.json.

  Raises:
    InputError: it is not there, or not a config of this version.
  """
  path = os.path.join(workdir, "config.json")
  if not os.path.exists(path):
    raise InputError(f"{path} is not there; give --config, or the --workdir of a run.")
  try:
    with open(path) as file:
      saved = json.load(file)
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read as JSON ({error}); give --config as well.") from None
  return from_json(saved, path)


def follow_paper(config: ConfigDict, benchmark: str) -> None:
  """Replaces AVSBench's recipe on `benchmark` (s4, ms3, avss) by that of `config.model.system`'s own paper."""
  for part in RECIPES.get(config.model.system, {}).get(benchmark, ()):
    for section, settings in part.items():
      for key, value in settings.items():
        config[section][key] = ConfigDict(value) if isinstance(value, dict) else value


def from_json(saved: dict, origin: str) -> ConfigDict:
  """The config that a run wrote beside its checkpoints.

  Where its data set does not lie where it did (another machine's file), AVS_DATA_ROOT is taken, if it is set.

  Raises:
    InputError: a key is unknown today, or its value is of another kind.
  """
  config = get_config()
  model = saved.get("model") if isinstance(saved, dict) else None
  if not isinstance(model, dict) or "system" not in model:
    raise InputError(f"{origin}: not the config of a run; it has no model.system.")
  if isinstance(saved.get("loss"), dict):  # earlier runs also named their recipe, which decided nothing
    saved = {**saved, "loss": {key: value for key, value in saved["loss"].items() if key != "name"}}
  select_system(config, model["system"])
  _fill(config, saved, origin)
  root = os.environ.get("AVS_DATA_ROOT", "")
  if root and config.data.root and not os.path.isdir(config.data.root):
    config.data.root = root
  return config


def _fill(config: ConfigDict, saved: dict, origin: str) -> None:
  arguments = ("visual_args", "audio_args", "encoder_args", "contrast_model")
  free = (*arguments, "multipliers", "freeze_epochs", "variants")
  for key, value in saved.items():
    if key not in config:
      raise InputError(f"{origin}: the setting {key!r} is unknown to this version.")
    if key in free and isinstance(value, dict):
      config[key] = ConfigDict(_tuples(value))
    elif isinstance(value, dict) and isinstance(config[key], ConfigDict):
      _fill(config[key], value, f"{origin}: {key}")
    else:
      try:
        config[key] = _tuples(value)
      except TypeError as error:
        raise InputError(f"{origin}: {key}={value!r} does not fit: {error}") from None


def _tuples(value: Any) -> Any:
  """JSON has lists where configs have tuples."""
  if isinstance(value, dict):
    return {key: _tuples(each) for key, each in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def get_config() -> ConfigDict:
  """All sections in running order; a config changes values and never adds keys."""
  config = ConfigDict()
  config.title = ""
  config.seed = 0
  config.steps = 0  # 0: schedule.epochs decide

  config.data = ConfigDict()
  config.data.name = "ms3"  # s4, ms3, avss, vpo_ss, vpo_ms, vpo_msmi; or another name of docs/data.md
  config.data.root = os.environ.get("AVS_DATA_ROOT", "")  # empty: the stand-in below, said loudly
  config.data.stand_in = "generated"  # generated, real_media
  config.data.packed = False  # data.root holds ArrayRecords written by --mode=prepare
  config.data.size = 224
  config.data.seconds = 5
  config.data.seed = 0  # of the stand-ins; the same clips for every config.seed
  config.data.clips = ConfigDict({"train": 296, "val": 8, "test": 16})  # stand-ins only
  config.data.curriculum = ()  # parts in each epoch's order, ("v1s", "v2", "v1m"); () shuffles all together
  config.data.audio = "auto"  # wav, log_mel (published pickles), auto
  config.data.masks = "mended"  # mended, as_published
  config.data.annotated = "published"  # stand-ins: published (S4 trains on the first frame alone), all
  config.data.allow_missing = False
  config.data.cache_mb = 2048
  config.data.threads = min(8, os.cpu_count() or 2)  # that read and prepare clips
  config.data.workers = 0
  config.data.media_cache = os.environ.get("AVS_MEDIA_CACHE", "")

  config.prepare = ConfigDict({"form": "array_record"})  # or layout: AVSBench's files

  config.negatives = ConfigDict()
  config.negatives.fraction = 0.0  # share of training pairs with a sound that is not the picture's
  config.negatives.silence = 1.0  # shares of the three kinds among them
  config.negatives.noise = 1.0
  config.negatives.offscreen = 1.0
  config.negatives.tones = 0  # chances of made-up tones in training noise; each colour of noise has one
  config.negatives.redraw = True  # new pairs every epoch; False keeps the first epoch's
  config.negatives.front_end = "same"  # same, as_published (negatives recognisable by format alone)

  config.noising = ConfigDict()  # diffusion-style noising of training sound
  config.noising.where = "none"  # none, log_mel, waveform
  config.noising.schedule = "linear"
  config.noising.beta_start = 1e-4
  config.noising.beta_end = 0.02
  config.noising.steps = 1000
  config.noising.max_step = 100  # t is drawn from 1 to this
  config.noising.share = 0.5  # of the clips
  config.noising.mix_snr_db = ()  # (low, high): noise mixed into training sound at so many dB

  config.augment = ConfigDict()  # changes of training clips; the papers use none
  config.augment.gain_db = 0.0
  config.augment.equaliser_db = 0.0
  config.augment.shift_s = 0.0
  config.augment.pitch = 0.0
  config.augment.reverberation = 0.0
  config.augment.mask_bands = 0
  config.augment.mask_frames = 0
  config.augment.flip = False
  config.augment.crop = 1.0

  config.model = ConfigDict()
  config.model.system = "avsbench"
  config.model.visual = "pvt_v2_b5"
  config.model.audio = "vggish"
  config.model.visual_args = ConfigDict()
  config.model.audio_args = ConfigDict()
  config.model.num_classes = 1
  config.model.stereo = False  # hears where a sound comes from, too (data_pipelines/stereo.py)
  config.model.dtype = "float32"
  config.model.remat = False

  config.debias = ConfigDict()
  # none, cosine, cosine_released, cosine_calibrated, localised, euclidean, concat
  config.debias.guide = "none"
  config.debias.guide_weight = 1.0
  config.debias.mismatch = 0.0  # weight of in-batch mismatches: every sound against every picture
  config.debias.decoys = 0.0  # weight of silence and noise beside each clip's sound, against every picture
  config.debias.gate = False  # the mask's probability times the similarity's, in inference
  config.debias.gate_training = False  # and in training
  config.debias.gate_level = 0.0  # similarity (a logit) up to which a second is emptied; lower refuses less
  config.debias.contrast = (
    "none"  # none, ensemble, bias_only, uncertainty, visual_only (trains ensemble's other half)
  )
  config.debias.contrast_variant = "paper"  # paper, released; decides what is left None below
  config.debias.contrast_alpha = 1.0
  config.debias.contrast_operation = "subtract"  # of the ensemble: subtract, product
  config.debias.contrast_model = ConfigDict()  # settings in which the visual-only model differs
  config.debias.contrast_run = ""  # workdir of a finished visual-only run, for ensemble
  config.debias.contrast_where = placeholder(str)  # embedding, projected, log_mel
  config.debias.contrast_layers = placeholder(str)  # every, map
  config.debias.contrast_schedule = placeholder(str)  # as of noising.schedule
  config.debias.contrast_beta_start = placeholder(float)
  config.debias.contrast_beta_end = placeholder(float)
  config.debias.contrast_steps = placeholder(int)
  config.debias.contrast_pure = placeholder(bool)  # at inference noise alone, else the last step
  config.debias.contrast_seed = 0  # of the noise at inference

  config.marks = ConfigDict()  # which queries a second's sound opens; only active_queries has such
  config.marks.kind = "none"  # none (all are open), kmeans, gmm, classifier, file
  config.marks.clusters = 0  # 0: as many as the queries leave room for
  config.marks.dilation = 1  # queries that a mark opens, before model.dilation
  config.marks.theta = 0.4  # classifier: probability from which a class is heard
  config.marks.top_k = 0  # classifier: so many classes instead
  config.marks.encoder = "beats"  # classifier: beats, htsat
  config.marks.encoder_args = ConfigDict()
  config.marks.weights = ""  # classifier: its weight file
  config.marks.folder = ""  # file: the published .pth files, one a clip

  config.init = ConfigDict()  # weight files, any container; "imagenet" for efficientnet_lite0
  config.init.visual = ""
  config.init.audio = ""
  config.init.system = ""
  config.init.run = ""  # workdir of another run: parameters of the same name and shape

  config.warmup = ConfigDict()  # both encoders on class labels: stands in for ImageNet and AudioSet
  config.warmup.steps = 0
  config.warmup.batch = 32
  config.warmup.lr = 1e-3
  config.warmup.frames = 0  # pictures of each clip that are named, from a random second on; 0: all
  config.warmup.pictures = 0  # clips of each batch that are looked at; 0: all. All are listened to
  config.warmup.nonsense = 0.2  # share of clips that get silence or noise, two classes of their own
  config.warmup.folder = ""  # where it is kept and found again; empty: in the work directory

  config.loss = ConfigDict()  # weights of the parts, see losses.objective
  config.loss.bce = 1.0
  config.loss.cross_entropy = 0.0
  config.loss.dice = 0.0
  config.loss.soft_iou = 0.0
  config.loss.focal = 0.0
  config.loss.mix_dice = 0.0
  config.loss.class_dice = 0.0
  config.loss.class_iou = 0.0
  config.loss.clamp = False
  config.loss.matching = "none"  # none, kl, euclidean, cosine
  config.loss.matching_weight = 0.0
  config.loss.matching_normalise = False
  config.loss.matching_threshold = False
  config.loss.matching_pooling = "avg"  # avg, max
  config.loss.matching_target = "audio"  # audio, neighbour
  config.loss.alignment = 0.0  # systems that make groups: those that answer to the sound against the others
  config.loss.alignment_threshold = 0.5
  config.loss.alignment_scale = 10.0
  config.loss.alignment_temperature = 0.07
  config.loss.alignment_truth = False  # groups are told apart by the masks, not by their answer
  config.loss.queries = 0.0  # systems that predict a set: every layer's matched queries
  config.loss.queries_form = "paper"  # paper, released; decides what is left None below
  config.loss.queries_weights = (5.0, 5.0, 2.0)  # focal, Dice, class
  config.loss.queries_last = placeholder(float)  # weight of the last layer; the others have 1
  config.loss.queries_drop = placeholder(float)  # chance that a well learned pair is dropped
  config.loss.queries_targets = 8  # most targets a frame

  config.optimizer = ConfigDict()
  config.optimizer.name = "adam"
  config.optimizer.lr = 1e-4
  config.optimizer.betas = (0.9, 0.999)
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.optimizer.multipliers = ConfigDict()  # prefix -> factor on the learning rate
  config.optimizer.freeze_epochs = ConfigDict()  # prefix -> epochs it stands still
  config.optimizer.frozen = ("audio_encoder",)

  config.schedule = ConfigDict()
  config.schedule.epochs = 30
  config.schedule.batch = 4  # clips, over all devices
  config.schedule.accumulate = 1  # pieces the batch is cut into to save memory
  config.schedule.lr_warmup_steps = 0
  config.schedule.decay = "constant"  # constant, cosine, polynomial, steps
  config.schedule.decay_at = (0.6, 0.8)
  config.schedule.decay_factor = 0.1
  config.schedule.decay_power = 0.9

  config.mesh = ConfigDict({"model": 1})

  config.eval = ConfigDict()
  config.eval.every_epochs = 1.0
  config.eval.from_epoch = 0
  config.eval.batch = 4
  config.eval.metric = "iou_frame"  # validation figure that picks the best checkpoint
  config.eval.clips = 0  # validation clips, 0: all
  config.eval.test_clips = 0  # test clips, 0: all
  config.eval.split = "test"
  config.eval.conditions = ("positive", "silence", "noise", "offscreen")
  config.eval.unseen = ()  # further sounds, given to every clip: names (data_pipelines/sounds.py) or .wav files
  # Rows for the own sounds under noise: kinds at each snr_db, or added `factor` times (data_pipelines/sounds.py).
  config.eval.noise_mix = ConfigDict({"kind": (), "snr_db": (), "factor": 0.1})
  config.eval.negative_audio = "drawn"  # drawn, published, any: see data_pipelines/sounds.py
  config.eval.pictures = 4
  config.eval.save_masks = False

  config.log = ConfigDict()
  config.log.every_steps = 10
  config.log.checkpoint_steps = 0  # 0: by minutes
  config.log.checkpoint_minutes = 5.0
  config.log.keep = 2

  config.variants = ConfigDict()  # name -> the settings in which it differs: trained in turn, compared
  select_system(config, "avsbench")
  return config.lock()
