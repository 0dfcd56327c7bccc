"""Tables in MLflow, from their facts."""

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cgn.errors import PlatformError, first_line
from cgn_platform.store.layout import Store
from cgn_platform.tracking.events import RunInfo, table_ended_ms
from cgn_platform.tracking.outbox import Outbox
from cgn_platform.tracking.writer import MLflowWriter, open_writer


def track_table(
    facts: Mapping[str, Any],
    *,
    store: Store,
    uri: str,
    warn: Callable[[str], None] = print,
) -> None:
    """Write a table that has run to MLflow. If the server does not answer, `delivery.track` does it later.

    Args:
        facts: of the table.
        store: contains its declaration and its outbox.
        uri: of MLflow.
        warn: called with a line if MLflow or the outbox cannot be written.
    """
    parent = _table_parent(facts, store)
    try:
        with Outbox(store.outbox(parent.study_id), warn) as outbox:
            if noted := outbox.notes.get("parent"):
                parent = replace(parent, time=noted["time"])  # the start of its first run
            outbox.note(parent=asdict(parent))
            writer = open_writer(uri, parent, store, warn)
            writer.open(running=True)
            deliver_table(writer, outbox, facts, store.report(parent.study).page)
    except PlatformError as error:  # the experiment was deleted, or the ledger cannot be read
        warn(f"the table is not in MLflow yet: {error}")
    except Exception as error:  # a disk, a server and its client may raise anything; the table is finished
        warn(
            f"MLflow cannot be written ({first_line(error)}): "
            f"'cgn track --store {shlex.quote(os.path.relpath(store))}' sends the table once MLflow answers"
        )


def deliver_table(writer: MLflowWriter, outbox: Outbox, facts: Mapping[str, Any], report: Path) -> None:
    """Write the runs of a table, and note where MLflow shows them."""
    writer.write_table(facts, report)
    with suppress(OSError):
        outbox.clear_gap()
        outbox.note(page=writer.runs_page)


def read_table_facts(parent: RunInfo, store: Store) -> dict[str, Any]:
    """The facts of this table; empty if they are gone, or if another table has its name now."""
    try:
        if _table_id(store, parent.study) != parent.study_id:
            return {}
        facts: dict[str, Any] = json.loads(store.report(parent.study).facts.read_text())
    except (OSError, ValueError):
        return {}
    return facts


def _table_parent(facts: Mapping[str, Any], store: Store) -> RunInfo:
    data, run = facts["data"], facts["run"]
    return RunInfo(
        experiment=data["name"],
        study=facts["name"],
        study_id=_table_id(store, facts["name"]),
        tags={
            **{name: data[name] for name in ("cache", "splits")},
            **{name: run[name] for name in ("code", "git_commit", "mode")},
            "seeds": str(len(run["seeds"])),
        },
        time=table_ended_ms(facts) - int(1000 * run["wall_seconds"]),
        kind="table",
        folds=data["folds"],
    )


def _table_id(store: Store, name: str) -> str:
    """From the declaration: the same table run again has the same parent run."""
    declaration = store.report(name).declaration.read_bytes()
    return hashlib.sha256(name.encode() + b"\0" + declaration).hexdigest()[:16]
