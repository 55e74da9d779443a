"""The whole network: against transformers, and the properties it must have."""

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_gpt_kit.errors import InputError
from lit_gpt_kit.model.config import GPTConfig, PositionKind
from lit_gpt_kit.model.gpt import GPT

BuildGPT = Callable[..., GPT]
POSITIONS = get_args(PositionKind)
MODERN = {
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "position": "rotary",
    "use_bias": False,
    "tie_embeddings": False,
}


def randomise(model: nn.Module) -> dict[str, Tensor]:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().state_dict()


def assert_same_logits(ours: GPT, theirs: Any) -> None:
    tokens = torch.randint(ours.token_embedding.num_embeddings, (3, 16))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(ours.eval()(tokens), expected, rtol=0, atol=1e-4)
    assert ours.num_parameters() == theirs.num_parameters()


@pytest.mark.parametrize(
    ("mlp", "activation"), [("gelu_tanh", "gelu_new"), ("gelu", "gelu"), ("relu2", "relu2")]
)
def test_gpt2_agrees_with_transformers(random_gpt: BuildGPT, mlp: str, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 17, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            **shape, activation_function=activation, bos_token_id=0, eos_token_id=0
        )
    )
    source, ours = randomise(theirs), random_gpt(mlp=mlp)
    weights = {
        "token_embedding.weight": source["transformer.wte.weight"],
        "lm_head.weight": source["transformer.wte.weight"],
        "position_embedding.weight": source["transformer.wpe.weight"],
        "norm.weight": source["transformer.ln_f.weight"],
        "norm.bias": source["transformer.ln_f.bias"],
    }
    parts = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for layer in range(2):
        for our_part, their_part in parts.items():
            for kind in ("weight", "bias"):
                tensor = source[f"transformer.h.{layer}.{their_part}.{kind}"]
                # GPT-2 stores (in, out); Linear wants (out, in).
                weights[f"blocks.{layer}.{our_part}.{kind}"] = (
                    tensor.T if tensor.ndim == 2 else tensor
                )
    ours.load_state_dict(weights)
    assert_same_logits(ours, theirs)


def load_llama_layout(ours: GPT, source: dict[str, Tensor], use_qk_norm: bool) -> None:
    weights = {
        "token_embedding.weight": source["model.embed_tokens.weight"],
        "lm_head.weight": source["lm_head.weight"],
        "norm.weight": source["model.norm.weight"],
    }
    parts = {
        "attention_norm": "input_layernorm",
        "attention.out": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    }
    if use_qk_norm:
        parts |= {
            "attention.q_norm": "self_attn.q_norm",
            "attention.k_norm": "self_attn.k_norm",
        }
    for layer in range(len(ours.blocks)):
        block, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for our_part, their_part in parts.items():
            weights[f"{block}.{our_part}.weight"] = source[f"{theirs}.{their_part}.weight"]
        qkv = [source[f"{theirs}.self_attn.{part}_proj.weight"] for part in "qkv"]
        weights[f"{block}.attention.qkv.weight"] = torch.cat(qkv)
    ours.load_state_dict(weights)


