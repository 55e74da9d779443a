"""`lit-gpt generate`: prompts in, text that streams or JSON lines out."""

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import SamplingConfig, generate, load_model
from tests.cli.conftest import FinishedRun
from tests.command import run, run_in_terminal, run_process

GREEDY = ("--temperature=0", "--max_new_tokens=12")


def continuation(run_dir: Path, prompt: str, **options: object) -> str:
    """What the model of a run writes, by the library alone."""
    model, tokenizer = load_model(run_dir)
    config = SamplingConfig(**{"top_k": 50, "temperature": 0.8, **options})  # type: ignore[arg-type]
    (ids,) = generate(model, [tokenizer.encode(prompt)], config, tokenizer)
    return tokenizer.decode(ids)


def test_prints_the_prompt_and_its_continuation(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the fox")
    result = run(finished.project, *arguments, *GREEDY)
    expected = continuation(finished.run_dir, "the fox", temperature=0.0, max_new_tokens=12)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"the fox{expected}\n"
    assert len(expected) == 12


@pytest.mark.parametrize("place", ["", "checkpoints/best.ckpt", "checkpoints/last.ckpt"])
def test_model_is_a_run_folder_or_a_checkpoint(place: str, finished: FinishedRun) -> None:
    model = finished.run_dir / place
    result = run(finished.project, "generate", str(model), "--prompt", "the", *GREEDY)
    expected = continuation(model, "the", temperature=0.0, max_new_tokens=12)
    assert result.out == f"the{expected}\n"


def test_prompt_comes_from_a_pipe(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), *GREEDY)
    piped = run(finished.project, *arguments, stdin="the fox\n")
    assert piped.status == 0, piped.err
    assert piped.out == run(finished.project, *arguments, "--prompt", "the fox").out


def test_same_seed_gives_the_same_text(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", "--max_new_tokens=30")
    texts = [run(finished.project, *arguments, f"--seed={seed}").out for seed in (1, 1, 2)]
    expected = continuation(finished.run_dir, "the", seed=1, max_new_tokens=30)
    assert texts[0] == texts[1] == f"the{expected}\n"
    assert texts[2] != texts[0]
    assert run(finished.project, *arguments).out != run(finished.project, *arguments).out


@pytest.mark.parametrize(
    "flags",
    [["--top_k=1"], ["--top_p=0.000001"], ["--min_p=0.9999"], ["--temperature=0.00001"]],
    ids=lambda flags: flags[0],
)
def test_each_way_of_narrowing_ends_in_greedy(flags: list[str], finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", "--max_new_tokens=12")
    assert run(finished.project, *arguments, "--top_k=null", *flags).out == (
        run(finished.project, *arguments, "--temperature=0").out
    )


def test_repetition_penalty_reaches_the_model(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", *GREEDY)
    result = run(finished.project, *arguments, "--repetition_penalty=1000")
    expected = continuation(
        finished.run_dir, "the", temperature=0.0, max_new_tokens=12, repetition_penalty=1000.0
    )
    assert result.out == f"the{expected}\n"
    assert result.out != run(finished.project, *arguments).out


def test_stop_texts_end_it_and_are_not_printed(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", "--seed=3")
    whole = run(finished.project, *arguments, "--max_new_tokens=40").out.removeprefix("the")
    stop = whole[10:12]
    result = run(finished.project, *arguments, "--max_new_tokens=40", "--stop", "never", stop)
    assert result.out == f"the{whole[: whole.index(stop)]}\n"


def test_several_samples_are_numbered(finished: FinishedRun) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", "--max_new_tokens=20")
    result = run(finished.project, *arguments, "--num_samples=3", "--seed=0")
    assert result.status == 0, result.err
    parts = result.out.split("--- ")
    assert parts[0] == ""
    assert [part.partition(" ---\n")[0] for part in parts[1:]] == ["1 of 3", "2 of 3", "3 of 3"]
    texts = [part.partition(" ---\n")[2] for part in parts[1:]]
    assert all(text.startswith("the") for text in texts)
    assert len(set(texts)) == 3


def test_output_holds_an_object_a_sample(finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("the fox\n\nthe dog\n")
    flags = ("--prompts_file=prompts.txt", "--output=out.jsonl", "--num_samples=2", "--seed=5")
    result = run(tmp_path, "generate", str(finished.run_dir), *flags, "--max_new_tokens=8")
    assert (result.status, result.err) == (0, "")
    assert result.out == "4 continuations written to out.jsonl\n"
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["the fox", "the dog"] * 2
    assert all(set(row) == {"prompt", "text", "num_tokens", "finish_reason"} for row in rows)
    for row in rows[:2]:
        assert row["text"] == continuation(
            finished.run_dir, row["prompt"], seed=5, max_new_tokens=8
        )
    assert rows[0]["text"] != rows[2]["text"]
    lengths = [(row["num_tokens"], row["finish_reason"]) for row in rows]
    assert all(pair == (8, "length") or pair[1] == "end" for pair in lengths)


def test_finish_reason_is_stop_where_a_stop_text_came(
    finished: FinishedRun, tmp_path: Path
) -> None:
    text = continuation(finished.run_dir, "the", temperature=0.0, max_new_tokens=8)
    flags = ("--prompt", "the", "--temperature=0", "--max_new_tokens=8", "--stop", text[0])
    run(tmp_path, "generate", str(finished.run_dir), *flags, "--output=out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (row["text"], row["num_tokens"], row["finish_reason"]) == ("", 0, "stop")


@pytest.mark.parametrize(
    ("flags", "dtype"), [([], torch.float32), (["--precision=bf16"], torch.bfloat16)]
)
def test_precision_is_that_of_the_weights(
    flags: list[str], dtype: torch.dtype, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = []

    def spy(*args: Any) -> Any:
        model, tokenizer = load_model(*args)
        dtypes.extend({parameter.dtype for parameter in model.parameters()})
        return model, tokenizer

    monkeypatch.setattr("lit_gpt_kit.checkpoints.load.load_model", spy)
    arguments = ("generate", str(finished.run_dir), "--prompt", "the", *GREEDY, *flags)
    assert run(finished.project, *arguments).status == 0
    assert dtypes == [dtype]


def test_without_a_terminal_text_is_plain(finished: FinishedRun, tmp_path: Path) -> None:
    result = run_process(tmp_path, "generate", str(finished.run_dir), stdin=subprocess.DEVNULL)
    assert result.status == 0, result.err
    assert result.err == ""
    assert "\x1b" not in result.out
    assert len(result.out) > 20


def test_text_streams_to_a_terminal(finished: FinishedRun, tmp_path: Path) -> None:
    arguments = ("generate", str(finished.run_dir), "--prompt=the", *GREEDY[:1])
    status, chunks = run_in_terminal(tmp_path, *arguments)
    text = b"".join(chunks).decode().replace("\r\n", "\n")
    assert status == 0, text
    assert text == f"the{continuation(finished.run_dir, 'the', temperature=0.0)}\n"
    assert chunks[0].startswith(b"the")
    assert len(chunks) > 10  # it came in pieces, not at the end


def test_terminal_is_not_waited_for(finished: FinishedRun, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    result = run_process(tmp_path, "generate", str(finished.run_dir), stdin=terminal)
    os.close(terminal)
    os.close(controller)
    assert (
        result.complaint == "there is no prompt; give --prompt TEXT, or --prompts_file, or a pipe"
    )
