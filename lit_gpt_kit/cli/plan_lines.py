"""What `lit-gpt plan` says: a run's needs as lines for people."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from jsonargparse import Namespace

from lit_gpt_kit.cli.time_left import clock_text
from lit_gpt_kit.devices import CPU, GIB, MIB, Device
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.size import count_active_parameters, count_by_part
from lit_gpt_kit.parallel.memory import Layout
from lit_gpt_kit.parallel.plan import (
    COMPUTE_OPTIMAL,
    Run,
    fewest_devices,
)
from lit_gpt_kit.parallel.tensor import check_tensor_parallel


@dataclass(frozen=True)
class Length:
    """How much a run trains on: `num_tokens` in `num_steps`; None where the config does not say."""

    num_steps: int | None
    num_tokens: float | None


def describe_model(config: GPTConfig) -> str:
    """Its shape."""
    keys = "" if config.kv_heads == config.num_heads else f" ({config.kv_heads} of keys)"
    return (
        f"GPT of {counted(config.num_layers, 'layer')}, {counted(config.num_heads, 'head')}{keys}, "
        f"width {config.embed_dim:,}, block {config.block_size:,}, "
        f"vocabulary {config.padded_vocab_size:,}"
    )


def describe_parameters(config: GPTConfig, num_adapters: int | None = None) -> str:
    """How many there are, and where."""
    parts = count_by_part(config)
    total = sum(parts.values())
    active = count_active_parameters(config)
    met = f", of which a token meets {active:,}" if active < total else ""
    text = f"{total:,}{met}: " + ", ".join(f"{name} {n:,}" for name, n in parts.items())
    return text if num_adapters is None else f"{text}; {num_adapters:,} in adapters are trained"


def describe_step(run: Run, layout: Layout, accumulate: int, tokens: int, device: Device) -> str:
    """What makes a step, and how it is spread over devices."""
    ways = []
    if layout.data_parallel > 1:
        sharded, copies = f"weights over {layout.data_parallel} (FSDP2)", "copies (DDP)"
        ways.append(sharded if layout.is_sharded else copies)
    group = "device"
    if layout.tensor_parallel > 1:
        ways.append(f"layers over {layout.tensor_parallel} (tensor parallel)")
        group = f"group of {layout.tensor_parallel}"
    machines = " (machines like this one)" if device.name == CPU and layout.num_devices > 1 else ""
    return (
        f"{tokens:,} tokens = {counted(run.batch_size, 'row')} of {run.seq_len:,} x "
        f"{counted(layout.data_parallel, group)} x {counted(accumulate, 'micro-batch')}; "
        f"{layout.num_devices:,} x {device.name}{machines}, {', '.join(ways or ['one device'])}, "
        f"{run.precision}"
    )


def counted(number: int, noun: str) -> str:
    """A number of things: "1 row", "2 groups of 4"."""
    word, _, rest = noun.partition(" ")
    plural = "" if number == 1 else "es" if word.endswith("ch") else "s"
    return f"{number:,} {word}{plural} {rest}".rstrip()


def describe_length(length: Length, config: GPTConfig) -> str:
    """How much is trained on, and how much for each parameter."""
    if length.num_tokens is None:
        return "length not known here; set trainer.max_steps for time and cost"
    ratio = length.num_tokens / count_active_parameters(config)
    each = f"{ratio:,.0f}" if ratio >= COMPUTE_OPTIMAL else f"{ratio:.2g}"
    return (
        f"{length.num_steps:,} steps, {_short(length.num_tokens).strip()} tokens, {each} for each "
        f"parameter (about {COMPUTE_OPTIMAL} are compute-optimal)"
    )


def describe_arithmetic(run: Run, length: Length) -> str:
    """What a token and the whole run cost."""
    total = ""
    if length.num_tokens is not None:
        total = f", {_short(run.flops_per_token * length.num_tokens)}FLOP in all"
    return f"{_short(run.flops_per_token)}FLOP for each token{total}"


def describe_memory(
    run: Run, layout: Layout, device: Device, largest: int, needed: int | None
) -> Iterator[tuple[str, str]]:
    """The memory of one device, and whether it is enough.

    Args:
        run: what is planned.
        layout: how it is laid over devices.
        device: of which kind they are.
        largest: the most rows that fit; 0 where not even one does.
        needed: how many devices would do then; None where no number would.

    Raises:
        InputError: it is enough on no number of devices.
    """
    memory = run.memory(layout)
    kinds = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
        "buffers": memory.buffers,
    }
    usable = device.usable_bytes
    size, unit = (GIB, "GiB") if memory.total >= GIB else (MIB, "MiB")
    shown = ", ".join(f"{name} {n / size:.2f}" for name, n in kinds.items() if n)
    yield "memory", f"{memory.total / size:.2f} {unit} on each device: {shown}"
    verdict = "fits" if memory.total <= usable else "does not fit"
    whole = f"{device.memory_bytes / GIB:.0f} GiB"
    too_many = largest and memory.total > usable
    advice = "; lower data.batch_size and accumulate" if too_many else ""
    yield "", f"{verdict} in {whole}, of which {usable / GIB:.0f} can be used{advice}"
    if largest:
        yield "", f"largest micro-batch that fits: {largest:,} rows"
        return
    if needed is None:
        raise InputError(_what_would_fit(run, layout, device))
    yield "", f"not even one row fits; {needed:,} devices would do"


def _what_would_fit(run: Run, layout: Layout, device: Device) -> str:
    one = run.memory(layout, 1)
    text = (
        f"the run fits on no number of {device.name}: one row needs {one.total / GIB:,.0f} GiB of "
        f"each, which has {device.memory_bytes / GIB:.0f}"
    )
    sharded = replace(layout, is_sharded=True)
    frugal = replace(run, activation_checkpointing="full")
    shard = [] if layout.is_sharded else ["--config configs/strategies/fsdp.yaml"]
    again = ["--model.init_args.execution.activation_checkpointing=full"]
    ways: list[tuple[Run, Layout, list[str]]] = [
        (run, sharded, shard),
        (frugal, layout, again),
        (frugal, sharded, [*shard, *again]),
    ]
    for cut in filter(partial(_can_cut, run), (2, 4, 8)):
        flags = [
            "--config configs/strategies/fsdp-tp.yaml",
            f"--trainer.strategy.init_args.tensor_parallel_size={cut}",
        ]
        ways.append((frugal, replace(sharded, tensor_parallel=cut), [*flags, *again]))
    for other, way, flags in ways:
        needed = fewest_devices(other, way, device.usable_bytes)
        if needed is not None:
            return f"{text}; it would with {' '.join(flags)} --devices {needed}"
    return f"{text}; lower block_size or the network's size, or take a larger device"


def _can_cut(run: Run, size: int) -> bool:
    try:
        check_tensor_parallel(run.config, size, run.lora_rank is not None)
    except InputError:
        return False
    return True


def describe_time(
    run: Run, layout: Layout, device: Device, length: Length, settings: Namespace
) -> Iterator[tuple[str, str]]:
    """How long it takes, how fast it is, and what it costs."""
    utilization: float = settings.utilization
    seconds_per_token = run.seconds(1.0, device, layout, utilization)
    peak = device.peak_fp32 if run.precision == "fp32" else device.peak_bf16
    text = (
        f"{1 / seconds_per_token:,.0f} tokens/s at {utilization:.0%} of {_short(peak)}FLOP/s "
        f"(--utilization)"
    )
    if length.num_tokens is None:
        yield "speed", text
        return
    seconds = length.num_tokens * seconds_per_token
    yield "time", f"{clock_text(seconds)}, {text}"
    if settings.price_per_hour is not None:
        hours = seconds / 3600 * layout.num_devices
        yield (
            "cost",
            (
                f"{hours * settings.price_per_hour:,.2f} for {hours:,.1f} device hours at "
                f"{settings.price_per_hour:g}"
            ),
        )


def _short(value: float) -> str:
    for size, letter in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"),
                         (1e9, "G"), (1e6, "M"), (1e3, "k")):  # fmt: skip
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "
