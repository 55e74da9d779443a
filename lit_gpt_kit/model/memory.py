"""How much memory a network needs, worked out from its shape alone; nothing is built.

In training all of this is there at once, at the end of the forward pass: Lightning lets go of the
last step's gradients only after it, and while gradients are accumulated they stay in any case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GATED_MLPS, GPTConfig
from lit_gpt_kit.model.size import (
    Matrix,
    all_matrices,
    count_by_part,
    count_parameters,
    layer_matrices,
    projection_widths,
    unlike_layers,
)

Use = Literal["run", "lora", "full"]
"""run: read and generate; lora: train adapters beside frozen weights; full: train all weights."""
Precision = Literal["fp32", "bf16", "bf16-mixed", "int8"]
"""bf16: weights and all else; bf16-mixed: weights in float32, computed with in bfloat16 (autocast);
int8: matrices in a byte a weight (int8.py), all else in bfloat16."""

Checkpointing = Literal["none", "selective", "full"]

PRECISIONS: dict[Use, tuple[Precision, ...]] = {
    "run": ("fp32", "bf16", "int8"),
    "lora": ("fp32", "bf16-mixed", "bf16"),
    "full": ("fp32", "bf16-mixed", "bf16"),
}
"""Use -> the precisions that there are for it."""
WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "bf16-mixed": 4, "int8": 2}
COMPUTE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "bf16-mixed": 2, "int8": 2}
FLOAT, BFLOAT16 = 4, 2
ADAMW_NUMBERS = {"hidden": 2.0, "embeddings": 2.0, "head": 2.0}
MAX_LOGITS = 2**25
"""Most logits that the loss holds at once (loss.py)."""
PREFILL_CHUNK = 2048
"""Most tokens of a prompt that generation reads at once (generation/decoder.py)."""


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they hold.

    Attributes:
        weights: the network's, and copies of them in another precision.
        gradients: of the weights that are trained.
        optimizer: what it keeps of each of these.
        activations: what the forward pass holds between embeddings and head.
        cache: keys and values of the tokens read.
        logits: those that the loss holds at once.
        buffers: what is sent to other devices and gathered from them.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    cache: int = 0
    logits: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All of it, which is the peak."""
        return sum(getattr(self, field.name) for field in fields(self))


def precisions_of(config: GPTConfig, use: Use) -> tuple[Precision, ...]:
    """The precisions that there are for a use of this network: experts have no int8."""
    return tuple(p for p in PRECISIONS[use] if p != "int8" or config.num_experts is None)


def memory_needed(
    config: GPTConfig,
    use: Use = "run",
    precision: Precision = "bf16",
    num_tokens: int = 4096,
    batch_size: int = 1,
    lora_rank: int = 8,
) -> Memory:
    """What a use of a network needs on one device.

    Args:
        config: its shape.
        use: what is done with it.
        precision: of weights and computation.
        num_tokens: length of a row; the block where that is shorter.
        batch_size: number of rows.
        lora_rank: of the adapters, which lie beside every matrix of the layers.

    Raises:
        InputError: the use has no such precision.
    """
    if precision not in precisions_of(config, use):
        known = ", ".join(precisions_of(config, use))
        model = " of a mixture of experts" if config.num_experts is not None else ""
        raise InputError(f"precision='{precision}' is not for use='{use}'{model}; known: {known}")
    num_tokens = min(num_tokens, config.block_size)
    if use == "run":
        return memory_to_run(config, precision, num_tokens, batch_size)
    return memory_to_train(
        config, precision, batch_size, num_tokens, lora_rank if use == "lora" else None
    )


def memory_to_run(
    config: GPTConfig, precision: Precision, context_tokens: int, batch_size: int = 1
) -> Memory:
    """What generation needs: the peak comes as the end of a prompt is read that fills the context.

    The copies that CPU kernels like of a smaller network's matrices (generation/packed.py) come on
    top.
    """
    width = COMPUTE_BYTES[precision]
    layers = unlike_layers(config)
    num_new = min(context_tokens, PREFILL_CHUNK)
    # Nothing is kept for a backward pass: of all layers, only the one at work counts.
    working = width * max(_working_values(config, layer) for layer in layers)
    scores = _score_bytes(config, context_tokens, width)
    activations = batch_size * num_new * (working + scores)
    logits = batch_size * width * config.padded_vocab_size
    if precision == "int8":  # a matrix is unpacked for a product of many rows
        activations += width * max(m.num_in * m.num_out for m in all_matrices(config))
    slots = 0
    for layer, number in layers.items():
        has_window = config.attention_kind(layer) == "window" and config.sliding_window is not None
        ring = (config.sliding_window or 0) + num_new - 1
        slots += number * (min(context_tokens, ring) if has_window else context_tokens)
    cache = 2 * width * batch_size * slots * config.kv_heads * config.head_width
    weights = _weight_bytes(config, precision)
    return Memory(weights, activations=activations, cache=cache, logits=logits)


