"""`cgn train`: one configuration in this process."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgn_platform.cli.app import app
from cgn_platform.cli.options import (
    DEFAULT_STORE,
    CheckpointEvery,
    Data,
    Edits,
    LedgerAt,
    StoreAt,
    announce,
    edits_of,
    open_data,
    open_ledger,
    open_store,
    print_address,
    print_plainly,
)

if TYPE_CHECKING:
    from rich.console import Console

    from cgn.config import Config
    from cgn.figures import Snapshots
    from cgn.images import Images
    from cgn.results import CrossReport, CrossResult, CrossRun

Fold = Annotated[int | None, typer.Option(help="Train this fold only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
FigureFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Draw Fig. 4 to 6 for some test pairs of the first fold."),
]
MeasureFile = Annotated[
    Path | None,
    typer.Option(metavar="JSON", help="Measure the counterfactual features of the test pairs (Sec. IV-F)."),
]
Track = Annotated[
    bool,
    typer.Option("--track", help="Log the run to MLflow, with figures and measurements as artifacts."),
]


@app.command()
def train(
    data: Data,
    store_path: StoreAt = DEFAULT_STORE,
    edits: Edits = None,
    ledger: LedgerAt = None,
    checkpoint_every: CheckpointEvery = 5,
    fold: Fold = None,
    device: Device = "cpu",
    figures: FigureFolder = None,
    measure: MeasureFile = None,
    track: Track = False,
) -> None:
    """Train one configuration in this process, without Ray, all folds in lockstep.

    Prints a line for each epoch, then each fold at its best validation epoch. Finished folds are stored in
    the ledger: the same command reads them, and resumes folds that were interrupted.

      cgn train --data runs/cache/phantom-... --set backbone=tiny --set epochs=10 --fold 0

      cgn train --data runs/cache/mias-... --figures figures --measure distances.json --track
    """
    from cgn.config import Config
    from cgn_platform.search.load import check_names

    config = Config().edit(**edits_of(edits))
    check_names(config)
    pairs, splits = open_data(data, fold)
    if measure:
        from cgn.measure import check

        check(config)
    announce("loading PyTorch and the networks ...")
    from cgn.images import Images
    from cgn_platform.console.live import counted, header, make_console
    from cgn_platform.run.train import snapshots_of
    from cgn_platform.run.train import train as train_folds

    store, console = open_store(store_path), make_console()
    chosen = tuple(splits) if fold is None else (splits[fold],)
    plan = f"{counted(len(chosen), 'fold')} in lockstep, {counted(config.epochs, 'epoch')}"
    print_plainly(console, header(f"configuration {config.fingerprint()}", plan, pairs, len(splits)))
    print_plainly(console, "each epoch: mean validation AUC over folds (0.5 is chance), then the loss terms")
    warn = partial(console.print, markup=False)
    images = Images(pairs, device)
    snapshots = snapshots_of(config, images, chosen[0]) if figures else None
    store.make()
    units = open_ledger(ledger, store, checkpoint_every, warn)
    run = train_folds(config, images, splits, chosen, ledger=units, snapshots=snapshots)
    reports, result = _follow(run, config, console)
    written = _draw(snapshots, result, config.epochs, figures, console) if figures and snapshots else []
    written += _measure(config, images, result, measure, console) if measure else []
    if track:
        from cgn_platform.tracking.runs import log_training

        page = log_training(config, pairs, splits, (reports, result, written), store, warn)
        print_address(console, "to view this run in MLflow", store, page)


def _follow(run: "CrossRun", config: "Config", console: "Console") -> "tuple[list[CrossReport], CrossResult]":
    """Run to the end, and print every epoch and the folds."""
    from cgn_platform.console.live import epoch_line
    from cgn_platform.console.tables import fold_table

    reports = []
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            result: CrossResult = end.value
            break
        reports.append(report)
        console.print(epoch_line(report, config.epochs), highlight=False, soft_wrap=True)
    console.print(fold_table(result.folds))
    return reports, result


def _draw(
    snapshots: "Snapshots", result: "CrossResult", epochs: int, folder: Path, console: "Console"
) -> list[Path]:
    """Fig. 4 to 6 of the first fold."""
    from cgn.figures import save

    written = []
    for name, figure in snapshots.figures(result.folds[0]).items():
        written.append(folder / f"{name}.png")
        save(figure, written[-1])
    console.print(f"figures in {folder}", highlight=False, markup=False)
    if not snapshots.trained:
        console.print(
            "Fig. 6 is left out: it needs networks of earlier epochs, and the ledger keeps those of the best "
            "one. To draw it, train again with another --ledger",
            highlight=False,
            markup=False,
        )
    elif epochs == 1:
        console.print("Fig. 6 has one column: only one epoch was trained", highlight=False, markup=False)
    return written


def _measure(
    config: "Config", images: "Images", result: "CrossResult", path: Path, console: "Console"
) -> list[Path]:
    """The distances of Sec. IV-F."""
    from cgn.measure import PUBLISHED, measure_folds, summary, write_rows
    from cgn_platform.console.tables import measure_table

    columns = measure_folds(config, images, result.folds)
    write_rows(columns, path)
    console.print(measure_table(summary(columns), PUBLISHED))
    return [path]
