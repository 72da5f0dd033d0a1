"""Multi-scale deformable attention: every query looks at a few points of each level, where it chooses.

Geometry. Places are (x, y) in [0, 1] of the picture, the same for every level: (0, 0) is the outer corner of
the top-left cell, (1, 1) that of the bottom-right one. The centre of the top-left cell of a level of w x h
cells is (0.5 / w, 0.5 / h), so a place lies at x * w - 0.5, y * h - 0.5 among the cell centres. Sampling is
bilinear and everything outside the map is zero: each of a point's four neighbours that lies outside
contributes nothing, the others keep their weights. A point a whole cell outside gives zero.

Deformable DETR (Zhu et al., 2021), section 4.1. Nothing is compiled by hand; `sample_packed` and
`sample_plain` give equal numbers.
"""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from avs_jax.errors import InputError, check_choice
from avs_jax.initial import xavier_uniform, zeros
from avs_jax.layers import Dtype

Sizes = tuple[tuple[int, int], ...]  # rows and columns of each level


def _split(value: Float[Array, "N S M d"], sizes: Sizes) -> list[Float[Array, "N M _h _w d"]]:
  """The levels' maps, heads before places."""
  maps, start = [], 0
  for rows, cols in sizes:
    cells = value[:, start : start + rows * cols].transpose(0, 2, 1, 3)  # [N, M, h*w, d]
    maps.append(cells.reshape(*cells.shape[:2], rows, cols, -1))  # [N, M, h, w, d]
    start += rows * cols
  return maps


def _cells(places: Float[Array, "N q M P 2"], rows: int, cols: int) -> Float[Array, "N q M P 2"]:
  """Places in cells, (x, y) from the centre of the top left one; none further than a cell or so outside.

  Do not take a point's neighbour and its weights from here in one compiled program: the place may be computed twice,
  once with a fused multiply and add and once without. A point on a cell's centre, where offsets begin, then has the
  neighbour of one and the weights of the other. Both samplers take weights inside a loop, whose inputs are computed
  once.
  """
  x = jnp.clip(places[..., 0] * cols - 0.5, -2.0, cols + 1.0)
  y = jnp.clip(places[..., 1] * rows - 0.5, -2.0, rows + 1.0)
  return jnp.stack([x, y], axis=-1)


def sample_plain(
  value: Float[Array, "N S M d"],
  sizes: Sizes,
  places: Float[Array, "N q M L P 2"],
  weights: Float[Array, "N q M L P"],
) -> Float[Array, "N q M d"]:
  """Weighted sum of bilinear samples, one gather for each of four neighbours: for few points, tests, benchmarks.

  Args:
    value: cells of all levels, row by row, levels one after the other.
    places: see the geometry above.
    weights: of each point of each level.
  """
  count, queries, heads = places.shape[:3]
  levels = []
  for level, (cells, (rows, cols)) in enumerate(zip(_split(value, sizes), sizes, strict=True)):
    flat = cells.reshape(*cells.shape[:2], rows * cols, -1)  # [N, M, h*w, d]
    place = _cells(places[:, :, :, level], rows, cols)
    levels.append((flat, place, jnp.floor(place).astype(jnp.int32), weights[:, :, :, level]))

  def add(total: Array, neighbour: Array) -> tuple[Array, None]:
    right, down = neighbour % 2, neighbour // 2
    for (flat, place, corner, weight), (rows, cols) in zip(levels, sizes, strict=True):
      col, row = corner[..., 0] + right, corner[..., 1] + down
      inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
      index = jnp.clip(row, 0, rows - 1) * cols + jnp.clip(col, 0, cols - 1)  # [N, q, M, P]
      index = index.transpose(0, 2, 1, 3).reshape(count, heads, -1)  # [N, M, q*P]
      seen = jnp.take_along_axis(flat, index[..., None], axis=2, mode="clip")  # [N, M, q*P, d]
      seen = seen.reshape(count, heads, queries, -1, flat.shape[-1]).transpose(0, 2, 1, 3, 4)
      x, y = jnp.moveaxis(place - corner, -1, 0)
      share = jnp.where(right, x, 1 - x) * jnp.where(down, y, 1 - y)
      share = jnp.where(inside, share * weight, 0)  # [N, q, M, P]
      total += (seen * share[..., None]).sum(3)  # [N, q, M, d]
    return total, None

  empty = jnp.zeros((*places.shape[:3], value.shape[-1]), jnp.float32)
  return jax.lax.scan(add, empty, jnp.arange(4))[0].astype(value.dtype)


