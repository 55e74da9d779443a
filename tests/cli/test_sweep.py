"""`lit-gpt sweep` writes a file that W&B takes and whose runs `fit` takes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from lit_gpt_kit import InputError
from lit_gpt_kit.cli.sweep import read_varied
from tests.command import run, run_process, write_project
from tests.wandb_file import offline_runs

LR = "model.init_args.optimizer.init_args.lr"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("a=log:1e-4..1e-2", {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}),
        ("a=1..10", {"distribution": "int_uniform", "min": 1, "max": 10}),
        ("a=0.0..0.5", {"distribution": "uniform", "min": 0.0, "max": 0.5}),
        ("a=-1..1.5", {"distribution": "uniform", "min": -1.0, "max": 1.5}),
        ("--a=2,4.5,swiglu,true", {"values": [2, 4.5, "swiglu", True]}),
        ("a=1e-3,3e-3", {"values": [0.001, 0.003]}),
        ("a=gelu", {"values": ["gelu"]}),
        ("a=[0.9, 0.95],[0.8, 0.9]", {"values": ["[0.9, 0.95]", "[0.8, 0.9]"]}),
        ("a=[null, 1e-3],{b: true}", {"values": ["[null, 0.001]", '{"b": true}']}),
        ("a=1:00:00,2024-01-01", {"values": ["1:00:00", "2024-01-01"]}),
        ("a=null,1.0", {"values": ["null", 1.0]}),
    ],
)
def test_what_vary_means(text: str, choice: dict[str, Any]) -> None:
    assert read_varied(text).choice == choice
    assert read_varied(text).key == "a"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr", "--vary lr: write KEY=log:1e-4..1e-2"),
        ("a b=1", "--vary a b=1: write KEY="),
        ("lr=low..high", "a range is of two numbers"),
        ("lr=log:0..1", "a logarithmic range must begin above 0"),
        ("lr=3..2", "3 must be below 2"),
        ("lr=[0.9", "no list of values"),
        ("lr= ", "no list of values"),
        ("lr=a: b: c", "no list of values"),
        ("runs=1,2", "--vary runs: `fit`, which is varied, has no --runs"),
    ],
)
def test_wrong_vary(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_varied(text)


def test_the_file_and_what_an_agent_types(project: Path) -> None:
    varied = ("--vary", f"{LR}=log:1e-4..1e-2", "--vary=model.gpt.num_layers=1,2")
    result = run(
        project, "sweep", "--config", "tiny.yaml", *varied, "--runs", "20", "--stop_early=2",
        "--trainer.max_steps=2",
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "next: wandb sweep sweep.yaml\nthen: wandb agent" in result.out
    sweep = yaml.safe_load((project / "sweep.yaml").read_text())
    assert sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert sweep["parameters"] == {
        LR: {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "model.gpt.num_layers": {"values": [1, 2]},
    }
    assert (sweep["run_cap"], sweep["early_terminate"]["min_iter"]) == (20, 2)
    # W&B's own agent fills in the command so.
    chosen = {LR: {"value": 0.00002}, "model.gpt.num_layers": {"value": 1}}
    words = create_sweep_command(list(sweep["command"]))
    filled = {"${env}": ["/usr/bin/env"]}
    filled["${args}"] = create_sweep_command_args({"args": chosen})["args"]
    line = [word for given in words for word in filled.get(given, [given])]
    fit = ["/usr/bin/env", "lit-gpt", "fit", "--config", "tiny.yaml", "--trainer.max_steps=2"]
    assert line == [*fit, f"--{LR}=2e-05", "--model.gpt.num_layers=1"]


def test_what_an_agent_types_is_what_is_tried(project: Path) -> None:
    betas = "model.init_args.optimizer.init_args.betas"
    varied = (f"--vary={betas}=[0.9, 0.95],[0.8, 0.9]", "--vary=trainer.gradient_clip_val=null,1.0")
    result = run(project, "sweep", "--config", "tiny.yaml", *varied)
    assert result.status == 0, result.err
    parameters = yaml.safe_load((project / "sweep.yaml").read_text())["parameters"]
    chosen = {key: {"value": choice["values"][0]} for key, choice in parameters.items()}
    words = create_sweep_command_args({"args": chosen})["args"]
    assert words == [f"--{betas}=[0.9, 0.95]", "--trainer.gradient_clip_val=null"]
    result = run(project, "fit", "--config", "tiny.yaml", *words, "--trainer.max_steps=1")
    assert result.status == 0, result.err


@pytest.mark.slow
def test_runs_that_agents_start_are_those_of_the_sweep(project: Path) -> None:
    """With what `wandb agent` puts into the environment of what it starts."""
    params = project / "wandb" / "sweep-s1" / "config-r1.yaml"
    params.parent.mkdir(parents=True)
    params.write_text(f"wandb_version: 1\n{LR}:\n  value: 2.0e-05\n")
    agent = {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "s1",
        "WANDB_RUN_ID": "r1",
        "WANDB_PROJECT": "theirs",
        "WANDB_ENTITY": "them",
        "WANDB_DIR": str(project),
        "WANDB_SWEEP_PARAM_PATH": str(params),
    }
    flags = (f"--{LR}=2e-05", "--trainer.max_steps=3")
    result = run_process(project, "fit", "--config", "tiny.yaml", *flags, env=agent)
    assert result.status == 0, result.err
    (run_dir,) = (path for path in (project / "runs" / "tiny").iterdir() if not path.is_symlink())
    (part,) = offline_runs(run_dir)
    assert (part.run.run_id, part.run.sweep_id) == ("r1", "s1")
    assert part.run.project in ("", "theirs")  # the sweep's
    assert part.config[LR] == 2e-05
    assert part.config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 2e-05
    assert part.summary["val/loss"] > 0
    wrong = run_process(project, "fit", "--config", "tiny.yaml", f"--{LR}=high", env=agent)
    assert wrong.status == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "--vary is missing; give KEY=log:1e-4..1e-2"),
        (("--vary", "model.init_args.optimizer.init_args.rl=1..2"), "rl"),
        (("--vary", "model.gpt.num_layers=1,many"), "--vary model.gpt.num_layers=many: "),
        (("--vary", f"{LR}=0.1..0.2", "--method", "grid"), "--method grid tries every value, and"),
        (("--vary", f"{LR}=0.1..0.2", "--metric=train/mfu"), "--metric train/mfu: say which way"),
        (("--vary", f"{LR}=0.1..0.2", "--vary", f"{LR}=1,2"), f"--vary {LR} is given twice"),
        (("--vary", f"{LR}=0.1..0.2", "--run_dir", "one"), "--run_dir is one folder, and each run"),
        (("--vary", "run_dir=a,b"), "--run_dir is one folder, and each run"),
        (("--vary", f"{LR}=0.1..0.2", "--runs=0"), "--runs 0 must be at least 1"),
        (("--vary", f"{LR}=0.1..0.2", "--output=tiny.yaml"), "tiny.yaml exists; choose another"),
    ],
)
def test_wrong_input(project: Path, arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in run(project, "sweep", "--config", "tiny.yaml", *arguments).complaint
    assert not (project / "sweep.yaml").exists()
