"""`lit-gpt tokenizer train | inspect`."""

from pathlib import Path
from typing import Any, Literal

from lit_gpt_kit.cli.parsing import build_parser, parse
from lit_gpt_kit.errors import InputError, did_you_mean

CACHE = Path("~/.cache/lit_gpt_kit/downloads")
COLUMNS = ("id", "bytes", "token")


def run(command: str, arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    actions = {"train": _train, "inspect": _inspect}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lit-gpt tokenizer {train,inspect} ...\n")
        print("  train    make a tokenizer.json from text\n  inspect  see a text as tokens")
        return 0
    action, *rest = arguments
    if action not in actions:
        raise InputError(f"there is no command 'tokenizer {action}'{did_you_mean(action, actions)}")
    actions[action](rest)
    return 0


def _train(arguments: list[str]) -> None:
    parser = build_parser("tokenizer train", "Make a tokenizer.json from text.")
    parser.add_argument(
        "--sources",
        type=str,
        nargs="+",
        required=True,
        help="Files, folders, globs, URLs, builtin:",
    )
    parser.add_argument("--vocab_size", type=int | None, default=None, help="For --kind bpe.")
    parser.add_argument("--output", type=str, required=True, help="The tokenizer.json to write.")
    parser.add_argument("--kind", type=Literal["bpe", "char", "byte"], default="bpe", help="Kind.")
    parser.add_argument(
        "--special_tokens", type=str, nargs="*", default=None, help="The first ends a document."
    )
    parser.add_argument("--text_field", type=str, default="text", help="Field that holds the text.")
    options = parse(parser, arguments)

    from lit_gpt_kit.data.progress import show_progress
    from lit_gpt_kit.data.sources import read_pieces, resolve_sources
    from lit_gpt_kit.tokenization.training import TokenizerConfig, train_tokenizer

    special = options.special_tokens
    config = TokenizerConfig(
        options.kind, options.vocab_size, None if special is None else tuple(special)
    )
    sources = resolve_sources(options.sources, options.text_field, CACHE.expanduser())

    def texts(advance: Any) -> Any:
        for piece in read_pieces(sources):
            advance(len(piece.text.encode()))
            yield piece.text

    with show_progress("reading", None) as advance:
        tokenizer = train_tokenizer(config, texts(advance))
    tokenizer.save(options.output)
    print(f"{options.kind} tokenizer with {tokenizer.vocab_size:,} tokens: {options.output}")
    print(f"next: lit-gpt tokenizer inspect {options.output} --text 'some text'")


def _inspect(arguments: list[str]) -> None:
    parser = build_parser("tokenizer inspect", "See a text as tokens.")
    parser.add_argument("file", type=str, help="A tokenizer.json, or a folder with one.")
    parser.add_argument("--text", type=str, required=True, help="The text.")
    options = parse(parser, arguments)

    from lit_gpt_kit.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(options.file)
    lengths = tokenizer.byte_lengths()
    ids = tokenizer.encode(options.text)
    rows = [COLUMNS, *((str(i), str(lengths[i]), repr(tokenizer.token(i))) for i in ids)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print(f"{row[0]:>{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}")
    num_bytes = len(options.text.encode())
    print(
        f"{len(ids)} tokens for {num_bytes} bytes ({num_bytes / max(1, len(ids)):.2f} bytes a "
        f"token); vocabulary {tokenizer.vocab_size:,}, end token {tokenizer.end_token}"
    )
