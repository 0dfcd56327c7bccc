"""Outboxes as versions before the database wrote them: `*.jsonl` segments and `state.json`. Read once.

A line of a segment is `crc32 number json`. A line that is damaged or cut short is skipped, which leaves a gap
in the numbers.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE = "state.json"
SEGMENTS = "[0-9]*.jsonl"  # named by the number of their first event, with leading zeros


def exist(folder: Path) -> bool:
    """Whether this folder has files of the old format."""
    return (folder / STATE).exists() or any(folder.glob(SEGMENTS))


def read_state(folder: Path) -> dict[str, Any]:
    """The keys `acknowledged`, `gap` and `notes`; empty if there is no state or it is damaged."""
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def read_events(folder: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, checksum and JSON of each intact event, in order; the checksum is that of the database, too."""
    for path in sorted(folder.glob(SEGMENTS)):
        for line in path.read_bytes().split(b"\n")[:-1]:
            checksum, _, body = line.partition(b" ")
            if checksum == b"%08x" % zlib.crc32(body):
                number, _, event = body.partition(b" ")
                yield int(number), int(checksum, 16), event


def remove(folder: Path) -> None:
    """Delete the files of the old format."""
    for path in (*folder.glob(SEGMENTS), folder / STATE):
        path.unlink(missing_ok=True)
