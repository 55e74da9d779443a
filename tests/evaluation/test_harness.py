"""HarnessModel, held to the harness's own `hf` model on the exported folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

# Before the libraries are imported, which read it once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lit_gpt_kit import GPT, GPTConfig, InputError, Tokenizer, load_model
from lit_gpt_kit.checkpoints.export import export_folder
from lit_gpt_kit.evaluation.harness import HarnessModel
from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer
from tests.smollm2 import smollm2_gguf

TEXT = "the quick brown fox jumps over the lazy dog and runs away from it. "
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TASKS = {
    "choose": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{right}}"
num_fewshot: 1
fewshot_split: test
fewshot_config: {sampler: first_n}
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "read": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "write": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
ROWS = [
    {
        "question": question,
        "choices": ["a", "b", " the dog", " dogs"],
        "right": number % 4,
        "text": TEXT * (number + 1) + question,
        "answer": "the",
    }
    for number, question in enumerate(
        ["what runs away?", "Who is it", "the fox jumps over the ", TEXT * 3, "猫が好き? über"]
    )
]


def write_tasks(folder: Path, **changes: str) -> TaskManager:
    """Tasks on a local file, as a person writes them."""
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "rows.jsonl").write_text(rows)
    for name, text in {**TASKS, **changes}.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\ndataset_kwargs:\n"
            f"  data_files: {{test: {folder / 'rows.jsonl'}}}\n  cache_dir: {folder / 'cache'}\n"
            f"{text}"
        )
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluate(model: Any, tasks: TaskManager, names: Iterable[str] = TASKS, **options: Any) -> Any:
    settings: dict[str, Any] = {"tasks": list(names), "bootstrap_iters": 0, **options}
    return lm_eval.simple_evaluate(model=model, task_manager=tasks, **settings)


def responses(results: Any) -> dict[str, list[Any]]:
    """Every answer of the model, not the metrics alone."""
    return {name: [s["resps"] for s in rows] for name, rows in results["samples"].items()}


def numbers_of(values: Any) -> list[Any]:
    """Nested answers as a flat list."""
    if isinstance(values, (list, tuple)):
        return [number for value in values for number in numbers_of(value)]
    return [values]


def byte_level(template: str | None = None) -> Tokenizer:
    config = TokenizerConfig("bpe", vocab_size=300, special_tokens=("<|endoftext|>", "<|end|>"))
    tokenizer = train_tokenizer(config, [TEXT])
    tokenizer.chat_template = template
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Llama 2's kind: spaces spelled ▁, every text behind a begin token."""
    pieces = ["<unk>", *sorted(set(TEXT + "▁?Who")), "▁t", "th"]
    vocab = {token: number for number, token in enumerate(pieces)}
    backend = Backend(models.BPE(vocab, [("▁", "t"), ("t", "h")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>"])
    begin = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", begin)]
    )
    return Tokenizer(backend, "</s>", begin_token="<s>")


def make_model(folder: Path, tokenizer: Tokenizer) -> Path:
    """A tiny exported model that has opinions, and knows the letters of TEXT alone."""
    config = GPTConfig(
        tokenizer.vocab_size,
        num_layers=2,
        num_heads=2,
        embed_dim=16,
        block_size=64,
        end_token_id=tokenizer.end_id,
    )
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        unknown = set(range(tokenizer.vocab_size)) - set(tokenizer.encode(TEXT))
        model.token_embedding.weight[sorted(unknown)] *= 0.1
    export_folder(model, tokenizer, folder)
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")


def check_same(ours: Any, theirs: Any) -> None:
    """Both gave the same answers, and the harness made the same metrics of them."""
    for name, expected in responses(theirs).items():
        for actual, wanted in zip(
            numbers_of(responses(ours)[name]), numbers_of(expected), strict=True
        ):
            is_number = isinstance(wanted, float)
            assert actual == (pytest.approx(wanted, abs=1e-3) if is_number else wanted), name
        scores = {k: v for k, v in theirs["results"][name].items() if isinstance(v, float)}
        for metric, value in scores.items():
            assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric


@pytest.mark.parametrize("kind", [byte_level, sentence_piece])
def test_every_answer_is_that_of_the_hf_model(tmp_path: Path, kind: Any) -> None:
    folder = make_model(tmp_path / "model", kind())
    our_model = HarnessModel(folder, batch_size=3)
    their_model = HFLM(pretrained=str(folder), batch_size=2, device="cpu")
    tasks = write_tasks(tmp_path)
    ours, theirs = evaluate(our_model, tasks), evaluate(their_model, tasks)
    check_same(ours, theirs)
    assert {"acc,none", "acc_norm,none"} < set(ours["results"]["choose"])
    assert {"word_perplexity,none", "bits_per_byte,none"} < set(ours["results"]["read"])

    # Again with stop texts that come.
    texts = numbers_of(responses(ours)["write"])
    assert len(set(texts)) > 1
    kwargs = {"until": [texts[0][2:4], texts[1][5]], "max_gen_toks": 12, "do_sample": False}
    options: dict[str, Any] = {"names": ["write"], "gen_kwargs": kwargs}
    ours, theirs = evaluate(our_model, tasks, **options), evaluate(their_model, tasks, **options)
    check_same(ours, theirs)
    assert len(numbers_of(responses(ours)["write"])[0]) <= 2


def test_chat_templates_are_laid_out_as_the_hf_model_does(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", byte_level(TEMPLATE))
    our_model = HarnessModel(folder)
    their_model = HFLM(pretrained=str(folder), device="cpu")
    options = {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "system_instruction": "Be",
    }
    tasks = write_tasks(tmp_path)
    names = ["choose", "write"]
    ours = evaluate(our_model, tasks, names, **options)
    theirs = evaluate(their_model, tasks, names, **options)
    check_same(ours, theirs)
    prompt = ours["samples"]["choose"][1]["arguments"][0][0]
    assert prompt.startswith("[system]Be<|end|>[user]what runs away?<|end|>[assistant]a<|end|>")
    assert prompt == theirs["samples"]["choose"][1]["arguments"][0][0]
    assert ours["config"]["model"] == "HarnessModel"
    assert our_model.tokenizer_name == their_model.tokenizer_name

    open_end = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "The fox"}]
    text = our_model.apply_chat_template(open_end, add_generation_prompt=False)
    assert text == "[user]who?<|end|>[assistant]The fox"
    assert text == their_model.apply_chat_template(open_end, add_generation_prompt=False)


def generation(text: str, **options: Any) -> Instance:
    return Instance("generate_until", {}, (text, options), 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HarnessModel:
    return HarnessModel(make_model(tmp_path_factory.mktemp("harness") / "model", byte_level()))


def test_sampling_follows_torchs_seed(model: HarnessModel) -> None:
    requests = [generation(TEXT, temperature=2.0, top_k=20, max_gen_toks=20)] * 2
    texts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        texts.append(model.generate_until(requests))
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]  # the harness asks again to see another answer


def test_nothing_is_scored_as_certain(model: HarnessModel) -> None:
    empty = Instance("loglikelihood_rolling", {}, ("",), 0)
    assert model.loglikelihood_rolling([empty], disable_tqdm=True) == [0.0]
    empty = Instance("loglikelihood", {}, ("the", ""), 0)
    assert model.loglikelihood([empty], disable_tqdm=True) == [(0.0, True)]
    spaces = Instance("loglikelihood", {}, (" ", "the"), 0)
    ((score, _),) = model.loglikelihood([spaces], disable_tqdm=True)
    whole = Instance("loglikelihood_rolling", {}, (" the",), 0)
    assert model.loglikelihood_rolling([whole], disable_tqdm=True) == pytest.approx([score])


def test_wrong_input_gets_one_line(model: HarnessModel) -> None:
    with pytest.raises(InputError, match="num_beams=4 is not known here"):
        model.generate_until([generation("the", num_beams=4)])
    with pytest.raises(
        InputError, match="max_gen_toks=64 leaves no room for a question in the mod"
    ):
        model.generate_until([generation("the", max_gen_toks=64)])
    long = Instance("loglikelihood", {}, ("the", TEXT * 9), 0)
    with pytest.raises(
        InputError, match=r"an answer of \d+ tokens is longer than the model's max_"
    ):
        model.loglikelihood([long], disable_tqdm=True)
    with pytest.raises(InputError, match="max_length=65 must be 1 to the model's 64"):
        HarnessModel(model.name, max_length=65)


def test_a_missing_library_gets_one_line() -> None:
    program = (
        "import sys\n"
        "sys.modules['lm_eval'] = None\n"
        "from lit_gpt_kit import InputError\n"
        "try:\n"
        "    import lit_gpt_kit.evaluation.harness\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    line = "HarnessModel needs lm-evaluation-harness; pip install 'lit-gpt-kit[eval]'"
    assert done.stdout.decode().strip() == line


@pytest.mark.slow
def test_a_real_model_scores_as_the_hf_model_does(tmp_path: Path) -> None:
    path = smollm2_gguf()
    export_folder(*load_model(path), tmp_path / "folder")
    tasks = write_tasks(tmp_path)
    our_model = HarnessModel(path, max_length=512)
    their_model = HFLM(pretrained=str(tmp_path / "folder"), device="cpu", max_length=512)
    check_same(evaluate(our_model, tasks), evaluate(their_model, tasks))
    options = {"apply_chat_template": True, "gen_kwargs": {"until": ["."], "max_gen_toks": 24}}
    ours = evaluate(our_model, tasks, ["choose", "write"], **options)
    theirs = evaluate(their_model, tasks, ["choose", "write"], **options)
    check_same(ours, theirs)
    assert any(" " in text for text in numbers_of(responses(ours)["write"]))
