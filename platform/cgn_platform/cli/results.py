"""Commands about results: report, track, units."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgn.errors import LedgerError, PlatformError
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    LedgerAt,
    StoreAt,
    Tracking,
    announce,
    open_data,
    open_ledger,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from cgn_platform.store.ledger import Ledger, Unit


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of a finished table or sweep.")],
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The cache it ran on: adds pictures to the page.")
    ] = None,
) -> None:
    """Write the results of a finished table or sweep as one HTML file; print its path.

    The file opens from disk without a server. It is also added to the run in MLflow.

      cgn report table_3-mias-all --data runs/cache/mias-all-...
    """
    from cgn_platform.report.page import write_report
    from cgn_platform.tracking import delivery, links, mlflow_client

    store = open_store(store_path)
    pairs = None if data is None else open_data(data)[0]
    units = open_ledger(ledger, store)
    announce("drawing the page (up to a minute) ...")
    typer.echo(write_report(store, name, units, pairs))
    if links.is_tracked(store, name):
        try:
            delivery.track(store, mlflow_client.default_uri(store), name=name, ledger=units)
        except PlatformError as error:
            typer.echo(f"the page is not in MLflow yet, 'cgn track' adds it: {error}", err=True)


@app.command()
def track(
    store_path: StoreAt = DEFAULT_STORE,
    name: Annotated[
        str | None, typer.Option(help="Name of one sweep or table. Default: all that are not running.")
    ] = None,
    url: Tracking = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compare every point of every run with study and ledger.")
    ] = False,
    ledger: LedgerAt = None,
) -> None:
    """Send MLflow the missing runs and points of sweeps and tables, e.g. after an outage or a killed driver.

    Runs whose driver has died are ended. The command can be repeated: nothing is sent twice.

      cgn track

      cgn track --rebuild --url http://127.0.0.1:5000     fills an empty server
    """
    from rich.progress import Progress

    from cgn_platform.console.live import make_console
    from cgn_platform.store import databases
    from cgn_platform.tracking import delivery, mlflow_client

    store = open_store(store_path)
    url = mlflow_client.default_uri(store, url)
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(study: str, total: int, done: int) -> None:
            if study not in tasks:
                tasks[study] = bar.add_task(study, total=total)
            bar.advance(tasks[study], done)

        updated = delivery.track(
            store,
            url,
            name=name,
            rebuild=rebuild,
            ledger=open_ledger(ledger, store),
            warn=lambda line: bar.console.print(line, markup=False, style="yellow"),
            on_progress=advance,
        )
    typer.echo(f"{databases.hidden(url)} is up to date with {', '.join(updated) or 'no sweep or table'}")


@app.command()
def units(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[UNIT]...", help="Ids, or the beginnings of ids.")
    ] = None,
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again and compare its hash.")
    ] = False,
) -> None:
    """List the finished folds in the ledger, show some of them, or verify them.

    A damaged unit is named and counts as absent: it is computed again when a sweep or table needs it.

      cgn units

      cgn units 3f9a0c

      cgn units --verify
    """
    from cgn_platform.console.live import make_console
    from cgn_platform.console.tables import unit_facts, units_table

    console = make_console()
    source = open_ledger(
        ledger, open_store(store_path), warn=lambda line: console.print(line, markup=False, style="yellow")
    )
    chosen = [unit for unit in source.names() if not names or any(unit.startswith(name) for name in names)]
    if names and not chosen:
        raise LedgerError(f"no unit begins with {', '.join(names)} in {source.where}: 'cgn units' lists them")
    if verify:
        _verify(source, chosen, console)
    elif names:
        for unit in chosen:
            console.print_json(data=unit_facts(source.open(unit)))
    else:
        readable = list(_readable(source, chosen, console))
        console.print(units_table(readable, source.unfinished(), console.width))


def _readable(ledger: "Ledger", ids: list[str], console: "Console") -> "Iterator[Unit]":
    """The units whose facts can be read; their large files are verified by --verify only."""
    for unit_id in ids:
        try:
            yield ledger.open(unit_id, verify=False)
        except LedgerError as error:
            console.print(str(error), markup=False, style="yellow")


def _verify(ledger: "Ledger", ids: list[str], console: "Console") -> None:
    from rich.progress import track as progress

    checked = progress(ids, "verifying", console=console, transient=True)
    damages = [damage for unit_id in checked if (damage := ledger.damage(unit_id))]
    typer.echo(f"{len(ids) - len(damages)} of {len(ids)} units are undamaged")
    if damages:
        raise LedgerError("; ".join(damages))
