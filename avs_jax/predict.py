"""Applies a model to somebody's own video: a mask, and how sure it is, for every second or every frame.

  from avs_jax.predict import Predictor
  for each in Predictor.from_weights("model.safetensors").predict("talk.mp4"):
    print(each.time_s, each.area, each.similarity)

A model sees T seconds at once (`config.data.seconds`), one picture and one second of sound each, as in training;
windows.py says how they are laid over a video. Pictures are resized to size x size, aspect not kept, as in training;
probabilities are resized back bilinearly.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from avs_jax import mesh as meshes
from avs_jax.counts import activity
from avs_jax.errors import InputError
from avs_jax.own_video import windows
from avs_jax.own_video.prediction import Prediction
from avs_jax.step import make_predict_step
from avs_jax.types import Batch

DEFAULT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models", "real_media_small.safetensors")

log = logging.getLogger(__name__)


class Predictor:
  """A model that is ready for any footage; compiled once.

  Args:
    config: of the run.
    variables: {"params", "batch_stats"}.
    batch: windows a call of the device; 0: 1 on a CPU, which gains nothing by more, else 8.
    mark: adds semantic marks to batches, see avs_jax/perception.
    names: of the classes, background first; () takes those that are known of the config's data.
    name: how the model is called in files and captions.
  """

  def __init__(
    self,
    config: Any,
    variables: Mapping[str, Any],
    *,
    batch: int = 0,
    mark: Callable[[Mapping[str, Any], Any], dict[str, Any]] | None = None,
    names: Iterable[str] = (),
    name: str = "",
    card: Mapping[str, Any] | None = None,
  ):
    from avs_jax.checkpoint import combined, digest
    from avs_jax.model import build_model
    from data_pipelines.feed import takes_waveform

    self.config, self.mark, self.card = config, mark, dict(card or {})
    self.class_names, self.name = (
      tuple(names) or class_names(config),
      name or config.title or config.model.system,
    )
    self.seconds, self.size = config.data.seconds, config.data.size
    self.batch = batch or (1 if jax.default_backend() == "cpu" else 8)
    self.takes_waveform, self.stereo = takes_waveform(config), config.model.stereo
    self.weights_digest = combined(digest(variables))
    mesh = meshes.make_mesh(self.batch)
    self._mesh = mesh
    self._variables = jax.device_put(dict(variables), meshes.replicated(mesh))
    self._step = make_predict_step(build_model(config), mesh)
    self._reduce = jax.jit(_reduce)

  @classmethod
  def from_run(cls, workdir: str, **options: Any) -> "Predictor":
    """The best (else newest) checkpoint of a run; its folder says everything else.

    Raises:
      InputError: no config or no checkpoint is there.
    """
    from avs_jax import perception
    from avs_jax.checkpoint import load_variables
    from avs_jax.export import training_data
    from avs_jax.model import build_model
    from configs import common

    config = common.from_workdir(workdir)
    if config.variants:
      raise InputError(
        f"{workdir} holds several runs; give one of them, e.g. --workdir={os.path.join(workdir, min(config.variants))}."
      )
    variables = load_variables(workdir)
    if config.marks.kind != "none":
      _check_marks(config, workdir)
      mark = perception.build(config, build_model(config), variables, workdir, may_fit=False)
      options = {"mark": mark, **options}
    trained_on, is_stand_in = training_data(config, workdir)
    told = {
      "name": config.title or os.path.basename(os.path.abspath(workdir)),
      "card": {"trained_on": trained_on, "is_stand_in": is_stand_in},
    }
    return cls(config, variables, **{**told, **options})

  @classmethod
  def from_weights(cls, file: str | os.PathLike | None = None, **options: Any) -> "Predictor":
    """A model from one file (`avs_jax/bundle.py`); None takes the small model that comes with the program.

    Raises:
      InputError: the file is missing, damaged, or holds no config.
    """
    from avs_jax import bundle
    from configs import common

    if file is None and not os.path.isfile(DEFAULT):
      raise InputError(
        "no model comes with this copy of the program (avs_jax/models/real_media_small.safetensors is not there);"
        " give --weights=FILE.safetensors or the --workdir of a run."
      )
    path = str(file or DEFAULT)
    variables, saved, card = bundle.load(path)
    config = common.from_json(saved, path)
    if config.marks.kind != "none":
      raise InputError(
        f"{path}: this model needs the marks that lie beside its checkpoints; give --workdir of its run."
      )
    named = {"name": card.get("title") or config.title, "names": card.get("classes", ()), "card": card}
    return cls(config, variables, **{**named, **options})

  def predict(
    self,
    source: Any,
    sound: Any = None,
    *,
    every: str = "second",
    stride: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    threshold: float = 0.5,
    fps: float = 1.0,
  ) -> Iterator[Prediction]:
    """One prediction a second, or a frame, of a video or of many, in order of time.

    Args:
      source: a video, a picture, a folder of frames; a folder of videos or a pattern gives one after the other;
        or a `data_pipelines.video.Footage`.
      sound: in place of the source's own: a file with a sound track, or mono float samples at 16 kHz.
      every: "second" judges the picture in the middle of each second, "frame" all; frames of a second share its sound.
      stride: seconds from window to window, at most T; None is T, no overlap.
      start, end: seconds of the source.
      threshold: of the mask.
      fps: of a folder of frames.

    Raises:
      InputError: at once, for settings and for files of which nothing can be read.
    """
    from data_pipelines import video

    steps = self.check(every=every, stride=stride, start=start, end=end, threshold=threshold)
    if isinstance(source, video.Footage):
      first, others = source if sound is None else video.with_sound(source, sound), []
    else:
      path, *others = video.find(source)
      first = video.open_footage(path, sound, fps=fps)
    footages = itertools.chain([first], (video.open_footage(path, sound, fps=fps) for path in others))
    return itertools.chain.from_iterable(
      self._footage(each, every, steps, start, end, threshold) for each in footages
    )

  def check(
    self,
    *,
    every: str = "second",
    stride: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    threshold: float = 0.5,
  ) -> int:
    """The stride that is meant. Raises `InputError` for settings of `predict` that make no sense."""
    steps = self.seconds if stride is None else stride
    if not 1 <= steps <= self.seconds:
      raise InputError(f"stride={steps} must lie between 1 and {self.seconds} seconds, the model's window.")
    if every not in ("second", "frame"):
      raise InputError(f"every={every!r} is unknown; choose second or frame.")
    windows.check_cut(start, end, threshold)
    return steps

  def predict_under(
    self,
    footage: Any,
    sounds: Mapping[str, Any],
    *,
    stride: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    threshold: float = 0.5,
  ) -> Iterator[dict[str, Prediction]]:
    """The same pictures, one a second and read once, under several sounds side by side.

    Args:
      footage: a `data_pipelines.video.Footage`.
      sounds: name -> the footage with that sound (`video.with_sound`).
    """
    from data_pipelines import video

    pictures = itertools.tee(video.seconds(footage, start=start, end=end, fit=self.fit), len(sounds))
    streams, told = [], set()  # the footages share their notes, which are told once
    for seconds, other in zip(pictures, sounds.values(), strict=True):
      waves = video.sound_seconds(other, start, end, stereo=self.stereo)
      heard = (dataclasses.replace(each, sound=wave) for each, wave in zip(seconds, waves, strict=False))
      streams.append(self._predictions(other, heard, stride or self.seconds, threshold, told))
    for found in zip(*streams, strict=True):
      yield dict(zip(sounds, found, strict=True))

  def _footage(
    self, footage: Any, every: str, stride: int, start: float, end: float | None, threshold: float
  ) -> Iterator[Prediction]:
    from data_pipelines import video

    seconds = video.seconds(footage, every=every, start=start, end=end, fit=self.fit, stereo=self.stereo)
    return self._predictions(footage, seconds, stride, threshold)

  def _predictions(
    self, footage: Any, seconds: Iterator[Any], stride: int, threshold: float, told: set[str] | None = None
  ) -> Iterator[Prediction]:
    before, told = None, set() if told is None else told
    for slot, maps in windows.judged(seconds, self.seconds, stride, self.batch, self._judge):
      _tell(footage.notes, told)
      similarity = maps.get("similarity")
      if before is not None:
        yield dataclasses.replace(before, until_s=slot.time_s)
      before = Prediction(
        source=footage.path,
        number=0 if before is None else before.number + 1,
        time_s=slot.time_s,
        until_s=slot.end_s,
        picture_s=slot.picture_s,
        size=footage.size,
        coarse=maps["coarse"],
        threshold=threshold,
        similarity=None if similarity is None else float(similarity),
        coarse_uncertainty=maps.get("uncertainty"),
        coarse_classes=maps.get("classes"),
        class_probability=maps.get("class_probability"),
        class_names=self.class_names,
      )
    if before is not None:
      yield before
    _tell(footage.notes, told)

  def fit(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at the model's size, as in training."""
    from data_pipelines.transforms import resize_frames

    return resize_frames(picture[None], (self.size, self.size))[0]

  def _judge(self, group: list[windows.Window]) -> list[list[windows.Maps]]:
    """Runs the model on up to `batch` windows, of which the last is repeated; gives the maps of their T seconds."""
    rows = [group[min(i, len(group) - 1)] for i in range(self.batch)]
    shape = (self.batch, self.seconds)
    present = np.array([[t < len(row.frames) for t in range(self.seconds)] for row in rows])
    frames = [row.frames + row.frames[-1:] * (self.seconds - len(row.frames)) for row in rows]
    heard = [self._hear(row) for row in rows]
    batch = {
      "frames": np.stack([np.stack(each) for each in frames]),
      "masks": np.zeros((*shape, self.size, self.size), np.int32),
      "annotated": present,
      "present": present,
      "condition": np.zeros(self.batch, np.int32),
      "index": np.arange(self.batch, dtype=np.int32),
      **{name: np.stack([each[name] for each in heard]) for name in heard[0]},
    }
    if self.mark is not None:
      batch = self.mark(batch, None)
    outputs = self._step(self._variables, meshes.put_batch(self._mesh, Batch(**batch)))
    found = jax.device_get(self._reduce(outputs))
    return [
      [{name: x[b, t] for name, x in found.items()} for t in range(self.seconds)] for b in range(len(group))
    ]

  def _hear(self, window: windows.Window) -> dict[str, np.ndarray]:
    """A window's sound as the model takes it; what a short video lacks repeats its last example."""
    if window.heard:
      return window.heard
    from data_pipelines.audio import clip_log_mel
    from data_pipelines.stereo import pan

    present = len(window.frames)
    missing = self.seconds - present
    mono = window.sound.mean(axis=1) if self.stereo else window.sound
    log_mel = clip_log_mel(mono, present)
    window.heard["log_mel"] = np.pad(log_mel, ((0, missing), (0, 0), (0, 0)), mode="edge")
    if self.takes_waveform:
      window.heard["waveform"] = np.pad(mono.reshape(present, -1).astype(np.float32), ((0, missing), (0, 0)))
    if self.stereo:
      window.heard["pan"] = np.pad(pan(window.sound, present), ((0, missing), (0, 0)))
    return window.heard


