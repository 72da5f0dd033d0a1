"""Which query answers for which target: exact minimum-cost assignment on the device, batched and under jit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

INFINITE = jnp.float32(jnp.inf)


def assign(
  cost: Float[Array, "N Q M"],
  queries: Bool[Array, "N Q"] | None = None,
  targets: Bool[Array, "N M"] | None = None,
) -> tuple[Int[Array, "N M"], Bool[Array, "N M"]]:
  """For each target the query that gets it, so that the sum of the costs is the least possible.

  Jonker and Volgenant's shortest augmenting paths (as in Crouse, 2016): targets enter one after the other, each
  along the shortest path of re-assignments to a free query. Exact; time grows with Q M^2.

  Args:
    cost: finite; no gradient passes.
    queries: those that may be chosen; None: all.
    targets: those that are to be matched; None: all. Where more are to be matched than may be chosen, as many
      are as there are queries, and among these the cheapest way to do so.

  Returns:
    The index of each target's query, and whether it has one; the index is 0 where it has none.
  """
  count, num_queries, num_targets = cost.shape
  cost = jax.lax.stop_gradient(jnp.asarray(cost, jnp.float32)).transpose(0, 2, 1)  # [N, M, Q]
  may = jnp.ones((count, num_queries), bool) if queries is None else queries
  wanted = jnp.ones((count, num_targets), bool) if targets is None else targets
  real = wanted[:, :, None] & may[:, None]  # [N, M, Q]
  # A column of its own for each target stands for "no query". It costs more than any change of the other pairs
  # could save, or nothing where the target is none.
  largest = jnp.where(real, jnp.abs(cost), 0).max((1, 2))[:, None]  # [N, 1]
  alone = jnp.where(wanted, (2 * num_targets + 1) * largest + 1, 0)  # [N, M]
  own = jnp.where(jnp.eye(num_targets, dtype=bool)[None], alone[:, None], INFINITE)  # [N, M, M]
  whole = jnp.concatenate([jnp.where(real, cost, INFINITE), own], -1)  # [N, M, Q+M]
  column = jax.vmap(_solve)(whole)  # [N, M]
  matched = column < num_queries
  return jnp.where(matched, column, 0), matched


def _solve(cost: Float[Array, "M C"]) -> Int[Array, "M"]:
  """The column of each row in one problem of no more rows than columns."""
  rows, cols = cost.shape

  def insert(row: Int[Array, ""], state: tuple) -> tuple:
    """Finds a place for `row`, moving others along the shortest path (Dijkstra over columns)."""
    row_price, col_price, col_of, row_of = state

    def unfinished(search: tuple) -> Bool[Array, ""]:
      return search[-1] < 0

    def extend(search: tuple) -> tuple:
      distance, parent, closed, here, reached, _ = search
      through = reached + cost[here] - row_price[here] - col_price  # [C]
      shorter = ~closed & (through < distance)
      distance, parent = jnp.where(shorter, through, distance), jnp.where(shorter, here, parent)
      open_distance = jnp.where(closed, INFINITE, distance)
      reached = open_distance.min()
      nearest = ~closed & (open_distance == reached)
      # Among equals a free column, which ends the search.
      next_col = jnp.argmax(jnp.where(nearest, 1 + (row_of < 0), 0))
      closed = closed | (jnp.arange(cols) == next_col)
      is_free = row_of[next_col] < 0
      sink = jnp.where(is_free, next_col, -1)
      return distance, parent, closed, jnp.where(is_free, here, row_of[next_col]), reached, sink

    start = (
      jnp.full(cols, INFINITE),
      jnp.full(cols, -1, jnp.int32),
      jnp.zeros(cols, bool),
      row,
      jnp.float32(0),
      jnp.int32(-1),
    )
    distance, parent, closed, _, reached, sink = jax.lax.while_loop(unfinished, extend, start)
    # New prices keep every reduced cost non-negative and those of the pairs at zero.
    gain = jnp.where(closed, reached - distance, 0)  # [C]
    visited = closed & (row_of >= 0)
    row_price = row_price.at[row].add(reached)
    row_price = row_price.at[jnp.where(visited, row_of, rows)].add(gain, mode="drop")
    col_price = col_price - gain

    def step(walk: tuple) -> tuple:
      col, _, col_of, row_of = walk
      mover = parent[col]
      left = col_of[mover]
      return left, mover == row, col_of.at[mover].set(col), row_of.at[col].set(mover)

    walk = (sink, jnp.bool_(False), col_of, row_of)
    _, _, col_of, row_of = jax.lax.while_loop(lambda walk: ~walk[1], step, walk)
    return row_price, col_price, col_of, row_of

  state = (
    jnp.zeros(rows),
    jnp.zeros(cols),
    jnp.full(rows, -1, jnp.int32),
    jnp.full(cols, -1, jnp.int32),
  )
  return jax.lax.fori_loop(0, rows, insert, state)[2]
