"""Commands that run on Ray, sweep and table; and replay, which only reads."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgn import files
from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    Address,
    CheckpointEvery,
    Data,
    Edits,
    LedgerAt,
    StoreAt,
    announce,
    announce_ray,
    edits_of,
    open_data,
    open_ledger,
    open_store,
    print_address,
    print_plainly,
    report_command,
)
from cgn_platform.store.layout import Store

if TYPE_CHECKING:
    from rich.console import Console

    from cgn.data.pairs import Pairs, Split
    from cgn_platform.report.facts import Facts
    from cgn_platform.run.site import Site
    from cgn_platform.search.controller import Listener
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.space import Space, Table


def _given_name(name: str | None) -> str | None:
    return None if name is None else files.check_name(name, "--name")


def _default_name(name: str) -> str:
    return files.check_name(name, "the name made from file and data set", remedy="give a --name")


Name = Annotated[
    str | None,
    typer.Option(
        callback=_given_name,
        help="Name of the study or table: letters, digits, '.', '_', '-'. Default: from file and data set.",
    ),
]
Trials = Annotated[int | None, typer.Option(min=1, help="Number of trials in all, finished ones included.")]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds of each row.")]
Cpus = Annotated[float, typer.Option(help="CPUs for each trial of a sweep, or for each fold of a table.")]
Gpus = Annotated[float, typer.Option(help="GPUs for each of these, or a fraction of one.")]
Concurrent = Annotated[int | None, typer.Option(min=1, help="Most of these at once. Default: all that fit.")]
FoldWorkers = Annotated[
    int, typer.Option(min=0, help="Workers that share a trial's folds, each with --cpus and --gpus.")
]
AuditPruning = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Finish this share of the pruned trials, to measure how often pruning is wrong."
    ),
]
Retune = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="TRIALS",
        help="Tune learning_rate, alpha and beta for each row first, with this many trials each. "
        "Default: all rows share the settings of the table's base.",
    ),
]


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of search_spaces/.")],
    data: Data,
    store_path: StoreAt = DEFAULT_STORE,
    name: Name = None,
    trials: Trials = None,
    edits: Edits = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    fold_workers: FoldWorkers = 0,
    concurrent: Concurrent = None,
    audit_pruning: AuditPruning = 0.0,
    address: Address = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Search a space with pruning. Prints a leader board and the address of the runs in MLflow.

    The same command resumes an interrupted sweep, and with a larger --trials extends it. Folds that any sweep
    or table has finished are read from the ledger, not trained. A search file is Python code that is
    executed: run only files that you trust.

      cgn sweep search_spaces/alpha_beta.py --data runs/cache/mias-all-...

      cgn sweep search_spaces/smoke.py --data CACHE --trials 4 --set epochs=3

      ray job submit --working-dir . -- cgn sweep search_spaces/alpha_beta.py --data /abs/CACHE --gpus 0.25
    """
    from cgn_platform.cluster.connect import connect
    from cgn_platform.cluster.resources import Resources
    from cgn_platform.console.live import counted, header, make_console
    from cgn_platform.search.load import check_names, load_space

    resources = Resources(cpus, gpus)
    space = load_space(file).edit(trials, **edits_of(edits))
    store = open_store(store_path)
    check_names(space.base, space.dimensions)
    pairs, splits = open_data(data)
    console = make_console()
    name = name or _default_name(f"{file.stem}-{pairs.name}")
    units = open_ledger(ledger, store, checkpoint_every)
    plan = f"{counted(space.trials, 'trial')} of {counted(space.base.epochs, 'epoch')}"
    print_plainly(console, header(name, plan, pairs, len(splits)))
    announce_ray(address)
    with connect(address) as cluster:
        from cgn_platform.report.facts import write_facts
        from cgn_platform.report.sweep_facts import result_of, sweep_facts
        from cgn_platform.run.site import Site

        site = Site(store, units, cluster, resources, concurrent, fold_workers)
        records = _sweep(space, pairs, splits, name, site, console, audit_pruning)
        facts = sweep_facts(space, pairs, splits, name=name, records=records, site=site)
        write_facts(store, facts)
    _say_results(console, records, result_of(facts), store, name)
    print_plainly(console, f"next, the page of results: {report_command(name, data, store_path, ledger)}")