def _tell(notes: list[str], told: set[str]) -> None:
  """Logs what has to be said of a file and has not been told."""
  for note in notes:
    if note not in told:
      log.warning("%s", note)
      told.add(note)


def class_names(config: Any) -> tuple[str, ...]:
  """Names of the model's classes, background first; () where they are not known here."""
  data = config.data
  if config.model.num_classes == 1:
    return ()
  names: Iterable[str] = ()
  if data.root and data.name == "avss":
    from data_pipelines import avsbench_index as index

    try:
      return index.class_names(index.find_home(data.root, "AVSS"))
    except InputError:
      return ()
  elif data.root and data.name.startswith("vpo"):
    from data_pipelines.vpo import CLASSES as names
  elif not data.root and data.stand_in == "generated":
    from data_pipelines.sprites import CATEGORIES as names
  elif not data.root and data.stand_in == "real_media":
    from data_pipelines.real_media import DEFAULT_CLASSES as names
  names = tuple(names)
  return ("background", *names) if len(names) == config.model.num_classes - 1 else ()


def _reduce(outputs: Any) -> dict[str, jax.Array]:
  """The maps that a prediction keeps, of all slots of a batch."""
  logits = outputs.logits.astype(jnp.float32)
  found = {"coarse": activity(logits)}  # [B, T, h, w]
  if logits.shape[-1] > 1:
    shares = jax.nn.softmax(logits, axis=-1)
    found["classes"] = jnp.argmax(shares[..., 1:], axis=-1).astype(jnp.int32) + 1
    found["class_probability"] = jnp.max(shares[..., 1:], axis=-1)
  if outputs.similarity is not None:
    found["similarity"] = jax.nn.sigmoid(outputs.similarity.astype(jnp.float32))  # [B, T]
  if outputs.uncertainty is not None:
    found["uncertainty"] = outputs.uncertainty[..., 0].astype(jnp.float32)
  return found


def _check_marks(config: Any, workdir: str) -> None:
  if config.marks.kind == "file":
    raise InputError(
      f"{workdir}: its marks come from files, one a clip of its data set, and say nothing of other videos; train"
      " with marks.kind=kmeans."
    )
