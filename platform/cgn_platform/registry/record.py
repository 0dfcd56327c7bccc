"""The record of decisions: `promotions.jsonl` in the store."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from cgn.errors import RegistryError
from cgn_platform.registry.registry import Facts, Version
from cgn_platform.store.layout import Store

RECORD = "promotions.jsonl"


LOCK_SECONDS = 60


PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"


def read_record(store: Store) -> list[dict[str, Any]]:
    """All decisions, the oldest first; a line that was cut short is none."""
    lines = []
    try:
        content = store.promotions.read_text()
    except FileNotFoundError:
        return []
    for line in content.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # its writer was killed
            continue
    return lines


@contextmanager
def one_decision_at_a_time(store: Store) -> Iterator[None]:
    """One decision at a time in a store."""
    folder = store.locks
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "promotions.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RegistryError(
            f"another promotion is at work in {store}: wait for it and run the same command again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def append_record(
    store: Store, action: str, evidence: Facts, version: Version | None, champion: Version | None
) -> None:
    """Append a line, on the disk before this returns; `champion` is who was in when it was decided."""
    decision = evidence["decision"]
    candidate = evidence.get("candidate", {})
    tags: Mapping[str, str] = version.tags if version else {}
    line = {
        "when": decision["when"],
        "action": action,
        "model": decision["model"],
        "alias": decision["alias"],
        "version": version and version.number,
        "champion": champion and champion.number,
        "name": candidate.get("name", tags.get("cgn.name")),
        "row": candidate.get("row", tags.get("cgn.row")),
        "by": decision["by"],
        "because": decision["because"],
        "checks": evidence["gate"]["checks"],
    }
    with store.promotions.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        cut = end > 0 and file.read(1) != b"\n"  # the remains of a writer that was killed
        file.write((b"\n" if cut else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
