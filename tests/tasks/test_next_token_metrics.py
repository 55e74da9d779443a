"""Loss, perplexity and bits per byte are sums over a text, not means of means."""

import math

import pytest
import torch

from lit_gpt_kit.tasks.next_token_metrics import NextTokenMetrics

BATCHES = [(12.5, 10, 25), (3.25, 1, 4), (0.0, 0, 0), (100.0, 40, 71)]
"""Nats, targets and bytes of uneven batches."""


def filled(batches: list[tuple[float, int, int]]) -> NextTokenMetrics:
    metrics = NextTokenMetrics()
    for nll, num_targets, num_bytes in batches:
        metrics.update(torch.tensor(nll), torch.tensor(num_targets), torch.tensor(num_bytes))
    return metrics


def test_values_are_the_closed_form() -> None:
    result = filled(BATCHES).compute()
    assert set(result) == {"loss", "perplexity", "bits_per_byte"}
    assert float(result["loss"]) == pytest.approx(115.75 / 51)
    assert float(result["perplexity"]) == pytest.approx(math.exp(115.75 / 51))
    assert float(result["bits_per_byte"]) == pytest.approx(115.75 / math.log(2) / 100)


def test_values_do_not_depend_on_the_batches() -> None:
    whole = [tuple(sum(column) for column in zip(*BATCHES, strict=True))]
    assert filled(BATCHES).compute() == filled(whole).compute()  # type: ignore[arg-type]


def test_without_bytes_there_are_no_bits_per_byte() -> None:
    assert set(filled([(2.0, 3, 0)]).compute()) == {"loss", "perplexity"}


def test_reset_forgets() -> None:
    metrics = filled(BATCHES)
    metrics.reset()
    metrics.update(torch.tensor(4.0), torch.tensor(2), torch.tensor(8))
    assert float(metrics.compute()["loss"]) == 2.0


def test_small_numbers_are_not_lost_in_a_large_sum() -> None:
    metrics = filled([(2.0**24, 1, 1)])
    for _ in range(100):
        metrics.update(torch.tensor(1.0), torch.tensor(0), torch.tensor(0))
    assert float(metrics.nll) == 2.0**24 + 100  # float32 would have stayed at 2 ** 24


def test_sums_are_not_part_of_a_checkpoint() -> None:
    assert NextTokenMetrics().state_dict() == {}


def test_ranks_add_up() -> None:
    one, other = filled(BATCHES[:2]), filled(BATCHES[2:])
    for name in ("nll", "num_targets", "num_bytes"):
        assert one._reductions[name] is not None
        added = one._reductions[name](torch.stack([getattr(one, name), getattr(other, name)]))
        assert float(added) == float(getattr(filled(BATCHES), name))
