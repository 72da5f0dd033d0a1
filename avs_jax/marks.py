"""Semantic marks: what a second of sound is like, before any picture, as a row of queries that it opens.

"Unveiling and Mitigating Bias in Audio Visual Segmentation" (Sun et al., ACM MM 2024), section 4.2 and
supplement B.1. Marks come from clusters of audio embeddings, from the classes of an audio classifier, or from
published files; `perception.py` gives them to the batches of a run.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from avs_jax.errors import InputError

MOST_CLASSES = 8  # classes that a second has at most (section 4.2)
SMALL = 1e-6  # added to variances, so that a feature that never changes divides nothing by zero


# From classes, clusters and lists to marks.


def from_slots(
  slots: Float[np.ndarray, "*N S"], queries: int, dilation: int = 1
) -> Float[np.ndarray, "*N Q"]:
  """Marks of what is 1 in `slots`: slot s opens queries 1 + d s to d + d s, and query 0 is always open.

  Equation 1 and figure 4 of the supplement (d is the dilation).

  Raises:
    InputError: there are more slots than queries.
  """
  if dilation < 1:
    raise InputError(f"marks.dilation={dilation} must be at least 1.")
  count = slots.shape[-1]
  if 1 + count * dilation > queries:
    raise InputError(
      f"marks: {count} classes or clusters of {dilation} queries each, and query 0, need"
      f" {1 + count * dilation} queries; the system has {queries}: raise model.num_queries or choose fewer."
    )
  marks = np.zeros((*slots.shape[:-1], queries), np.float32)
  marks[..., 0] = 1
  marks[..., 1 : 1 + count * dilation] = np.repeat(slots, dilation, axis=-1)
  return marks


def heard_classes(
  probabilities: Float[np.ndarray, "*N K"], theta: float = 0.4, top_k: int = 0
) -> Float[np.ndarray, "*N K"]:
  """1 for the classes that are heard: those above `theta`, at least one and at most eight; or the top k.

  Args:
    theta: in [0, 1]; the paper's best is 0.4.
    top_k: so many classes whatever their probability; 0 leaves it to `theta`.

  Raises:
    InputError: a threshold or a number that cannot be.
  """
  if not 0 <= theta <= 1:
    raise InputError(f"marks.theta={theta} is a probability; give a number from 0 to 1.")
  if not 0 <= top_k <= probabilities.shape[-1]:
    raise InputError(f"marks.top_k={top_k} must lie between 0 and the {probabilities.shape[-1]} classes.")
  order = np.argsort(-probabilities, axis=-1, kind="stable")
  rank = np.argsort(order, axis=-1, kind="stable")  # 0: the likeliest
  if top_k:
    return (rank < top_k).astype(np.float32)
  heard = (probabilities > theta) & (rank < MOST_CLASSES)
  return (heard | (rank == 0)).astype(np.float32)


def from_lists(lists: Iterable[Iterable[Any]], queries: int, origin: str) -> Float[np.ndarray, "T Q"]:
  """Marks of the queries listed for each second; what is not listed is not open, query 0 neither.

  Raises:
    InputError: an index that is no query's; `origin` names where it stood.
  """
  rows = []
  for second, listed in enumerate(lists):
    row = np.zeros(queries, np.float32)
    for index in np.asarray(list(listed)).reshape(-1).tolist():
      if not isinstance(index, int) or not 0 <= index < queries:
        raise InputError(
          f"{origin}: second {second} lists {index!r}, and the queries are 0 to {queries - 1}; set"
          " model.num_queries to what the file was made for."
        )
      row[index] = 1
    rows.append(row)
  return np.stack(rows) if rows else np.zeros((0, queries), np.float32)


def read_file(path: str, queries: int) -> Float[np.ndarray, "T Q"]:
  """Marks of a published file: one collection of query indices for each second, in a .pth. Runs nothing of it.

  Raises:
    InputError: it is missing, damaged, names anything but numbers and lists, or lists no queries.
  """
  from avs_jax.weights import containers

  seconds = containers.read_plain(path)
  if isinstance(seconds, Mapping):
    seconds = list(seconds.values())
  try:
    lists = [np.atleast_1d(_plain(second)).tolist() for second in seconds]
  except TypeError:
    raise InputError(f"{path}: not a list of query indices for each second; give a mark file.") from None
  return from_lists(lists, queries, path)


def _plain(value: Any) -> Any:
  """Numbers out of whatever a file kept them in."""
  if hasattr(value, "array"):
    return value.array()
  return [_plain(each) for each in value] if isinstance(value, (list, tuple, set, frozenset)) else value


# Clusters.


@dataclasses.dataclass(frozen=True)
class Clusters:
  """Which of S clusters an embedding belongs to; features are first brought to mean 0 and variance 1 (ours).

  Attributes:
    mean, std: of each feature over the training split.
    centres: [S, A] of the standardised features.
    variances: [S, A] and weights: [S] of a Gaussian mixture; None for K-means.
  """

  mean: np.ndarray
  std: np.ndarray
  centres: np.ndarray
  variances: np.ndarray | None = None
  weights: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.centres)

  def assign(self, embeddings: Float[np.ndarray, "*N A"]) -> Int[np.ndarray, "*N"]:
    """The nearest centre; of a mixture, the component that explains the embedding best."""
    x = (embeddings.astype(np.float64) - self.mean) / self.std
    x = x[..., None, :] - self.centres  # [..., S, A]
    if self.variances is None:
      return np.square(x).sum(-1).argmin(-1)
    assert self.weights is not None
    fit = np.log(self.weights) - 0.5 * (np.log(self.variances) + np.square(x) / self.variances).sum(-1)
    return fit.argmax(-1)

  def arrays(self) -> dict[str, np.ndarray]:
    return {f"clusters/{name}": value for name, value in vars(self).items() if value is not None}


def fit_clusters(embeddings: Float[np.ndarray, "N A"], kind: str, count: int, seed: int) -> Clusters:
  """K-means or a Gaussian mixture (diagonal covariances) over embeddings; fewer clusters than distinct sounds.

  Raises:
    InputError: scikit-learn is not installed, or the embeddings are not finite.
  """
  try:
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture
  except ImportError:
    raise InputError(f"marks.kind={kind} needs scikit-learn; pip install scikit-learn.") from None
  if not np.isfinite(embeddings).all():
    raise InputError(
      f"marks.kind={kind}: the audio encoder gives values that are not finite; check init.audio."
    )
  x = embeddings.astype(np.float64)
  mean, std = x.mean(0), np.sqrt(x.var(0) + SMALL)
  x = (x - mean) / std
  count = min(count, len(np.unique(x, axis=0)))
  if kind == "kmeans":
    found = KMeans(count, n_init=4, random_state=seed).fit(x)
    return Clusters(mean, std, found.cluster_centers_)
  found = GaussianMixture(count, covariance_type="diag", reg_covar=1e-3, random_state=seed, max_iter=200).fit(
    x
  )
  return Clusters(mean, std, found.means_, found.covariances_, found.weights_)
