"""Options that several commands share, and what they open."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgn.errors import ConfigError
from cgn_platform.store.layout import Store

if TYPE_CHECKING:
    from rich.console import Console

    from cgn.data.pairs import Pairs, Split
    from cgn_platform.store.ledger import Ledger, Warn

DEFAULT_STORE = Path("runs")

StoreAt = Annotated[
    Path,
    typer.Option(
        "--store", envvar="CGN_STORE", help="Folder of caches, studies, units and MLflow's database."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data", help="A cache: its folder or, in a submitted job, an absolute path or storage URI."
    ),
]
Edits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the configuration; repeatable."),
]
LedgerAt = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="CGN_LEDGER",
        help="Where finished folds are stored: a folder or address (s3://...) that all workers reach. "
        "Default: STORE/units.",
    ),
]
CheckpointEvery = Annotated[
    int,
    typer.Option(min=1, help="Epochs between two checkpoints of a fold: the most that a lost worker costs."),
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster, host:port. Default: RAY_ADDRESS, or a Ray started for this command."),
]
Tracking = Annotated[
    str | None,
    typer.Option(
        "--url", help="Address of MLflow. Default: MLFLOW_TRACKING_URI, or a database in the store."
    ),
]


def edits_of(edits: list[str] | None) -> dict[str, Any]:
    """Fields and values of `--set`; a value is read as JSON if possible, else as text. Raises ConfigError."""
    changes: dict[str, Any] = {}
    for edit in edits or ():
        name, equals, value = edit.partition("=")
        if not equals:
            raise ConfigError(f"--set must be FIELD=VALUE but got {edit!r}")
        try:
            changes[name.strip()] = json.loads(value)
        except ValueError:
            changes[name.strip()] = value
    return changes


def open_data(data: str, fold: int | None = None) -> "tuple[Pairs, tuple[Split, ...]]":
    """The pairs and folds of a cache.

    Raises:
        ConfigError: a relative path in a submitted job, or no such fold (checked before pairs are read).
        CacheError: no cache there, or a damaged one.
    """
    from cgn.data.cache import open_cache, open_splits
    from cgn_platform.cluster.connect import in_job

    if "://" not in data and not Path(data).is_absolute():
        if in_job():
            raise ConfigError(
                f"--data must be an absolute path or a storage URI in a job but got {data!r}: "
                "a job runs in an uploaded copy of the folder, which contains no cache"
            )
        data = os.path.abspath(data)  # noqa: PTH100 - keeps symbolic links as the user knows them
    splits = open_splits(data)
    if fold is not None and not 0 <= fold < len(splits):
        raise ConfigError(f"--fold must lie in [0, {len(splits) - 1}] but got {fold}")
    return open_cache(data), splits


def open_store(path: Path) -> Store:
    """The store in this folder. Raises ConfigError for a relative path in a submitted job."""
    from cgn_platform.cluster.connect import in_job

    if in_job() and not path.is_absolute():
        raise ConfigError(
            f"--store must be an absolute path in a job but got {str(path)!r}: "
            "the job's folder is deleted when the job ends; give --store, or CGN_STORE to the cluster"
        )
    return Store(path.absolute())


def open_ledger(
    address: str | None, store: Store, checkpoint_every: int = 5, warn: "Warn | None" = None
) -> "Ledger":
    """The ledger at this address or, without one, in the store."""
    from cgn_platform.store.ledger import Ledger

    if address is None:
        address = str(store.units)
    elif "://" not in address:
        address = str(Path(address).absolute())
    return Ledger(address, checkpoint_every, warn) if warn else Ledger(address, checkpoint_every)


def announce(line: str) -> None:
    """Say what takes long before it begins: on a terminal only, like progress bars."""
    from cgn_platform.console.live import make_console

    console = make_console(stderr=True)
    if console.is_terminal:
        console.print(line, style="dim", markup=False, highlight=False)


def announce_ray(address: str | None) -> None:
    """Say which Ray is started or joined."""
    from cgn_platform.cluster.connect import LOCAL, address_of

    where = address_of(address)
    starting = where == LOCAL
    announce("starting Ray on this machine (10 to 30 seconds) ..." if starting else f"joining {where} ...")


def report_command(name: str, data: str, store_path: Path, ledger: str | None) -> str:
    """The command that makes the page of a finished table or sweep, as one types it."""
    options = ["--data", data]
    options += ["--store", str(store_path)] if store_path != DEFAULT_STORE else []
    options += ["--ledger", ledger] if ledger else []
    return shlex.join(["cgn", "report", name, *options])


def print_address(console: "Console", purpose: str, store: Store, page: str | None = None) -> None:
    """Print how to open MLflow, on the page of a sweep or table if it is given."""
    from cgn_platform.tracking.links import PAGE, how_to_look
    from cgn_platform.tracking.mlflow_client import default_uri

    print_plainly(console, f"{purpose}: {how_to_look(store, default_uri(store), page or PAGE)}")


def print_plainly(console: "Console", line: str) -> None:
    """Print a line as it is: neither wrapped nor coloured, so that it can be copied."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)
