"""Options that several commands share, and what they open."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgn.errors import ConfigError
from cgn_platform.store.layout import Store

if TYPE_CHECKING:
    from cgn.data.pairs import Pairs, Split
    from cgn_platform.store.ledger import Ledger, Warn

StoreAt = Annotated[
    Path,
    typer.Option("--store", envvar="CGN_STORE", help="Where caches, studies and MLflow's database live."),
]


Data = Annotated[
    str, typer.Option("--data", help="A cache: its folder or, on a cluster, an absolute path or storage URI.")
]


Edits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Edit a field of the configuration; may be repeated."),
]


LedgerAt = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="CGN_LEDGER",
        help="Where finished folds are kept: a folder or address (s3://...) that all workers reach; "
        "STORE/units where not given.",
    ),
]


CheckpointEvery = Annotated[
    int,
    typer.Option(min=1, help="Epochs between two checkpoints of a fold: what a lost worker costs at most."),
]


Address = Annotated[
    str | None, typer.Option(help="A Ray cluster, host:port; RAY_ADDRESS, or a local Ray of its own.")
]


DEFAULT_STORE = Path("runs")


def edits_of(edits: list[str] | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for edit in edits or ():
        name, given, value = edit.partition("=")
        if not given:
            raise ConfigError(f"--set must be FIELD=VALUE but got {edit!r}")
        try:
            changes[name.strip()] = json.loads(value)
        except ValueError:
            changes[name.strip()] = value
    return changes


def open_data(data: str) -> "tuple[Pairs, tuple[Split, ...]]":
    from cgn.data.cache import open_cache, open_splits
    from cgn_platform.cluster.connect import in_job

    if "://" not in data and not Path(data).is_absolute():
        if in_job():
            raise ConfigError(
                f"--data must be an absolute path or a storage URI in a job but got {data!r}: "
                "a job runs in an uploaded copy of the folder, which holds no cache"
            )
        data = os.path.abspath(data)  # noqa: PTH100 - keeps symbolic links as the user knows them
    return open_cache(data), open_splits(data)


def open_ledger(
    address: str | None, store: Store, checkpoint_every: int = 5, warn: "Warn | None" = None
) -> "Ledger":
    """The ledger at this address, or in the store."""
    from cgn_platform.store.ledger import Ledger

    if address is None:
        address = str(store.units)
    elif "://" not in address:
        address = str(Path(address).absolute())
    return Ledger(address, checkpoint_every, warn) if warn else Ledger(address, checkpoint_every)


def open_store(path: Path) -> Store:
    """The store in this folder. Raises ConfigError for a relative path in a submitted job."""
    from cgn_platform.cluster.connect import in_job

    if in_job() and not path.is_absolute():
        raise ConfigError(
            f"--store must be an absolute path in a job but got {str(path)!r}: "
            "a job's folder is removed with it; give --store, or CGN_STORE to the cluster"
        )
    return Store(path.absolute())
