"""Rows of several lengths put into bins of one size: few bins, little room left."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fill_bins(lengths: Sequence[int] | NDArray[np.int64], size: int) -> list[list[int]]:
    """Which rows share a bin, each row in one.

    The longest first, each into the fullest bin that has room: best-fit decreasing, which needs at
    most 11/9 of the fewest bins possible, and four more (Johnson et al. 1974).

    Args:
        lengths: of the rows; none above `size`.
        size: of a bin.

    Returns:
        For each bin the numbers of its rows.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of `with_room`, in order
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[row])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            bins.append([])
            number, room = len(bins) - 1, size
        else:
            room = rooms[place]
            number = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        bins[number].append(row)
        left = room - length
        if left not in with_room:
            with_room[left] = []
            insort(rooms, left)
        with_room[left].append(number)
    return bins