def memory_to_train(
    config: GPTConfig,
    precision: Precision,
    batch_size: int,
    seq_len: int,
    lora_rank: int | None = None,
    optimizer_numbers: Mapping[str, float] = ADAMW_NUMBERS,
    activation_checkpointing: Checkpointing = "none",
    max_logits: int = MAX_LOGITS,
    is_base_rounded: bool = False,
) -> Memory:
    """What a training step needs.

    Activations are those that the backward pass reads again, counted as in Korthikanti et al. 2022,
    section 4.1 ("Reducing Activation Recomputation in Large Transformer Models"), but for this
    network: its fused attention keeps no scores (their 5as/h), there is a mask only where there
    is dropout, and grouped heads, gates and rotary positions are counted as they are.

    Args:
        config: the network's.
        precision: of weights and computation.
        batch_size: rows of a step (of a micro-batch, where gradients are accumulated).
        seq_len: tokens of a row.
        lora_rank: train adapters of this rank alone; None trains all weights.
        optimizer_numbers: numbers that the optimiser keeps for each that it trains, by the part of
            the network ("hidden", "embeddings", "head").
        activation_checkpointing: what is made again instead of being kept (`ExecutionConfig`).
        max_logits: most that the loss holds at once (`ExecutionConfig`).
        is_base_rounded: frozen layers beside which adapters lie are kept in bfloat16 alone, as
            `LoRALinear.round_base` does where autocast would round them in each step.
    """
    width = COMPUTE_BYTES[precision]
    num_tokens = batch_size * seq_len
    trained = count_parameters(config)
    weights = _weight_bytes(config, precision)
    layers = unlike_layers(config)
    kept = {layer: _kept_bytes(config, layer, precision, seq_len) for layer in layers}
    if activation_checkpointing == "none":
        activations = sum(number * kept[layer] for layer, number in layers.items())
    else:
        activations = sum(
            number * _checkpointed_bytes(config, layer, precision, activation_checkpointing)
            for layer, number in layers.items()
        )
    if lora_rank is not None:
        pairs = list(layer_matrices(config, config.num_experts))
        if is_base_rounded and precision == "bf16-mixed":  # neither float32 nor a second copy
            weights -= FLOAT * sum(m.number * m.num_in * m.num_out for m in pairs)
        trained = sum(lora_rank * m.number * (m.num_in + m.num_out) for m in pairs)
        weights += trained * WEIGHT_BYTES[precision]
        visited = layer_matrices(config, config.num_active_experts)
        activations += width * lora_rank * sum(m.number for m in visited)
    # The last norm's input and output, and where the stream begins.
    activations += config.embed_dim * (_norm_bytes(config, precision) + width)
    if config.use_token_shift:  # the embeddings before each
        activations += config.embed_dim * WEIGHT_BYTES[precision]
    activations *= num_tokens
    num_logits = min(
        num_tokens * config.padded_vocab_size, max(max_logits, config.padded_vocab_size)
    )
    # In float32, and once more as their logarithms; beside them as the head made them.
    logits = num_logits * (2 * FLOAT + (width if width < FLOAT else 0))
    if activation_checkpointing != "none":
        # One block makes its own again as the backward pass comes to it, when no logits are left.
        activations += max(0, num_tokens * max(kept.values()) - logits)
    trained_bytes = WEIGHT_BYTES[precision]
    if lora_rank is None:
        numbers = _optimizer_numbers(config, optimizer_numbers)
    else:
        numbers = trained * optimizer_numbers["hidden"]
    return Memory(
        weights,
        gradients=trained * trained_bytes,
        optimizer=round(numbers * trained_bytes),
        activations=activations,
        logits=logits,
    )


def _optimizer_numbers(config: GPTConfig, for_each: Mapping[str, float]) -> float:
    """How many numbers an optimiser keeps that trains all weights."""
    parts = count_by_part(config)
    head = parts.pop("head", 0)
    hidden = parts["attention"] + parts["MLP"]
    rest = sum(parts.values()) - hidden
    return for_each["hidden"] * hidden + for_each["embeddings"] * rest + for_each["head"] * head


