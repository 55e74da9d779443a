"""Rows as text: what stands in them, made visible, and bars for their lengths."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from lit_gpt_kit import Tokenizer, TokenizerConfig
from lit_gpt_kit.cli.shown_rows import Piece, histogram, show_findings, show_rows, spell
from lit_gpt_kit.data.inspection import Findings
from lit_gpt_kit.data.read_back import InspectedRow, Token
from lit_gpt_kit.tokenization.training import train_tokenizer

BYTES = train_tokenizer(TokenizerConfig("byte", special_tokens=("<|endoftext|>",)), [])


def document(learned: str, before: str = "") -> list[Token]:
    ids = BYTES.encode(before), BYTES.encode(learned)
    return [Token(id_, is_learned) for is_learned in (False, True) for id_ in ids[is_learned]]


def test_pieces_are_neighbours_of_a_kind() -> None:
    assert list(spell(document("yes<|endoftext|>", "<|endoftext|>no "), BYTES)) == [
        Piece("<|endoftext|>", False, True),
        Piece("no ", False, False),
        Piece("yes", True, False),
        Piece("<|endoftext|>", True, True),
    ]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\nb", "a⏎\nb"),
        ("\x1b[31mred\x07\r", r"\x1b[31mred\x07\r"),  # nothing that a terminal would obey
        ("tab\t, 1\u202f000\u00a0é", r"tab\t, 1\u202f000\xa0é"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, seen: str) -> None:
    assert [piece.text for piece in spell(document(text), BYTES)] == [seen]


def test_spaces_at_the_border_of_pieces_stay() -> None:
    backend = Backend(models.WordLevel({"▁say": 0, "▁yes": 1, "▁now": 2}, unk_token="▁say"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokens = [Token(0, False), Token(1, True), Token(2, False)]
    assert [piece.text for piece in spell(tokens, Tokenizer(backend))] == ["say", " yes", " now"]


def test_without_a_tokenizer_ids_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    row = InspectedRow(((Token(7, False), Token(8, True)),), num_positions=3, num_padding=1)
    show_rows([row], None, None)
    assert "row 1: 2 tokens, 1 learned\n7⟦ 8⟧\n(padding: 1)\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "names", "said"),
    [
        (1, ("bad", "good"), "good"),
        ([1, 0, 1], ("a", "b", "c"), "a, c"),
        ([0, 0], ("a", "b"), "none"),
        (0.5, None, "0.5"),
    ],
)
def test_labels_have_names(
    label: object, names: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_rows([InspectedRow(((Token(7, False),),), 1, 0, label)], None, names)
    assert f"row 1: 1 tokens, label {said}\n" in capsys.readouterr().out


def test_findings_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    findings = Findings([3, 5, 2], 2, 16, 4, 5, {"it is odd": [2], "it is dear": [1, 2]})
    show_findings(findings, is_whole_epoch=False)
    out = capsys.readouterr().out
    assert out.startswith(
        "the first 2 rows of training: 3 documents, 10 tokens, 50.0% of them learned; "
        "25.0% of all positions is padding\nlength of a document, in tokens:\n"
    )
    assert "warning: 1 row, the first is row 2: it is odd\n" in out
    assert out.endswith("warning: 2 rows, the first is row 1: it is dear\n")


def test_histogram_counts_every_length_once() -> None:
    assert histogram([3, 3, 5]) == [
        "3 to 3  ########################################  2",
        "4 to 4                                            0",
        "5 to 5  ####################                      1",
    ]
    lines = histogram(list(range(1, 101)) + [100] * 10)
    assert len(lines) == 10
    assert sum(int(line.split()[-1]) for line in lines) == 110