def _pack(cells: Float[Array, "N M h w d"]) -> Float[Array, "M N R 4*d"]:
  """Each cell with its right, lower and lower right neighbour side by side, zeros beyond the border.

  Row 0 and column 0 stand for the cells just outside, so there are R = (h + 1) * (w + 1) of them.
  """
  rows, cols = cells.shape[2:4]
  padded = jnp.pad(cells, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
  quad = jnp.concatenate(
    [padded[:, :, i : i + rows + 1, j : j + cols + 1] for i in (0, 1) for j in (0, 1)], axis=-1
  )  # [N, M, h+1, w+1, 4*d]
  return quad.reshape(*quad.shape[:2], -1, quad.shape[-1]).swapaxes(0, 1)


# Of one head: packed cells, each point's row of them, places in cells, weights.
Level = tuple[Float[Array, "N _R _E"], Int[Array, "N _K"], Float[Array, "N q _P 2"], Float[Array, "N q _P"]]


# The loop over heads keeps the two passes apart.
@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(1,))
def _sample_head(levels: list[Level], sizes: Sizes) -> Float[Array, "N q d"]:
  """Samples of one head, summed over levels, points and neighbours, in float32."""
  total = jnp.float32(0)
  for (table, index, place, weight), (_, cols) in zip(levels, sizes, strict=True):
    seen = jnp.take_along_axis(table, index[..., None], axis=1, mode="clip")  # [N, q*P, 4*d]
    row, col = (each.reshape(weight.shape) - 1 for each in jnp.divmod(index, cols + 1))  # [N, q, P]
    x, y = place[..., 0] - col, place[..., 1] - row
    share = jnp.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], axis=-1) * weight[..., None]
    share = share.reshape(*weight.shape[:2], -1)  # [N, q, P*4]
    seen = seen.reshape(*share.shape, -1)  # [N, q, P*4, d]
    # A product and a sum, not a matrix product: they fuse with the gather.
    total += (seen * share[..., None]).sum(2)  # [N, q, d]
  return total


def sample_packed(
  value: Float[Array, "N S M d"],
  sizes: Sizes,
  places: Float[Array, "N q M L P 2"],
  weights: Float[Array, "N q M L P"],
) -> Float[Array, "N q M d"]:
  """The numbers of `sample_plain` by one gather a level, whose rows hold four neighbours each.

  Gathers, and the scatters of their backward pass, cost by the row: one row a point in place of four. The
  samples would be the largest array of a pixel decoder; heads are taken one after the other and nothing of
  them is kept for the backward pass.
  """
  count, queries, heads, _, points = weights.shape
  levels = []
  for level, (cells, (rows, cols)) in enumerate(zip(_split(value, sizes), sizes, strict=True)):
    place = _cells(places[:, :, :, level], rows, cols)  # [N, q, M, P, 2]
    left, top = jnp.moveaxis(jnp.floor(place).astype(jnp.int32), -1, 0)
    near = (top >= -1) & (top < rows) & (left >= -1) & (left < cols)  # else all four neighbours are outside
    row, col = jnp.clip(top + 1, 0, rows), jnp.clip(left + 1, 0, cols)
    index = row * (cols + 1) + col  # [N, q, M, P]
    index = index.transpose(2, 0, 1, 3).reshape(heads, count, queries * points)  # [M, N, q*P]
    weight = jnp.where(near, weights[:, :, :, level], 0).transpose(2, 0, 1, 3)  # [M, N, q, P]
    levels.append((_pack(cells), index, place.transpose(2, 0, 1, 3, 4), weight))
  out = jax.lax.map(lambda head: _sample_head(head, sizes), levels)  # [M, N, q, d]
  return out.transpose(1, 2, 0, 3).astype(value.dtype)


FORMS: dict[str, Callable[..., Array]] = {"packed": sample_packed, "plain": sample_plain}


