"""What an offline W&B run holds, read from its end: where a run that goes on has to go on.

W&B has no reader of its own .wandb files for Python. One is a LevelDB log: blocks of 32 KiB, in
them records or chunks of records, each behind its CRC, length and kind.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b":W&B"
FILE_HEADER_LENGTH = CHUNK_HEADER_LENGTH = 7
BLOCK_LENGTH = 2**15
WHOLE, FIRST, LAST = 1, 2, 4
"""Kinds of chunk; between the first and the last of a record come those of the middle."""
TAIL_BYTES = 2**20
STEP = "trainer/global_step"


@dataclass(frozen=True)
class LastRows:
    """The end of what was sent.

    Attributes:
        step: the highest number of finished optimiser steps in a row; -1 where there is none.
        names: what was logged at it.
        wandb_step: W&B's own count of the last row.
    """

    step: int = -1
    names: frozenset[str] = field(default_factory=frozenset)
    wandb_step: int = -1


NO_ROWS = LastRows()


def read_last_rows(wandb_dir: Path, run_id: str) -> LastRows:
    """The last rows of a run that was kept offline, perhaps in several parts, some of them online.

    Args:
        wandb_dir: the folder `wandb` of a run folder.
        run_id: W&B's.
    """
    # Two parts of one second have the same name, behind which W&B puts a number.
    parts = wandb_dir.glob(f"*run-*-{run_id}*/run-{run_id}.wandb")
    return max(map(_last_rows, parts), key=lambda rows: rows.wandb_step, default=NO_ROWS)


def _last_rows(path: Path) -> LastRows:
    size, length = path.stat().st_size, TAIL_BYTES
    while True:
        rows = [row for record in read_records(path, length) if (row := _row(record))]
        steps = [int(row[STEP]) for row in rows if STEP in row]
        # Rows of the highest step may lie before the tail, unless one of a lower step is in it.
        if length >= size or len(set(steps)) > 1:
            break
        length *= 8
    if not rows:
        return NO_ROWS
    highest = max(steps, default=-1)
    names = {name for row in rows if row.get(STEP) == highest for name in row}
    return LastRows(highest, frozenset(names), max(int(row.get("_step", 0)) for row in rows))


def _row(record: bytes) -> dict[str, Any]:
    from wandb.proto import wandb_internal_pb2

    message: Any = wandb_internal_pb2  # its classes are made when it is imported
    items = message.Record.FromString(record).history.item
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def read_records(path: Path, tail_bytes: int | None = None) -> Iterator[bytes]:
    """The whole records of a .wandb file, each a serialised `wandb_internal_pb2.Record`.

    Args:
        path: the file; what a crash left of a last record is passed over.
        tail_bytes: only those that begin in about so many bytes at its end; all by default.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        first = 0 if tail_bytes is None else max(0, size - tail_bytes) // BLOCK_LENGTH
        file.seek(first * BLOCK_LENGTH)
        content = file.read()
    if first == 0 and not content.startswith(MAGIC):
        return
    place, parts = 0 if first else FILE_HEADER_LENGTH, None
    while place + CHUNK_HEADER_LENGTH <= len(content):
        left = BLOCK_LENGTH - place % BLOCK_LENGTH
        if left < CHUNK_HEADER_LENGTH:  # too little for a chunk; it is filled with zeros
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += CHUNK_HEADER_LENGTH
        chunk = content[place : place + length]
        place += length
        if kind == 0 or len(chunk) < length:
            return
        if kind in (WHOLE, FIRST):
            parts = b""
        if parts is not None:  # else the record began before the tail
            parts += chunk
            if kind in (WHOLE, LAST):
                yield parts
                parts = None