def _sweep(
    space: "Space",
    pairs: "Pairs",
    splits: "Sequence[Split]",
    name: str,
    site: "Site",
    console: "Console",
    audit: float = 0.0,
) -> "list[TrialRecord]":
    """Run a sweep, shown in the terminal, in MLflow and to Prometheus."""
    from cgn_platform.console.live import SweepConsole, TableScreen
    from cgn_platform.run.prometheus import SweepMetrics
    from cgn_platform.run.sweep import recompute_lost_units, run_sweep
    from cgn_platform.tracking.mlflow_client import default_uri
    from cgn_platform.tracking.tracker import Tracker

    site.store.make()
    tracker = Tracker(
        site.store,
        default_uri(site.store),
        ledger=site.ledger,
        on_problem=lambda line: console.print(line, markup=False, style="yellow"),
    )
    listeners: list[Listener] = [tracker, SweepMetrics(lambda: tracker.pending), SweepConsole(console)]
    records = run_sweep(space, pairs, splits, name=name, site=site, listeners=listeners, audit=audit)
    with TableScreen(console, "of units that finished trials have lost") as screen:
        lost = recompute_lost_units(records, pairs, splits, site=site, screen=screen)
    for unit_id, reason in lost.items():
        line = f"unit {unit_id} is lost and was not computed again: {reason}"
        console.print(line, markup=False, style="yellow")
    return records


def _say_results(console: "Console", records: Any, result: str, store: Store, name: str) -> None:
    from cgn_platform.console.tables import leader_board
    from cgn_platform.search.summary import summary
    from cgn_platform.tracking.links import page_of

    console.print(leader_board(records))
    console.print(result, highlight=False, markup=False, style="bold")
    figures = summary(records)
    orphans = f", {figures['trials_orphan']:g} orphans queued again" if figures["trials_orphan"] else ""
    console.print(
        f"{figures['trials_complete']:g} complete, {figures['trials_pruned']:g} pruned, "
        f"{figures['trials_failed']:g} failed{orphans}; "
        f"pruning saved {figures['epochs_saved']:.0%} of the epochs",
        highlight=False,
    )
    if "audited" in figures:
        console.print(
            f"audit: {figures['audited']:g} trials ran on although the pruner would have stopped them, "
            f"{figures['wrong_prunes']:g} of them would have won: wrong-prune rate "
            f"{figures['wrong_prune_rate']:.2f} [{figures['wrong_prune_rate_low']:.2f}, "
            f"{figures['wrong_prune_rate_high']:.2f}]",
            highlight=False,
            markup=False,
        )
    print_address(console, "to compare in MLflow", store, page_of(store, name))


