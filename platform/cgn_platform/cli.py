"""`cgn ...`: each verb is one call into the packages. What is heavy is imported by the verb that needs it."""

import inspect
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cgn.errors import CGNError, ConfigError, DataError, LedgerError, PlatformError

if TYPE_CHECKING:
    from rich.console import Console

    from cgn.data.pairs import Pairs, Split


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

Store = Annotated[
    Path,
    typer.Option("--store", envvar="CGN_STORE", help="Where caches, studies and MLflow's database live."),
]
Data = Annotated[
    str, typer.Option("--data", help="A cache: its folder or, on a cluster, an absolute path or storage URI.")
]
Edits = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Edit a field of the configuration; may be repeated."),
]
LedgerAt = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        envvar="CGN_LEDGER",
        help="Where finished folds are kept: a folder or address (s3://...) that all workers reach; "
        "STORE/units where not given.",
    ),
]
CheckpointEvery = Annotated[
    int,
    typer.Option(min=1, help="Epochs between two checkpoints of a fold: what a lost worker costs at most."),
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster, host:port; RAY_ADDRESS, or a local Ray of its own.")
]
DEFAULT_STORE = Path("runs")


class _Datasets(typer.core.TyperGroup):
    """`cgn cache DATASET`: one command a module of `cgn.data.datasets`, its options read from `Options`."""

    def list_commands(self, _ctx: Any) -> list[str]:
        from cgn.data import datasets

        return datasets.names()

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        from cgn.data import datasets

        if cmd_name not in datasets.names():
            raise ConfigError(f"no dataset {cmd_name!r}: take one of {', '.join(datasets.names())}")
        one = typer.Typer(add_completion=False, rich_markup_mode="rich")
        one.command(cmd_name)(self.command_of(cmd_name))
        return typer.main.get_command(one)

    def command_of(self, dataset: str) -> Callable[..., None]:
        return _cache_command(dataset)


class _Bilateral(_Datasets):
    """`cgn bilateral DATASET`: those with pairs that are known to be healthy."""

    def list_commands(self, _ctx: Any) -> list[str]:
        from cgn.measure import with_healthy_pairs

        return with_healthy_pairs()

    def command_of(self, dataset: str) -> Callable[..., None]:
        return _bilateral_command(dataset)


caches = typer.Typer(
    cls=_Datasets,
    no_args_is_help=True,
    help="""Prepare the pairs of a dataset, once: crop, orient, resize, fold. Prints the cache's folder.

      cgn cache mias --raw DIR --cohort mass

      cgn cache phantom --pairs 300 --seed 1""",
)
app.add_typer(caches, name="cache")


bilateral = typer.Typer(
    cls=_Bilateral,
    no_args_is_help=True,
    help="""Test the symmetric prior (Sec. IV-D): do a lesion's sides differ more than healthy ones?

      cgn bilateral mias --raw DIR

      cgn bilateral phantom --pairs 300 --size 96""",
)
app.add_typer(bilateral, name="bilateral")


@bilateral.callback()
@caches.callback()
def _group() -> None:
    pass


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


_debug = False


