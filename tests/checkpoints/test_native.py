"""Our checkpoints hold all that is needed, run nothing, and are whole or refused."""

import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_gpt_kit import GPT, GPTConfig, LanguageModeling
from lit_gpt_kit.checkpoints.native import (
    FORMAT_VERSION,
    KEY,
    DamagedCheckpointError,
    describe_into,
    read_checkpoint,
    read_description,
)
from lit_gpt_kit.checkpoints.seal import save_sealed
from lit_gpt_kit.errors import InputError, MissingFileError
from lit_gpt_kit.tokenization.tokenizer import Tokenizer

PRIMITIVES = (torch.Tensor, str, int, float, bool, type(None))
CUT_SHORT = (
    "is not a whole checkpoint, it was cut short or altered; there is no whole one beside it"
)


class WritesFile:
    """Unpickling it writes a file, as a hostile pickle would do worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').write('it ran')",)


def load_unsafely(path: Path) -> None:
    torch.load(path, weights_only=False)


def pickle_into(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def unpickle(path: Path) -> None:
    pickle.loads(path.read_bytes())


def assert_primitive(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert isinstance(key, str | int)
            assert_primitive(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_primitive(item)
    else:
        assert type(value) in PRIMITIVES or isinstance(value, torch.Tensor), type(value)


def test_a_run_is_read_without_running_code(run: Any) -> None:
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    assert_primitive(checkpoint)
    assert checkpoint["global_step"] == 3
    assert checkpoint[KEY]["format_version"] == FORMAT_VERSION
    weights = {name.removeprefix("model."): w for name, w in checkpoint["state_dict"].items()}
    assert weights.keys() == run.task.network.state_dict().keys()


def test_a_run_describes_its_network_and_tokenizer(run: Any) -> None:
    description = read_description(read_checkpoint(run.checkpoint))
    assert description.config == run.task.gpt == run.task.network.config
    assert description.config.vocab_size == 270
    assert description.tokenizer is not None
    assert description.tokenizer.fingerprint == run.task.tokenizer.fingerprint
    assert description.config.end_token_id == description.tokenizer.end_id
    text = "the lazy fox 🦊"
    assert description.tokenizer.decode(description.tokenizer.encode(text)) == text


def test_load_from_checkpoint_needs_nothing_else(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = LanguageModeling.load_from_checkpoint(run.checkpoint).eval()
    tokens = torch.randint(270, (2, 8))
    with torch.no_grad():
        assert torch.equal(task(tokens), run.task(tokens))
    assert task.num_tokens_seen == run.task.num_tokens_seen == 3 * 4 * 8
    sampling: dict[str, Any] = {"max_new_tokens": 20, "seed": 0}
    text = task.generate("the quick", **sampling)
    assert text == run.task.generate("the quick", **sampling)
    assert len(text) >= 10


def test_a_description_without_tokenizer() -> None:
    checkpoint: dict[str, Any] = {}
    config = GPTConfig(vocab_size=17, num_layers=3, position="rotary", num_kv_heads=4)
    describe_into(checkpoint, config, tokenizer=None)
    description = read_description(checkpoint)
    assert description.config == config
    assert description.tokenizer is None


def test_a_tokenizer_keeps_all_it_knows(byte_tokenizer: Tokenizer) -> None:
    tokenizer = Tokenizer(byte_tokenizer.backend, "<|endoftext|>", chat_template="{{ messages }}")
    checkpoint: dict[str, Any] = {}
    describe_into(checkpoint, GPTConfig(vocab_size=257), tokenizer)
    saved = read_description(checkpoint).tokenizer
    assert saved is not None
    assert saved.state() == tokenizer.state()
    assert (saved.end_id, saved.chat_template) == (256, "{{ messages }}")


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_is_refused(run: Any, tmp_path: Path, share: float) -> None:
    whole = run.checkpoint.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} {CUT_SHORT}"


@pytest.mark.parametrize("lost", [1, 2, 21, 22, 23, 100])
def test_even_the_last_byte_counts(run: Any, tmp_path: Path, lost: int) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(run.checkpoint.read_bytes()[:-lost])
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} {CUT_SHORT}"


@pytest.mark.parametrize("start", range(64, 4000, 400))
def test_a_damaged_file_is_refused(run: Any, tmp_path: Path, start: int) -> None:
    damaged = bytearray(run.checkpoint.read_bytes())
    damaged[start : start + 300] = bytes(byte ^ 0xA5 for byte in damaged[start : start + 300])
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"is not a whole checkpoint|more than tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("write", "read_unsafely", "reason"),
    [
        pytest.param(
            torch.save,
            load_unsafely,
            "holds more than tensors and primitives: exec, which could run code when it is read; "
            "it was not read",
            id="torch file",
        ),
        pytest.param(pickle_into, unpickle, CUT_SHORT, id="bare pickle"),
    ],
)
def test_code_in_a_file_does_not_run(
    tmp_path: Path,
    write: Callable[[Any, Path], None],
    read_unsafely: Callable[[Path], None],
    reason: str,
) -> None:
    path, proof = tmp_path / "hostile.ckpt", tmp_path / "proof"
    write({"state_dict": {}, KEY: WritesFile(proof)}, path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} {reason}"
    assert not proof.exists()
    read_unsafely(path)
    assert proof.read_text() == "it ran"


def test_a_task_is_loaded_without_running_code(run: Any, tmp_path: Path) -> None:
    path, proof = tmp_path / "hostile.ckpt", tmp_path / "proof"
    torch.save({**torch.load(run.checkpoint, weights_only=True), "x": WritesFile(proof)}, path)
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL"):
        LanguageModeling.load_from_checkpoint(path)
    assert not proof.exists()


def test_the_newest_whole_one_beside_a_damaged_one_is_named(run: Any, tmp_path: Path) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    paths = [tmp_path / name for name in ("sealed.ckpt", "plain.ckpt", "cut.ckpt", "last.ckpt")]
    sealed, plain, cut, last = paths
    save_sealed(content, sealed)
    torch.save(content, plain)
    for path in (cut, last):
        path.write_bytes(run.checkpoint.read_bytes()[:-1000])
    (tmp_path / "notes.txt").write_text("newer, but no checkpoint")
    for newest, named in ((paths, plain), ((plain, sealed, cut, last), sealed)):
        for age, path in enumerate(newest):
            os.utime(path, (age, age))
        with pytest.raises(DamagedCheckpointError) as caught:
            read_checkpoint(last)
        assert caught.value.other == named
        assert str(caught.value) == (
            f"{last} is not a whole checkpoint, it was cut short or altered; "
            f"the newest whole one beside it is {named}"
        )


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_bit_of_a_sealed_file_is_noticed(run: Any, tmp_path: Path, place: float) -> None:
    """Among the numbers of a tensor no reader would."""
    path = tmp_path / "altered.ckpt"
    save_sealed(torch.load(run.checkpoint, weights_only=True), path)
    altered = bytearray(path.read_bytes())
    altered[int(len(altered) * place)] ^= 1
    other = tmp_path / "other" / "altered.ckpt"
    other.parent.mkdir()
    other.write_bytes(altered)
    with pytest.raises(InputError) as caught:
        read_checkpoint(other)
    assert str(caught.value) == f"{other} {CUT_SHORT}"


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("the quick brown fox\n")
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} {CUT_SHORT}"


def test_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "list.ckpt"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} is not a checkpoint: it holds a list"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(MissingFileError) as caught:
            read_checkpoint(path)
        assert str(caught.value) == f"checkpoint {path} does not exist"


def test_another_programs_checkpoint_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        read_description({"state_dict": {}, "pytorch-lightning_version": "2.6.6"}, "x.ckpt")
    assert str(caught.value) == "x.ckpt was not written by lit-gpt: it has no 'lit_gpt_kit' entry"


@pytest.mark.parametrize("entry", [{"gpt": asdict(GPTConfig())}, {"network": "something new"}])
def test_a_newer_format_is_refused(entry: dict[str, Any]) -> None:
    newer = FORMAT_VERSION + 1
    with pytest.raises(InputError) as caught:
        read_description({KEY: {"format_version": newer, **entry}}, "x.ckpt")
    assert str(caught.value) == (
        f"x.ckpt is of format {newer}, newer than format {FORMAT_VERSION} that this release reads; "
        "upgrade lit-gpt-kit"
    )


def test_a_field_of_a_newer_release_is_named() -> None:
    checkpoint: dict[str, Any] = {}
    describe_into(checkpoint, GPTConfig(vocab_size=17), tokenizer=None)
    checkpoint[KEY]["gpt"] |= {"use_telepathy": True, "num_eyes": 3}
    with pytest.raises(InputError) as caught:
        read_description(checkpoint, "x.ckpt")
    assert str(caught.value) == (
        "x.ckpt was written by a newer release: this one does not know num_eyes, use_telepathy; "
        "upgrade lit-gpt-kit"
    )


def test_a_field_that_is_not_saved_has_its_default(
    save_network: Callable[..., tuple[Path, GPT]],
) -> None:
    path, model = save_network()
    checkpoint = read_checkpoint(path)
    del checkpoint[KEY]["gpt"]["rope_theta"]  # as an older release might have written it
    assert read_description(checkpoint).config == model.config
