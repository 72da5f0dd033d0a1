"""A trained model as files that others load: a program for CPU, GPU and TPU, its weights, and a card.

FOLDER/model.jaxexport     the program with its weights inside; jax alone runs it, without this package
FOLDER/model.safetensors   the weights and their config (avs_jax/bundle.py), for this package and others
FOLDER/README.md           the model card: what it was trained on, how it was judged, how to load it
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from avs_jax import bundle, encoders, report
from avs_jax.checkpoint import combined, digest
from avs_jax.counts import activity
from avs_jax.errors import InputError, make_folder
from avs_jax.evaluate import is_run, weights_of_file, weights_to_judge
from avs_jax.logbook import TRAINING_DATA
from avs_jax.model import build_model, check_weights
from avs_jax.predict import class_names
from avs_jax.types import SAMPLE_RATE_HZ, Stereo, unchecked
from avs_jax.weight_origin import title

PROGRAM, WEIGHTS, CARD = "model.jaxexport", "model.safetensors", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
TOGETHER, IN_TURN = "all clips of a batch at once", "the clips of a batch one after the other"

log = logging.getLogger(__name__)
Function = Callable[..., dict[str, jax.Array]]


def export(
  config: Any, workdir: str, output: str | None, *, half: bool = False, weights: str = ""
) -> dict[str, Any]:
  """Writes the run's best weights into the folder `output` as program, bundle and card.

  A `workdir` without checkpoints is filled from `config.init`, as in `evaluate`; the card then says whose weights
  they are.

  Args:
    weights: a .safetensors with its config inside, in place of a run's weights; what its card says of training and
      figures is kept.
    half: weights are rounded to 16 bits (3 digits), in the program too; the weight file has half the size.

  Returns: what the card says, as JSON can hold it.

  Raises:
    InputError: no output, no checkpoint, weights of another model, or a folder that cannot be written.
  """
  if not output:
    raise InputError("--mode=export needs --output=FOLDER for the program, the weights and the model card.")
  model = build_model(config)
  variables = weights_of_file(config, weights) if weights else weights_to_judge(config, model, workdir)
  check_weights(config, model, variables, weights or workdir)
  if half:
    variables = jax.tree.map(rounded, variables)
  make_folder(output)
  exported, batching = lower(model, variables, input_specs(config))
  settings = portable(json.loads(config.to_json_best_effort()))
  if weights:
    card = describe(config, variables, None)
    before = told_of(weights)
    if (
      before.pop("weights_digest", "") != card["weights_digest"]
      and "scoreboard_is_of_these_weights" in before
    ):
      before["scoreboard_is_of_these_weights"] = False  # they are rounded now
    card |= before
  else:
    published = "" if is_run(workdir) else config.init.system
    card = describe(config, variables, report.read(workdir), published=published, workdir=workdir)
  card["batching"] = batching
  try:
    with open(os.path.join(output, PROGRAM), "wb") as file:
      file.write(exported.serialize())
    bundle.save(os.path.join(output, WEIGHTS), variables, settings, card, half=half)
    with open(os.path.join(output, CARD), "w", encoding="utf-8") as file:
      file.write(markdown(card, exported))
  except OSError as error:
    raise InputError(f"--output={output}: cannot be written ({error}); give another folder.") from None
  log.info("wrote %s, %s and %s to %s (%s)", PROGRAM, WEIGHTS, CARD, output, batching)
  return card


def told_of(weights: str) -> dict[str, Any]:
  """What a weight file's card says that its arrays and config do not."""
  kept = (
    "title",
    "trained_on",
    "is_stand_in",
    "classes",
    "licence",
    "judged_on",
    "figures",
    "record",
    "commit",
  )
  card = bundle.load(weights)[2]
  kept = (*kept, "scoreboard_is_of_these_weights", "weights_digest")
  return {key: card[key] for key in kept if key in card}


