"""Multi-head attention as the query-based systems use it: self and cross attention with packed weights."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avs_jax.initial import xavier_uniform, zeros
from avs_jax.layers import Dtype, attend


class MultiHeadAttention(nn.Module):
  """Queries attend to a sequence, or to one another, with M heads (Vaswani et al., 2017).

  Deviation: none. As in PyTorch's module of this kind, the input maps of query, key and value are rows of
  one matrix [3 * D, D]; it is kept in that layout and under that name.

  Attributes:
    use_bias: of all four maps.
    dropout: rate at which training drops attention weights.
  """

  heads: int = 8
  use_bias: bool = True
  dropout: float = 0.0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: Float[Array, "N q D"],
    source: Float[Array, "N k D"] | None = None,
    *,
    values: Float[Array, "N k D"] | None = None,
    allowed: Bool[Array, "N #q k"] | None = None,
    train: bool = False,
  ) -> Float[Array, "N q D"]:
    """`source` gives keys and values; None: the queries themselves.

    Args:
      values: gives the values in place of `source`, which then gives the keys alone.
      allowed: the keys that a query may see; None: all.
    """
    width = query.shape[-1]
    weight = self.param("in_proj_weight", xavier_uniform, (3 * width, width), jnp.float32)
    bias = self.param("in_proj_bias", zeros, (3 * width,), jnp.float32) if self.use_bias else None

    def project(x: Float[Array, "N k D"], first: int, last: int) -> list[Float[Array, "N k M d"]]:
      rows = slice(first * width, last * width)
      y = jnp.einsum("nkd,ed->nke", x.astype(self.dtype), weight[rows].astype(self.dtype))
      if bias is not None:
        y = y + bias[rows].astype(self.dtype).reshape(1, 1, -1)
      y = y.reshape(*y.shape[:2], last - first, self.heads, -1)  # [N, k, parts, M, d]
      return [y[:, :, part] for part in range(last - first)]

    if source is None:
      parts = project(query, 0, 3)
    elif values is None:
      parts = project(query, 0, 1) + project(source, 1, 3)
    else:
      parts = project(query, 0, 1) + project(source, 1, 2) + project(values, 2, 3)
    drop = nn.Dropout(self.dropout, deterministic=False) if train and self.dropout else None
    out = attend(*parts, drop, allowed=allowed)  # [N, q, M, d]
    out = out.reshape(*out.shape[:2], width)  # [N, q, D]
    return nn.Dense(
      width, use_bias=self.use_bias, dtype=self.dtype, kernel_init=xavier_uniform, name="out_proj"
    )(out)
