"""Commands about results: report, track, units."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgn.errors import LedgerError, PlatformError
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    LedgerAt,
    StoreAt,
    open_data,
    open_ledger,
    open_store,
)

if TYPE_CHECKING:
    from rich.console import Console


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Of a table or sweep that has run in this store.")],
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The cache it ran on: with it, the page has pictures.")
    ] = None,
) -> None:
    """Turn a finished table or sweep into one HTML file that opens from disk; prints where it is.

    The page goes to MLflow, too, as an artifact of the table's or sweep's run.

      cgn report table_3-mias-all --data runs/cache/mias-all-...
    """
    from cgn_platform.report.page import write_report
    from cgn_platform.tracking import delivery, links, mlflow_client

    store = open_store(store_path)
    pairs = None if data is None else open_data(data)[0]
    units = open_ledger(ledger, store)
    typer.echo(write_report(store, name, units, pairs))
    if links.is_tracked(store, name):
        try:
            delivery.track(store, mlflow_client.default_uri(store), name=name, ledger=units)
        except PlatformError as error:
            typer.echo(f"the page is not in MLflow yet, 'cgn track' sends it: {error}", err=True)


@app.command()
def track(
    store_path: StoreAt = DEFAULT_STORE,
    name: Annotated[
        str | None, typer.Option(help="Of a single sweep or table; all that no driver holds.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Of MLflow; MLFLOW_TRACKING_URI, or a database in the store.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compare every run with study and ledger, point by point.")
    ] = False,
    ledger: LedgerAt = None,
) -> None:
    """Send MLflow what it does not have yet of sweeps and tables: after it was away, or a driver was killed.

    Runs of dead drivers are ended. May be repeated: nothing is there twice.

      cgn track

      cgn track --rebuild --url http://127.0.0.1:5000     fills an empty server
    """
    from rich.progress import Progress

    from cgn_platform.console.live import make_console
    from cgn_platform.store import databases
    from cgn_platform.tracking import delivery, mlflow_client

    store = open_store(store_path)
    url = url or mlflow_client.default_uri(store)
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(study: str, total: int, done: int) -> None:
            if study not in tasks:
                tasks[study] = bar.add_task(study, total=total)
            bar.advance(tasks[study], done)

        brought = delivery.track(
            store,
            url,
            name=name,
            rebuild=rebuild,
            ledger=open_ledger(ledger, store),
            say=lambda told: bar.console.print(told, markup=False, style="yellow"),
            on_progress=advance,
        )
    typer.echo(f"{databases.hidden(url)} tells {', '.join(brought) or 'nothing new'}")


@app.command()
def units(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[UNIT]...", help="Ids, or how they begin.")
    ] = None,
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again and compare its hash.")
    ] = False,
) -> None:
    """List the ledger's finished folds, show some of them, or verify them all.

    A damaged one is named, counts as absent, and is computed anew when a sweep or table asks for it.

      cgn units

      cgn units 3f9a0c

      cgn units --verify
    """
    from cgn_platform.console.live import make_console
    from cgn_platform.console.tables import unit_facts, units_table

    console = make_console()
    there = open_ledger(ledger, open_store(store_path), warn=lambda line: console.print(line, style="yellow"))
    found = there.names()
    chosen = [unit for unit in found if not names or any(unit.startswith(name) for name in names)]
    if names and not chosen:
        raise LedgerError(f"no unit begins with {', '.join(names)} in {there.where}: 'cgn units' lists them")
    if verify:
        _verify(there, chosen, console)
    elif names:
        for unit in chosen:
            console.print_json(data=unit_facts(there.open(unit)))
    else:
        console.print(units_table(list(_readable(there, chosen, console)), there.unfinished()))


def _readable(ledger: Any, names: list[str], console: "Console") -> Any:
    """Those whose facts can be read; the large files behind them are left to --verify."""
    for name in names:
        try:
            yield ledger.open(name, verify=False)
        except LedgerError as error:
            console.print(str(error), style="yellow")


def _verify(ledger: Any, names: list[str], console: "Console") -> None:
    from rich.progress import track

    found = {name: ledger.damage(name) for name in track(names, "verifying", console=console, transient=True)}
    damaged = [told for told in found.values() if told]
    typer.echo(f"{len(found) - len(damaged)} of {len(found)} units are whole")
    if damaged:
        raise LedgerError("; ".join(damaged))
