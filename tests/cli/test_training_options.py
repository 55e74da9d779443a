"""What training can be told beside the network, by configuration alone."""

from pathlib import Path

import pytest
import torch
import yaml

from lit_gpt_kit import load_model
from tests.command import run
from tests.run_dir import without_speed

OPTIONS = {
    "trainer": {
        "callbacks": [
            {"class_path": "lit_gpt_kit.callbacks.ema.EMAWeights", "init_args": {"decay": 0.5}}
        ]
    },
    "model": {
        "init_args": {
            "gpt": {"value_embedding_layers": [1], "pad_vocab_to_multiple_of": 64},
            "window_warmup": {"start": 4, "steps": 4},
        }
    },
    "data": {"init_args": {"batch_warmup": {"start": 1, "steps": 5}}},
}


@pytest.fixture
def options(project: Path) -> tuple[str, ...]:
    (project / "options.yaml").write_text(yaml.safe_dump(OPTIONS))
    return ("fit", "--config", "tiny.yaml", "--config", "options.yaml")


@pytest.mark.slow
def test_a_run_with_all_of_them_goes_on_exactly(project: Path, options: tuple[str, ...]) -> None:
    through = run(project, *options, "--run_dir", "through")
    assert through.status == 0, through.err
    assert "of up to 64 tokens" in through.out
    first = run(project, *options, "--run_dir", "stopped", "--trainer.max_steps=3",
                "--model.lr_schedule.total_steps=6")  # fmt: skip
    assert first.status == 0, first.err
    then = run(project, *options, "--run_dir", "stopped", "--ckpt_path", "last")
    assert then.status == 0, then.err
    ends = [project / name / "checkpoints" / "last.ckpt" for name in ("through", "stopped")]
    one, other = (torch.load(path, weights_only=True) for path in ends)
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    assert without_speed(project / "through") == without_speed(project / "stopped")

    model, tokenizer = load_model(str(project / "through"))
    assert model.config.vocab_size == tokenizer.vocab_size == 257
    assert model.lm_head.out_features == 320
    said = run(project, "generate", "through", "--prompt", "the quick", "--max_new_tokens", "5")
    assert said.status == 0, said.err
    assert said.out.startswith("the quick")


def test_a_batch_that_growth_does_not_come_out_at_is_refused(
    project: Path, options: tuple[str, ...]
) -> None:
    result = run(project, *options, "--data.batch_warmup.start=3")
    assert result.complaint == (
        "the 4 rows of a step are not a multiple of batch_warmup.start=3; batches grow by that "
        "many rows at a time"
    )


def test_a_window_that_does_not_double_is_refused(project: Path, options: tuple[str, ...]) -> None:
    result = run(project, *options, "--model.window_warmup.start=3")
    assert result.complaint == (
        "window_warmup.start=3 does not come to rows of 16 tokens by doubling; choose another start"
    )
    assert not (project / "runs").exists()
