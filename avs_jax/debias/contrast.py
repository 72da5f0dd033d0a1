"""Contrastive debiasing: what a model would segment without hearing is taken out of what it segments.

"Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024), section 4.4.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avs_jax.diffusion import Diffusion
from avs_jax.errors import InputError, check_choice
from avs_jax.systems.system import Scene
from avs_jax.types import AnyArray, Outputs, Sound, Stereo

STRATEGIES = ("ensemble", "bias_only", "uncertainty", "visual_only")
OPERATIONS = ("subtract", "product")
PLACES = ("embedding", "projected", "log_mel")
LAYERS = ("every", "map")
# What each variant of the uncertainty strategy does where the config says nothing.
VARIANTS = {
  # Section 4.4 and supplement; the size of the constant beta is not given, 0.02 is the released code's last.
  "paper": {
    "where": "embedding",
    "layers": "every",
    "schedule": "constant",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "steps": 1000,
    "pure": True,
  },
  # The published code: its last step keeps 60 % of the sound's amplitude, at inference too.
  "released": {
    "where": "projected",
    "layers": "map",
    "schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "steps": 100,
    "pure": False,
  },
}
# Mean and standard deviation of log-mels over generated clips (ours), so that noise has the sound's own unit.
_LOG_MEL = (-1.6, 2.0)


def noised_in_training(
  diffusion: Diffusion, x: Float[AnyArray, "B ..."], key: jax.Array
) -> Float[Array, "B ..."]:
  """Each clip after a step of its own, drawn uniformly from all; fresh noise for every value."""
  key_step, key_noise = jax.random.split(key)
  shares = jnp.asarray(diffusion.shares(), jnp.float32)
  kept = shares[jax.random.randint(key_step, (x.shape[0],), 0, diffusion.steps) + 1]
  kept = kept.reshape(-1, *(1,) * (x.ndim - 1))  # [B, 1 ...]
  noise = jax.random.normal(key_noise, x.shape, jnp.float32)
  return (jnp.sqrt(kept) * x + jnp.sqrt(1 - kept) * noise).astype(x.dtype)


def noised_at_inference(kept: float, x: Float[AnyArray, "B ..."], key: jax.Array) -> Float[Array, "B ..."]:
  """`x` of which this share of the power is kept. Every clip gets the same noise: its neighbours change nothing."""
  noise = jax.random.normal(key, (1, *x.shape[1:]), jnp.float32)
  return (kept**0.5 * x + (1 - kept) ** 0.5 * noise).astype(x.dtype)


def amplify(logits: Array, biased: Array, alpha: float) -> Float[Array, "..."]:
  """(alpha + 1) logits - alpha biased: equation 13, and the ensemble's weighted subtraction."""
  return (alpha + 1) * logits.astype(jnp.float32) - alpha * biased.astype(jnp.float32)


def mask_out(logits: Array, biased: Array) -> Float[Array, "..."]:
  """logits * sigmoid(biased): equation 10. The sign never changes: a mask cut at one half stays as it is."""
  return logits.astype(jnp.float32) * jax.nn.sigmoid(biased.astype(jnp.float32))


def recombine(
  outputs: Outputs, biased: Outputs, combine: Callable[[Array, Array], Array], *, every_layer: bool = True
) -> Outputs:
  """`outputs` with its logits combined with those of the biased branch.

  Args:
    every_layer: mask and class logits of every query and layer separately, and logits of auxiliary heads, where
      there are any; else the final map alone. What the queries then paint is the caller's to redo.
  """

  def each(name: str) -> tuple | None:
    ours, theirs = getattr(outputs, name), getattr(biased, name)
    return ours if ours is None else tuple(combine(a, b) for a, b in zip(ours, theirs, strict=True))

  changed = outputs.replace(logits=combine(outputs.logits, biased.logits))
  if not every_layer:
    return changed
  names = ("aux_logits", "query_masks", "query_classes")
  return changed.replace(**{name: each(name) for name in names})


