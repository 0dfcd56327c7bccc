"""Events of trials and rows of tables, as plain JSON with fixed times.

An event is made while a trial runs, or later from the study and the ledger (`replay_events`). Both ways give
the same event, so a point that is sent twice remains one point.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from cgn.config import Config
from cgn.errors import LedgerError
from cgn.results import CrossReport, mean_losses
from cgn_platform.search.records import ORPHAN, TrialRecord
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking.outbox import Event

DESCRIPTION = "mlflow.note.content"
STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "orphan": "KILLED"}
"""MLflow's status of a trial that has ended. A pruned trial ended as it should: MLflow's UI marks FAILED and
KILLED with a red cross. The tag `cgn.state` distinguishes it from a complete one."""

MEASURED = (
    *("parameters", "parameters_training", "gflop_predicted", "gflop_trained"),
    *("epochs_per_second", "before_seconds", "localization_error_folds", "localization_error_any_class"),
)
"""Figures of a row that its run in MLflow has under the same name; see `report.row_measurements`."""


def now_ms() -> int:
    """The time in ms since 1970, as MLflow counts it."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class RunInfo:
    """The parent run of a sweep, table or training.

    Attributes:
        experiment: name of the data set.
        study: name of the sweep or table.
        study_id: of this very study; another one of the same name has another.
        tags: fingerprints of cache, splits and code, of every run.
        params: what is searched.
        time: of its start, in ms.
        kind: decides how child runs are tagged.
        folds: of each trial or row.
    """

    experiment: str
    study: str
    study_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    time: int = field(default_factory=now_ms)
    kind: Literal["sweep", "table"] = "sweep"
    folds: int = 0

    def repeated_key(self) -> tuple[Any, ...]:
        """What two studies share of which one repeats the other: name, data and search."""
        data = (self.tags.get("cache"), self.tags.get("splits"))
        return self.experiment, self.study, self.kind, data, sorted(self.params.items())


def started(trial: int, config: Config, tags: Mapping[str, str], now: int) -> Event:
    """A trial started, with its configuration as parameters."""
    values = config.model_dump(mode="json").items()
    params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    tags = {**tags, "fingerprint": config.fingerprint()}
    return {"kind": "started", "trial": trial, "time": now, "params": params, "tags": tags}


def epoch(trial: int, facts: Mapping[str, Any], now: int) -> Event:
    """A trial finished an epoch; `facts` are fields of an `EpochUpdate`, or as the study stores them."""
    folds = {f"fold_{fold}/val_auc": auc for fold, auc in (facts.get("folds") or {}).items()}
    metrics = {"val_auc": facts["val_auc"], **folds, **(facts.get("losses") or {})}
    return {"kind": "epoch", "trial": trial, "time": now, "epoch": facts["epoch"], "metrics": metrics}


def ended(record: TrialRecord, now: int) -> Event:
    """A trial ended: final figures, also by fold, and the reason if it was stopped."""
    facts = record.facts
    metrics = {name: facts.get(name) for name in ("test_auc", "localization_error", "seconds")}
    metrics["best_val_auc"] = record.value
    for fold in facts.get("folds", ()):
        names = ("test_auc", "localization_error", "best_epoch")
        metrics |= {f"fold_{fold['fold']}/{name}": fold[name] for name in names}
    tags = {
        "cgn.state": record.state,
        "cgn.reason": facts.get("reason"),
        "cgn.retry_of": facts.get("retry_of"),
        "cgn.lost_workers": "; ".join(facts.get("lost_workers", ())) or None,
    }
    return {
        "kind": "ended",
        "trial": record.number,
        "time": now,
        "status": STATUS[record.state],
        "metrics": without_none(metrics),
        "tags": {name: str(value) for name, value in tags.items() if value is not None},
        "units": facts.get("units"),
    }


