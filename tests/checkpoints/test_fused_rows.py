"""Pieces of a fused matrix hold whole heads of each of its parts."""

import pytest
import torch

from lit_gpt_kit.checkpoints.fused_rows import row_order


@pytest.mark.parametrize("num_pieces", [1, 2, 4])
@pytest.mark.parametrize("splits", [(8, 8, 8), (16, 4, 4)])
def test_each_piece_has_its_share_of_each_part(splits: tuple[int, ...], num_pieces: int) -> None:
    rows = torch.cat([torch.full((count,), part) for part, count in enumerate(splits)])
    order = row_order(splits, num_pieces)
    assert order.sort().values.tolist() == list(range(sum(splits)))
    for piece in rows[order].chunk(num_pieces):
        assert piece.bincount().tolist() == [count // num_pieces for count in splits]


def test_rows_of_a_part_stay_in_order() -> None:
    assert row_order((4, 2, 2), 2).tolist() == [0, 1, 4, 6, 2, 3, 5, 7]
    assert row_order((4, 2, 2), 1).tolist() == list(range(8))
