"""What a person at the prompt sees: a live table on a terminal, one line an event elsewhere."""

import math
import statistics
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
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
from rich.text import Text

if TYPE_CHECKING:
    from cgn.fit import CrossReport, FoldResult
    from cgn.measure import BilateralTest
    from cgn_platform.ledger import Unit
    from cgn_platform.registry import Version
    from cgn_platform.replay import Outcome
    from cgn_platform.space import Scalar
    from cgn_platform.study import Asked, TrialRecord
    from cgn_platform.worker import Step

UNRANKED = {"pruned": 1, "failed": 2, "orphan": 3}  # below those that are complete


class SweepConsole:
    """A `Listener` that prints. As a context manager it keeps a live table on a terminal."""

    def __init__(self, console: Console, total: int, records: "Sequence[TrialRecord]" = ()) -> None:
        self._console, self._total = console, total
        self._ended = [record for record in records if record.state in ("complete", "pruned", "failed")]
        self._running: dict[int, tuple[Asked, Step | None]] = {}
        self._lock = threading.Lock()  # the live table is drawn by a thread of its own
        self._progress = Progress(
            TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._bar = self._progress.add_task("trials", total=total, completed=len(self._ended))
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live.is_started:
            self._live.stop()

    def started(self, trial: "Asked") -> None:
        """A trial was asked for."""
        with self._lock:
            self._running[trial.number] = (trial, None)
        self._line(trial.number, "started", _params(trial.params))

    def epoch(self, number: int, step: "Step") -> None:
        """Shown in the live table only."""
        with self._lock:
            self._running[number] = (self._running[number][0], step)

    def lost(self, number: int, cause: str) -> None:
        """A trial's worker was lost; it is tried again."""
        self._line(number, "lost", f"{cause}; it is tried again")

    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        with self._lock:
            self._running.pop(record.number, None)
            self._ended.append(record)
        self._progress.update(self._bar, completed=len(self._ended))
        told = str(record.facts.get("reason", ""))
        if record.value is not None:
            best = max(self._ended, key=_value)
            crown = "the best so far" if best is record else f"best: trial {best.number}, {_value(best):.3f}"
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
            table.add_row(str(number), at, auc, _params(trial.params))
        states = ", ".join(
            f"{sum(record.state == state for record in ended)} {state}"
            for state in ("complete", "pruned", "failed")
        )
        best = max(ended, key=_value, default=None)
        told = "" if best is None or best.value is None else f"; best: trial {best.number}, {best.value:.3f}"
        return Group(table, f"{states}{told}", self._progress)


def leader_board(records: "Sequence[TrialRecord]", rows: int = 10) -> Table:
    """Trials by mean validation AUC; the test figures stand beside it and rank nothing."""
    table = Table(title="Leader board, by mean validation AUC", title_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False  # 80 columns hold it
    for name in ("rank", "trial", "val AUC", "test AUC ± sd*", "loc. error*", "epochs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    ended = [record for record in records if record.state in ("complete", "pruned", "failed")]
    ended.sort(key=lambda record: (UNRANKED.get(record.state, 0), -_value(record), record.number))
    for rank, record in enumerate(ended[:rows], 1):
        complete = record.state == "complete"
        epochs = f"{len(record.curve)}/{record.config.epochs}" if record.config else ""
        table.add_row(
            str(rank) if complete else record.state,
            str(record.number),
            f"{_value(record):.3f}" if record.curve or complete else "",
            _test_auc(record.facts) if complete else "",
            _figure(record.facts.get("localization_error")) if complete else "",
            epochs,
            _params(record.params),
        )
    table.caption = "trial 0 is the default; * on the test pairs, mean over folds: shown, never chosen by"
    if len(ended) > rows:
        table.caption += f"; {len(ended) - rows} more trials are in the study and in MLflow"
    table.caption_justify = "left"
    return table


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not squeeze tables into 80 columns where there is no terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def epochs_saved(records: "Sequence[TrialRecord]") -> float:
    """Share of the epochs of all complete and pruned trials that pruning did not train."""
    judged = [record for record in records if record.state in ("complete", "pruned") and record.config]
    asked = sum(record.config.epochs for record in judged if record.config)
    return 1 - sum(len(record.curve) for record in judged) / asked if asked else 0.0


def summary(records: "Sequence[TrialRecord]") -> dict[str, float]:
    """The figures of a whole sweep, by the names that its parent run in MLflow has."""
    figures: dict[str, float] = {
        f"trials_{state}": sum(record.state == state for record in records)
        for state in ("complete", "pruned", "failed", "orphan")
    }
    figures["epochs_saved"] = epochs_saved(records)
    complete = [record for record in records if record.value is not None]
    if complete:
        best = max(complete, key=_value)
        figures |= {"best_val_auc": _value(best), "best_trial": best.number}
        if best.facts.get("test_auc") is not None:
            figures["test_auc_of_best"] = best.facts["test_auc"]
    return figures | wrong_prunes(records)


def wrong_prunes(records: "Sequence[TrialRecord]") -> dict[str, float]:
    """Of the audited trials, how many would have won had they not been stopped; empty without an audit.

    With an exact 95 % interval (Clopper & Pearson 1934). The winner is that of the trials left: the complete
    ones that the pruner let through.
    """
    complete = [record for record in records if record.value is not None]
    audited = [_value(record) for record in complete if "would_prune_at" in record.facts]
    if not audited:
        return {}
    from scipy.stats import binomtest

    left = [_value(record) for record in complete if "would_prune_at" not in record.facts]
    wrong = sum(value > max(left, default=-math.inf) for value in audited)
    interval = binomtest(wrong, len(audited)).proportion_ci(0.95, method="exact")
    return {
        "audited": len(audited),
        "wrong_prunes": wrong,
        "wrong_prune_rate": wrong / len(audited),
        "wrong_prune_rate_low": float(interval.low),
        "wrong_prune_rate_high": float(interval.high),
    }


def replay_table(outcomes: "Sequence[Outcome]") -> Table:
    """`cgn replay`: what each rule saves and costs, means over orders."""
    table = Table(title="Rules replayed over complete trials", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("study")
    table.add_column("rule", no_wrap=True)
    for name in ("epochs", "times fewer", "regret", "worst", "test regret ± sd", "wrong", "stopped"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in outcomes:
        table.add_row(
            each.study,
            each.rule,
            f"{each.epochs:.0f}",
            f"{each.times_fewer:.2f}",
            f"{each.regret:.4f}",
            f"{each.regret_worst:.4f}",
            f"{each.test_regret:+.4f} ± {each.test_regret_sd:.4f}",
            f"{each.wrong:.2f}",
            f"{each.stopped:.1f} of {each.trials}",
        )
    unreadable = {each.study: each.unreadable for each in outcomes if each.unreadable}
    missing = "".join(
        f"INCOMPLETE: {count} complete trials of {study} are left out because a unit is missing or damaged, "
        "run its sweep again; "
        for study, count in unreadable.items()
    )
    table.caption = (
        f"{missing}means over {outcomes[0].orders} orders, the recorded one first; regret: validation AUC of "
        "the best trial less that of the winner left; wrong: stopped trials that would have won"
    )
    table.caption_justify = "left"
    return table


def epoch_line(report: "CrossReport", epochs: int) -> str:
    """One line of `cgn train`."""
    losses = {name for fold in report.folds for name in fold.losses}
    means = {name: statistics.fmean(fold.losses[name] for fold in report.folds) for name in sorted(losses)}
    told = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    seconds = sum(fold.seconds for fold in report.folds)
    return f"epoch {report.epoch + 1:>3} of {epochs}  val AUC {report.val_auc:.3f}  {told}  {seconds:.1f} s"


def fold_table(folds: "Sequence[FoldResult]") -> Table:
    """The last words of `cgn train`: a row a fold, and their means."""
    table = Table(
        "fold", "best epoch", "val AUC", "test AUC", "localisation error", "of any class", "seconds"
    )
    for fold in folds:
        figures = (fold.val_auc, fold.test_auc, fold.localization_error, fold.localization_error_any_class)
        seconds = f"{fold.seconds:.1f}"
        table.add_row(str(fold.fold), str(fold.best_epoch + 1), *map(_figure, figures), seconds)
    if len(folds) > 1:
        table.add_section()
        names = ("val_auc", "test_auc", "localization_error", "localization_error_any_class")
        means = [statistics.fmean(getattr(fold, name) for fold in folds) for name in names]
        table.add_row("mean", "", *map(_figure, means), f"{sum(fold.seconds for fold in folds):.1f}")
    return table


def table_of(facts: Mapping[str, Any]) -> Table:
    """`cgn table`: rows as printed, published figures, and what was measured here beside them."""
    data = facts["data"]
    title = f"{facts['title']} on {data['name']}: {data['pairs']} pairs, {data['folds']} folds"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in facts["header"]:
        table.add_column(name)
    settings = sorted({setting for row in facts["rows"] for setting in row["published"]})
    for setting in settings:
        table.add_column(f"({setting})", justify="right", style="dim")
    for name in ("AUC here", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("against the last row" if _last_is_baseline(facts) else f"against {facts['baseline']}")
    resources = facts["run"]["resources"]
    unit, share = ("GPU-s", resources["gpus"]) if resources["gpus"] else ("CPU-s", resources["cpus"])
    table.add_column(unit, justify="right")
    for row in facts["rows"]:
        published = [_figure(row["published"].get(setting)) for setting in settings]
        seconds = row.get("seconds", 0) + (row["tuned"]["seconds"] if row["tuned"] else 0)
        table.add_row(*row["cells"], *published, *_measured(row), f"{seconds * share:.0f}")
    told = [f"({', '.join(settings)}): as published, on other data"] if settings else []
    told.append("AUC: mean over folds and seeds, 95 % interval over patients")
    if facts["run"]["mode"] == "retuned":
        told.append(f"each row as its own search of {facts['rows'][0]['tuned']['trials']} trials chose it")
    if facts["detectable"] is not None:
        told.append(f"below {facts['detectable']:.3f} differences may vanish in trainings on other patients")
    table.caption, table.caption_justify = "; ".join(told), "left"
    return table


def _last_is_baseline(facts: Mapping[str, Any]) -> bool:
    return bool(facts["rows"][-1]["name"] == facts["baseline"])


def _measured(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """AUC, difference and words of a row."""
    if not row["complete"]:
        return ("INCOMPLETE", "", str(row["why"]))
    if "auc" not in row:
        aucs = [auc for seed in row["fold_auc"] for auc in seed]
        return (_figure(statistics.fmean(aucs)), "", "")
    difference = row["difference"]
    gap = "" if difference is None else f"{difference['estimate']:+.3f} {_range(difference, '+')}"
    return (f"{row['auc']['estimate']:.3f} {_range(row['auc'])}", gap, row["words"] or "")


def _range(interval: Mapping[str, float], sign: str = "") -> str:
    return f"[{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}]"


class TableScreen:
    """Epochs as a bar on a terminal, a line a finished unit elsewhere; a `cgn_platform.table.Screen`."""

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


def units_table(units: "Sequence[Unit]", unfinished: Mapping[str, int]) -> Table:
    """`cgn units`: finished folds, then those with a checkpoint."""
    table = Table("unit", "method", "backbone", "bilateral", "fold", "seed", "epochs", box=SIMPLE_HEAD)
    for name in ("val AUC", "test AUC", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("reused")
    for unit in units:
        identity, figures = unit.identity, unit.facts["result"]
        shown = [str(identity.config.get(name, "-")) for name in ("method", "backbone", "bilateral")]
        numbers = [_figure(figures["val_auc"]), _figure(figures["test_auc"]), f"{figures['seconds']:.1f}"]
        counts = [str(identity.fold), str(identity.config["seed"]), str(identity.config["epochs"])]
        table.add_row(unit.id, *shown, *counts, *numbers, "no" if unit.outdated else "yes")
    for name, epochs in unfinished.items():
        table.add_row(name, "", "", "", "", "", f"{epochs} so far", style="dim")
    reasons = Counter(reason for unit in units if (reason := unit.outdated))
    table.caption = f"{len(units)} finished, {len(unfinished)} cut short" + "".join(
        f"\n{count} can be read but are not reused ({reason})" for reason, count in reasons.most_common()
    )
    table.caption_justify = "left"
    return table


def models_table(versions: "Sequence[Version]") -> Table:
    """`cgn models`: registered versions, the newest first."""
    table = Table("version", "aliases", "of", "row", "AUC", "when", "by", box=SIMPLE_HEAD)
    for version in versions:
        shown = (version.tags.get(f"cgn.{name}", "-") for name in ("name", "row", "auc", "when", "by"))
        cells = (Text(cell) for cell in (version.number, ", ".join(sorted(version.aliases)), *shown))
        table.add_row(
            *cells, style="dim" if "cgn.withdrawn" in version.tags and not version.aliases else None
        )
    table.caption = f"{len(versions)} versions"
    table.caption_justify = "left"
    return table


def unit_facts(unit: "Unit") -> dict[str, object]:
    """A unit as `cgn units ID` shows it: all but its hashes."""
    return {name: value for name, value in unit.facts.items() if name not in ("files", "format")}


def bilateral_table(tests: "Mapping[str, BilateralTest]") -> Table:
    """Eq. 15, a row a way to see: are the sides of unhealthy pairs further apart?"""
    table = Table("features", "healthy", "unhealthy", "mean healthy", "mean unhealthy", "t", "p", "AUC")
    table.caption = "Frechet distances between the sides; p: Welch's t-test, one-sided (the paper: 0.014)"
    table.caption_justify = "left"
    for name, test in tests.items():
        means = (f"{mean:.3g}" for mean in (test.mean_healthy, test.mean_unhealthy))
        figures = (f"{test.t:.2f}", f"{test.p_value:.2g}", _figure(test.auc))
        table.add_row(name, str(test.healthy), str(test.unhealthy), *means, *figures)
    return table


def measure_table(means: Mapping[str, float], published: Mapping[str, float]) -> Table:
    """Sec. IV-F, means over the test pairs, the published ones beside them."""
    table = Table("Sec. IV-F", "mean", "published")
    for name, mean in means.items():
        told = f"{published[name]:.2f}" if name in published else ""
        table.add_row(name.replace("_", " "), "-" if math.isnan(mean) else f"{mean:.3f}", told)
    return table


def _value(record: "TrialRecord") -> float:
    """What a trial is ranked by: its score, or the last that was seen of a pruned one."""
    if record.value is not None:
        return record.value
    return record.curve[max(record.curve)] if record.curve and record.state == "pruned" else -math.inf


def _test_auc(facts: Mapping[str, Any]) -> str:
    folds = [fold["test_auc"] for fold in facts.get("folds", ())]
    spread = f" ± {statistics.stdev(folds):.3f}" if len(folds) > 1 and None not in folds else ""
    return f"{_figure(facts.get('test_auc'))}{spread}"


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _params(params: "Mapping[str, Scalar]") -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )
