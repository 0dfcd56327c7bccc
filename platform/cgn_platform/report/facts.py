"""The facts of a table or sweep: every figure that is shown, as one JSON file.

The page, MLflow, the registry and the terminal read facts; none of them computes a figure on its own. What a
table or sweep adds to the common facts is in `table_facts` and `sweep_facts`.
"""

import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cgn import files, sealed
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.provenance import code_fingerprint, code_version
from cgn_platform.run.site import Site
from cgn_platform.space import Table
from cgn_platform.store.layout import Store

Facts = Mapping[str, Any]

FORMAT = 1
"""Of the facts file; files without a number have this format."""


def read_facts(store: Store, name: str) -> dict[str, Any]:
    """The facts of a finished table or sweep.

    Raises:
        ConfigError: nothing of this name has finished, an older version wrote the facts, or they belong to
            another name.
    """
    try:
        facts: dict[str, Any] = json.loads(store.report(name).facts.read_text())
    except FileNotFoundError:
        finished = ", ".join(store.reported()) or "none"
        raise ConfigError(
            f"no table or sweep {name!r} has finished in {store} (finished: {finished})"
        ) from None
    if (form := facts.pop("format", FORMAT)) != FORMAT:
        raise ConfigError(
            f"the facts of {name!r} have format {form} but this version reads format {FORMAT}",
            remedy="use the version of cgn-platform that wrote them, or run the same command again",
        )
    if facts["name"] != name:
        raise ConfigError(
            f"{store.report(name).folder} holds the facts of {facts['name']!r}: it was renamed",
            remedy="rename it back, or run the command of this table or sweep again",
        )
    if isinstance(facts.get("corrected"), float):  # without its interval
        raise ConfigError(
            f"the facts of {name!r} were written by an older version",
            remedy="run the sweep's command again, which reuses its trials and writes new facts",
        )
    return facts


def write_facts(store: Store, facts: Facts) -> None:
    """Write the facts of a finished table or sweep, replacing earlier ones."""
    path = store.report(facts["name"]).facts
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, sealed.plain({"format": FORMAT, **facts}))


def declare(store: Store, name: str, table: Table, pairs: Pairs, splits: Sequence[Split]) -> None:
    """Reserve a name for this table and these data, before anything is trained.

    Raises:
        ConfigError: the name belongs to another table or to other data.
    """
    path = store.report(name).declaration
    declared = sealed.plain({"table": table.declaration(), "data": data_facts(pairs, splits)})
    if path.exists() and json.loads(path.read_text()) != json.loads(declared):
        raise ConfigError(
            f"the name {name!r} belongs to another table or to other data",
            remedy="choose another --name",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, declared)


def data_facts(pairs: Pairs, splits: Sequence[Split]) -> dict[str, Any]:
    """The data of a table or sweep."""
    return {
        "name": pairs.name,
        "cache": pairs.fingerprint,
        "splits": splits_fingerprint(pairs.pair_id, splits),
        "pairs": len(pairs),
        "patients": len(set(pairs.patient_id.tolist())),
        "malignant": int(pairs.label.sum()),
        "folds": len(splits),
        "size": pairs.size,
    }


def run_facts(site: Site, seeds: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """How a table or sweep ran: command, code, time, resources, cost.

    Args:
        site: where it ran.
        seeds: of every row.
        seconds: training time of each row or trial.
    """
    hours = math.fsum(seconds) / 3600
    return {
        **provenance_facts(),
        "seeds": list(seeds),
        "resources": asdict(site.resources),
        "cpu_hours": hours * site.resources.cpus,
        "gpu_hours": hours * site.resources.gpus,
        "ledger": site.ledger.where,
    }


def provenance_facts() -> dict[str, str]:
    """Command and code of this process, and the current time."""
    return {
        "command": shlex.join(["cgn", *sys.argv[1:]]),
        "code": code_fingerprint(),
        "git_commit": code_version(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
