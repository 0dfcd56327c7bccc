"""The record of decisions, `promotions.jsonl` in the store: one line each, refusals included."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cgn.errors import RegistryError
from cgn.lock import exclusive
from cgn_platform.registry.registry import Version
from cgn_platform.store.layout import Store

LOCK_SECONDS = 60
FORMAT = 1
"""Of a decision; lines without a number have this format."""
PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"


def read_record(store: Store) -> list[dict[str, Any]]:
    """All decisions, the oldest first. An incomplete line, left by a killed process, is skipped.

    Raises:
        RegistryError: a decision of another format.
    """
    try:
        content = store.promotions.read_text()
    except FileNotFoundError:
        return []
    decisions = []
    for line in content.splitlines():
        try:
            decision = json.loads(line)
        except ValueError:
            continue
        if decision.get("format", FORMAT) != FORMAT:
            raise RegistryError(
                f"{store.promotions} has a decision of format {decision['format']} but this version reads "
                f"format {FORMAT}",
                remedy="use the version of cgn-platform that wrote it, or a later one",
            )
        decisions.append(decision)
    return decisions


@contextmanager
def one_decision_at_a_time(store: Store) -> Iterator[None]:
    """Hold the lock of decisions in a store.

    Raises:
        RegistryError: another process held it for a minute.
    """
    busy = RegistryError(
        f"another promotion is running in {store}",
        remedy="wait until it has ended and run the same command again",
    )
    with exclusive(store.locks / "promotions.lock", busy, LOCK_SECONDS):
        yield


def append_record(
    store: Store,
    action: str,
    evidence: Mapping[str, Any],
    version: Version | None,
    champion: Version | None,
) -> None:
    """Append a line, synced to disk before this returns.

    Args:
        store: keeps the record.
        action: PROMOTED, REFUSED or ROLLED_BACK.
        evidence: with the decision and the checks of the gate.
        version: that was promoted; None for a refused candidate that has no version.
        champion: at the time of the decision.
    """
    decision = evidence["decision"]
    candidate = evidence.get("candidate", {})
    tags: Mapping[str, str] = version.tags if version else {}
    line = {
        "format": FORMAT,
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
        incomplete = end > 0 and file.read(1) != b"\n"  # a writer was killed
        file.write((b"\n" if incomplete else b"") + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