@app.command()
def replay(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Studies that ran without pruning.")],
    data: Data,
    store_path: StoreAt = DEFAULT_STORE,
    edits: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a setting of Prune; repeatable."),
    ] = None,
    orders: Annotated[
        int, typer.Option(min=1, help="Number of orders: the recorded one, and shuffled ones.")
    ] = 20,
    ledger: LedgerAt = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay every pruning rule over the complete trials of studies: what each rule saves and costs.

    Record the trials with prune=Prune("none"). Shuffled orders show how much depends on chance.

      cgn replay recorded --data runs/cache/phantom-...

      cgn replay recorded --data CACHE --set warmup_epochs=8 --set confidence=0.8
    """
    from cgn_platform.console.live import make_console
    from cgn_platform.console.tables import replay_table
    from cgn_platform.search import replay
    from cgn_platform.search.study import read_study
    from cgn_platform.space import Prune

    prune = Prune().edit(**edits_of(edits))
    store, (pairs, splits) = open_store(store_path), open_data(data)
    units = open_ledger(ledger, store)
    recordings = [
        replay.read_recording(name, *read_study(name, store), pairs, splits, units) for name in names
    ]
    outcomes = [outcome for each in recordings for outcome in replay.outcomes(each, prune, orders)]
    if as_json:
        typer.echo(json.dumps(replay.as_json(outcomes, prune), indent=1))
    else:
        make_console().print(replay_table(outcomes))


@app.command()
def table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table of search_spaces/.")],
    data: Data,
    store_path: StoreAt = DEFAULT_STORE,
    name: Name = None,
    seeds: Seeds = 1,
    retune: Retune = None,
    edits: Edits = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    concurrent: Concurrent = None,
    address: Address = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
) -> None:
    """Run every row of a table on the same folds and seeds, and print which differences are significant.

    Each fold is scheduled on its own, and folds in the ledger are not trained again: the same command resumes
    an interrupted table and extends it by seeds. A table file is Python code that is executed: run only files
    that you trust.

      cgn table search_spaces/table_3.py --data runs/cache/mias-all-... --seeds 3

      cgn table search_spaces/table_3.py --data CACHE --set frozen_backbone=true --set epochs=30

      cgn table search_spaces/table_3.py --data CACHE --retune 8
    """
    from cgn_platform.cluster.connect import connect
    from cgn_platform.cluster.resources import Resources
    from cgn_platform.console.live import counted, header, make_console
    from cgn_platform.search.load import check_names, load_table

    resources, store = Resources(cpus, gpus), open_store(store_path)
    declared = load_table(file).edit(**edits_of(edits))
    for row in declared.rows:
        check_names(declared.config(row))
    pairs, splits = open_data(data)
    output = make_console()
    console = output if output.is_terminal else make_console(stderr=True)  # only results go into a pipe
    name = name or _default_name(f"{file.stem}-{pairs.name}{'-retuned' if retune else ''}")
    units = open_ledger(ledger, store, checkpoint_every)
    plan = f"{counted(len(declared.rows), 'row')}, {counted(seeds, 'seed')}"
    print_plainly(console, header(name, plan, pairs, len(splits)))
    announce_ray(address)
    with connect(address) as cluster:
        from cgn_platform.run.retune import retune as tune_rows
        from cgn_platform.run.site import Site

        site = Site(store, units, cluster, resources, concurrent)
        if retune:
            declared = tune_rows(
                declared,
                name,
                retune,
                lambda study, space: _row_sweep(space, pairs, splits, study, site, console),
            )
        facts = _table(declared, pairs, splits, name, seeds, site, console)
    _print_table(facts, output)
    _track_table(facts, store, console)
    print_plainly(console, f"next, the page of results: {report_command(name, data, store_path, ledger)}")


def _track_table(facts: "Facts", store: Store, console: "Console") -> None:
    """Write a table to MLflow, and print where it is."""
    from cgn_platform.tracking.links import page_of
    from cgn_platform.tracking.mlflow_client import default_uri
    from cgn_platform.tracking.tables import track_table

    uri = default_uri(store)
    announce("writing the table to MLflow ...")
    track_table(facts, store=store, uri=uri, warn=partial(console.print, markup=False, style="yellow"))
    print_address(console, "to compare in MLflow", store, page_of(store, facts["name"]))


def _row_sweep(
    space: "Space", pairs: "Pairs", splits: "Sequence[Split]", name: str, site: "Site", console: "Console"
) -> "list[TrialRecord]":
    """The search of a row of a retuned table."""
    console.rule(name, align="left")
    return _sweep(space, pairs, splits, name, site, console)


def _table(
    table: "Table",
    pairs: "Pairs",
    splits: "Sequence[Split]",
    name: str,
    seeds: int,
    site: "Site",
    console: "Console",
) -> "Facts":
    """Run a table, and write its facts."""
    from cgn_platform.console.live import TableScreen
    from cgn_platform.report.facts import declare, write_facts
    from cgn_platform.report.table_facts import table_facts
    from cgn_platform.run.table import run_table

    site.store.make()
    declare(site.store, name, table, pairs, splits)
    with TableScreen(console) as screen:
        run = run_table(table, pairs, splits, seeds=seeds, site=site, screen=screen)
    facts = table_facts(table, pairs, splits, name=name, run=run, site=site)
    write_facts(site.store, facts)
    return facts


def _print_table(facts: "Facts", console: "Console") -> None:
    """The rows and their verdicts: as wide as the terminal, or plain in a pipe."""
    from cgn_platform.console.tables import table_of, table_text

    if console.is_terminal:
        console.print(table_of(facts, console.width))
    else:
        typer.echo(table_text(facts))
