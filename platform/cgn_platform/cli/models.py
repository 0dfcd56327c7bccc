"""Commands about models: promote, rollback, models, predict."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cgn.errors import ConfigError, DataError, RegistryError
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    Address,
    LedgerAt,
    StoreAt,
    Tracking,
    announce,
    announce_ray,
    open_data,
    open_ledger,
    open_store,
)
from cgn_platform.registry.registry import CHAMPION, DEFAULT_MODEL
from cgn_platform.store.layout import Store

if TYPE_CHECKING:
    from cgn_platform.registry.promotion import Decision
    from cgn_platform.registry.registry import Registry

ModelName = Annotated[str, typer.Option(help="Name of the registered model.")]
By = Annotated[str | None, typer.Option(help="Who decides. Default: the name of your account.")]
Because = Annotated[
    str, typer.Option(metavar="TEXT", help="The reason, which is recorded with the decision.")
]
RowName = Annotated[
    str | None,
    typer.Option(help="Name of a row, or its number from 1. Default: the winner of a sweep."),
]
Seed = Annotated[int, typer.Option(help="Seed of the networks to serve; the figures are over all seeds.")]
Alias = Annotated[
    str, typer.Option("--as", help="champion, or challenger, which keeps the present champion.")
]
MinAuc = Annotated[float, typer.Option(help="The AUC must lie above this value.")]
Margin = Annotated[
    float,
    typer.Option(help="Non-inferiority margin against the champion, in AUC and in localisation error."),
]
AcceptUnpaired = Annotated[
    bool,
    typer.Option(
        "--accept-unpaired",
        help="Accept a model that cannot be compared with the champion case by case; recorded.",
    ),
]
RanOn = Annotated[
    str | None, typer.Option("--data", help="The cache it ran on. Default: the one in the store.")
]
Target = Annotated[Path | None, typer.Argument(metavar="TARGET", help="The film: DICOM, PNG, PGM or TIFF.")]
Reference = Annotated[
    Path | None,
    typer.Argument(metavar="REFERENCE", help="The film of the other breast in the same view."),
]
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a model's folder.")]
Side = Annotated[
    Literal["L", "R"] | None,
    typer.Option(help="The target's side. Default: from the tags of a DICOM file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="PNG", help="Draw films, activation map, box and counterfactual maps."),
]
Manifest = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A table of films, as 'cgn cache manifest' reads it.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the predictions of a table.")]


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="Name of a finished table or sweep.")],
    row: RowName = None,
    seed: Seed = 0,
    alias: Alias = CHAMPION,
    min_auc: MinAuc = 0.5,
    margin: Margin = 0.05,
    accept_unpaired: AcceptUnpaired = False,
    data: RanOn = None,
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    url: Tracking = None,
    model_name: ModelName = DEFAULT_MODEL,
    by: By = None,
    because: Because = "",
) -> None:
    """Register a sweep's winner or a table's row in MLflow, if it passes every check.

    The checks: its units are undamaged; its AUC lies above --min-auc (for a sweep's winner, both the AUC on
    the test folds and the validation AUC corrected for the choice by BBC-CV); its AUC and localisation are
    not worse than the champion's by --margin on the same cases (95 % intervals); and the packaged model,
    loaded again, predicts the same to the bit. Then it becomes champion, and the old champion becomes
    previous. Exit code 3 means refused: every reason is printed, and the refusal is recorded.

      cgn promote smoke-phantom --because "first one"

      cgn promote table_3-mias-all --row 10 --min-auc 0.6 --as challenger
    """
    from cgn_platform.registry import promotion
    from cgn_platform.registry.gate import Requirements
    from cgn_platform.registry.selection import PromotionRequest, cache_of, find_row
    from cgn_platform.report.facts import read_facts

    requirements, store = Requirements(min_auc, margin, accept_unpaired), open_store(store_path)
    facts = read_facts(store, name)
    if facts["kind"] == "table" or row is not None:
        find_row(facts, row)  # before the cache and MLflow are opened
    pairs, _ = open_data(data or cache_of(store, facts))
    announce("checking its units, packaging its networks and loading them again (about a minute) ...")
    decision = promotion.promote(
        facts,
        pairs,
        PromotionRequest(row, seed, alias, by or promotion.account_name(), because, requirements),
        store=store,
        registry=_registry(url, model_name, store),
        ledger=open_ledger(ledger, store),
    )
    _print_decision(decision, model_name)


@app.command()
def rollback(
    store_path: StoreAt = DEFAULT_STORE,
    url: Tracking = None,
    model_name: ModelName = DEFAULT_MODEL,
    by: By = None,
    because: Because = "",
) -> None:
    """Make the previous champion the champion again, if it still predicts the same to the bit.

    Example: cgn rollback --because "worse on the new films"
    """
    from cgn_platform.registry import promotion

    store = open_store(store_path)
    registry = _registry(url, model_name, store)
    decision = promotion.rollback(
        store=store, registry=registry, by=by or promotion.account_name(), because=because
    )
    _print_decision(decision, model_name)


@app.command()
def models(
    store_path: StoreAt = DEFAULT_STORE, url: Tracking = None, model_name: ModelName = DEFAULT_MODEL
) -> None:
    """List the registered versions: aliases, origin, AUC, who promoted them and when."""
    from cgn_platform.console.live import make_console
    from cgn_platform.console.tables import models_table

    console, store = make_console(), open_store(store_path)
    if not url and not os.environ.get("MLFLOW_TRACKING_URI") and not store.mlflow_database.exists():
        raise RegistryError(f"no models in the store {store}", remedy="give another --store, or --url")
    versions = _registry(url, model_name, store).versions()
    console.print(models_table(versions, console.width))


def _registry(url: str | None, model_name: str, store: Store) -> "Registry":
    from cgn_platform.registry.registry import Registry
    from cgn_platform.tracking import mlflow_client

    return Registry(mlflow_client.default_uri(store, url), model_name, store.mlflow_artifacts)


def _print_decision(decision: "Decision", model_name: str) -> None:
    for check in decision.checks:
        typer.echo(f"{'passed' if check.passed else 'refused'}  {check.words}", err=not check.passed)
    version = f"version {decision.version} of {model_name}"
    match decision.action:
        case "promoted" | "rolled back":
            replaced = f", in place of version {decision.replaced}" if decision.replaced else ""
            typer.echo(f"{decision.action}: {version} is {decision.alias}{replaced}")
        case "refused":
            typer.echo("refused: nothing was changed", err=True)
            raise typer.Exit(3)
        case _:
            typer.echo(f"nothing to do: {version} is already {decision.alias}")


@app.command()
def predict(
    target: Target = None,
    reference: Reference = None,
    model: Model = f"models:/{DEFAULT_MODEL}@{CHAMPION}",
    side: Side = None,
    as_json: AsJson = False,
    figure: Picture = None,
    manifest: Manifest = None,
    out: Out = None,
    store_path: StoreAt = DEFAULT_STORE,
    address: Address = None,
) -> None:
    """Predict one pair of films or, with Ray Data, a whole table of films.

    A warning is printed if the input differs from what the model was trained on. Predictions of a table are
    Parquet files; the same command resumes an interrupted run.

      cgn predict --model models:/cgn@champion left.dcm right.dcm --figure seen.png

      cgn predict --manifest films.csv --out predictions
    """
    store = open_store(store_path)
    if manifest and out and not target:
        from cgn.data.datasets.manifest import list_films

        if not manifest.is_file():
            raise ConfigError(f"no table of films at {manifest}", remedy="correct the path")
        list_films(manifest.absolute())  # before the model is loaded and Ray is started
        _predict_table(manifest, out, model, store, address)
        return
    if manifest or out or not target or not reference:
        raise ConfigError("give TARGET and REFERENCE, or --manifest FILE and --out DIR")
    if missing := [str(film) for film in (target, reference) if not film.is_file()]:
        raise ConfigError(f"no film at {' or '.join(missing)}", remedy="correct the path")
    from cgn.data.reading.films import FilmPair
    from cgn.errors import Reason, UnreadableImageError
    from cgn_platform.serving import package

    announce(f"loading {model} ...")
    with package.load(model, store=store, processes=1) as ensemble:
        (prediction,) = ensemble.predict([FilmPair.of(target, reference, side)])
        if prediction.refused:
            raise UnreadableImageError(prediction.warnings[0], Reason(prediction.refused.reason))
        if figure:
            from cgn.figures import draw_prediction, save

            save(draw_prediction(ensemble, prediction), figure)
    if as_json:
        typer.echo(json.dumps(prediction.facts()))
        return
    box = " ".join(f"{number:.0f}" for number in prediction.box)
    typer.echo(f"{prediction.summary()}; box {box} in pixels of the target")
    for warning in prediction.warnings:
        typer.echo(f"warning: {warning}")


def _predict_table(table: Path, out: Path, model: str, store: Store, address: str | None) -> None:
    from rich.progress import Progress

    from cgn_platform.cluster.connect import connect
    from cgn_platform.cluster.resources import Resources
    from cgn_platform.console.live import make_console
    from cgn_platform.serving import package

    console = make_console(stderr=True)
    announce_ray(address)
    with package.ensemble_folder(model, store) as folder, connect(address) as cluster:
        from cgn_platform.serving.batch import predict_table  # after Ray's environment was set

        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("predicting", total=None)
            result = predict_table(
                table,
                out,
                folder,
                slots=cluster.slots(Resources()),
                warn=lambda line: bar.console.print(line, markup=False),
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    typer.echo(f"{result.predicted} rows predicted, {result.existing} predicted before: {out}")
    if result.quarantine:
        raise DataError(f"{result.quarantined} rows have no prediction: {result.quarantine} lists them")
