"""`lit-gpt plan`: whether a run fits, how long it takes and what it costs, before it begins."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from lit_gpt_kit.checkpoints.catalogue import known_models
from lit_gpt_kit.checkpoints.load import load_config
from lit_gpt_kit.cli.dry_run import DryCLI
from lit_gpt_kit.cli.main import DONE
from lit_gpt_kit.cli.model_table import ADAPTERS, count_adapters, table_of_parts
from lit_gpt_kit.cli.parsing import without
from lit_gpt_kit.cli.plan_lines import (
    Length,
    counted,
    describe_arithmetic,
    describe_length,
    describe_memory,
    describe_model,
    describe_parameters,
    describe_step,
    describe_time,
)
from lit_gpt_kit.cli.precision import choose_precision
from lit_gpt_kit.cli.quiet import quieten_libraries
from lit_gpt_kit.devices import CPU, find_device
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.model.config import GPTConfig
from lit_gpt_kit.model.memory import Precision
from lit_gpt_kit.optim.state_size import state_numbers_by_part
from lit_gpt_kit.parallel.memory import Layout
from lit_gpt_kit.parallel.plan import MOST_DEVICES, Run, fewest_devices, largest_micro_batch
from lit_gpt_kit.parallel.tensor import check_tensor_parallel
from lit_gpt_kit.tasks.base import Task
from lit_gpt_kit.tokenization.training import TokenizerConfig

OWN_OPTIONS = ("devices", "device", "utilization", "price_per_hour", "show")
PRECISIONS: dict[str, Precision] = {
    "32": "fp32", "32-true": "fp32", "bf16": "bf16-mixed", "bf16-mixed": "bf16-mixed",
    "16": "bf16-mixed", "16-mixed": "bf16-mixed", "bf16-true": "bf16", "16-true": "bf16",
}  # fmt: skip
"""The Trainer's precision -> the one whose memory it takes."""
DEVICE_OPTIONS = ("trainer.devices", "trainer.num_nodes")
MOST_OF_A_NODE = 8
"""Devices of one machine, as most are built."""
SHARDED = ("fsdp", "modelparallel", "sharded", "deepspeed")
"""What the names of strategies have in them that share out the weights."""


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
        "`lit-gpt fit` takes; nothing is built, and no text is read but for its characters, where "
        "they are the vocabulary."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the devices."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--devices", type=int | None, default=None,
            help="How many devices, 1 to 4096; of a cpu, machines like this one. By default as the "
            "configuration says.",
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
        price = settings.price_per_hour
        if price is not None and not price >= 0:
            raise InputError(f"--price_per_hour {price} must be at least 0")
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
        adapters = module.adapters
        num_adapters = None if adapters is None else count_adapters(config, adapters.config)
        if settings.show == "model":
            beside = {} if num_adapters is None else {ADAPTERS: num_adapters}
            print("\n".join(table_of_parts(config, beside)))
            return
        precision = str(trainer.precision or "32-true")
        if precision == "auto":
            on_cpu = self._device.name == CPU
            precision = choose_precision("cpu")[0] if on_cpu else "bf16-mixed"
        if precision not in PRECISIONS:
            raise InputError(f"plan does not know trainer.precision={precision}; known: "
                             f"{', '.join([*PRECISIONS, 'auto'])}")  # fmt: skip
        data: Any = self.datamodule
        planned = Run(
            config,
            PRECISIONS[precision],
            int(getattr(data, "batch_size", 1)),
            min(getattr(data, "_block_size", None) or config.block_size, config.block_size),
            None if adapters is None else adapters.config.rank,
            state_numbers_by_part(module.optimizer),
            module.execution.activation_checkpointing,
            module.execution.max_logits,
            adapters is not None and not adapters.config.use_dora,
            module.predicts_tokens,
        )
        layout = layout_of(trainer, settings.devices)
        check_tensor_parallel(config, layout.tensor_parallel, adapters is not None)
        device = self._device
        largest = largest_micro_batch(planned, layout, device.usable_bytes)
        needed = None if largest else fewest_devices(planned, layout, device.usable_bytes)
        accumulate = _count_micro_batches(trainer, data, planned, layout)
        tokens_per_step = planned.batch_size * planned.seq_len * layout.data_parallel * accumulate
        length = _length(trainer, settings.model, tokens_per_step)
        lines = [
            ("model", describe_model(config)),
            ("parameters", describe_parameters(config, num_adapters)),
            ("step", describe_step(planned, layout, accumulate, tokens_per_step, device)),
            ("training", describe_length(length, config)),
            ("arithmetic", describe_arithmetic(planned, length)),
            *describe_memory(planned, layout, device, largest, needed),
            *describe_time(planned, layout, device, length, settings),
        ]
        print(
            "\n".join(f"{name:>11}: {text}" if name else f"{'':13}{text}" for name, text in lines)
        )
        if needed is not None:
            given = without(self._arguments, ("devices", *DEVICE_OPTIONS))
            words = ["plan", *given, f"--devices={needed}"]
        elif planned.batch_size > largest:
            fewer = _with_fewer_rows(planned.batch_size, largest, accumulate, data)
            words = ["plan", *self._arguments, *fewer]
        else:
            words = ["fit", *self._arguments_of_fit()]
        print(f"\nnext: {shlex.join(['lit-gpt', *words])}")

    def _arguments_of_fit(self) -> list[str]:
        """What was typed, with the devices that were planned where the configuration has others."""
        typed = without(self._arguments, OWN_OPTIONS)
        planned, trainer = self.config[self.command].devices, self._trainer_settings
        if planned in (None, devices_of_a_node(trainer) * int(trainer.num_nodes or 1)):
            return typed
        most = 1 if self._device.name == CPU else MOST_OF_A_NODE
        each = max(count for count in range(1, most + 1) if planned % count == 0)
        nodes = [f"--trainer.num_nodes={planned // each}"] if planned > each else []
        return [*without(typed, DEVICE_OPTIONS), f"--trainer.devices={each}", *nodes]


