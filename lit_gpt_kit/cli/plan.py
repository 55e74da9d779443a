"""`lit-gpt plan`: whether a run fits, how long it takes and what it costs, before it begins."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_gpt_kit.checkpoints.load import load_config
from lit_gpt_kit.cli.dry_run import DryCLI
from lit_gpt_kit.cli.main import DONE
from lit_gpt_kit.cli.train import quieten_libraries
from lit_gpt_kit.devices import CPU, GIB, MIB, Device, find_device
from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.memory import Precision
from lit_gpt_kit.model.size import count_active_parameters, count_by_part
from lit_gpt_kit.optim.state_size import state_numbers_by_part
from lit_gpt_kit.parallel.memory import Layout
from lit_gpt_kit.parallel.plan import (
    COMPUTE_OPTIMAL,
    MOST_DEVICES,
    USABLE,
    Run,
    fewest_devices,
    largest_micro_batch,
)
from lit_gpt_kit.tasks.base import Task
from lit_gpt_kit.tokenization.training import TokenizerConfig

OWN_OPTIONS = ("devices", "device", "utilization", "price_per_hour", "show")
PRECISIONS: dict[str, Precision] = {
    "32": "fp32", "32-true": "fp32", "bf16": "bf16-mixed", "bf16-mixed": "bf16-mixed",
    "16": "bf16-mixed", "16-mixed": "bf16-mixed", "bf16-true": "bf16", "16-true": "bf16",
    "auto": "bf16-mixed",
}  # fmt: skip
"""The Trainer's precision -> the one whose memory it takes."""
SHARDED = ("fsdp", "modelparallel", "sharded", "deepspeed")
"""What the names of strategies have in them that share out the weights."""


@dataclass(frozen=True)
class Length:
    """How much a run trains on: `num_tokens` in `num_steps`; None where the config does not say."""

    num_steps: int | None
    num_tokens: float | None


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    quieten_libraries()
    PlanningCLI(arguments)
    return DONE


class PlanningCLI(DryCLI):
    """`fit` before anything is read or built: what the run will need.

    Args:
        arguments: those of `fit`, and the devices.
    """

    name = "plan"
    description = (
        "Says whether a run fits its devices, how long it takes and what it costs. Takes what "
        "`lit-gpt fit` takes; nothing is built and no text is read."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the devices."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--devices", type=int | None, default=None,
            help="How many devices, 1 to 4096; by default as the configuration says.",
        )  # fmt: skip
        parser.add_argument(
            "--device", type=str, default=CPU,
            help="Of which kind: h200, h100, b200, a100, l4, 4090, mi300x, ..., or cpu, which is "
            "measured.",
        )  # fmt: skip
        parser.add_argument(
            "--utilization", type=float, default=0.4,
            help="The share of the device's dense peak that training reaches (MFU).",
        )  # fmt: skip
        parser.add_argument(
            "--price_per_hour", type=float | None, default=None, help="Of one device, for the cost."
        )
        parser.add_argument(
            "--show", type=Literal["plan", "model"], default="plan",
            help="The plan, or the parts of the model.",
        )  # fmt: skip

    def before_instantiate_classes(self) -> None:
        """Note what the run wants of its devices, which then are left alone."""
        settings = self.config[self.command]
        if settings.devices is not None and not 1 <= settings.devices <= MOST_DEVICES:
            raise InputError(f"--devices {settings.devices} must be from 1 to {MOST_DEVICES}")
        if not 0 < settings.utilization <= 1:
            raise InputError(f"--utilization {settings.utilization} must be above 0 and at most 1")
        self._device = find_device(settings.device)
        self._trainer_settings = settings.trainer.clone()
        super().before_instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        module = self.model
        if not isinstance(module, Task):
            raise InputError(
                f"plan knows the tasks of this package, not {type(module).__name__}; give a "
                "model.class_path that is a lit_gpt_kit.Task"
            )
        settings, trainer = self.config[self.command], self._trainer_settings
        config = _network(module, self.datamodule)
        if settings.show == "model":
            print("\n".join(_parts(config)))
            return
        precision = str(trainer.precision or "32-true")
        if precision not in PRECISIONS:
            raise InputError(f"plan does not know trainer.precision={precision}; known: "
                             f"{', '.join(PRECISIONS)}")  # fmt: skip
        data: Any = self.datamodule
        planned = Run(
            config,
            PRECISIONS[precision],
            int(getattr(data, "batch_size", 1)),
            min(getattr(data, "_block_size", None) or config.block_size, config.block_size),
            None if module.adapters is None else module.adapters.config.rank,
            state_numbers_by_part(module.optimizer),
        )
        layout = layout_of(trainer, settings.devices)
        accumulate = int(trainer.accumulate_grad_batches or 1)
        tokens_per_step = planned.batch_size * planned.seq_len * layout.data_parallel * accumulate
        length = _length(trainer, settings.model, tokens_per_step)
        lines = [
            ("model", _describe(config)),
            ("parameters", _describe_parameters(config)),
            ("step", _describe_step(planned, layout, accumulate, tokens_per_step, self._device)),
            ("training", _describe_length(length, config)),
            ("arithmetic", _describe_arithmetic(planned, length)),
            *_describe_memory(planned, layout, self._device),
            *_describe_time(planned, layout, self._device, length, settings),
        ]
        print(
            "\n".join(f"{name:>11}: {text}" if name else f"{'':13}{text}" for name, text in lines)
        )
        left = _without(self._arguments, OWN_OPTIONS)
        print(f"\nnext: {shlex.join(['lit-gpt', 'fit', *left])}")


