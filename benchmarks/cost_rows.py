"""The rows of the cost tables: a system, a backbone, a size, and now and then one more setting."""

import dataclasses
from typing import Any

import jax
import numpy as np

from avs_jax import encoders, systems
from avs_jax.errors import InputError
from avs_jax.types import SAMPLE_RATE_HZ

SECONDS = 5
VISUAL = (
  "pvt_v2_b5", "pvt_v2_b0", "mit_b5", "swin_base_w7", "swin_base_w12", "resnet50", "efficientnet_lite0", "conv_pyramid",
)  # fmt: skip
# The backbone and size of each paper's own rows.
OWN = (
  "avsbench:pvt_v2_b5:224", "avsegformer:pvt_v2_b5:512", "active_queries:swin_base_w12:384", "ravs:mit_b5:224",
  "sdavs:pvt_v2_b5:384", "sdavs:swin_base_w12:384",
)  # fmt: skip
# SDAVS's table X, Swin-base, 384 px: setting -> GFLOPs, trainable parameters in millions, frames a second.
TABLE_X = {
  "snrp=none": ("w/o SNRP", 300.85, 100.58, 31.1),
  "damf=none": ("w/o DAMF", 280.31, 100.76, 33.5),
  "stc=False": ("w/o STC", 426.7, 103.0, 22.0),
  "interaction=straight": ("w/o RM", 300.88, 103.2, 31.2),
  "": ("SDAVS", 300.9, 103.2, 31.2),
}


@dataclasses.dataclass(frozen=True)
class Subject:
  """A system with a backbone at a size; `change` is one more setting of the model, "key=value"."""

  system: str
  visual: str
  size: int
  change: str = ""

  @property
  def name(self) -> str:
    return f"{self.system}:{self.visual}:{self.size}" + (f":{self.change}" if self.change else "")

  def settings(self) -> dict[str, Any]:
    """Arguments of `systems.build`."""
    changes: dict[str, Any] = {"sound_map": "features"} if self.system == "sdavs" else {}  # its recipe's
    if self.change:
      key, value = self.change.split("=")
      changes[key] = {"False": False, "True": True}.get(value, value)
    return {"name": self.system, "visual": self.visual, **changes}


def read_subject(text: str) -> Subject:
  """The subject that "system:backbone:size" names.

  Raises:
    InputError: another form, or no such system or backbone.
  """
  words = text.split(":", 3)
  if len(words) < 3 or not words[2].isdecimal() or (len(words) == 4 and words[3].count("=") != 1):
    raise InputError(f"{text!r} names no row; write SYSTEM:BACKBONE:SIZE, e.g. sdavs:pvt_v2_b5:224.")
  subject = Subject(words[0], words[1], int(words[2]), *words[3:])
  for word, known in ((subject.system, systems.NAMES), (subject.visual, encoders.VISUAL)):
    if word not in known:
      raise InputError(f"{text!r}: there is no {word!r}; choose one of {', '.join(known)}.")
  return subject


def shapes(subject: Subject, audio: str = "vggish") -> tuple[Any, Any]:
  """Frames and sound of one clip."""
  second = (SAMPLE_RATE_HZ,) if encoders.takes_waveform(audio) else (96, 64)
  frames = jax.ShapeDtypeStruct((1, SECONDS, subject.size, subject.size, 3), np.uint8)
  return frames, jax.ShapeDtypeStruct((1, SECONDS, *second), np.float32)
