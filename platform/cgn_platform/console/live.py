"""Live progress of sweeps, tables and trainings."""

import statistics
import threading
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from cgn.results import CrossReport
from cgn_platform.console.tables import format_params
from cgn_platform.search.records import ENDED, EpochUpdate, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.search.summary import ranking_value


class SweepConsole:
    """A `Listener` that prints. As a context manager it keeps a live table on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended: list[TrialRecord] = []
        self._running: dict[int, tuple[TrialSpec, EpochUpdate | None]] = {}
        self._lock = threading.Lock()  # the live table is drawn by a thread of its own
        self._progress = Progress(
            TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._bar = self._progress.add_task("trials", total=None)
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=2, transient=True)

    def begin(self, study: StudyInfo) -> None:
        """Say what the study holds already, and show the live table on a terminal."""
        self._ended = [record for record in study.records if record.state in ENDED]
        self._progress.update(self._bar, total=study.trials, completed=len(self._ended))
        if self._ended or study.orphans:
            queued = f", {study.orphans} of a driver that ended are queued again" if study.orphans else ""
            self._console.print(
                f"study {study.name}: {len(self._ended)} of {study.trials} trials are finished{queued}"
            )
        if self._console.is_terminal:
            self._live.start()

    def end(self, _outcome: str, _records: Sequence[TrialRecord]) -> None:
        """Remove the live table."""
        if self._live.is_started:
            self._live.stop()

    def started(self, trial: TrialSpec) -> None:
        """A trial was asked for."""
        with self._lock:
            self._running[trial.number] = (trial, None)
        self._line(trial.number, "started", format_params(trial.params))

    def epoch(self, number: int, step: EpochUpdate) -> None:
        """Shown in the live table only."""
        with self._lock:
            self._running[number] = (self._running[number][0], step)

    def lost(self, number: int, cause: str) -> None:
        """A trial's worker was lost; it is tried again."""
        self._line(number, "lost", f"{cause}; it is tried again")

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        with self._lock:
            self._running.pop(record.number, None)
            self._ended.append(record)
        self._progress.update(self._bar, completed=len(self._ended))
        told = str(record.facts.get("reason", ""))
        if record.value is not None:
            best = max(self._ended, key=ranking_value)
            crown = (
                "the best so far"
                if best is record
                else f"best: trial {best.number}, {ranking_value(best):.3f}"
            )
            told = f"mean validation AUC {record.value:.3f} in {record.facts['seconds']:.0f} s ({crown})"
        self._line(record.number, record.state, told)

    def _line(self, number: int, event: str, told: str) -> None:
        self._console.print(f"trial {number:<3} {event:<9} {told}", highlight=False, markup=False)

    def _picture(self) -> RenderableType:
        with self._lock:
            running, ended = dict(self._running), list(self._ended)
        table = Table("trial", "epoch", "mean validation AUC", "parameters", box=None)
        for number, (trial, step) in running.items():
            at = "waiting" if step is None else f"{step.epoch + 1} of {trial.config.epochs}"
            auc = "" if step is None else f"{step.val_auc:.3f}"
            table.add_row(str(number), at, auc, format_params(trial.params))
        states = ", ".join(
            f"{sum(record.state == state for record in ended)} {state}"
            for state in ("complete", "pruned", "failed")
        )
        best = max(ended, key=ranking_value, default=None)
        told = "" if best is None or best.value is None else f"; best: trial {best.number}, {best.value:.3f}"
        return Group(table, f"{states}{told}", self._progress)


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns where there is no terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def epoch_line(report: CrossReport, epochs: int) -> str:
    """One line of `cgn train`."""
    losses = {name for fold in report.folds for name in fold.losses}
    means = {name: statistics.fmean(fold.losses[name] for fold in report.folds) for name in sorted(losses)}
    told = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    seconds = sum(fold.seconds for fold in report.folds)
    return f"epoch {report.epoch + 1:>3} of {epochs}  val AUC {report.val_auc:.3f}  {told}  {seconds:.1f} s"


class TableScreen:
    """Epochs as a bar on a terminal, a line a finished unit elsewhere; a `cgn_platform.run.table.Screen`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._units = self._done = 0
        self._bar = self._bars.add_task("epochs", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, units: int, epochs: int) -> None:
        """So many are to be trained."""
        self._units = units
        self._bars.update(self._bar, total=epochs)
        self._console.print(f"{units} units to train, {epochs} epochs", highlight=False)

    def epoch(self) -> None:
        """One more epoch of some unit."""
        self._bars.advance(self._bar)

    def ended(self, unit: str, told: str) -> None:
        """A unit is finished, or why it is not."""
        self._done += 1
        line = f"unit {self._done} of {self._units}: {unit} {told or 'finished'}"
        self._console.print(line, highlight=False, markup=False)
