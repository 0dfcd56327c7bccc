"""The `cgn` application: one command for each verb, registered by the modules of this package."""

from typing import Annotated, Any

import typer


class _Verbs(typer.core.TyperGroup):
    """In the order in which people need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "cache")


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""The bilateral counterfactual generating network: prepare films, train, sweep.

    A first round, without a cluster:

      cgn cache phantom --pairs 60 --size 96          makes pairs; prints the folder it wrote

      cgn train --data FOLDER --set backbone=tiny     one configuration, in this process

      cgn sweep search_spaces/smoke.py --data FOLDER  many, with pruning, on a local Ray

    Errors are one line on standard error and exit code 2; --debug shows where they come from.""",
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


_debug = False


def debugging() -> bool:
    """Whether errors show their traceback (--debug)."""
    return _debug
