"""Tables in Markdown, and the places of a page where they belong."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_gpt_kit.files import write_atomically

END = "<!-- end -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is named by its rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_table(page: str, name: str, content: str) -> str:
    """The page with `content` between `<!-- table: NAME -->` and the next `<!-- end -->`.

    Raises:
        ValueError: the page has no such place, or two.
    """
    start = f"<!-- table: {name} -->"
    place = re.compile(rf"(?<={re.escape(start)}\n).*?(?={END})", re.S)
    changed, count = place.subn(lambda _: f"\n{content.strip()}\n\n", page)
    if count != 1:
        raise ValueError(f"the page has {count} places between {start} and {END}; one is needed")
    return changed


def publish(name: str, content: str, page: Path | None) -> None:
    """Print `content`, and write it into its place in the page, where there is one."""
    print(f"\n{content}\n", flush=True)
    if page is not None:
        write_atomically(page, replace_table(page.read_text(encoding="utf-8"), name, content))


def shown(value: float | None, how: str) -> str:
    """A number in a table, or that there is none."""
    return "-" if value is None else format(value, how)
