"""What a model says of one picture of a video and its second of sound."""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
  """What a model says of one picture and its second of sound; maps of the source's size are made when asked for.

  Attributes:
    source: path of the video, as given.
    number: of the prediction, from 0.
    time_s, until_s: while it holds, from the video's first picture on.
    picture_s: when the picture came on that was looked at.
    size: (H, W) of the source, upright.
    coarse: probability that a pixel sounds, at the model's size.
    threshold: a pixel is in the mask where its probability is above.
    similarity: of sound and picture, 0 to 1; None where the model has no guide.
    coarse_uncertainty: at the model's size; None where the system has none.
    coarse_classes: likeliest sounding class a pixel, at the model's size; None for binary models.
    class_names: name of each class, where known.
    class_probability: of that likeliest class, at the model's size.
  """

  source: str
  number: int
  time_s: float
  until_s: float
  picture_s: float
  size: tuple[int, int]
  coarse: Float[np.ndarray, "h w"]
  threshold: float = 0.5
  similarity: float | None = None
  coarse_uncertainty: Float[np.ndarray, "h w"] | None = None
  coarse_classes: Int[np.ndarray, "h w"] | None = None
  class_probability: Float[np.ndarray, "h w"] | None = None
  class_names: tuple[str, ...] = ()

  @property
  def probability(self) -> Float[np.ndarray, "H W"]:
    """float32 at the source's size, bilinear."""
    return enlarged(self.coarse, self.size)

  @functools.cached_property
  def mask(self) -> Bool[np.ndarray, "H W"]:
    """Where it sounds, at the source's size."""
    return self.probability > self.threshold

  @property
  def uncertainty(self) -> Float[np.ndarray, "H W"] | None:
    """float32 at the source's size, bilinear; None where the system has none."""
    return None if self.coarse_uncertainty is None else enlarged(self.coarse_uncertainty, self.size)

  @functools.cached_property
  def classes(self) -> Int[np.ndarray, "H W"] | None:
    """Class of each pixel of the mask, 0 outside; nearest neighbour. None for binary models."""
    if self.coarse_classes is None:
      return None
    from data_pipelines.transforms import resize_mask

    return np.where(self.mask, resize_mask(self.coarse_classes, self.size), 0).astype(np.int32)

  @property
  def area(self) -> float:
    """Share of the picture that is in the mask."""
    return float(self.mask.mean())

  @property
  def score(self) -> float:
    """Mean probability inside the mask; where nothing is, the highest probability."""
    inside = self.coarse > self.threshold
    return float(self.coarse[inside].mean() if inside.any() else self.coarse.max())

  @functools.cached_property
  def sounding(self) -> tuple[tuple[int, str, float, float], ...]:
    """(class, its name, mean probability, share of the picture) of each class in the mask, largest first."""
    if self.coarse_classes is None:
      return ()
    inside, found = self.coarse > self.threshold, []
    for k in np.unique(self.coarse_classes[inside]).tolist():
      here = inside & (self.coarse_classes == k)
      name = self.class_names[k] if k < len(self.class_names) else f"class {k}"
      found.append((k, name, float(self.class_probability[here].mean()), float(here.mean())))
    return tuple(sorted(found, key=lambda each: -each[3]))

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of the classes in the mask, largest first; () for binary models."""
    return tuple(name for _, name, _, _ in self.sounding)

  @property
  def scores(self) -> tuple[float, ...]:
    """Mean probability of each of `labels`."""
    return tuple(score for _, _, score, _ in self.sounding)


def enlarged(values: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
  """Bilinear to `size`, outer edges onto each other."""
  if values.shape == tuple(size):
    return values.astype(np.float32)
  image = Image.fromarray(values.astype(np.float32))
  return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
