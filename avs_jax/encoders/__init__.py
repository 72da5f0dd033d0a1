"""Eyes and ears: `build` makes any encoder by its name; a system never knows which one it has."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.encoders import mix_transformer, swin
from avs_jax.encoders.beats import BEATs
from avs_jax.encoders.conv_pyramid import ConvPyramid
from avs_jax.encoders.efficientnet import EfficientNetLite
from avs_jax.encoders.htsat import HTSAT
from avs_jax.encoders.resnet import ResNet
from avs_jax.encoders.vggish import VGGish
from avs_jax.errors import InputError

_VISUAL: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  **{name: (mix_transformer.MixTransformer, size) for name, size in mix_transformer.SIZES.items()},
  **{name: (swin.Swin, size) for name, size in swin.SIZES.items()},
  "resnet50": (ResNet, {}),
  "efficientnet_lite0": (EfficientNetLite, {}),
  "conv_pyramid": (ConvPyramid, {}),
}
_AUDIO: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  "vggish": (VGGish, {}),
  "htsat": (HTSAT, {}),
  "beats": (BEATs, {}),
}

VISUAL = tuple(_VISUAL)
AUDIO = tuple(_AUDIO)
NAMES = VISUAL + AUDIO


def build(name: str, **overrides: Any) -> nn.Module:
  """The encoder `name`, without parameters.

  Visual encoders map normalised pictures [N, H, W, 3] to a tuple of four maps at strides 4, 8, 16, 32 and
  have `channels`, `MEAN` and `STD` (RGB in [0, 255]); `stage(x, i)` runs one stage, for systems that act
  between stages, and `as_map` makes a map of what it gives. Audio encoders map sounds to
  [N, A] and have `dim`: VGGish its examples [N, 96, 64], those of which `takes_waveform` is true samples [N, S]
  at their `sample_rate_hz`; the latter also name classes (`recognise`) where they are built `with_classes`.

  Args:
    name: one of `NAMES`.
    **overrides: attributes of the encoder's class, in place of the named size's; lists become tuples and
      a dtype may be given by its name.

  Raises:
    InputError: an unknown name or override.
  """
  table = {**_VISUAL, **_AUDIO}
  if name not in table:
    raise InputError(f"there is no encoder '{name}'; give one of: {', '.join(NAMES)}.")
  kind, arguments = table[name]
  allowed = settings(name)
  unknown = sorted(set(overrides) - set(allowed))
  if unknown:
    raise InputError(
      f"encoder '{name}' has no setting {', '.join(unknown)}; its settings are: {', '.join(allowed)}."
    )
  overrides = {key: tuple(value) if isinstance(value, list) else value for key, value in overrides.items()}
  if "dtype" in overrides:
    overrides["dtype"] = jnp.dtype(overrides["dtype"])
  return kind(**{**arguments, **overrides})


def settings(name: str) -> tuple[str, ...]:
  """Names of what `build` may be told for the encoder `name`; none where there is no such encoder."""
  kind = {**_VISUAL, **_AUDIO}.get(name, (None, {}))[0]
  names = () if kind is None else (field.name for field in dataclasses.fields(kind))
  return tuple(each for each in names if each not in ("parent", "name"))


def has_setting(name: str, setting: str) -> bool:
  """Whether the encoder `name` exists and knows `setting`."""
  return setting in settings(name)


def as_map(encoder: nn.Module, x: Float[Array, "N h w C"], i: int) -> Float[Array, "N h w C"]:
  """Map `i` as a decoder reads it, from what a visual encoder's `stage(..., i)` gave.

  Most encoders hand on the map itself; Swin's next stage reads tokens that the map's norm has not touched.
  """
  return encoder.as_map(x, i) if hasattr(encoder, "as_map") else x


def takes_waveform(name: str) -> bool:
  """Whether the audio encoder `name` hears samples, with a front end of its own, and not VGGish examples."""
  return hasattr(_AUDIO[name][0], "sample_rate_hz")
