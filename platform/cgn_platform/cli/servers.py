"""Commands about servers: up, down, mlflow, serve, doctor."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    StoreAt,
    Tracking,
    announce,
    open_store,
)
from cgn_platform.registry.registry import CHAMPION, DEFAULT_MODEL
from cgn_platform.servers import ports

if TYPE_CHECKING:
    pass


@app.command()
def up(
    store_path: StoreAt = DEFAULT_STORE,
    ray_port: Annotated[int, typer.Option(help="Port of Ray's jobs and dashboard.")] = ports.RAY,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = ports.MLFLOW,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs that Ray counts. Default: all.")] = None,
    num_gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs that Ray counts, existing or not. Default: all.")
    ] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Also start Optuna's dashboard: running studies, read-only.")
    ] = False,
    ui_port: Annotated[int, typer.Option(help="Port of Optuna's dashboard.")] = ports.OPTUNA,
) -> None:
    """Start a Ray head and an MLflow server on this machine's loopback address, for submitted jobs.

    Ray requires a token, MLflow and Optuna's dashboard require a login: both are in files of the store that
    only you can read, and commands of cgn that use this store read them. The dashboard opens the studies
    read-only, so its buttons that would change a study fail. 'cgn down' ends all of them.

      cgn up --ui         adds the dashboard, also to servers that are running
    """
    from cgn_platform.servers import up
    from cgn_platform.tracking import links
    from cgn_platform.tracking.login import USER

    store = open_store(store_path)
    announce("starting the servers (up to a minute) ...")
    state, fresh = up.up(
        store,
        ray_port=ray_port,
        mlflow_port=mlflow_port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        ui_port=ui_port if ui else None,
    )
    export, job = up.submit_lines(state)
    lines = [
        "" if fresh else "already running",
        f"Ray     {state.jobs}  (jobs and dashboard; drivers: --address {state.driver})",
        f"        the dashboard asks for a token: the content of {state.token}",
        f"MLflow  {links.how_to_look(store, state.mlflow)}",
        *([f"Optuna  {state.ui}  (running studies, read-only)"] if state.ui else []),
        *([f"login   user {USER}; the password is in {state.login}"] if state.login else []),
        f"metrics {state.temporary}/r/{up.EXPORTERS} lists the targets for Prometheus (dashboards/grafana)",
        "",
        "to submit a sweep (CACHE is the absolute path of a cache):",
        f"  {export}",
        f"  {job}",
    ]
    typer.echo("\n".join(lines).strip())


@app.command()
def down(store_path: StoreAt = DEFAULT_STORE) -> None:
    """End the servers that 'cgn up' started for this store, and no others."""
    from cgn_platform.servers import up

    store = open_store(store_path)
    typer.echo("ended" if up.down(store) else f"no servers are running for {store}")


@app.command()
def mlflow(
    store_path: StoreAt = DEFAULT_STORE,
    url: Tracking = None,
    port: Annotated[int, typer.Option(help="Port on the loopback address.")] = ports.MLFLOW,
    host_name: Annotated[
        str | None,
        typer.Option(help="In a container: listen on every address, and answer requests to this name too."),
    ] = None,
) -> None:
    """Open the runs of a store in MLflow on this machine's loopback address, until Ctrl-C.

    MLflow requires a login, which is in a file of the store that only you can read. While 'cgn up' is
    running, its MLflow shows the same runs.

      cgn mlflow
    """
    from cgn_platform.servers import mlflow_app
    from cgn_platform.tracking.mlflow_client import default_uri

    store = open_store(store_path)
    mlflow_app.show(store, default_uri(store, url), port, typer.echo, host_name)


@app.command()
def serve(
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a model's folder.")
    ] = f"models:/{DEFAULT_MODEL}@{CHAMPION}",
    store_path: StoreAt = DEFAULT_STORE,
    port: Annotated[int, typer.Option(help="Port on the loopback address.")] = ports.MODEL,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that a request may take.")] = 600,
    max_body: Annotated[int, typer.Option(min=1, help="Megabytes that a request may have.")] = 256,
) -> None:
    """Serve a model on this machine's loopback address until Ctrl-C, as MLflow's model server does.

    POST /invocations takes pairs of films, GET /example returns the body of such a request, and GET /progress
    lists the running requests; the guide "Models and serving" shows all of it. Requests to other host names
    and of web pages of other sites are refused. Every account of this machine can ask for predictions. For
    many films, 'cgn predict --manifest' is faster.

      cgn serve --model models:/cgn@champion
    """
    from cgn_platform.servers import model_app

    store = open_store(store_path)
    model_app.serve(model, store, port=port, seconds=timeout, max_bytes=max_body * 10**6, announce=typer.echo)


@app.command()
def doctor(
    store_path: StoreAt = DEFAULT_STORE,
    address: Annotated[
        str | None, typer.Option(help="Also check this Ray: host:port, or http://host:port of its jobs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, decoders, GPUs, disk, file modes, open ports and databases; report what is unsafe.

    Changes nothing and prints no secret. Exit code 0: everything is fine; 1: something is missing or does not
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