@pytest.mark.parametrize(
    ("family", "mlp", "activation", "num_kv_heads", "head_dim"),
    [
        ("Llama", "swiglu", "silu", 4, 8),
        ("Llama", "swiglu", "silu", 2, 8),
        ("Llama", "geglu", "gelu", 1, 8),
        ("Qwen3", "swiglu", "silu", 2, 12),
    ],
)
def test_llama_and_qwen3_agree_with_transformers(
    random_gpt: BuildGPT, family: str, mlp: str, activation: str, num_kv_heads: int, head_dim: int
) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=17,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        hidden_act=activation,
        max_position_embeddings=16,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = getattr(transformers, f"{family}ForCausalLM")(config)
    use_qk_norm = family == "Qwen3"
    shape = {"num_kv_heads": num_kv_heads, "head_dim": head_dim, "mlp_dim": 40}
    numbers = {"norm_eps": 1e-3, "rope_theta": 300.0, "use_qk_norm": use_qk_norm}
    ours = random_gpt(**(MODERN | shape | numbers | {"mlp": mlp}))
    load_llama_layout(ours, randomise(theirs), use_qk_norm)
    assert_same_logits(ours, theirs)


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(place=st.integers(0, 11), token=st.integers(0, 16), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("position", POSITIONS)
def test_a_token_changes_no_logits_before_it(
    random_gpt: BuildGPT, position: str, place: int, token: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model, tokens = random_gpt(position=position, num_kv_heads=2), torch.randint(17, (1, 12))
    changed = tokens.clone()
    changed[0, place] = token
    before, after = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(after[:place], before[:place], rtol=0, atol=1e-6)
    if tokens[0, place] != token:
        # All later tokens see it.
        assert ((after[place:] - before[place:]).abs().amax(-1) > 1e-6).all()


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda n: sum(n) <= 16),
    ids=st.permutations(range(5)),
)
@pytest.mark.parametrize("position", POSITIONS)
def test_packed_documents_score_as_each_alone(
    random_gpt: BuildGPT, position: str, lengths: list[int], ids: list[int]
) -> None:
    model = random_gpt(position=position, num_kv_heads=2)
    names = torch.tensor(ids[: len(lengths)]).repeat_interleave(torch.tensor(lengths))
    tokens = torch.randint(17, (2, len(names)))
    # The second row holds the same documents the other way round.
    packed = model(tokens, document_ids=torch.stack([names, names.flip(0)]))
    for row, row_lengths in enumerate((lengths, lengths[::-1])):
        documents = tokens[row].split(row_lengths)
        for document, logits in zip(documents, packed[row].split(row_lengths), strict=True):
            torch.testing.assert_close(logits, model(document[None])[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_the_network_knows_order_through_positions_alone(
    random_gpt: BuildGPT, position: str
) -> None:
    model = random_gpt(position=position, num_layers=1)
    tokens = torch.tensor([[3, 9, 1, 5]])
    apart = (model(tokens)[0, -1] - model(tokens[:, [1, 0, 2, 3]])[0, -1]).abs().max()
    assert (apart < 1e-6) if position == "none" else (apart > 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_blocks_read_embedding_plus_position(random_gpt: BuildGPT, position: str) -> None:
    model, read = random_gpt(position=position), []
    model.blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    tokens = torch.tensor([[4, 4, 2, 0], [1, 16, 1, 1]])
    model(tokens)
    expected = model.token_embedding.weight[tokens]
    if position == "learned":
        expected = expected + model.position_embedding.weight[:4]
    if position == "sinusoidal":
        expected = expected + model.position_embedding.table[:4]
    torch.testing.assert_close(read[0], expected)


@torch.no_grad()
def test_logits_are_the_head_of_the_hidden_states(random_gpt: BuildGPT) -> None:
    model, tokens = random_gpt(), torch.randint(17, (2, 9))
    hidden = model.hidden_states(tokens)
    assert hidden.shape == (2, 9, 32)
    torch.testing.assert_close(model(tokens), hidden @ model.token_embedding.weight.T)


@pytest.mark.parametrize("changes", [{}, MODERN], ids=["gpt2", "modern"])
def test_gpt2_initialisation(changes: dict[str, Any]) -> None:
    model = GPT(
        GPTConfig(
            vocab_size=300,
            block_size=64,
            num_layers=3,
            num_heads=4,
            embed_dim=64,
            init_std=0.05,
            **changes,
        )
    )
    seen = set()
    for name, parameter in model.named_parameters():
        kind = name.split(".", 2)[-1] if name.startswith("blocks.") else name
        seen.add(kind)
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter))
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            is_projection = kind in {"attention.out.weight", "mlp.down.weight"}
            expected = 0.05 / (2 * 3) ** 0.5 if is_projection else 0.05
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert parameter.mean().item() == pytest.approx(0, abs=0.05 * expected), name
    matrices = {"token_embedding", "attention.qkv", "attention.out", "mlp.up", "mlp.down"}
    matrices |= {"mlp.gate", "lm_head"} if changes else {"position_embedding"}
    assert {f"{matrix}.weight" for matrix in matrices} <= seen


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, MODERN], ids=["gpt2", "modern"])
def test_zero_projection_makes_each_block_the_identity(changes: dict[str, Any]) -> None:
    shape = {"vocab_size": 17, "num_layers": 3, "num_heads": 4, "embed_dim": 32}
    x = torch.randn(2, 5, 32)
    for block in GPT(GPTConfig(**shape, **changes, init="zero_projection")).blocks:
        assert torch.equal(block(x), x)
        assert block.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert block.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for block in GPT(GPTConfig(**shape, **changes)).blocks:
        assert not torch.equal(block(x), x)


def test_a_tied_head_shares_storage_and_counts_once(random_gpt: BuildGPT) -> None:
    tied, untied = random_gpt(), random_gpt(tie_embeddings=False)
    assert tied.lm_head.weight.data_ptr() == tied.token_embedding.weight.data_ptr()
    assert untied.lm_head.weight.data_ptr() != untied.token_embedding.weight.data_ptr()
    assert untied.num_parameters() - tied.num_parameters() == 17 * 32


def test_tie_weights_ties_again(random_gpt: BuildGPT) -> None:
    for tie_embeddings in (True, False):
        model = random_gpt(tie_embeddings=tie_embeddings)
        model.token_embedding.weight = nn.Parameter(torch.ones(17, 32))
        model.tie_weights()
        assert (model.lm_head.weight is model.token_embedding.weight) is tie_embeddings


def test_gpt2_small_has_its_published_size() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        assert GPT(GPTConfig(vocab_size=50257)).num_parameters() == 124_439_808
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config())
        assert theirs.num_parameters() == 124_439_808


def test_no_vocab_size_is_refused() -> None:
    message = r"^vocab_size is not given; a GPT needs GPTConfig\(vocab_size=\.\.\.\)$"
    with pytest.raises(InputError, match=message):
        GPT(GPTConfig())


@torch.no_grad()
def test_dropout_only_in_training(random_gpt: BuildGPT) -> None:
    model, plain = random_gpt(dropout=0.25), random_gpt()
    plain.load_state_dict(model.state_dict())
    tokens, read = torch.randint(17, (16, 16)), []
    assert torch.equal(model(tokens), plain(tokens))
    assert torch.equal(plain.train()(tokens), plain.eval()(tokens))

    model.train()
    model.blocks[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    assert not torch.equal(model(tokens), model(tokens))
    embedded = model.token_embedding(tokens) + model.position_embedding.weight
    dropped = read[0] == 0
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(read[0][~dropped], embedded[~dropped] / 0.75)


@pytest.mark.parametrize(
    "changes", [{}, MODERN | {"use_qk_norm": True, "num_kv_heads": 2}], ids=["gpt2", "modern"]
)
def test_every_parameter_learns(random_gpt: BuildGPT, changes: dict[str, Any]) -> None:
    model = random_gpt(**changes)
    model(torch.randint(17, (2, 16))).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
