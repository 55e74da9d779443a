"""The order of rows in a fused matrix that is cut over devices.

Queries, keys and values are one matrix, one behind the other. Cut into equal pieces it would give
one device all queries and another all keys; so the rows are put in another order first, in which
each piece holds the queries, keys and values of some heads.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def row_order(splits: Sequence[int], num_pieces: int) -> Int[Tensor, " rows"]:
    """Which row stands where: `matrix[order]` is cut into equal pieces.

    Args:
        splits: rows of each part, such as queries, keys and values.
        num_pieces: into how many pieces it is cut; it divides each part.
    """
    parts = torch.split(torch.arange(sum(splits)), list(splits))
    pieces = zip(*(part.chunk(num_pieces) for part in parts), strict=True)
    return torch.cat([rows for piece in pieces for rows in piece])