def _network(module: Task, data: Any) -> GPTConfig:
    """The network's shape, its vocabulary known, with nothing read that is large."""
    config = module.gpt
    if module.pretrained is not None:
        return replace(load_config(module.pretrained), dropout=config.dropout)
    if config.vocab_size is not None:
        return config
    choice = getattr(data, "tokenizer_choice", None) or TokenizerConfig()
    if isinstance(choice, TokenizerConfig) and choice.kind == "bpe":
        return replace(config, vocab_size=choice.num_tokens)
    if hasattr(data, "build_tokenizer"):  # a file, or the text's own characters, which are read
        return replace(config, vocab_size=data.build_tokenizer().vocab_size)
    raise InputError("vocab_size is not known; set model.init_args.gpt.vocab_size")


def layout_of(trainer: Namespace, num_devices: int | None = None) -> Layout:
    """How a Trainer's settings lay a network over devices.

    Args:
        trainer: the settings.
        num_devices: instead of those that they say.
    """
    if num_devices is None:
        each = trainer.devices
        count = len(each) if isinstance(each, list) else each if isinstance(each, int) else 1
        num_devices = max(1, count) * int(trainer.num_nodes or 1)
    strategy = trainer.strategy
    options = getattr(strategy, "init_args", {})
    name = str(getattr(strategy, "class_path", strategy)).rpartition(".")[2].lower()
    tensor_parallel = options.get("tensor_parallel_size", 1)
    tensor_parallel = tensor_parallel if isinstance(tensor_parallel, int) else 1
    if num_devices % tensor_parallel:
        raise InputError(
            f"tensor_parallel_size={tensor_parallel} does not divide {num_devices} devices; "
            "choose a multiple of it"
        )
    is_sharded = any(word in name.replace("_", "") for word in SHARDED)
    return Layout(num_devices // tensor_parallel, tensor_parallel, is_sharded)


def _length(trainer: Namespace, model: Namespace, tokens_per_step: int) -> Length:
    schedule: Any = getattr(model.init_args.get("lr_schedule"), "init_args", {})
    tokens: float | None = schedule.get("total_tokens")
    if tokens:
        return Length(round(tokens / tokens_per_step), float(tokens))
    steps: int | None = trainer.max_steps
    if steps is None or steps < 0:
        steps = schedule.get("total_steps")
    return Length(None, None) if not steps else Length(steps, float(steps * tokens_per_step))


# ---- what is said ----


def _describe(config: GPTConfig) -> str:
    keys = "" if config.kv_heads == config.num_heads else f" ({config.kv_heads} of keys)"
    return (
        f"GPT of {config.num_layers} layers, {config.num_heads} heads{keys}, width "
        f"{config.embed_dim:,}, block {config.block_size:,}, "
        f"vocabulary {config.padded_vocab_size:,}"
    )


def _describe_parameters(config: GPTConfig) -> str:
    parts = count_by_part(config)
    total = sum(parts.values())
    active = count_active_parameters(config)
    met = f", of which a token meets {active:,}" if active < total else ""
    return f"{total:,}{met}: " + ", ".join(f"{name} {n:,}" for name, n in parts.items())


def _describe_step(run: Run, layout: Layout, accumulate: int, tokens: int, device: Device) -> str:
    way = "one device" if layout.num_devices == 1 else "copies (DDP)"
    if layout.is_sharded and layout.data_parallel > 1:
        way = f"weights over {layout.data_parallel} (FSDP2)"
    if layout.tensor_parallel > 1:
        way += f", layers over {layout.tensor_parallel} (tensor parallel)"
    return (
        f"{tokens:,} tokens = {run.batch_size} rows of {run.seq_len:,} x {layout.data_parallel} "
        f"devices x {accumulate} micro-batches; {layout.num_devices} x {device.name}, {way}, "
        f"{run.precision}"
    )


def _describe_length(length: Length, config: GPTConfig) -> str:
    if length.num_tokens is None:
        return "length not known here; set trainer.max_steps for time and cost"
    ratio = length.num_tokens / count_active_parameters(config)
    return (
        f"{length.num_steps:,} steps, {_short(length.num_tokens)} tokens, {ratio:.2g} for each "
        f"parameter (about {COMPUTE_OPTIMAL} are compute-optimal)"
    )


def _describe_arithmetic(run: Run, length: Length) -> str:
    total = ""
    if length.num_tokens is not None:
        total = f", {_short(run.flops_per_token * length.num_tokens)}FLOP in all"
    return f"{_short(run.flops_per_token)}FLOP for each token{total}"


def _describe_memory(run: Run, layout: Layout, device: Device) -> Iterator[tuple[str, str]]:
    """The memory of one device, and whether it is enough.

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
    usable = USABLE * device.memory_bytes
    size, unit = (GIB, "GiB") if memory.total >= GIB else (MIB, "MiB")
    shown = ", ".join(f"{name} {n / size:.2f}" for name, n in kinds.items() if n)
    yield "memory", f"{memory.total / size:.2f} {unit} on each device: {shown}"
    verdict = "fits" if memory.total <= usable else "does not fit"
    whole = f"{device.memory_bytes / GIB:.0f} GiB"
    yield "", f"{verdict} in {whole}, of which {usable / GIB:.0f} can be used"
    largest = largest_micro_batch(run, layout, device.memory_bytes)
    if largest:
        yield "", f"largest micro-batch that fits: {largest:,} rows"
        return
    needed = fewest_devices(run, layout, device.memory_bytes)
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
    needed = fewest_devices(run, sharded, device.memory_bytes)
    if not layout.is_sharded and needed is not None:
        return f"{text}; shard it: --config configs/strategies/fsdp.yaml --devices {needed}"
    return f"{text}; lower block_size, cut layers (tensor_parallel_size), or take a larger device"


def _describe_time(
    run: Run, layout: Layout, device: Device, length: Length, settings: Namespace
) -> Iterator[tuple[str, str]]:
    utilization: float = settings.utilization
    seconds_per_token = run.seconds(1.0, device, layout, utilization)
    peak = device.peak_fp32 if run.precision == "fp32" else device.peak_bf16
    text = (
        f"{1 / seconds_per_token:,.0f} tokens/s at {utilization:.0%} of {_short(peak)}FLOP/s "
        f"(--utilization)"
    )
    if length.num_tokens is None:
        yield "time", text
        return
    seconds = length.num_tokens * seconds_per_token
    yield "time", f"{timedelta(seconds=round(seconds))}, {text}"
    if settings.price_per_hour is not None:
        hours = seconds / 3600 * layout.num_devices
        yield (
            "cost",
            (
                f"{hours * settings.price_per_hour:,.2f} for {hours:,.1f} device hours at "
                f"{settings.price_per_hour:g}"
            ),
        )


def _parts(config: GPTConfig) -> list[str]:
    """A table of the network's parts."""
    parts = count_by_part(config)
    total = sum(parts.values())
    rows = [("part", "shape", "parameters", "share")]
    rows += [
        (name, _shape(config, name), f"{n:,}", f"{n / total:.1%}") for name, n in parts.items()
    ]
    rows.append(("all", "", f"{total:,}", "100.0%"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
        for a, b, c, d in rows
    ]


def _shape(config: GPTConfig, part: str) -> str:
    layers, embed, vocab = config.num_layers, config.embed_dim, config.padded_vocab_size
    queries, keys = config.num_heads * config.head_width, config.kv_heads * config.head_width
    experts = "" if config.num_experts is None else f"{config.num_experts} experts x "
    width = config.mlp_width if config.num_experts is None else config.expert_width
    shapes = {
        "token embedding": f"{vocab:,} x {embed:,}",
        "positions": f"{config.block_size:,} x {embed:,}",
        "token shift": f"{embed:,}",
        "value embeddings": f"{len(set(config.value_embedding_layers))} x ({vocab:,} x {keys:,})",
        "attention": f"{layers} x ({embed:,} -> {queries + 2 * keys:,}, {queries:,} -> {embed:,})",
        "MLP": f"{layers} x {experts}({embed:,} -> {width:,} -> {embed:,}, {config.mlp})",
        "norms": config.norm,
        "head": f"{embed:,} -> {vocab:,}",
    }
    return shapes[part]


def _short(value: float) -> str:
    for size, letter in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"),
                         (1e9, "G"), (1e6, "M"), (1e3, "k")):  # fmt: skip
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    """What was typed, as `fit` takes it."""
    kept: list[str] = []
    skip = False
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        if skip or (word.startswith("--") and name in options):
            skip = not skip and "=" not in word
            continue
        kept.append(word)
    return kept
