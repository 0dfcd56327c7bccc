"""All commands as one application, and how it is run."""

import os
import sys

import typer

from cgn_platform.cli import data, models, results, servers, train
from cgn_platform.cli import run as runs
from cgn_platform.cli.app import app, debugging
from cgn_platform.cli.boundary import line_of, printable
from cgn_platform.cluster.proxies import exempt_loopback

__all__ = ["app", "data", "models", "results", "run", "runs", "servers", "train"]


def run() -> None:
    """Run the command of `sys.argv`. Every error is one line on standard error and exit code 2."""
    printable(sys.stdout, sys.stderr)
    exempt_loopback(os.environ)  # before Ray or MLflow is imported
    try:
        app()
    except Exception as error:
        if debugging():
            raise
        typer.echo(f"error: {line_of(error)}", err=True)
        sys.exit(2)
