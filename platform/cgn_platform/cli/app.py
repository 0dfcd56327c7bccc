"""The `cgn` application; the modules of this package register its commands."""

from importlib import metadata
from typing import Annotated, Any

import typer

ORDER = (
    *("cache", "look", "films", "bilateral", "whose"),
    *("train", "sweep", "table", "replay"),
    *("report", "track", "units"),
    *("promote", "rollback", "models", "predict"),
    *("up", "down", "doctor"),
)
"""The order in which a user needs the commands: data, training, results, models, servers."""


class _Commands(typer.core.TyperGroup):
    """The commands in `ORDER`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: (*ORDER, name).index(name))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    suggest_commands=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""The bilateral counterfactual generating network: prepare films, train, search, report, promote.

    To start, without a cluster:

      cgn cache phantom --pairs 60 --size 96          makes pairs and prints their folder

      cgn train --data FOLDER --set backbone=tiny     trains one configuration in this process

      cgn sweep search_spaces/smoke.py --data FOLDER  searches many, with pruning, on a local Ray

    An error is one line on standard error with exit code 2; --debug shows its traceback.""",
)

_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cgn {metadata.version('cgn-platform')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Version = False,
) -> None:
    global _debug
    _debug = debug


def debugging() -> bool:
    """Whether errors show their traceback (--debug)."""
    return _debug
