"""run.json of a run folder: what is known of the run beside its configuration; without torch."""

import json
from pathlib import Path
from typing import Any

from lit_gpt_kit.files import write_atomically

FILE = "run.json"


def read_run(run_dir: Path) -> dict[str, Any]:
    """What run.json of a run folder says; nothing where there is none, or a damaged one."""
    try:
        content = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_run(run_dir: Path, content: dict[str, Any]) -> None:
    """Write run.json, whole or not at all."""
    write_atomically(run_dir / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