class Contrast(nn.Module):
  """Any system beside a branch that shows its visual prior, and their logits recombined.

  Sun et al., section 4.4, equations 10 to 14, and supplement D.4.
    ensemble     a separately trained visual-only model (`biased`), merged at inference only
    bias_only    logits * sigmoid(those of a visual-only branch), the losses of both added; the branch shares all
                 that is seen and has the rest of a system to itself
    uncertainty  (alpha + 1) logits - alpha (logits of the same system given noised sound)
    visual_only  no contrast: the system without its sound; trains what `ensemble` needs
  What is seen is computed once for both passes; the noised pass goes through the decoder in one batch with the
  clean one, so that batch norms see in training what they see later.
  Deviation: none known in "paper" beyond what is not given there (see VARIANTS); the paper's visual-only
    branch has no description: here it is the system itself given zeros for sound. The noised pass opens all
    queries: marks of the clean sound would tell it what is heard. "released": without the AVSS code's clean
    loss; on semantic maps it debiases the last mask logits, in training the class logits too.

  Attributes:
    system: a module with the methods of `systems.system.System`.
    strategy: one of `STRATEGIES`.
    biased: the visual-only system of ensemble and bias_only.
    alpha: weight of the contrast.
    operation: of the ensemble, "subtract" or "product" (equation 10's form: a bare product of two negative
      logits would be positive).
    variant: "paper" or "released"; gives the five below where they are None.
    where: what is noised, one of `PLACES`; a system without a projection of its own hears "projected" as
      "embedding".
    layers: "every" or "map", see `recombine`.
    schedule, beta_start, beta_end, steps: see `Diffusion`.
    pure: at inference the noise alone is heard, not the last step.
    seed: of the noise at inference.
  """

  system: Any
  strategy: str = "uncertainty"
  biased: Any = None
  alpha: float = 1.0
  operation: str = "subtract"
  variant: str = "paper"
  where: str | None = None
  layers: str | None = None
  schedule: str | None = None
  beta_start: float | None = None
  beta_end: float | None = None
  steps: int | None = None
  pure: bool | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    """Refuses settings that mean nothing.

    Raises:
      InputError: names the setting and what it may be.
    """
    for key, allowed in (
      ("strategy", STRATEGIES),
      ("operation", OPERATIONS),
      ("variant", tuple(VARIANTS)),
      ("where", (None, *PLACES)),
      ("layers", (None, *LAYERS)),
    ):
      shown = "contrast" if key == "strategy" else f"contrast_{key}"
      check_choice(f"debias.{shown}", getattr(self, key), allowed)
    if self.alpha < 0:
      raise InputError(f"debias.contrast_alpha={self.alpha} is negative; 0 leaves the logits as they are.")
    self.diffusion()  # which checks its own settings
    super().__post_init__()

  def choice(self, name: str) -> Any:
    """A setting of the uncertainty strategy: the given one, else the variant's."""
    value = getattr(self, name)
    return VARIANTS[self.variant][name] if value is None else value

  def diffusion(self) -> Diffusion:
    chosen = {name: self.choice(name) for name in ("schedule", "steps", "beta_start", "beta_end")}
    return Diffusion(**chosen, settings="debias.contrast_")

  def listen(self, sound: Sound, *, train: bool = False) -> Float[Array, "B T A"]:
    """One embedding a second; where the log-mel is noised, the noised sound's behind it: [B, T, 2 A].

    Raises:
      InputError: the log-mel is to be noised, and the system's audio encoder takes raw sound.
    """
    audio = self.system.listen(sound, train=train)
    if self.strategy != "uncertainty" or self.choice("where") != "log_mel":
      return audio
    mono = sound.mono if isinstance(sound, Stereo) else sound
    if mono.ndim != 4:
      raise InputError(
        "debias.contrast_where='log_mel' noises log-mels, and this system's audio encoder takes raw sound; choose"
        " 'embedding' or 'projected'."
      )
    mean, std = _LOG_MEL
    noised = self.noised((jnp.asarray(mono, jnp.float32) - mean) / std, train) * std + mean
    other = sound.replace(mono=noised) if isinstance(sound, Stereo) else noised
    return jnp.concatenate([audio, self.system.listen(other, train=train)], axis=-1)

  def noised(self, x: Float[AnyArray, "B ..."], train: bool) -> Float[Array, "B ..."]:
    """`x` after forward diffusion (equation 12): in training each clip at a step and with noise of its own; at
    inference at the last step, or at infinity (`pure`: the noise alone), by the config's seed."""
    diffusion = self.diffusion()
    if train:
      return noised_in_training(diffusion, x, self.make_rng("dropout"))
    kept = 0.0 if self.choice("pure") else diffusion.kept(diffusion.steps)
    return noised_at_inference(kept, x, jax.random.key(self.seed))

  def segment(
    self,
    frames: AnyArray,
    audio: Float[AnyArray, "B T A"],
    *,
    train: bool = False,
    present=None,
    marks: Float[AnyArray, "B T Q"] | None = None,
  ) -> Outputs:
    """Outputs of the system with debiased logits; `biased` holds the branch's where it has a loss of its own."""
    audio = jnp.asarray(audio)
    if self.strategy == "uncertainty":
      return self.uncertainty(frames, audio, train, present, marks)
    if self.strategy == "visual_only":
      silent = jnp.zeros_like(audio)
      return self.system.segment(frames, silent, train=train, present=present).replace(audio_features=audio)
    scene = self.system.look(frames, train=train, present=present)
    outputs = self.system.segment(frames, audio, train=train, marks=marks, scene=scene)
    silent = jnp.zeros_like(audio)
    if self.strategy == "ensemble":
      if train:
        return outputs
      biased = self.biased.segment(frames, silent, present=present)
      return self.system.paint(recombine(outputs, biased, self.merge))
    biased = self.biased.segment(frames, silent, train=train, scene=scene)
    debiased = self.system.paint(recombine(outputs, biased, mask_out))
    return debiased.replace(biased=biased) if train else debiased

  def merge(self, logits: Array, biased: Array) -> Array:
    return mask_out(logits, biased) if self.operation == "product" else amplify(logits, biased, self.alpha)

  def uncertainty(self, frames: AnyArray, audio: Array, train: bool, present: Any, marks: Any) -> Outputs:
    """Equation 13: each clip is decoded twice, side by side in one batch."""
    where = self.choice("where")
    if where == "log_mel":
      audio, noised = jnp.split(audio, 2, axis=-1)
    else:
      noised = self.noised(audio, train) if where == "embedding" else audio
    projected, noised = self.system.project(audio), self.system.project(noised)
    if where == "projected":
      # The released code noises what query 0 is given, as its system reads the marks: nothing where it is dormant.
      is_given = marks is not None and self.variant == "released"
      first = self.system.opened(marks)[..., :1].astype(noised.dtype) if is_given else 1
      noised = self.noised(first * noised, train)
    open_all = None if marks is None else pair(marks, jnp.ones_like(marks))
    scene = self.system.look(frames, train=train, present=present)
    both = self.system.decode(
      twice(scene), pair(audio, audio), pair(projected, noised), train=train, marks=open_all
    )
    clean, biased = (jax.tree.map(lambda x, i=i: x.reshape(-1, 2, *x.shape[1:])[:, i], both) for i in (0, 1))
    return self.debias(clean, biased, train)

  def debias(self, clean: Outputs, biased: Outputs, train: bool) -> Outputs:
    """The clean outputs with the noised ones contrasted away, as the variant has it."""

    def combine(logits: Array, biased: Array) -> Array:
      return amplify(logits, biased, self.alpha)

    if self.choice("layers") == "every":
      return self.system.paint(recombine(clean, biased, combine))
    if clean.query_masks is None:
      return recombine(clean, biased, combine, every_layer=False)
    biased = self.system.paint(biased.replace(marks=clean.marks))
    if clean.logits.shape[-1] == 1:
      return recombine(clean, biased, combine, every_layer=False)
    masks = (*clean.query_masks[:-1], combine(clean.query_masks[-1], biased.query_masks[-1]))
    classes = clean.query_classes
    if train:
      classes = (*classes[:-1], combine(classes[-1], biased.query_classes[-1]))
    return self.system.paint(clean.replace(query_masks=masks, query_classes=classes))

  def __call__(
    self, frames: AnyArray, sound: AnyArray, *, train: bool = False, present=None, marks=None
  ) -> Outputs:
    audio = self.listen(sound, train=train)
    return self.segment(frames, audio, train=train, present=present, marks=marks)


def pair(first: AnyArray, second: AnyArray) -> Array:
  """Clip by clip one behind the other, [2 B, ...]: a clip and its double stay on one device."""
  both = jnp.stack([jnp.asarray(first), jnp.asarray(second)], axis=1)  # [B, 2, ...]
  return both.reshape(-1, *both.shape[2:])


def twice(scene: Scene) -> Scene:
  """The scene with every clip doubled, in the order of `pair`."""
  clips, seconds = scene.shape

  def double(x: Array) -> Array:
    x = x.reshape(clips, -1, *x.shape[1:])  # [B, T, ...], whatever follows the clip
    return pair(x, x).reshape(2 * clips * x.shape[1], *x.shape[2:])

  return jax.tree.map(double, scene).replace(shape=(2 * clips, seconds))
