"""How much arithmetic a token costs, worked out from the network's shape alone."""

from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.size import layer_matrices, projection_widths, unlike_layers

BACKWARD = 2
"""The backward pass makes two products for each of the forward pass: for inputs and for weights."""


def forward_flops_per_token(
    config: GPTConfig, num_tokens: int | None = None, has_head: bool = True
) -> int:
    """Floating-point operations of the forward pass, for each token of a row.

    Those of matrix products, a product and a sum each, as in PaLM (Chowdhery et al. 2022, appendix
    B): each weight that multiplies, the head included and what is only looked up not, and in
    attention each query with every key of the row, or of the window where that is smaller, the
    causal mask notwithstanding. Of experts those count that a token is sent to.

    Args:
        config: the network's.
        num_tokens: length of the row; the block by default.
        has_head: the next token is predicted; a classifier has no use for it.
    """
    num_tokens = config.block_size if num_tokens is None else num_tokens
    weights = config.embed_dim * config.padded_vocab_size if has_head else 0
    weights += sum(
        m.number * m.num_in * m.num_out for m in layer_matrices(config, config.num_active_experts)
    )
    queries, _ = projection_widths(config)
    scores = 0
    for layer, number in unlike_layers(config).items():
        has_window = config.attention_kind(layer) == "window"
        num_keys = (
            min(num_tokens, config.sliding_window or num_tokens) if has_window else num_tokens
        )
        scores += number * 2 * queries * num_keys  # with keys, then with values
        if config.has_experts(layer):
            weights += number * config.embed_dim * (config.num_experts or 0)  # the router
    return 2 * (weights + scores)


def training_flops_per_token(
    config: GPTConfig,
    num_tokens: int | None = None,
    has_frozen_weights: bool = False,
    has_head: bool = True,
) -> int:
    """Floating-point operations of a training step, for each token of a row.

    What is computed a second time to save memory does not count, nor does the optimiser.

    Args:
        config: the network's.
        num_tokens: length of the row; the block by default.
        has_frozen_weights: adapters alone are trained; no gradient of a weight is computed.
        has_head: see `forward_flops_per_token`.
    """
    backward = 1 if has_frozen_weights else BACKWARD
    return (1 + backward) * forward_flops_per_token(config, num_tokens, has_head)
