"""Commands about models: promote, rollback, models, predict."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cgn.errors import ConfigError, DataError
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    Address,
    LedgerAt,
    StoreAt,
    open_data,
    open_ledger,
    open_store,
)
from cgn_platform.store.layout import Store

if TYPE_CHECKING:
    pass

ModelName = Annotated[str, typer.Option(help="Of the registered model.")]


Tracking = Annotated[
    str | None, typer.Option("--url", help="Of MLflow; MLFLOW_TRACKING_URI, or a database in the store.")
]


By = Annotated[str | None, typer.Option(help="Who decides; your account's name where not given.")]


Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the decision.")]


@app.command()
def promote(
    name: Annotated[str, typer.Argument(help="Of a table or sweep that has run in this store.")],
    row: Annotated[
        str | None,
        typer.Option(help="By name, or number from 1; the winner of a sweep where not given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Whose networks are served; figures are over all seeds.")] = 0,
    alias: Annotated[
        str, typer.Option("--as", help="champion, or challenger, which leaves the champion in.")
    ] = "champion",
    min_auc: Annotated[float, typer.Option(help="Above which the AUC must lie.")] = 0.5,
    margin: Annotated[
        float, typer.Option(help="By which the champion may be missed, in AUC and in localisation error.")
    ] = 0.05,
    accept_unpaired: Annotated[
        bool,
        typer.Option(
            "--accept-unpaired", help="Pass what cannot be compared with the champion case by case; recorded."
        ),
    ] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="The cache it ran on; sought in the store where not given.")
    ] = None,
    store_path: StoreAt = DEFAULT_STORE,
    ledger: LedgerAt = None,
    url: Tracking = None,
    model_name: ModelName = "cgn",
    by: By = None,
    because: Because = "",
) -> None:
    """Register a sweep's winner or a table's row in MLflow, if it passes the gate.

    Its units must be whole, its AUC above --min-auc (of a sweep's winner that of the test folds and the one
    corrected for the choice, BBC-CV), its AUC and localisation not worse than the champion's by --margin on
    the same cases (95 % intervals), and the model must predict the same to the bit when it is loaded again.
    Then it is champion, and the old one previous. Exit code 3: refused, and every reason is told; the refusal
    is recorded, too.

      cgn promote smoke-phantom --because "first one"

      cgn promote table_3-mias-all --row 10 --min-auc 0.6 --as challenger
    """
    from cgn_platform.registry import promotion
    from cgn_platform.registry.gate import Demands
    from cgn_platform.report.facts import read_facts

    demands, store = Demands(min_auc, margin, accept_unpaired), open_store(store_path)
    facts = read_facts(store, name)
    pairs, _ = open_data(data or promotion.cache_of(store, facts))
    outcome = promotion.promote(
        facts,
        pairs,
        promotion.PromotionRequest(row, seed, alias, by or promotion.whoami(), because),
        store=store,
        registry=_registry(url, model_name, store),
        ledger=open_ledger(ledger, store),
        demands=demands,
    )
    _say_outcome(outcome, model_name)


@app.command()
def rollback(
    store_path: StoreAt = DEFAULT_STORE,
    url: Tracking = None,
    model_name: ModelName = "cgn",
    by: By = None,
    because: Because = "",
) -> None:
    """Make the previous champion the champion again, if it still loads and predicts the same to the bit.

    cgn rollback --because "worse on the new films"
    """
    from cgn_platform.registry import promotion

    store = open_store(store_path)
    there = _registry(url, model_name, store)
    outcome = promotion.rollback(store=store, registry=there, by=by or promotion.whoami(), because=because)
    _say_outcome(outcome, model_name)


@app.command()
def models(store_path: StoreAt = DEFAULT_STORE, url: Tracking = None, model_name: ModelName = "cgn") -> None:
    """List the registered versions: aliases, where they come from, AUC, who promoted them and when."""
    from cgn_platform.console.live import make_console
    from cgn_platform.console.tables import models_table

    make_console().print(models_table(_registry(url, model_name, open_store(store_path)).versions()))


def _registry(url: str | None, model_name: str, store: Store) -> Any:
    from cgn_platform.registry.registry import Registry
    from cgn_platform.tracking import mlflow_client

    return Registry(url or mlflow_client.default_uri(store), model_name, store.mlflow_artifacts)


def _say_outcome(outcome: Any, model_name: str) -> None:
    for check in outcome.checks:
        typer.echo(f"{'passed' if check.passed else 'refused'}  {check.words}", err=not check.passed)
    version = f"version {outcome.version} of {model_name}"
    match outcome.action:
        case "promoted" | "rolled back":
            before = f"; before it was version {outcome.before}" if outcome.before else ""
            typer.echo(f"{outcome.action}: {version} is {outcome.alias}{before}")
        case "refused":
            typer.echo("refused: nothing was changed", err=True)
            raise typer.Exit(3)
        case _:
            typer.echo(f"nothing to do: {version} is {outcome.alias} already")


@app.command()
def predict(
    target: Annotated[
        Path | None, typer.Argument(metavar="TARGET", help="The film: DICOM, PNG, PGM or TIFF.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Argument(metavar="REFERENCE", help="That of the other breast, in the same view.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a model's folder.")
    ] = "models:/cgn@champion",
    side: Annotated[
        Literal["L", "R"] | None, typer.Option(help="The target's breast; tags of a DICOM film tell too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw films, map, box and counterfactual maps.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: a table, as 'cgn cache manifest' reads it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where a table's predictions go.")] = None,
    store_path: StoreAt = DEFAULT_STORE,
    address: Address = None,
) -> None:
    """Ask a model about a pair of films, or about a whole table of them by Ray Data.

    A warning tells where the input lies outside of what the model was trained on. A table's predictions
    are Parquet parts; the same command goes on where it was stopped.

      cgn predict --model models:/cgn@champion left.dcm right.dcm --figure seen.png

      cgn predict --manifest films.csv --out predictions
    """
    from cgn_platform.serving import package

    store = open_store(store_path)
    if manifest and out and not target:
        _predict_table(manifest, out, model, store, address)
        return
    if manifest or out or not target or not reference:
        raise ConfigError("give TARGET and REFERENCE, or --manifest FILE and --out DIR")
    from cgn.data.films import FilmPair
    from cgn.errors import Reason, UnreadableImageError

    with package.load(model, store=store, processes=1) as ensemble:
        (said,) = ensemble.predict([FilmPair.of(target, reference, side)])
        if said.refused:
            raise UnreadableImageError(said.warnings[0], Reason(said.refused.reason))
        if figure:
            from cgn.figures import draw_prediction, save

            save(draw_prediction(ensemble, said), figure)
    if as_json:
        typer.echo(json.dumps(said.facts()))
        return
    place = " ".join(f"{number:.0f}" for number in said.box)
    typer.echo(
        f"malignant with probability {said.p_malignant:.3f}, {len(said.fold_p)} folds spread by "
        f"{said.spread:.3f}; box {place} in pixels of the target"
    )
    for warning in said.warnings:
        typer.echo(f"warning: {warning}")


def _predict_table(table: Path, out: Path, model: str, store: Store, address: str | None) -> None:
    from rich.progress import Progress

    from cgn_platform.cluster import connect
    from cgn_platform.cluster.resources import Resources
    from cgn_platform.console.live import make_console
    from cgn_platform.serving import package

    console = make_console(stderr=True)
    with package.fetched(model, store) as folder, connect.connect(address) as ray_cluster:
        from cgn_platform.serving.batch import predict_table  # after Ray's environment was set

        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("predicting", total=None)
            told = predict_table(
                table,
                out,
                folder,
                slots=ray_cluster.slots(Resources()),
                say=bar.console.print,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    typer.echo(f"{told.predicted} predicted, {told.stood} stood already: {out}")
    if told.quarantine:
        raise DataError(f"{told.quarantined} rows have no prediction: {told.quarantine} lists them")
