"""The command line: `cgn VERB`. Each module holds a group of commands; heavy imports happen within a command.

Public: `app`, and `main` as the console script.
"""

import sys

import typer

from cgn.errors import CGNError, one_line
from cgn_platform.cli import data, models, results, run, servers, train
from cgn_platform.cli.app import app, debugging

__all__ = ["app", "data", "main", "models", "results", "run", "servers", "train"]


def main() -> None:
    """The console script: a CGNError is one line on standard error and exit code 2."""
    try:
        app()
    except CGNError as error:
        if debugging():
            raise
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(2)