def _weight_bytes(config: GPTConfig, precision: Precision) -> int:
    total = WEIGHT_BYTES[precision] * count_parameters(config)
    if config.position == "sinusoidal":  # a table that nobody trains
        total += WEIGHT_BYTES[precision] * config.block_size * config.embed_dim
    matrices = list(all_matrices(config))
    if precision == "int8":
        if not config.tie_embeddings:
            matrices.append(Matrix(1, config.embed_dim, config.padded_vocab_size))
        # A byte of two, and for each row the size of its steps.
        total += sum(m.number * m.num_out * (BFLOAT16 - m.num_in) for m in matrices)
    if precision == "bf16-mixed":
        # The backward pass reads the copies that autocast made of the matrices.
        total += BFLOAT16 * sum(m.number * m.num_in * m.num_out for m in matrices)
    return total


# ---- activations, for one token ----


def _working_values(config: GPTConfig, layer: int) -> int:
    """Numbers that exist at once where one layer works hardest: in its attention or in its MLP."""
    embed, (queries, keys) = config.embed_dim, projection_widths(config)
    # The stream and the fused projection, what attention makes of it, and what turned.
    attention = embed + 3 * queries + 2 * keys
    if config.position == "rotary":
        attention += queries + keys
    if layer in config.value_embedding_layers:
        attention += 2 * keys
    # The stream before and after attention, normed, and inside the MLP one number beside another.
    mlp = 3 * embed
    if config.has_experts(layer):
        visits = config.num_active_experts
        mlp += 3 * visits * embed + 3 * config.expert_width  # gathered, made, and weighted
    else:
        mlp += config.mlp_width * (3 if config.mlp in GATED_MLPS else 2)
    return max(attention, mlp)


def _norm_bytes(config: GPTConfig, precision: Precision) -> int:
    """What a norm keeps of a number it reads.

    An RMS norm of PyTorch's keeps it in float32, and once more normalised; one kernel of its own
    would keep less, but not every device has it. Autocast adds to the stream in float32.
    """
    if config.norm == "rmsnorm":
        return 2 * FLOAT
    return WEIGHT_BYTES[precision]


def _score_bytes(config: GPTConfig, seq_len: int, width: int) -> int:
    """Attention scores, which only capped attention spells out: capped, and as float32 weights."""
    if config.attention_softcap is None:
        return 0
    return config.num_heads * seq_len * (width + FLOAT + (width if width < FLOAT else 0))


def _kept_bytes(config: GPTConfig, layer: int, precision: Precision, seq_len: int) -> int:
    """What one layer keeps of one token for the backward pass."""
    width = COMPUTE_BYTES[precision]
    norm = _norm_bytes(config, precision)
    embed, (queries, keys) = config.embed_dim, projection_widths(config)
    num_norms = 4 if config.norm_placement == "both" else 2
    kept = embed * (num_norms * norm + 2 * width)  # two matrices read the stream, mostly normed
    # The fused projection, what attention made, and queries and keys once more where they turn.
    kept += width * (queries + 2 * keys + queries)
    if config.position == "rotary":
        kept += width * (queries + keys)
    if config.use_qk_norm:
        kept += (2 * FLOAT if width < FLOAT else FLOAT) * (queries + keys)
    if layer in config.value_embedding_layers:  # rows, of which a share is learned
        kept += WEIGHT_BYTES[precision] * keys
    kept += FLOAT * config.num_heads  # the sum of each softmax
    kept += _score_bytes(config, seq_len, width)
    values = 4 if config.mlp in GATED_MLPS else 2
    if config.has_experts(layer):
        visits = config.num_active_experts
        gathered = 3 if precision == "bf16-mixed" else 2  # autocast copies for gate and for up
        kept += width * visits * (gathered * embed + values * config.expert_width)
        kept += FLOAT * (config.num_experts or 0)
    else:
        kept += width * values * config.mlp_width
    if config.dropout > 0:
        kept += 2 * embed  # masks
    return kept


def _checkpointed_bytes(
    config: GPTConfig, layer: int, precision: Precision, how: Checkpointing
) -> int:
    """What one layer keeps of one token where its activations are made again."""
    kept = config.embed_dim * WEIGHT_BYTES[precision]  # the stream as it enters
    if how == "selective":  # matrix products, and what attention made
        embed, (queries, keys) = config.embed_dim, projection_widths(config)
        numbers = queries + 2 * keys + queries + 2 * embed
        if not config.has_experts(layer):
            numbers += config.mlp_width * (2 if config.mlp in GATED_MLPS else 1)
        kept += COMPUTE_BYTES[precision] * numbers
    return kept
