"""Live progress of sweeps, tables and trainings: a live table on a terminal, one line for each event
elsewhere.
"""

import threading
import time
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

from cgn.data.pairs import Pairs
from cgn.results import CrossReport
from cgn_platform import text
from cgn_platform.search.records import ENDED, EpochUpdate, StudyInfo, TrialRecord, TrialSpec, best_of


class SweepConsole:
    """A `Listener` that prints: running trials, the number of finished ones, the best so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended: list[TrialRecord] = []
        self._trials = 0
        self._running: dict[int, tuple[TrialSpec, EpochUpdate | None]] = {}
        self._lock = threading.Lock()  # the live table is drawn by a thread of its own
        self._progress = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._bar = self._progress.add_task("trials", total=None)
        self._live = Live(
            console=console, get_renderable=self._live_table, refresh_per_second=2, transient=True
        )

    def begin(self, study: StudyInfo) -> None:
        """Say what the study holds already, and show the live table on a terminal."""
        self._ended = [record for record in study.records if record.state in ENDED]
        self._trials = study.trials
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
        """A trial starts."""
        with self._lock:
            self._running[trial.number] = (trial, None)
        self._line(trial.number, "started", text.params(trial.params))

    def epoch(self, number: int, update: EpochUpdate) -> None:
        """Shown in the live table only."""
        with self._lock:
            self._running[number] = (self._running[number][0], update)

    def lost(self, number: int, cause: str) -> None:
        """A trial's worker was lost; the trial is retried."""
        self._line(number, "lost", f"{cause}; the trial is retried")

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        with self._lock:
            self._running.pop(record.number, None)
            self._ended.append(record)
        self._progress.update(self._bar, completed=len(self._ended))
        line = str(record.facts.get("reason", ""))
        best = best_of(self._ended)
        if record.value is not None and best is not None:
            rank = "the best so far" if best is record else f"best: trial {best.number}, {best.value:.3f}"
            duration = text.duration(record.facts["seconds"])
            line = f"mean validation AUC {record.value:.3f} in {duration} ({rank})"
        count = f"{len(self._ended)} of {self._trials} trials"
        self._line(record.number, record.state, f"{line}; {count}" if line else count)

    def _line(self, number: int, event: str, line: str) -> None:
        self._console.print(f"trial {number:<3} {event:<9} {line}", highlight=False, markup=False)

    def _live_table(self) -> RenderableType:
        with self._lock:
            running, ended = dict(self._running), list(self._ended)
        table = Table("trial", "epoch", "mean validation AUC", "parameters", box=None)
        for number, (trial, update) in running.items():
            epoch = "waiting" if update is None else f"{update.epoch + 1} of {trial.config.epochs}"
            auc = "" if update is None else f"{update.val_auc:.3f}"
            table.add_row(str(number), epoch, auc, text.params(trial.params))
        states = ", ".join(f"{sum(record.state == state for record in ended)} {state}" for state in ENDED)
        best = best_of(ended)
        leader = "" if best is None else f"; best: trial {best.number}, {best.value:.3f}"
        return Group(table, f"{states}{leader}", self._progress)


def make_console(*, stderr: bool = False) -> Console:
    """A console; without a terminal it is 140 columns wide, so that tables are not squeezed into 80."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def header(name: str, plan: str, pairs: Pairs, folds: int) -> str:
    """The first line of a run: what runs, on which data."""
    patients = len(set(pairs.patient_id.tolist()))
    return f"{name}: {plan}, on {pairs.name}: {len(pairs)} pairs of {patients} patients, {folds} folds"


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 row`, `2 rows`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def epoch_line(report: CrossReport, epochs: int) -> str:
    """The line that `cgn train` prints for an epoch: mean over folds of validation AUC and losses."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in sorted(report.losses.items()))
    duration = f"{report.seconds:.1f} s"
    return f"epoch {report.epoch + 1:>3} of {epochs}  val AUC {report.val_auc:.3f}  {losses}  {duration}"


class TableScreen:
    """A `run.jobs.Screen` that prints: epochs as a progress bar on a terminal, a line for each finished
    unit.
    """

    def __init__(
        self, console: Console, which: str = "for rows, seeds and folds that are not in the ledger"
    ) -> None:
        """Nothing is printed before `begin`.

        Args:
            console: receives the output.
            which: trainings these are, for the first line.
        """
        self._console, self._which = console, which
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
        self._units = self._ended = self._epochs = self._epochs_left = 0
        self._began = 0.0
        self._bar = self._bars.add_task("epochs", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, units: int, epochs: int) -> None:
        """This many units and epochs are missing."""
        self._units, self._epochs, self._began = units, epochs, time.monotonic()
        self._epochs_left = epochs
        self._bars.update(self._bar, total=epochs)
        self._console.print(
            f"{counted(units, 'training')} {self._which}, {counted(epochs, 'epoch')}", highlight=False
        )

    def epoch(self) -> None:
        """An epoch of some unit is finished."""
        self._bars.advance(self._bar)

    def ended(self, job: str, epochs: int, failure: str) -> None:
        """A job of this name and number of epochs is finished, or failed for this reason."""
        self._ended += 1
        self._epochs_left -= epochs
        line = f"training {self._ended} of {self._units}: {job}: {failure or 'finished'}{self._time_left()}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _time_left(self) -> str:
        """From the epochs of the jobs that have ended; their numbers of epochs may differ."""
        ended = self._epochs - self._epochs_left
        if not self._epochs_left or not ended:
            return ""
        seconds = (time.monotonic() - self._began) / ended * self._epochs_left
        return f"; about {text.duration(seconds)} left"