def portable(settings: dict[str, Any]) -> dict[str, Any]:
  """A config's settings without the folders of this machine; `data.root` is then where AVS_DATA_ROOT says."""
  settings["data"]["media_cache"] = settings["warmup"]["folder"] = ""
  settings["data"]["root"] = "$AVS_DATA_ROOT" if settings["data"]["root"] else ""
  settings["init"] = {key: title(path) if path else "" for key, path in settings["init"].items()}
  for section, key in (("debias", "contrast_run"), ("marks", "weights"), ("marks", "folder")):
    path = settings[section][key]
    settings[section][key] = title(path) if path else ""
  for sounds, key in ((settings["eval"], "unseen"), (settings["eval"]["noise_mix"], "kind")):
    sounds[key] = [os.path.basename(name) for name in sounds[key]]  # some may be .wav files
  return settings


def rounded(value: Any) -> np.ndarray:
  """32-bit numbers rounded to what 16 bits hold; other arrays, and those with larger numbers, as they are."""
  value = np.asarray(value)
  return value.astype(np.float16).astype(np.float32) if bundle.fits_half(value) else value


def load(path: str) -> jax.export.Exported:
  """The program of a file that `export` wrote; `.call(**inputs)` runs it.

  Raises:
    InputError: no such file, or not an exported program of a version that this jax reads.
  """
  try:
    with open(path, "rb") as file:
      return jax.export.deserialize(bytearray(file.read()))
  except OSError as error:
    raise InputError(f"{path} cannot be read ({error.strerror}); give a .jaxexport file.") from None
  except Exception as error:  # noqa: BLE001  flatbuffers and jax raise many kinds for a broken file
    reason = (" ".join(str(error).split()) or type(error).__name__)[:120]
    raise InputError(
      f"{path} is no exported program that jax {jax.__version__} reads ({reason}); export it again."
    ) from None


def input_specs(config: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """What the program is given, by name, with a batch of any size `b`."""
  (b,) = jax.export.symbolic_shape("b")
  seconds, size = config.data.seconds, config.data.size
  specs = {"frames": jax.ShapeDtypeStruct((b, seconds, size, size, 3), jnp.uint8)}
  if encoders.takes_waveform(config.model.audio):
    specs["waveform"] = jax.ShapeDtypeStruct((b, seconds, SAMPLE_RATE_HZ), jnp.float32)
  else:
    specs["log_mel"] = jax.ShapeDtypeStruct((b, seconds, 96, 64), jnp.float32)
  if config.model.stereo:
    specs["pan"] = jax.ShapeDtypeStruct((b, seconds, 64), jnp.float32)
  if config.marks.kind != "none":
    specs["marks"] = jax.ShapeDtypeStruct((b, seconds, config.model.num_queries), jnp.float32)
  return specs


def make_function(model: nn.Module, variables: Mapping[str, Any]) -> Function:
  """`f(frames=…, log_mel=…) -> {"probability": [b, T, H, W], …}`: all that a user of the program gets."""

  def segment(**inputs: jax.Array) -> dict[str, jax.Array]:
    frames, marks = inputs["frames"], inputs.get("marks")
    sound = inputs["waveform"] if "waveform" in inputs else inputs["log_mel"]
    if "pan" in inputs:
      sound = Stereo(sound, inputs["pan"])
    told = {} if marks is None else {"marks": marks}
    told["present"] = jnp.ones(frames.shape[:2], bool)
    outputs = model.apply(variables, frames, sound, train=False, **told)
    result = {"probability": activity(outputs.logits)}
    if outputs.logits.shape[-1] > 1:
      result["logits"] = outputs.logits.astype(jnp.float32)
    if outputs.similarity is not None:
      result["similarity"] = jax.nn.sigmoid(outputs.similarity.astype(jnp.float32))
    return result

  return segment


def lower(
  model: nn.Module, variables: Mapping[str, Any], specs: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[jax.export.Exported, str]:
  """The program for every platform, and how it treats a batch.

  Some parts cut their work by the size of the batch (SDAVS) or need it as a number (RAVS, the cosine guides):
  while it is a symbol they cannot be traced, and clips are run one after the other. The numbers are the same.
  """
  segment = make_function(model, variables)

  def in_turn(**inputs: jax.Array) -> dict[str, jax.Array]:
    def one(clip: dict[str, jax.Array]) -> dict[str, jax.Array]:
      found = segment(**{name: x[None] for name, x in clip.items()})
      return {name: x[0] for name, x in found.items()}

    return jax.lax.map(one, inputs)

  with unchecked():
    try:
      return jax.export.export(jax.jit(segment), platforms=PLATFORMS)(**specs), TOGETHER
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
      if isinstance(error, TypeError) and "_DimExpr" not in str(error):  # the symbol is not to blame
        raise
    return jax.export.export(jax.jit(in_turn), platforms=PLATFORMS)(**specs), IN_TURN


def describe(
  config: Any,
  variables: Mapping[str, Any],
  board: Mapping[str, Any] | None,
  *,
  published: str = "",
  workdir: str = "",
) -> dict[str, Any]:
  """What is known of the weights: model, training data by name, the run's own scoreboard.

  Args:
    board: the folder's scoreboard; of weights that were not trained there it counts only where it is theirs.
    published: the file of weights that were not trained here.
    workdir: the run's folder, which says what it trained on.
  """
  trained_on, is_stand_in = published_data(published) if published else training_data(config, workdir)
  weights_digest = combined(digest(variables))
  if published and board is not None and board.get("record", {}).get("weights_digest") != weights_digest:
    board = None
  card = {
    "title": config.title or config.model.system,
    "system": config.model.system,
    "encoders": f"{config.model.visual}, {config.model.audio}",
    "debias": f"guide {config.debias.guide}, contrast {config.debias.contrast}",
    "parameters": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables["params"])),
    "trained_on": trained_on,
    "is_stand_in": is_stand_in,
    "seconds": config.data.seconds,
    "size": config.data.size,
    "num_classes": config.model.num_classes,
    "classes": list(class_names(config)),  # () where there is one, or their names are not known
    "weights_digest": weights_digest,
    "licence": licence(config, trained_on),
    "jax": jax.__version__,
    "commit": report.commit(),
  }
  if board is not None:
    record = board.get("record", {})
    card["judged_on"] = f"{record.get('data_set')}, {record.get('split')}, {record.get('clips')} clips"
    card["scoreboard_is_of_these_weights"] = record.get("weights_digest") == weights_digest
    card["figures"] = {sound: figures for sound, figures in board.items() if sound != "record"}
    card["record"] = {key: value for key, value in record.items() if key != "config"}
  return card


