"""lit-gpt plan: figures in closed form, published counts, and what it refuses."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.command import run, write_project
from tests.conftest import REPOSITORY

CUT, BOTH = (
    str(REPOSITORY / "configs" / "strategies" / name)
    for name in ("tensor-parallel.yaml", "fsdp-tp.yaml")
)
SIZE = "--trainer.strategy.init_args.tensor_parallel_size"
GPT2 = str(REPOSITORY / "configs" / "gpt2-124m.yaml")
GIB = 2**30
LLAMA_70B = {
    "vocab_size": 128256, "block_size": 1024, "num_layers": 80, "num_heads": 64,
    "num_kv_heads": 8, "embed_dim": 8192, "mlp_dim": 28672, "position": "rotary",
    "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False, "tie_embeddings": False,
}  # fmt: skip
LLAMA_7B = {
    **LLAMA_70B, "vocab_size": 32000, "block_size": 4096, "num_layers": 32, "num_heads": 32,
    "num_kv_heads": 32, "embed_dim": 4096, "mlp_dim": 11008,
}  # fmt: skip


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path


def plan(folder: Path, *arguments: str) -> dict[str, str]:
    """The lines of a plan by their names; those without a name belong to the one above."""
    result = run(folder, "plan", *arguments)
    assert result.status == 0, result.err
    lines: dict[str, str] = {}
    name = ""
    for line in result.out.split("\n\nnext: ")[0].splitlines():
        found = re.match(r" *([a-z ]+): (.*)", line[:14] + line[14:])
        if found and line.index(":") <= 11:
            name = found[1].strip()
            lines[name] = found[2]
        else:
            lines[name] += "\n" + line.strip()
    return lines


def write_config(folder: Path, network: dict[str, object], trainer: dict[str, object]) -> str:
    """A configuration of this network in the folder; returns its name."""
    content = {
        "trainer": {"precision": "bf16-mixed", "max_steps": 1000, **trainer},
        "model": {
            "class_path": "lit_gpt_kit.LanguageModeling",
            "init_args": {
                "gpt": network,
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}},
            },
        },
        "data": {
            "class_path": "lit_gpt_kit.TextDataModule",
            "init_args": {"sources": ["nowhere"], "batch_size": 1},
        },
    }
    (folder / "big.yaml").write_text(yaml.safe_dump(content))
    return "big.yaml"


def test_gpt2_on_eight_devices(empty: Path) -> None:
    lines = plan(empty, "--config", GPT2, "--device=h100", "--devices=8", "--price_per_hour=2.5")
    # 124,439,808 and the 47 rows that pad the vocabulary.
    assert lines["parameters"].startswith(f"{124_439_808 + 47 * 768:,}: token embedding 38,633,472")
    assert lines["step"].startswith(
        "524,288 tokens = 16 rows of 1,024 x 8 devices x 4 micro-batches;"
    )
    assert "19,073 steps, 10 G tokens, 80 for each parameter" in lines["training"]
    flops = 6 * (12 * 12 * 768**2 + 50304 * 768) + 12 * 12 * 768 * 1024
    assert lines["arithmetic"].startswith(f"{flops / 1e6:.0f} MFLOP for each token")
    rate = 0.4 * 989.4e12 * 8 / flops
    assert f"{rate:,.0f} tokens/s at 40% of 989 TFLOP/s" in lines["time"]
    hours = 19073 * 524288 / rate / 3600
    assert lines["cost"] == f"{hours * 8 * 2.5:,.2f} for {hours * 8:,.1f} device hours at 2.5"
    gradients = 4 * 124_475_904
    assert (
        f"gradients {gradients / GIB:.2f}, optimiser {2 * gradients / GIB:.2f}" in lines["memory"]
    )
    assert f"buffers {gradients / GIB:.2f}" in lines["memory"]
    assert "\nfits in 80 GiB" in lines["memory"]


def test_a_global_batch_makes_the_step(empty: Path) -> None:
    fixed = ("--data.global_batch_tokens=524288", "--trainer.accumulate_grad_batches=1")
    for devices, count in ((1, 32), (8, 4)):
        lines = plan(empty, "--config", GPT2, "--device=h100", f"--devices={devices}", *fixed)
        assert lines["step"].startswith("524,288 tokens = 16 rows of 1,024 x ")
        assert f" x {count} micro-batches;" in lines["step"]
        assert "19,073 steps, 10 G tokens" in lines["training"]
    result = run(empty, "plan", "--config", GPT2, "--device=h100", "--devices=3", *fixed)
    assert result.status == 2
    assert "global_batch_tokens=524288 is no whole number of micro-batches" in result.err


def test_a_classifier_has_no_use_for_the_head_of_its_network(empty: Path) -> None:
    config = str(REPOSITORY / "configs" / "finetune" / "classify-scratch.yaml")
    lines = plan(empty, "--config", config, "--device=h100")
    flops = 6 * (12 * 128**2 + 2 * 128 * 128)
    assert lines["arithmetic"].startswith(f"{flops / 1e6:.3g} MFLOP for each token")
    assert "logits 0.15" in lines["memory"]  # MiB, and not 320


def test_muon_keeps_one_moment_of_the_hidden_matrices(empty: Path) -> None:
    muon = "--model.init_args.optimizer=lit_gpt_kit.MuonAdamW"
    lines = plan(empty, "--config", GPT2, "--device=a100", muon)
    numbers = 124_475_904 * 2 - (28_348_416 + 56_669_184)
    assert f"optimiser {4 * numbers / GIB:.2f}" in lines["memory"]


@pytest.mark.parametrize(
    ("network", "count", "devices"),
    [(LLAMA_7B, 6_738_415_616, 8), (LLAMA_70B, 70_553_706_496, 64)],
    ids=["7B", "70B"],
)
def test_published_shapes_over_many_devices(
    empty: Path, network: dict[str, object], count: int, devices: int
) -> None:
    strategy = {
        "class_path": "lit_gpt_kit.parallel.ShardedStrategy",
        "init_args": {"tensor_parallel_size": 1},
    }
    config = write_config(empty, network, {"strategy": strategy})
    lines = plan(empty, "--config", config, "--device=h100", f"--devices={devices}")
    assert lines["parameters"].startswith(f"{count:,}: ")
    assert f"weights over {devices} (FSDP2)" in lines["step"]
    share = 4 * count / devices / GIB
    assert (
        f"weights {share:.2f}, gradients {share:.2f}, optimiser {2 * share:.2f}" in lines["memory"]
    )


def test_what_does_not_fit_is_told_how_it_would(empty: Path) -> None:
    config = write_config(empty, LLAMA_70B, {"strategy": "ddp"})
    result = run(empty, "plan", "--config", config, "--device=h100", "--devices=8")
    assert result.complaint.startswith("the run fits on no number of h100: one row needs 1,")
    found = re.search(
        r"it would with --config configs/strategies/fsdp.yaml --devices (\d+)$", result.complaint
    )
    assert found is not None
    sharded = "--trainer.strategy=lit_gpt_kit.parallel.ShardedStrategy"
    few = plan(empty, "--config", config, "--device=h100", "--devices=8", sharded)
    assert f"not even one row fits; {found[1]} devices would do" in few["memory"]
    enough = plan(empty, "--config", config, "--device=h100", f"--devices={found[1]}", sharded)
    assert "\nfits in 80 GiB" in enough["memory"]
    assert re.search(r"largest micro-batch that fits: \d+ row", enough["memory"])


def test_activations_that_fit_nowhere_are_made_twice(empty: Path) -> None:
    strategy = {"class_path": "lit_gpt_kit.parallel.ShardedStrategy"}
    config = write_config(empty, {**LLAMA_70B, "block_size": 8192}, {"strategy": strategy})
    result = run(empty, "plan", "--config", config, "--device=h100", "--devices=64")
    again = "--model.init_args.execution.activation_checkpointing=full"
    found = re.search(f"; it would with {again} --devices (\\d+)$", result.complaint)
    assert found is not None, result.complaint
    enough = plan(empty, "--config", config, "--device=h100", again, f"--devices={found[1]}")
    assert "\nfits in 80 GiB" in enough["memory"]


def test_nothing_is_written_and_the_text_is_not_needed(empty: Path) -> None:
    config = write_config(empty, {**LLAMA_7B, "vocab_size": None, "num_layers": 2}, {})
    lines = plan(empty, "--config", config, "--device=h200")
    assert "vocabulary 4,096" in lines["model"]  # of the tokenizer that would be trained
    assert sorted(path.name for path in empty.iterdir()) == ["big.yaml", "home"]


def test_this_processor_is_the_default_and_the_command_to_go_on_with_is_fits(
    tmp_path: Path,
) -> None:
    project = write_project(tmp_path)
    flags = ("--config", "tiny.yaml", "--trainer.max_steps=7")
    result = run(project, "plan", *flags, "--utilization", "0.2", "--devices=1")
    assert "1 x cpu" in result.out
    assert result.out.endswith("next: lit-gpt fit --config tiny.yaml --trainer.max_steps=7\n")


def test_parts_of_the_model(empty: Path) -> None:
    result = run(empty, "plan", "--config", GPT2, "--show=model", "--device=l4")
    rows = [re.split(r" {2,}", line.strip()) for line in result.out.splitlines()]
    assert rows[:3] == [
        ["part", "shape", "parameters", "share"],
        ["token embedding", "50,304 x 768", "38,633,472", "31.0%"],
        ["positions", "1,024 x 768", "786,432", "0.6%"],
    ]
    assert rows[4] == ["MLP", "12 x (768 -> 3,072 -> 768, gelu_tanh)", "56,669,184", "45.5%"]
    assert rows[6] == ["all", "124,475,904", "100.0%"]


def test_adapters_are_counted_and_no_known_model_is_downloaded(empty: Path) -> None:
    lora = str(REPOSITORY / "configs" / "finetune" / "instruct-lora.yaml")
    lines = plan(empty, "--config", lora, "--device=l4", "--trainer.precision=bf16-mixed")
    matrices = 30 * (576 * 960 + 576 * 576 + 3 * 576 * 1536)
    pairs = 30 * 8 * (3 * 576 + 576 + 2 * 192 + 2 * 576 + 2 * (576 + 1536) + 576 + 1536)
    rank = 2 if "rank: 16" in Path(lora).read_text() else 1
    # q, k and v share an input but not their A.
    assert lines["parameters"].startswith("134,515,008: ")
    assert lines["parameters"].endswith(f"; {rank * pairs:,} in adapters are trained")
    # What is frozen beside adapters is kept in bfloat16 alone, the rest in float32 and copied.
    result = run(empty, "plan", "--config", lora, "--show=model")
    assert re.search(rf"\nadapters +{rank * pairs:,} +\d", result.out)
    assert matrices == 26_542_080 + 79_626_240
    weights = 4 * (134_515_008 - matrices + rank * pairs) + 2 * matrices + 2 * 49152 * 576
    assert f"weights {weights / GIB:.2f}" in lines["memory"]
    unknown = run(empty, "plan", "--config", lora, "--model.init_args.pretrained=no/such")
    assert "`lit-gpt models` lists those whose shape is known without it" in unknown.complaint


def test_layers_cut_over_two_are_no_copies(empty: Path) -> None:
    lines = plan(empty, "--config", GPT2, "--config", CUT, "--device=l4")
    assert "x 1 group of 2 x 4 micro-batches; 2 x l4, layers over 2 (ten" in lines["step"]


def test_lightnings_own_strategy_cuts_layers_over_a_node(empty: Path) -> None:
    own = "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy"
    lines = plan(empty, "--config", GPT2, own, "--trainer.devices=4", "--device=l4")
    assert "x 1 group of 4 x 4 micro-batches; 4 x l4, layers over 4 (ten" in lines["step"]


@pytest.mark.parametrize(
    ("flag", "count"),
    [("8", 8), ("[0, 1, 2]", 3), ("0,1", 2), ("3,", 1), ("auto", 1), ("-1", 1)],
)
def test_devices_are_counted_as_the_trainer_does(empty: Path, flag: str, count: int) -> None:
    lines = plan(empty, "--config", GPT2, f"--trainer.devices={flag}", "--device=h100")
    assert f"; {count} x h100, " in lines["step"]


def test_devices_of_a_cpu_are_machines(tmp_path: Path) -> None:
    project = write_project(tmp_path)
    for flag in ("--trainer.devices=2", "--devices=2"):
        lines = plan(project, "--config", "tiny.yaml", flag)
        assert "2 x cpu (machines like this one), copies (DDP)" in lines["step"]
    result = run(project, "plan", "--config", "tiny.yaml", "--devices=6")
    assert result.out.endswith("tiny.yaml --trainer.devices=1 --trainer.num_nodes=6\n")


def test_what_comes_next(empty: Path) -> None:
    config = write_config(empty, LLAMA_7B, {})
    sharded = "--trainer.strategy=lit_gpt_kit.parallel.ShardedStrategy"
    flags = ("plan", "--config", config, sharded, "--device=h100")
    start = f"next: lit-gpt {{}} --config {config} {sharded}"
    for devices, then in (
        ("--devices=1", f"{start.format('plan')} --device=h100 --devices=4"),
        ("--devices=4", f"{start.format('fit')} --trainer.devices=4"),
        ("--devices=16", f"{start.format('fit')} --trainer.devices=8 --trainer.num_nodes=2"),
        ("--devices=12", f"{start.format('fit')} --trainer.devices=6 --trainer.num_nodes=2"),
        ("--trainer.devices=4", f"{start.format('fit')} --trainer.devices=4"),
    ):
        result = run(empty, *flags, devices)
        assert result.out.splitlines()[-1] == then
    # What the configuration says of nodes is no more true.
    result = run(empty, *flags, "--trainer.num_nodes=2", "--devices=4")
    assert result.out.splitlines()[-1] == f"{start.format('fit')} --trainer.devices=4"


def test_layers_and_weights_cut_over_many(empty: Path) -> None:
    result = run(empty, "plan", "--config", GPT2, "--config", BOTH, "--device=h100", "--devices=16")
    assert "16 x h100, weights over 8 (FSDP2), layers over 2 (tensor parallel)" in result.out
    assert result.out.endswith(f"--config {BOTH} --trainer.devices=8 --trainer.num_nodes=2\n")


def test_rows_that_do_not_fit_are_planned_anew(empty: Path) -> None:
    flags = ("plan", "--config", GPT2, "--device=l4", "--data.init_args.batch_size=512")
    result = run(empty, *flags, "--trainer.accumulate_grad_batches=2")
    start = "--trainer.accumulate_grad_batches=2 --data.batch_size="
    found = re.search(f"{start}(\\d+)( --trainer.accumulate_grad_batches=(\\d+))?\n$", result.out)
    assert found is not None, result.out
    rows = int(found[1])
    assert 512 % rows == 0
    if found[3]:
        assert rows * int(found[3]) == 2 * 512
    words = shlex.split(result.out.splitlines()[-1].removeprefix("next: lit-gpt "))
    again = run(empty, *words)
    assert "\n             fits in 22 GiB" in again.out


def test_a_batch_that_does_not_fit_is_told_what_would(empty: Path) -> None:
    lines = plan(empty, "--config", GPT2, "--device=l4", "--data.init_args.batch_size=5000")
    fits = re.search(r"largest micro-batch that fits: (\d+) rows", lines["memory"])
    assert "can be used; lower data.batch_size and accumulate" in lines["memory"]
    assert fits is not None
    again = plan(empty, "--config", GPT2, "--device=l4", f"--data.init_args.batch_size={fits[1]}")
    assert "\nfits in 22 GiB" in again["memory"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--device=v100"], "--device v100 is not known; known: h200, h100, "),
        (["--device=h100", "--devices=0"], "--devices 0 must be from 1 to 4096"),
        (["--device=h100", "--devices=5000"], "--devices 5000 must be from 1 to 4096"),
        (["--device=h100", "--devices=all"], "devices: expected int, got all"),
        (["--device=h100", "--price_per_hour=-1"], "--price_per_hour -1.0 must be at least 0"),
        (["--device=h100", "--utilization=40"], "--utilization 40.0 must be above 0 and at most 1"),
        (
            ["--device=h100", "--devices=8", "--config", CUT],
            "data_parallel_size=1 x tensor_parallel_size=2 is not 8 devices; ",
        ),
        (
            ["--device=h100", "--config", BOTH, f"{SIZE}=8", "--devices=8"],
            "tensor_parallel_size=8 does not divide num_heads=12; ",
        ),
        (
            ["--device=h100", "--config", BOTH, f"{SIZE}=0"],
            "tensor_parallel_size=0 must be at least 1",
        ),
        (
            ["--device=h100", "--config", BOTH, "--devices=3"],
            "tensor_parallel_size=2 does not divide 3 devices; ",
        ),
        (["--device=h100", "--trainer.precision=64"], "plan does not know trainer.precision=64"),
    ],
)
def test_wrong_input_gets_one_line(empty: Path, flags: list[str], complaint: str) -> None:
    result = run(empty, "plan", "--config", GPT2, *flags)
    assert result.complaint.startswith(complaint)


@pytest.mark.parametrize(("instructions", "expected"), [(None, "fp32"), ("some", "bf16-mixed")])
def test_auto_is_the_precision_that_fit_takes_on_this_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instructions: str | None, expected: str
) -> None:
    monkeypatch.setattr("lit_gpt_kit.cli.precision.cpu_instructions", lambda: instructions)
    write_project(tmp_path)
    result = run(tmp_path, "plan", "--config", "tiny.yaml", "--trainer.precision=auto")
    (step,) = (line for line in result.out.splitlines() if line.startswith("       step:"))
    assert step.endswith(f", {expected}")