def row_event(number: int, row: Mapping[str, Any], tags: Mapping[str, str], now: int) -> Event:
    """A row of a table, from its facts. Figures have the names of those of trials, and are means over seeds.

    An INCOMPLETE row has no figures; its tags and its description give the reason.
    """
    complete, published = row["complete"], row["published"]
    row_tags = {
        "cgn.state": "complete" if complete else "INCOMPLETE",
        "cgn.reason": row["why"] or "",
        "cgn.words": row.get("words") or "",
        "cgn.remark": row.get("note") or "",
        DESCRIPTION: (row.get("note") or "") if complete else f"INCOMPLETE: {row['why']}",
        **{f"published.{setting}": f"{value:g}" for setting, value in published.items()},
    }
    event = started(number, Config.of(row["config"]), {**tags, **row_tags}, now)
    metrics = _row_metrics(row) if complete else {}
    return {**event, "name": row["name"], "metrics": metrics, "status": "FINISHED" if complete else "FAILED"}


def _row_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    folds = [_mean(seeds) for seeds in zip(*row["fold_auc"], strict=True)]
    metrics: dict[str, float | None] = {
        "best_val_auc": _mean([auc for seed in row["val_auc"] for auc in seed]),
        "test_auc": _mean(folds),
        **{f"fold_{fold}/test_auc": auc for fold, auc in enumerate(folds)},
        "seconds": row["seconds"],
        "p_adjusted": row.get("p_adjusted"),
        **{name: row.get(name) for name in MEASURED},
        "healthy_films": (row.get("healthy_films") or {}).get("least"),
        "made_difference": (row.get("made_difference") or {}).get("least"),
    }
    intervals = {"test_auc": "auc", "localization_error": "localization_error", "difference": "difference"}
    for name, key in intervals.items():
        if interval := row.get(key):
            bounds = {f"{name}_{bound}": interval[bound] for bound in ("low", "high")}
            metrics |= {name: interval["estimate"], **bounds}
    return without_none(metrics)


def replay_events(record: TrialRecord, tags: Mapping[str, str], ledger: Ledger | None) -> Iterator[Event]:
    """The events of a trial that has ended, from the study and the ledger."""
    began, end = record.began or now_ms(), record.ended or now_ms()
    if record.config is not None:
        yield started(record.number, record.config, tags, began)
    now = float(began)
    for facts in history(record, ledger):
        now += 1000 * facts.get("seconds", 0)
        yield epoch(record.number, facts, int(now))
    yield ended(record, end)


def history(record: TrialRecord, ledger: Ledger | None) -> Sequence[Mapping[str, Any]]:
    """The epochs of a trial, from the most detailed source.

    The ledger has the folds of a complete trial, the study has the steps of one that was stopped, and of an
    orphan only the reported curve is known.
    """
    facts = record.facts
    if "steps" in facts:
        return list(facts["steps"])
    if ledger is not None and "units" in facts:
        with suppress(LedgerError):  # if a unit is damaged, the curve is used
            folds = [ledger.open(unit).reports for unit in facts["units"]]
            epochs = {reports[0].epoch: reports for reports in zip(*folds, strict=True)}
            return [
                epoch_facts(CrossReport(number, record.curve[number], reports))
                for number, reports in epochs.items()
            ]
    return [{"epoch": number, "val_auc": value} for number, value in record.curve.items()]


def epoch_facts(report: CrossReport) -> dict[str, Any]:
    """One epoch of all folds, as the study stores it."""
    return {
        "epoch": report.epoch,
        "val_auc": report.val_auc,
        "folds": {fold.fold: fold.val_auc for fold in report.folds},
        "losses": mean_losses([fold.losses for fold in report.folds]),
        "seconds": sum(fold.seconds for fold in report.folds),
    }


def as_orphan(record: TrialRecord) -> TrialRecord:
    """A running trial whose driver has died, as the next driver will record it; others are unchanged."""
    if record.state != "running":
        return record
    return replace(record, state="orphan", facts={**record.facts, "reason": ORPHAN})


def without_none(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The metrics that have a value."""
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    """None if a value is missing: nothing incomplete is averaged."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def table_ended_ms(facts: Mapping[str, Any]) -> int:
    """The time when a table ended, in ms."""
    return int(1000 * datetime.strptime(facts["run"]["when"], "%Y-%m-%dT%H:%M:%S%z").timestamp())