@app.command()
def look(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="PNG", help="The picture to write.")] = Path("pairs.png"),
    pairs: Annotated[int, typer.Option(min=1, help="How many, spread over the cache.")] = 12,
) -> None:
    """Draw some pairs of a cache with their lesions' boxes: look at them before you train on them.

    For example: cgn look --data runs/cache/mias-all-... pairs.png
    """
    from cgn.data.picture import contact_sheet

    there, _ = _open(data)
    count = min(pairs, len(there))
    contact_sheet(there, [i * len(there) // count for i in range(count)], out)
    typer.echo(f"{count} of {len(there)} pairs in {out}")


@app.command()
def films(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    pairs: Annotated[int, typer.Option(min=1, help="How many women, two films each.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the drawing; caches of phantoms have 0 unless told.")] = 7,
    size: Annotated[int, typer.Option(min=32, help="As that of the cache that a model was trained on.")] = 96,
) -> None:
    """Draw phantoms as PNG films with a table of them: something to ask a model about, or to cache.

      cgn films drawn

      cgn predict drawn/phantom-7-00001-L.png drawn/phantom-7-00001-R.png --side L

      cgn cache manifest --file drawn/films.csv --name drawn --folds 2

    Prints where the table is.
    """
    from cgn.data.datasets.phantom import Options
    from cgn.data.drawn import write_films

    typer.echo(write_films(folder, Options(pairs=pairs, seed=seed), size))


@app.command()
def whose(
    pseudonyms: Annotated[list[str], typer.Argument(metavar="PSEUDONYM...", help="As caches name them.")],
    raw: Annotated[Path, typer.Option(help="The folder with the raw files.")],
) -> None:
    """Tell, on this terminal alone, which raw files pseudonyms stand for; needs the key that made them.

    For example: cgn whose film-3f9a0c5d1e7b2846 --raw /data/inbreast
    """
    from cgn.data.pseudonym import open_pseudonyms
    from cgn.data.whose import files_of

    found = files_of(pseudonyms, raw, open_pseudonyms())
    for pseudonym in pseudonyms:
        for path in found[pseudonym]:
            typer.echo(f"{pseudonym}: {path}")
    unknown = [pseudonym for pseudonym in pseudonyms if not found[pseudonym]]
    if unknown:
        raise DataError(f"nothing in {raw} stands behind {', '.join(unknown)} under this key")


@app.command()
def train(
    data: Data,
    store: Store = DEFAULT_STORE,
    edits: Edits = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
    fold: Annotated[int | None, typer.Option(help="Train this fold only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    figures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw Fig. 4 to 6 of some test pairs of the first fold."),
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="Measure the counterfactual features of the test pairs (Sec. IV-F)."
        ),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Log the run to MLflow, figures and measurements as artifacts.")
    ] = False,
) -> None:
    """Train one configuration in this process, without Ray; all folds in lockstep.

    Prints an epoch a line, then the folds at their best validation epoch. Finished folds stand in the
    ledger: the same command again reads them, and goes on with those that were cut short.

      cgn train --data runs/cache/phantom-... --set backbone=tiny --set epochs=10 --fold 0

      cgn train --data runs/cache/mias-... --figures figures --measure distances.json --track
    """
    from cgn.config import Config
    from cgn_platform.space import check_names

    config = Config().edit(**_edits(edits))
    pairs, splits = _open(data)
    check_names(config)
    if fold is not None and not 0 <= fold < len(splits):
        raise ConfigError(f"--fold must lie in [0, {len(splits) - 1}] but got {fold}")
    from cgn_platform.console import make_console
    from cgn_platform.ledger import Ledger
    from cgn_platform.training import Wanted
    from cgn_platform.training import train as train_here

    store, console = _store(store), make_console()
    train_here(
        config,
        pairs,
        splits,
        fold=fold,
        device=device,
        store=store,
        ledger=Ledger(_ledger(ledger, store), checkpoint_every, say=console.print),
        wanted=Wanted(figures, measure, track),
        console=console,
    )


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of search_spaces/.")],
    data: Data,
    store: Store = DEFAULT_STORE,
    name: Annotated[
        str | None, typer.Option(help="Of the study; the file's and the data's name where not given.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="In all, those that stand included.")] = None,
    edits: Edits = None,
    cpus: Annotated[float, typer.Option(help="CPUs a trial.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs a trial, or a fraction of one.")] = 0,
    fold_workers: Annotated[
        int,
        typer.Option(min=0, help="Share a trial's folds among so many workers, each with --cpus and --gpus."),
    ] = 0,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Trials at once; all that fit.")] = None,
    audit_pruning: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Finish this share of what would be stopped: how often was that wrong?"
        ),
    ] = 0.0,
    address: Address = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Search a space with pruning; shows a leader board and how to open MLflow.

    The same command again goes on where it was stopped, and with a larger --trials adds to it. Folds that
    any sweep or table has finished are read from the ledger, not trained.

      cgn sweep search_spaces/alpha_beta.py --data runs/cache/mias-all-...

      cgn sweep search_spaces/smoke.py --data CACHE --trials 4 --set epochs=3

      ray job submit --working-dir . -- cgn sweep search_spaces/alpha_beta.py --data /abs/CACHE --gpus 0.25
    """
    from cgn_platform import cluster
    from cgn_platform.console import make_console
    from cgn_platform.space import check_names, load_space

    resources = cluster.Resources(cpus, gpus)
    space = load_space(file).edit(trials, **_edits(edits))
    store = _store(store)
    pairs, splits = _open(data)
    check_names(space.base, space.dimensions)
    console = make_console()
    name = name or f"{file.stem}-{pairs.name}"
    with cluster.connect(address) as ray_cluster:
        from cgn_platform.sweep import run_sweep  # after Ray's environment was set

        records = run_sweep(
            space,
            pairs,
            splits,
            name=name,
            store=store,
            cluster=ray_cluster,
            resources=resources,
            concurrent=concurrent,
            console=console,
            ledger=_ledger(ledger, store),
            checkpoint_every=checkpoint_every,
            fold_workers=fold_workers,
            audit=audit_pruning,
        )
        from cgn_platform.report import write_sweep

        write_sweep(name, space, records, pairs, splits, store, _ledger(ledger, store), resources)
    _say_results(console, records, store, name)


def _say_results(console: "Console", records: Any, store: Path, name: str) -> None:
    from cgn_platform import tracking
    from cgn_platform.console import leader_board, summary

    console.print(leader_board(records))
    figures = summary(records)
    orphans = f", {figures['trials_orphan']:g} orphans asked again" if figures["trials_orphan"] else ""
    console.print(
        f"{figures['trials_complete']:g} complete, {figures['trials_pruned']:g} pruned, "
        f"{figures['trials_failed']:g} failed{orphans}; "
        f"pruning saved {figures['epochs_saved']:.0%} of the epochs",
        highlight=False,
    )
    if "audited" in figures:
        console.print(
            f"audit: {figures['audited']:g} ran on where they would have been stopped, "
            f"{figures['wrong_prunes']:g} of them would have won: wrong-prune rate "
            f"{figures['wrong_prune_rate']:.2f} [{figures['wrong_prune_rate_low']:.2f}, "
            f"{figures['wrong_prune_rate_high']:.2f}]",
            highlight=False,
            markup=False,
        )
    look = tracking.how_to_look(tracking.default_uri(store), tracking.page_of(store, name))
    console.print(f"to compare in MLflow: {look}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def replay(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Studies, run with no pruning.")],
    data: Data,
    store: Store = DEFAULT_STORE,
    edits: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Edit a setting of Prune; may be repeated."),
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="The recorded order and shuffled ones, in all.")] = 20,
    ledger: LedgerAt = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Replay every rule of pruning over the complete trials of studies: what each saves, and what it costs.

    Record them with prune=Prune("none"); several orders of the same trials tell how far chance goes.

      cgn replay recorded --data runs/cache/phantom-...

      cgn replay recorded --data CACHE --set warmup_epochs=8 --set confidence=0.8
    """
    from cgn_platform import replay as player
    from cgn_platform.console import make_console, replay_table
    from cgn_platform.ledger import Ledger
    from cgn_platform.space import Prune
    from cgn_platform.study import recorded

    prune = Prune().edit(**_edits(edits))
    store, (pairs, splits) = _store(store), _open(data)
    units = Ledger(_ledger(ledger, store))
    recordings = [player.recording(name, *recorded(name, store), pairs, splits, units) for name in names]
    found = [outcome for each in recordings for outcome in player.outcomes(each, prune, orders)]
    if as_json:
        typer.echo(json.dumps(player.as_json(found, prune), indent=1))
    else:
        make_console().print(replay_table(found))


@app.command()
def table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table of search_spaces/.")],
    data: Data,
    store: Store = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="The file's and the data's name where not given.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat every row with so many seeds.")] = 1,
    retune: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="TRIALS",
            help="Search learning_rate, alpha and beta for each row first, with so many trials each; "
            "without it all rows share the settings of the table's base.",
        ),
    ] = None,
    edits: Edits = None,
    cpus: Annotated[float, typer.Option(help="CPUs a fold.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs a fold, or a fraction of one.")] = 0,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Folds at once; all that fit.")] = None,
    address: Address = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Run every row of a table on the same folds and seeds, and say what can be told apart.

    Every fold of every row is scheduled on its own. Those that the ledger has cost nothing: run it again
    after it was stopped, with more seeds, or for another table that shares rows with this one.

      cgn table search_spaces/table_3.py --data runs/cache/mias-all-... --seeds 3

      cgn table search_spaces/table_3.py --data CACHE --set frozen_backbone=true --set epochs=30

      cgn table search_spaces/table_3.py --data CACHE --retune 8
    """
    from cgn_platform import cluster, tracking
    from cgn_platform.console import TableScreen, make_console, table_of
    from cgn_platform.space import check_names, load_table

    resources = cluster.Resources(cpus, gpus)
    declared = load_table(file).edit(**_edits(edits))
    store = _store(store)
    pairs, splits = _open(data)
    for row in declared.rows:
        check_names(declared.config(row))
    console = make_console()
    name = name or f"{file.stem}-{pairs.name}{'-retuned' if retune else ''}"
    with cluster.connect(address) as ray_cluster:
        from cgn_platform.retune import retune as retuned
        from cgn_platform.sweep import run_sweep  # after Ray's environment was set
        from cgn_platform.table import run_table

        how: dict[str, Any] = {
            "store": store,
            "cluster": ray_cluster,
            "resources": resources,
            "ledger": _ledger(ledger, store),
            "checkpoint_every": checkpoint_every,
            "concurrent": concurrent,
        }
        if retune:

            def search(study: str, space: Any) -> Any:
                console.rule(study, align="left")
                return run_sweep(space, pairs, splits, name=study, console=console, **how)

            declared = retuned(declared, name, retune, search)
        with TableScreen(console) as screen:
            facts = run_table(declared, pairs, splits, name=name, seeds=seeds, screen=screen, **how)
    console.print(table_of(facts))
    uri = tracking.default_uri(store)
    tracking.track_table(facts, store=store, uri=uri, say=lambda told: console.print(told, style="yellow"))
    look = tracking.how_to_look(uri, tracking.page_of(store, facts["name"]))
    console.print(f"to compare in MLflow: {look}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Of a table or sweep that has run in this store.")],
    store: Store = DEFAULT_STORE,
    ledger: LedgerAt = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The cache it ran on: with it, the page has pictures.")
    ] = None,
) -> None:
    """Turn a finished table or sweep into one HTML file that opens from disk; prints where it is.

    The page goes to MLflow, too, as an artifact of the table's or sweep's run.

      cgn report table_3-mias-all --data runs/cache/mias-all-...
    """
    from cgn_platform import tracking
    from cgn_platform.ledger import Ledger
    from cgn_platform.report import write_report

    store = _store(store)
    pairs = None if data is None else _open(data)[0]
    where = _ledger(ledger, store)
    typer.echo(write_report(store, name, where, pairs))
    if tracking.is_tracked(store, name):
        try:
            tracking.track(store, tracking.default_uri(store), name=name, ledger=Ledger(where))
        except PlatformError as error:
            typer.echo(f"the page is not in MLflow yet, 'cgn track' sends it: {error}", err=True)


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
    store: Store = DEFAULT_STORE,
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
    from cgn_platform import registry
    from cgn_platform.gate import Demands
    from cgn_platform.ledger import Ledger
    from cgn_platform.report import read_facts

    demands, store = Demands(min_auc, margin, accept_unpaired), _store(store)
    facts = read_facts(store, name)
    pairs, _ = _open(data or registry.cache_of(store, facts))
    outcome = registry.promote(
        facts,
        pairs,
        registry.Asked(row, seed, alias, by or registry.whoami(), because),
        store=store,
        registry=_registry(url, model_name, store),
        ledger=Ledger(_ledger(ledger, store)),
        demands=demands,
    )
    _say_outcome(outcome, model_name)


@app.command()
def rollback(
    store: Store = DEFAULT_STORE,
    url: Tracking = None,
    model_name: ModelName = "cgn",
    by: By = None,
    because: Because = "",
) -> None:
    """Make the previous champion the champion again, if it still loads and predicts the same to the bit.

    cgn rollback --because "worse on the new films"
    """
    from cgn_platform import registry

    store = _store(store)
    there = _registry(url, model_name, store)
    outcome = registry.rollback(store=store, registry=there, by=by or registry.whoami(), because=because)
    _say_outcome(outcome, model_name)


@app.command()
def models(store: Store = DEFAULT_STORE, url: Tracking = None, model_name: ModelName = "cgn") -> None:
    """List the registered versions: aliases, where they come from, AUC, who promoted them and when."""
    from cgn_platform.console import make_console, models_table

    make_console().print(models_table(_registry(url, model_name, _store(store)).versions()))


def _registry(url: str | None, model_name: str, store: Path) -> Any:
    from cgn_platform import tracking
    from cgn_platform.registry import Registry

    return Registry(url or tracking.default_uri(store), model_name, store / "mlartifacts")


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
def units(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[UNIT]...", help="Ids, or how they begin.")
    ] = None,
    store: Store = DEFAULT_STORE,
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
    from cgn_platform.console import make_console, unit_facts, units_table
    from cgn_platform.ledger import Ledger

    console = make_console()
    there = Ledger(_ledger(ledger, _store(store)), say=lambda told: console.print(told, style="yellow"))
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
    store: Store = DEFAULT_STORE,
    address: Address = None,
) -> None:
    """Ask a model about a pair of films, or about a whole table of them by Ray Data.

    A warning tells where the input lies outside of what the model was trained on. A table's predictions
    are Parquet parts; the same command goes on where it was stopped.

      cgn predict --model models:/cgn@champion left.dcm right.dcm --figure seen.png

      cgn predict --manifest films.csv --out predictions
    """
    from cgn_platform import serving

    store = _store(store)
    if manifest and out and not target:
        _predict_table(manifest, out, model, store, address)
        return
    if manifest or out or not target or not reference:
        raise ConfigError("give TARGET and REFERENCE, or --manifest FILE and --out DIR")
    from cgn.data.films import FilmPair
    from cgn.errors import Reason, UnreadableImageError

    with serving.load(model, store=store, processes=1) as ensemble:
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


def _predict_table(table: Path, out: Path, model: str, store: Path, address: str | None) -> None:
    from rich.progress import Progress

    from cgn_platform import cluster, serving
    from cgn_platform.console import make_console

    console = make_console(stderr=True)
    with serving.fetched(model, store) as folder, cluster.connect(address) as ray_cluster:
        from cgn_platform.batch import predict_table  # after Ray's environment was set

        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("predicting", total=None)
            told = predict_table(
                table,
                out,
                folder,
                slots=ray_cluster.slots(cluster.Resources()),
                say=bar.console.print,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    typer.echo(f"{told.predicted} predicted, {told.stood} stood already: {out}")
    if told.quarantine:
        raise DataError(f"{told.quarantined} rows have no prediction: {told.quarantine} lists them")


@app.command()
def up(
    store: Store = DEFAULT_STORE,
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
    from cgn_platform import cluster, tracking

    state, fresh = cluster.up(
        store,
        ray_port=ray_port,
        mlflow_port=mlflow_port,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        ui_port=ui_port if ui else None,
    )
    export, job = cluster.submit_lines(state)
    lines = [
        "" if fresh else "already up",
        f"Ray     {state.jobs}  (jobs and dashboard; drivers: --address {state.driver})",
        f"MLflow  {tracking.how_to_look(state.mlflow)}",
        *([f"Optuna  {state.ui}  (studies while they run; read only)"] if state.ui else []),
        f"metrics {state.temporary}/r/{cluster.EXPORTERS} names what Prometheus reads (dashboards/grafana)",
        "",
        "to submit a sweep, with the absolute path of a cache for CACHE:",
        f"  {export}",
        f"  {job}",
    ]
    typer.echo("\n".join(lines).strip())


@app.command()
def track(
    store: Store = DEFAULT_STORE,
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

    from cgn_platform import database, tracking
    from cgn_platform.console import make_console
    from cgn_platform.ledger import Ledger

    store = _store(store)
    url = url or tracking.default_uri(store)
    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(study: str, total: int, done: int) -> None:
            if study not in tasks:
                tasks[study] = bar.add_task(study, total=total)
            bar.advance(tasks[study], done)

        brought = tracking.track(
            store,
            url,
            name=name,
            rebuild=rebuild,
            ledger=Ledger(_ledger(ledger, store)),
            say=lambda told: bar.console.print(told, markup=False, style="yellow"),
            on_progress=advance,
        )
    typer.echo(f"{database.hidden(url)} tells {', '.join(brought) or 'nothing new'}")


@app.command()
def down(store: Store = DEFAULT_STORE) -> None:
    """End the servers that 'cgn up' started in this store, and no others."""
    from cgn_platform import cluster

    typer.echo("ended" if cluster.down(store) else f"nothing is up in {store}")


@app.command()
def doctor(
    store: Store = DEFAULT_STORE,
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

    from cgn_platform import doctor as ward
    from cgn_platform.console import make_console

    findings = ward.examine(store, address)
    state = ward.worst(findings)
    if as_json:
        typer.echo(json.dumps({"state": state, "findings": [asdict(each) for each in findings]}, indent=1))
    else:
        make_console().print(ward.as_table(findings))
    raise typer.Exit(ward.EXIT[state])


def main() -> None:
    """The console script: a CGNError is one line and exit code 2."""
    try:
        app()
    except CGNError as error:
        if _debug:
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def _cache_command(dataset: str) -> Callable[..., None]:
    from rich.progress import Progress

    from cgn.data import datasets
    from cgn.data.cache import CacheReport, write_cache
    from cgn_platform.console import make_console

    options = datasets.load(dataset).Options

    def command(**values: Any) -> None:
        asked = options.of({name: values.pop(name) for name in options.model_fields})
        values["parts"] = _parts(values.pop("splits"))
        console = make_console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"preparing {dataset}", total=None)
            report: CacheReport = write_cache(
                dataset, asked, progress=lambda done, n: bar.update(task, completed=done, total=n), **values
            )
        _say_cache(report)

    # A dataset's options first, then what all share: both are read from where they are declared.
    of_dataset = [_parameter(name, field) for name, field in options.model_fields.items()]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("size", 224, Annotated[int, typer.Option(help="Side of the cached images in pixels.")]),
            ("background", "keep", Annotated[str, typer.Option(help="keep, or mask what is no breast.")]),
            ("folds", 5, Annotated[int, typer.Option(help="Folds, grouped by patient and stratified.")]),
            (
                "splits",
                None,
                Annotated[str | None, typer.Option(help="Instead of folds: train:val:test, e.g. 8:1:1.")],
            ),
            ("split_seed", 0, Annotated[int, typer.Option(help="Of the folds.")]),
            ("out", None, Annotated[Path | None, typer.Option(help="The cache's folder.")]),
            ("store", DEFAULT_STORE, Store),
        )
    ]
    command.__signature__ = inspect.Signature(of_dataset + shared)  # type: ignore[attr-defined]
    command.__doc__ = f"{inspect.getdoc(options)}\n\nA second call with nothing changed does no work."
    return command


def _bilateral_command(dataset: str) -> Callable[..., None]:
    from cgn.data import datasets

    options = datasets.load(dataset).Options

    def command(size: int, edits: list[str] | None, **values: Any) -> None:
        from cgn import measure
        from cgn.config import Config
        from cgn_platform.console import bilateral_table, make_console

        config = Config().edit(**_edits(edits))
        trunk = measure.trunk(config.backbone, config.backbone_weights, config.seed)
        named = f"{config.backbone}, weights {config.backbone_weights}, seed {config.seed}"
        tests, rejected = measure.prior(
            dataset, options.of(values), size, {"grey values": measure.grey_cells, named: trunk}
        )
        for pair in rejected:
            typer.echo(f"left out: {pair}")
        make_console().print(bilateral_table(tests))

    of_dataset = [_parameter(name, field) for name, field in options.model_fields.items()]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("size", 224, Annotated[int, typer.Option(help="Side of the prepared images in pixels.")]),
            ("edits", None, Edits),
        )
    ]
    command.__signature__ = inspect.Signature(of_dataset + shared)  # type: ignore[attr-defined]
    command.__doc__ = (
        "Test Eq. 15 by grey values and by the features of a fixed backbone.\n\n"
        "Give it weights, --set backbone_weights=imagenet or a file's path: drawn ones see little.\n\n"
        f"{inspect.getdoc(options)}"
    )
    return command


def _parameter(name: str, field: Any) -> inspect.Parameter:
    option = typer.Option(help=field.description)
    default = inspect.Parameter.empty if field.is_required() else field.get_default()
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[field.annotation, option]
    )


def _parts(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    numbers = text.split(":")
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ConfigError(f"--splits must be train:val:test like 8:1:1 but got {text!r}")
    train, val, test = map(int, numbers)
    return train, val, test


def _say_cache(report: Any) -> None:
    from cgn_platform.console import make_console

    for kind in ("missing", "notes"):
        for told in getattr(report, kind):
            typer.echo(f"{kind}: {told}")
    if report.rejected:
        make_console().print(_reasons(report.rejected))
    counts = ", ".join(f"{name} {count}" for name, count in report.counts.items())
    speed = f" ({report.images_per_second:.1f} images/s)" if report.fresh else ""
    typer.echo(f"{'written' if report.fresh else 'nothing to do'} in {report.seconds:.1f} s{speed}: {counts}")
    typer.echo(report.path)
    if report.rejected:  # the cache is whole without them, but nobody should overlook it
        raise DataError(
            f"{len(report.rejected)} pairs are not in the cache, {report.counts['cached']} are: "
            f"{report.quarantine} lists them: replace these films and run this again"
        )


def _reasons(rejected: Any) -> Any:
    from rich.table import Table

    table = Table("pairs", "reason", "for example", box=None)
    for reason, count in Counter(r.reason for r in rejected).most_common():
        table.add_row(str(count), reason, str(next(r for r in rejected if r.reason == reason)))
    return table


def _edits(edits: list[str] | None) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for edit in edits or ():
        name, given, value = edit.partition("=")
        if not given:
            raise ConfigError(f"--set must be FIELD=VALUE but got {edit!r}")
        try:
            changes[name.strip()] = json.loads(value)
        except ValueError:
            changes[name.strip()] = value
    return changes


def _open(data: str) -> "tuple[Pairs, tuple[Split, ...]]":
    from cgn.data.cache import open_cache, open_splits
    from cgn_platform.cluster import in_job

    if "://" not in data and not Path(data).is_absolute():
        if in_job():
            raise ConfigError(
                f"--data must be an absolute path or a storage URI in a job but got {data!r}: "
                "a job runs in an uploaded copy of the folder, which holds no cache"
            )
        data = os.path.abspath(data)  # noqa: PTH100 - keeps symbolic links as the user knows them
    return open_cache(data), open_splits(data)


def _ledger(ledger: str | None, store: Path) -> str:
    if ledger is None:
        return str(store / "units")
    return ledger if "://" in ledger else str(Path(ledger).absolute())


def _store(store: Path) -> Path:
    from cgn_platform.cluster import in_job

    if in_job() and not store.is_absolute():
        raise ConfigError(
            f"--store must be an absolute path in a job but got {str(store)!r}: "
            "a job's folder goes with it; give --store, or CGN_STORE to the cluster"
        )
    return store.absolute()


if __name__ == "__main__":
    main()