class MSDeformAttn(nn.Module):
  """Attention over L levels at P learned places around each query's reference, for each of M heads.

  Deformable DETR, equation 3.  Deviation: none. Places are float32 whatever the compute dtype.

  Attributes:
    form: "packed" or "plain", equal numbers (see `sample_packed`).

  Raises:
    InputError: unknown `form`.
  """

  width: int = 256
  levels: int = 3
  heads: int = 8
  points: int = 4
  form: str = "packed"
  dtype: Dtype = jnp.float32

  def setup(self) -> None:
    check_choice("model.sampling", self.form, FORMS)
    taps = self.heads * self.levels * self.points
    ring = functools.partial(ring_offsets, heads=self.heads, levels=self.levels, points=self.points)
    self.sampling_offsets = nn.Dense(2 * taps, kernel_init=zeros, bias_init=ring)
    self.attention_weights = nn.Dense(taps, dtype=self.dtype, kernel_init=zeros)
    self.value_proj = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform)
    self.output_proj = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier_uniform)

  def offsets(self, query: Float[Array, "N q D"]) -> Float[Array, "N q M L P 2"]:
    """Distance (x, y) of each point from the reference, in cells of the level it samples."""
    flat = self.sampling_offsets(query.astype(jnp.float32))
    return flat.reshape(*query.shape[:2], self.heads, self.levels, self.points, 2)

  def weigh(self, query: Float[Array, "N q D"]) -> Float[Array, "N q M L P"]:
    """Weight of each point; the L * P of one head add up to 1."""
    logits = self.attention_weights(query).astype(jnp.float32).reshape(*query.shape[:2], self.heads, -1)
    return jax.nn.softmax(logits, axis=-1).reshape(*query.shape[:2], self.heads, self.levels, self.points)

  def __call__(
    self,
    query: Float[Array, "N q D"],
    reference: Float[Array, "#N q L R"],
    value: Float[Array, "N S D"],
    sizes: Sequence[Sequence[int]],
    padding: Bool[Array, "N S"] | None = None,
  ) -> Float[Array, "N q D"]:
    """Features gathered around each query's reference.

    Args:
      reference: per level a place (x, y), or a box (centre x, y, width, height), around which the offsets
        are fractions of half its sides divided by the number of points.
      value: cells of all levels, row by row, levels one after the other.
      sizes: rows and columns of each level.
      padding: cells that are no part of the picture; they count as zero.

    Raises:
      InputError: `sizes` does not fit the levels or the cells, or a reference has neither 2 nor 4 numbers.
    """
    sizes = tuple((int(rows), int(cols)) for rows, cols in sizes)
    cells = sum(rows * cols for rows, cols in sizes)
    if len(sizes) != self.levels or cells != value.shape[1]:
      raise InputError(
        f"deformable attention: the levels {sizes} have {cells} cells and {value.shape[1]} came for "
        f"{self.levels} levels; give rows and columns of each level in the order of the cells."
      )
    if reference.shape[-1] not in (2, 4):
      raise InputError(
        f"deformable attention: a reference has {reference.shape[-1]} numbers; give 2 (a place) or 4 (a box)."
      )
    value = self.value_proj(value)
    if padding is not None:
      value = jnp.where(padding[:, :, None], jnp.zeros_like(value), value)
    value = value.reshape(*value.shape[:2], self.heads, -1)  # [N, S, M, d]
    offsets = self.offsets(query)
    centre = reference[:, :, None, :, None, :2].astype(jnp.float32)  # [N, q, 1, L, 1, 2]
    if reference.shape[-1] == 2:
      unit = jnp.asarray([(cols, rows) for rows, cols in sizes], jnp.float32).reshape(1, 1, 1, -1, 1, 2)
      places = centre + offsets / unit
    else:
      places = centre + offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
    out = FORMS[self.form](value, sizes, places, self.weigh(query))  # [N, q, M, d]
    return self.output_proj(out.reshape(*query.shape[:2], -1))


def ring_offsets(
  key: PRNGKeyArray,
  shape: tuple[int, ...],
  dtype: Dtype = jnp.float32,
  *,
  heads: int,
  levels: int,
  points: int,
) -> Array:
  """Starting offsets: head m looks in direction 2 pi m / M, its p-th point p + 1 cells away on a square."""
  del key
  angle = 2 * math.pi * np.arange(heads) / heads
  direction = np.stack([np.cos(angle), np.sin(angle)], -1)
  direction /= np.abs(direction).max(-1, keepdims=True)  # on the unit square
  steps = np.arange(1, points + 1).reshape(1, 1, -1, 1)
  grid = np.broadcast_to(direction[:, None, None] * steps, (heads, levels, points, 2))
  return jnp.asarray(grid.reshape(shape), dtype)