def _with_fewer_rows(batch_size: int, largest: int, accumulate: int, data: Any) -> list[str]:
    """Flags for the same step in micro-batches that fit."""
    rows = max(count for count in range(1, largest + 1) if batch_size % count == 0)
    flags = [f"--data.batch_size={rows}"]
    if getattr(data, "global_batch", None) is None:
        flags.append(f"--trainer.accumulate_grad_batches={accumulate * batch_size // rows}")
    return flags


def _network(module: Task, data: Any) -> GPTConfig:
    """The network's shape, its vocabulary known, with nothing read that is large."""
    config = module.gpt
    if module.pretrained is not None:
        known = {model.name: model for model in known_models()}.get(module.pretrained)
        if known is not None and not Path(module.pretrained).exists():
            return replace(known.network, dropout=config.dropout)  # nothing is downloaded
        try:
            found = load_config(module.pretrained)
        except MissingFileError as error:
            raise InputError(
                f"{error}; `lit-gpt models` lists those whose shape is known without it"
            ) from error
        return replace(found, dropout=config.dropout)
    if config.vocab_size is not None:
        return config
    choice = getattr(data, "tokenizer_choice", None) or TokenizerConfig()
    if isinstance(choice, TokenizerConfig) and choice.kind == "bpe":
        return replace(config, vocab_size=choice.num_tokens)
    if hasattr(data, "build_tokenizer"):  # a file, or the text's own characters, which are read
        return replace(config, vocab_size=data.build_tokenizer().vocab_size)
    raise InputError("vocab_size is not known; set model.init_args.gpt.vocab_size")


def devices_of_a_node(trainer: Namespace) -> int:
    """How many devices of a node a Trainer's settings name; one, where they name no number."""
    devices = trainer.devices
    if isinstance(devices, str):  # as a flag has them
        named = [word for word in devices.split(",") if word.strip()]
        devices = named if "," in devices else int(devices) if devices.isdecimal() else 1
    return max(1, len(devices) if isinstance(devices, list) else int(devices or 1))


def layout_of(trainer: Namespace, num_devices: int | None = None) -> Layout:
    """How a Trainer's settings lay a network over devices.

    Args:
        trainer: the settings.
        num_devices: instead of those that they say.

    Raises:
        InputError: the devices do not come out even.
    """
    num_nodes = int(trainer.num_nodes or 1)
    if num_devices is None:
        num_devices = devices_of_a_node(trainer) * num_nodes
    strategy = trainer.strategy
    options = getattr(strategy, "init_args", {})
    name = str(getattr(strategy, "class_path", strategy)).rpartition(".")[2].lower()
    unsaid = "auto" if name == "modelparallelstrategy" else 1
    tensor_parallel = options.get("tensor_parallel_size", unsaid)
    if tensor_parallel == "auto":  # of Lightning's own: as many as a node has
        tensor_parallel = max(1, num_devices // num_nodes)
    rows_over = options.get("data_parallel_size", "auto")
    for option, size in (
        ("tensor_parallel_size", tensor_parallel),
        ("data_parallel_size", rows_over),
    ):
        if size != "auto" and size < 1:
            raise InputError(f"{option}={size} must be at least 1")
    if num_devices % tensor_parallel:
        raise InputError(
            f"tensor_parallel_size={tensor_parallel} does not divide {num_devices} devices; "
            "choose a multiple of it"
        )
    if rows_over not in ("auto", num_devices // tensor_parallel):
        raise InputError(
            f"data_parallel_size={rows_over} x tensor_parallel_size={tensor_parallel} is not "
            f"{counted(num_devices, 'device')}; choose their product, or "
            "--trainer.strategy.init_args.data_parallel_size=auto"
        )
    is_sharded = any(word in name.replace("_", "") for word in SHARDED)
    return Layout(num_devices // tensor_parallel, tensor_parallel, is_sharded)


def _count_micro_batches(trainer: Namespace, data: Any, run: Run, layout: Layout) -> int:
    """Those of a step on each device.

    Raises:
        InputError: the global batch is no whole number of them.
    """
    global_batch = getattr(data, "global_batch", None)
    if global_batch is None:
        return int(trainer.accumulate_grad_batches or 1)
    factors = {"batch_size": run.batch_size}
    if global_batch.unit == "tokens":
        factors["block_size"] = run.seq_len
    return int(global_batch.num_micro_batches(factors, layout.data_parallel))


def _length(trainer: Namespace, model: Namespace, tokens_per_step: int) -> Length:
    schedule: Any = getattr(model.init_args.get("lr_schedule"), "init_args", {})
    tokens: float | None = schedule.get("total_tokens")
    if tokens:
        return Length(round(tokens / tokens_per_step), float(tokens))
    steps: int | None = trainer.max_steps
    if steps is None or steps < 0:
        steps = schedule.get("total_steps")
    return Length(None, None) if not steps else Length(steps, float(steps * tokens_per_step))
