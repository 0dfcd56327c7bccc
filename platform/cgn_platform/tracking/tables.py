"""Tables in MLflow: from their facts."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn.errors import first_line
from cgn_platform.store.layout import Store
from cgn_platform.tracking.events import RunInfo, when_of
from cgn_platform.tracking.outbox import Outbox
from cgn_platform.tracking.writer import MLflowWriter, open_writer

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    pass


def track_table(
    facts: Mapping[str, Any],
    *,
    store: Store,
    uri: str,
    say: Callable[[str], None] = print,
) -> None:
    """A table that has run, from its facts. A server that is away gets it from `track`, which is said."""
    parent = _table_parent(facts, store)
    outbox = Outbox(store.outbox(parent.study_id))
    if known := outbox.notes.get("parent"):
        parent = replace(parent, time=known["time"])  # it began when it was first run
    try:
        outbox.note(parent=asdict(parent))
        projection = open_writer(uri, parent, store, say)
        projection.open(running=True)
        deliver_table(projection, outbox, facts, store.report(parent.study).page)
    except Exception as error:  # whatever a disk, a server or its client does, the table stands
        say(
            f"MLflow cannot be written ({first_line(error)}): 'cgn track --store {os.path.relpath(store)}' "
            "sends the table when it is back"
        )


def deliver_table(projection: MLflowWriter, outbox: Outbox, facts: Mapping[str, Any], page: Path) -> None:
    projection.tell_table(facts, page)
    with suppress(OSError):
        outbox.note(page=projection.page)


def _table_parent(facts: Mapping[str, Any], store: Store) -> RunInfo:
    data, run = facts["data"], facts["run"]
    names = ("code", "git_commit", "mode")
    return RunInfo(
        experiment=data["name"],
        study=facts["name"],
        study_id=_table_id(store, facts["name"]),
        tags={
            **{name: data[name] for name in ("cache", "splits")},
            **{name: run[name] for name in names},
            "seeds": str(len(run["seeds"])),
        },
        time=when_of(facts) - int(1000 * run["wall_seconds"]),
        kind="table",
        folds=data["folds"],
    )


def _table_id(store: Store, name: str) -> str:
    """Of what is declared under this name: the same table again is the same run."""
    declared = store.report(name).declaration.read_bytes()
    return hashlib.sha256(name.encode() + b"\0" + declared).hexdigest()[:16]


def read_table_facts(parent: RunInfo, store: Store) -> dict[str, Any]:
    """Those of this table; empty where they are gone, or another one has taken its name."""
    try:
        if _table_id(store, parent.study) != parent.study_id:
            return {}
        facts: dict[str, Any] = json.loads(store.report(parent.study).facts.read_text())
    except (OSError, ValueError):
        return {}
    return facts
