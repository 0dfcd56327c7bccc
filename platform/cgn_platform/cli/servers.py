"""Commands about servers: up, down, doctor."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    StoreAt,
    open_store,
)

if TYPE_CHECKING:
    pass


@app.command()
def up(
    store_path: StoreAt = DEFAULT_STORE,
    ray_port: Annotated[int, typer.Option(help="Of Ray's jobs and dashboard.")] = 8265,
    mlflow_port: Annotated[int, typer.Option(help="Of MLflow.")] = 5000,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="Count so many CPUs.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Count so many GPUs, there or not.")] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Optuna's dashboard, too: studies while they run, read only.")
    ] = False,
    ui_port: Annotated[int, typer.Option(help="Of Optuna's dashboard.")] = 8080,
) -> None:
    """Start a Ray head and an MLflow server on this machine's loopback address, for jobs.

    Ray asks for a token (a file only you can read). MLflow and Optuna's dashboard have no password: whoever
    may use this machine may look. The dashboard's buttons that would change a study answer with an error,
    since it opens the database to read. All end with 'cgn down'.

      cgn up --ui         may be added while the others are up
    """
    from cgn_platform.servers import up
    from cgn_platform.tracking import links

    state, fresh = up.up(
        open_store(store_path),
        ray_port=ray_port,
        mlflow_port=mlflow_port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        ui_port=ui_port if ui else None,
    )
    export, job = up.submit_lines(state)
    lines = [
        "" if fresh else "already up",
        f"Ray     {state.jobs}  (jobs and dashboard; drivers: --address {state.driver})",
        f"MLflow  {links.how_to_look(state.mlflow)}",
        *([f"Optuna  {state.ui}  (studies while they run; read only)"] if state.ui else []),
        f"metrics {state.temporary}/r/{up.EXPORTERS} names what Prometheus reads (dashboards/grafana)",
        "",
        "to submit a sweep, with the absolute path of a cache for CACHE:",
        f"  {export}",
        f"  {job}",
    ]
    typer.echo("\n".join(lines).strip())


@app.command()
def down(store_path: StoreAt = DEFAULT_STORE) -> None:
    """End the servers that 'cgn up' started in this store, and no others."""
    from cgn_platform.servers import up

    store = open_store(store_path)
    typer.echo("ended" if up.down(store) else f"nothing is up in {store}")


@app.command()
def doctor(
    store_path: StoreAt = DEFAULT_STORE,
    address: Annotated[
        str | None, typer.Option(help="A Ray to look at, too: host:port, or http://host:port of its jobs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at versions, decoders, GPUs, disk, file modes, listeners, databases; say what is unsafe.

    Changes nothing and tells no secret. Exit code 0: all is fine; 1: something is missing or does not
    answer; 2: something is unsafe.
    """
    from dataclasses import asdict

    from cgn_platform.console.live import make_console
    from cgn_platform.servers import doctor

    findings = doctor.examine(open_store(store_path), address)
    state = doctor.worst(findings)
    if as_json:
        typer.echo(json.dumps({"state": state, "findings": [asdict(each) for each in findings]}, indent=1))
    else:
        make_console().print(doctor.as_table(findings))
    raise typer.Exit(doctor.EXIT[state])