def training_data(config: Any, workdir: str = "") -> tuple[str, bool]:
  """Name of the data that a run trained on, and whether it only stands in for a published data set.

  A stand-in that lies in a data set's layout is known from the run's folder alone.
  """
  path = os.path.join(workdir, TRAINING_DATA)
  if workdir and os.path.exists(path):  # runs of earlier versions have none
    with open(path) as file:
      found = json.load(file)
    if found["is_stand_in"]:
      return found["title"], True
  if not config.data.root:
    kinds = {"generated": "generated clips", "real_media": "real-media clips"}
    return f"{kinds.get(config.data.stand_in, config.data.stand_in)} (stand-in)", True
  names = {"s4": "AVSBench-S4", "ms3": "AVSBench-MS3", "avss": "AVSBench-semantic (AVSS)"}
  name: str = config.data.name
  return names.get(name, f"VPO ({name})" if name.startswith("vpo") else name), False


def published_data(path: str) -> tuple[str, bool]:
  """What is known of the training of somebody's weights, as of `training_data`: what a card inside says, or nothing."""
  told: dict[str, Any] = {}
  if path.endswith(".safetensors"):
    with contextlib.suppress(InputError):
      told = bundle.load(path)[2]
  trained_on = told.get("trained_on", "what its authors say")
  return f"published weights ({title(path)}), not trained here: {trained_on}", bool(told.get("is_stand_in"))


def licence(config: Any, trained_on: str) -> str:
  """What may be done with weights of such training data, in a sentence."""
  began = [title(path) for path in (config.init.visual, config.init.audio, config.init.system) if path]
  if began:
    return (
      f"Code Apache-2.0; for the weights the terms of those they began from ({', '.join(began)}) and of the"
      " training data apply."
    )
  if trained_on.startswith("generated"):
    return "Apache-2.0; the training clips were drawn by the program itself."
  if "(stand-in)" in trained_on:
    return (
      "Code Apache-2.0; the weights were trained on media of Debian packages under GPL and Creative Commons"
      " licences (docs/data.md), and are given under GPL-3.0 to be on the safe side."
    )
  return "Code Apache-2.0; for the weights the terms of the training data apply."


