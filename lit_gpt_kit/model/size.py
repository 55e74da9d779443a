"""How many weights a network has, worked out from its shape alone.

Nothing is built and torch is not imported, so that a 70B network is sized as fast as a small one.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from lit_gpt_kit.model.config import GATED_MLPS, GPTConfig


class Matrix(NamedTuple):
    """`number` linear layers of one shape."""

    number: int
    num_in: int
    num_out: int
    has_bias: bool = False


def count_parameters(config: GPTConfig) -> int:
    """Number of weights, what `GPT.num_parameters` counts.

    Raises:
        InputError: `config.vocab_size` is not given.
    """
    return _count(config, config.num_experts)


def count_active_parameters(config: GPTConfig) -> int:
    """Number of weights that one token meets: of the experts only those it is sent to.

    Raises:
        InputError: `config.vocab_size` is not given.
    """
    return _count(config, config.num_active_experts)


@cache
def unlike_layers(config: GPTConfig) -> dict[int, int]:
    """One layer of each kind that there is, and how many are like it."""
    kinds: dict[tuple[str, bool, bool], list[int]] = {}
    for layer in range(config.num_layers):
        has_table = layer in config.value_embedding_layers
        kind = (config.attention_kind(layer), config.has_experts(layer), has_table)
        kinds.setdefault(kind, []).append(layer)
    return {layers[0]: len(layers) for layers in kinds.values()}


def projection_widths(config: GPTConfig) -> tuple[int, int]:
    """Width of all query heads, and of all key heads."""
    return config.num_heads * config.head_width, config.kv_heads * config.head_width


def _matrices(config: GPTConfig, layer: int, num_experts: int | None) -> Iterator[Matrix]:
    """The linear layers of one layer but the router, counting so many experts."""
    embed, (queries, keys) = config.embed_dim, projection_widths(config)
    yield Matrix(1, embed, queries + 2 * keys, config.has_qkv_bias)
    yield Matrix(1, queries, embed, config.has_out_bias)
    count, hidden, has_bias = 1, config.mlp_width, config.has_mlp_bias
    if config.has_experts(layer):
        count, hidden, has_bias = num_experts or 1, config.expert_width, False
    yield Matrix(count * (2 if config.mlp in GATED_MLPS else 1), embed, hidden, has_bias)
    yield Matrix(count, hidden, embed, has_bias)


def layer_matrices(config: GPTConfig, num_experts: int | None) -> Iterator[Matrix]:
    """The linear layers of all layers but the routers, counting so many experts."""
    for layer, number in unlike_layers(config).items():
        for matrix in _matrices(config, layer, num_experts):
            yield matrix._replace(number=number * matrix.number)


def all_matrices(config: GPTConfig) -> Iterator[Matrix]:
    """Those of the layers and the head."""
    yield from layer_matrices(config, config.num_experts)
    yield Matrix(1, config.embed_dim, config.padded_vocab_size)


def _count(config: GPTConfig, num_experts: int | None) -> int:
    embed, (queries, keys) = config.embed_dim, projection_widths(config)
    embeddings = config.padded_vocab_size * (1 if config.tie_embeddings else 2)
    if config.position == "learned":
        embeddings += config.block_size
    if config.use_token_shift:
        embeddings += 1  # a share for each number
    num_tables = len(set(config.value_embedding_layers))
    norm = embed * (2 if config.norm == "layernorm" and config.use_bias else 1)
    norms_of_layer = norm * (4 if config.norm_placement == "both" else 2)
    if config.use_qk_norm:
        over_all = config.qk_norm_scope == "all_heads"
        norms_of_layer += queries + keys if over_all else 2 * config.head_width
    unlike = unlike_layers(config).items()
    num_routers = sum(number for layer, number in unlike if config.has_experts(layer))
    return (
        embeddings * embed
        + sum(
            m.number * (m.num_in * m.num_out + (m.num_out if m.has_bias else 0))
            for m in layer_matrices(config, num_experts)
        )
        + num_tables * (config.padded_vocab_size * keys + 1)
        + num_routers * embed * (config.num_experts or 0)
        + config.num_layers * norms_of_layer
        + norm
    )
