"""The table of the runs."""

from pathlib import Path

from lit_gpt_kit.report.run import read_runs
from lit_gpt_kit.report.table import last_and_best, tabulate
from tests.report.made import CONFIG, write_metrics, write_run


def test_a_line_a_run_and_only_columns_of_which_something_is_known(tmp_path: Path) -> None:
    hardware = {"cpu": "Some CPU", "num_gpus": 0}
    facts = {"started": "2026-01-02T03:04:05+00:00", "hardware": hardware}
    write_run(tmp_path / "a", facts=facts)
    (tmp_path / "b").mkdir()
    write_metrics(tmp_path / "b", num_steps=9)
    heads, lines = tabulate(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert [dict(zip(heads, line, strict=True)) for line in lines] == [
        {
            "run": "a",
            "started": "2026-01-02 03:04 UTC",
            "model": "2 layers, width 16",
            "steps": "100",
            "tokens": "3,200",
            "best val/loss": "2.0000 at step 100",
            "last val/loss": "2.0000",
            "training": "0:00:50",
            "device": "Some CPU",
            "last val/accuracy": "0.5",
        },
        {
            "run": "b",
            "started": "",
            "model": "",
            "steps": "9",
            "tokens": "288",
            "best val/loss": "",
            "last val/loss": "",
            "training": "0:00:04",
            "device": "",
            "last val/accuracy": "",
        },
    ]


def test_devices_are_counted_by_name(tmp_path: Path) -> None:
    gpus = [{"name": "NVIDIA H100", "memory_bytes": 1}] * 2
    facts = {"hardware": {"cpu": "Some CPU", "num_gpus": 2, "gpus": gpus}}
    heads, (line,) = tabulate(read_runs([write_run(tmp_path / "a", facts=facts)]))
    assert line[heads.index("device")] == "2 x NVIDIA H100"


def test_a_pretrained_model_is_called_by_its_name(tmp_path: Path) -> None:
    shown = []
    for number, name in enumerate(["Some/Model-1B", "/home/me/models/one.gguf"]):
        config = {**CONFIG, "model": {"init_args": {"pretrained": name}}}
        heads, (line,) = tabulate(read_runs([write_run(tmp_path / str(number), config)]))
        shown.append(line[heads.index("model")])
    assert shown == ["Some/Model-1B", "one.gguf"]


def test_best_is_lowest_of_losses_and_highest_of_scores(tmp_path: Path) -> None:
    rows = "1,2.5,0.25,7,12345.6\n2,1.5,0.75,8,\n3,2,0.5,9,\n"
    head = "step,val/loss,val/f1,val/length,train/tokens\n"
    (tmp_path / "metrics.csv").write_text(head + rows)
    (run,) = read_runs([tmp_path])
    assert last_and_best(run) == [
        ("val/loss", "2", "1.5", "step 2"),
        ("val/f1", "0.5", "0.75", "step 2"),
        ("val/length", "9", "", ""),  # nobody knows which way is better
        ("train/tokens", "12,346", "", ""),
    ]