def markdown(card: Mapping[str, Any], exported: jax.export.Exported) -> str:
  """The model card; its head is the YAML that model hubs read."""
  spdx = "apache-2.0" if card["licence"].startswith("Apache") else "other"
  stand_in = (
    "**Trained on a stand-in, not on a published data set: no figure here says anything of AVSBench.**\n\n"
  )
  clip = f"[b, {card['seconds']}, {card['size']}, {card['size']}"
  facts = {
    "system": card["system"],
    "encoders": card["encoders"],
    "debiasing": card["debias"],
    "parameters": f"{card['parameters']:,}",
    "trained on": card["trained_on"],
    "weights": card["weights_digest"],
    "program": f"{', '.join(exported.platforms)}; {card['batching']}; written by jax {card['jax']}",
    "commit": card["commit"],
  }
  text = f"---\nlicense: {spdx}\nlibrary_name: jax\ntags: [audio-visual-segmentation, jax]\n---\n"
  text += (
    f"# {card['title']}\n\nMarks the pixels of what is sounding in a clip of {card['seconds']} seconds.\n\n"
  )
  text += stand_in if card["is_stand_in"] else ""
  text += "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in facts.items())
  text += f"\n## How it was judged\n\n{judged(card)}\n"
  ins = dict(zip(exported.in_tree.unflatten(exported.in_avals)[1], _ins(exported), strict=True))
  text += "\n## Load the program (needs jax and flatbuffers, nothing else)\n\n```python\n"
  text += "from jax import export\n\n"
  text += f'program = export.deserialize(bytearray(open("{PROGRAM}", "rb").read()))\n'
  text += f'probability = program.call({", ".join(f"{name}={name}" for name in ins)})["probability"]\n```\n\n'
  meanings = {
    "frames": "RGB in 0..255, one frame a second",
    "log_mel": "what `data_pipelines.audio.log_mel(waveform, sample_rate_hz)` gives for each second (numpy)",
    "waveform": "mono samples in -1..1 at 16 kHz",
    "pan": "where it comes from: what `data_pipelines.stereo.pan(channels, seconds)` gives (numpy)",
    "marks": "1 for queries that the second's sound opens (`avs_jax/perception.py`, marks.npz of the run)",
  }
  text += "| in | type | |\n|---|---|---|\n"
  text += "".join(f"| `{name}` | `{kind}` | {meanings[name]} |\n" for name, kind in ins.items())
  text += f"\nOut: `probability` float32 `{clip}]`, that a pixel sounds"
  if card["num_classes"] > 1:
    text += f"; `logits` float32 `{clip}, {card['num_classes']}]` of the classes, 0 is background"
  if "similarity" in exported.out_tree.unflatten(exported.out_avals):
    text += f"; `similarity` float32 `[b, {card['seconds']}]` of picture and sound, 0 to 1"
  text += ". `b` is any number of clips.\n"
  text += "\n## Load the weights\n\n```python\nfrom avs_jax.predict import Predictor\n\n"
  text += f'predictor = Predictor.from_weights("{WEIGHTS}")\n```\n\n'
  text += "Any safetensors reader finds the arrays; the metadata hold the config and this card as JSON.\n"
  return text + f"\n## Licence\n\n{card['licence']}\n"


def _ins(exported: jax.export.Exported) -> list[str]:
  return [f"{aval.dtype.name}[{', '.join(map(str, aval.shape))}]" for aval in exported.in_avals]


def judged(card: Mapping[str, Any]) -> str:
  """The scoreboard of the run, or that there is none."""
  if "figures" not in card:
    return (
      "Not yet: `run.py --mode=eval --workdir=RUN` judges a run under four sounds; export again after it."
    )
  header, rows = report.table(card["figures"])
  lines = report.tables.markdown(header, rows)
  text = f"On {card['judged_on']}; columns name their metric family (docs/metrics.md).\n\n" + "\n".join(lines)
  if not card["scoreboard_is_of_these_weights"]:
    text += "\n\n**The run's scoreboard was measured with other weights than these; judge again.**"
  return text
