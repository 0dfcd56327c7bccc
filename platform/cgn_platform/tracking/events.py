"""What is told of trials and rows, as plain JSON with the time fixed once.

An event is told while it happens, or again from what the study and the ledger remember (`replay_events`): both
are the same events, so a point that comes twice is one point.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from cgn.errors import LedgerError
from cgn.results import mean_losses
from cgn_platform.tracking.outbox import Event

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn.config import Config
    from cgn.results import EpochReport
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.store.ledger import Ledger


DESCRIPTION = "mlflow.note.content"


STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "orphan": "KILLED"}


@dataclass(frozen=True)
class RunInfo:
    """What the run of a whole sweep or table says, and where it is found.

    Attributes:
        experiment: its name.
        study: name of the sweep or table.
        study_id: of this very one.
        tags: of every run: cache, splits, code.
        params: what is searched.
        time: of its start, in ms.
        kind: what it is.
        folds: how many a trial or row has.
    """

    experiment: str
    study: str
    study_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    time: int = field(default_factory=lambda: now_ms())
    kind: Literal["sweep", "table"] = "sweep"
    folds: int = 0


def started(trial: int, config: "Config", tags: Mapping[str, str], now: int) -> Event:
    """A trial began, with its configuration as parameters."""
    values = config.model_dump(mode="json").items()
    params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    tags = {**tags, "fingerprint": config.fingerprint()}
    return {"kind": "started", "trial": trial, "time": now, "params": params, "tags": tags}


def epoch(trial: int, told: Mapping[str, Any], now: int) -> Event:
    """An epoch of a trial, as a `EpochUpdate` or the study tells it."""
    folds = {f"fold_{fold}/val_auc": value for fold, value in (told.get("folds") or {}).items()}
    metrics = {"val_auc": told["val_auc"], **folds, **(told.get("losses") or {})}
    return {"kind": "epoch", "trial": trial, "time": now, "epoch": told["epoch"], "metrics": metrics}


def ended(record: "TrialRecord", now: int) -> Event:
    """A trial ended: its final figures, by fold, and the reason where it was stopped."""
    facts = record.facts
    metrics = {name: facts.get(name) for name in ("test_auc", "localization_error", "seconds")}
    metrics["best_val_auc"] = record.value
    for fold in facts.get("folds", ()):
        names = ("test_auc", "localization_error", "best_epoch")
        metrics |= {f"fold_{fold['fold']}/{name}": fold[name] for name in names}
    told = {
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
        "metrics": numbers(metrics),
        "tags": {name: str(value) for name, value in told.items() if value is not None},
        "units": facts.get("units"),
    }


def row_event(number: int, row: Mapping[str, Any], tags: Mapping[str, str], now: int) -> Event:
    """A row of a table, from its facts: figures by the names that trials have, means over seeds by fold.

    An INCOMPLETE row has no figures, which its name, its tags and its description say.
    """
    from cgn.config import Config

    complete, published = row["complete"], row["published"]
    told = {
        "cgn.state": "complete" if complete else "INCOMPLETE",
        "cgn.reason": row["why"] or "",
        "cgn.words": row.get("words") or "",
        DESCRIPTION: "" if complete else f"INCOMPLETE: {row['why']}",
        **{f"published.{setting}": f"{value:g}" for setting, value in published.items()},
    }
    begun = started(number, Config.of(row["config"]), {**tags, **told}, now)
    metrics = _row_metrics(row) if complete else {}
    return {**begun, "name": row["name"], "metrics": metrics, "status": "FINISHED" if complete else "FAILED"}


def _row_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    folds = [_mean_of(of_seeds) for of_seeds in zip(*row["fold_auc"], strict=True)]
    metrics: dict[str, float | None] = {
        "best_val_auc": _mean_of([auc for seed in row["val_auc"] for auc in seed]),
        "test_auc": _mean_of(folds),
        **{f"fold_{fold}/test_auc": auc for fold, auc in enumerate(folds)},
        "seconds": row["seconds"],
        "p_adjusted": row.get("p_adjusted"),
    }
    for name, shown in {"test_auc": "auc", **{of: of for of in ("localization_error", "difference")}}.items():
        if interval := row.get(shown):
            ends = {f"{name}_{end}": interval[end] for end in ("low", "high")}
            metrics |= {name: interval["estimate"], **ends}
    return numbers(metrics)


def replay_events(record: "TrialRecord", tags: Mapping[str, str], ledger: "Ledger | None") -> Iterator[Event]:
    """The events of a trial, from what the study and the ledger remember."""
    began, end = record.began or now_ms(), record.ended or now_ms()
    if record.config is not None:
        yield started(record.number, record.config, tags, began)
    now = float(began)
    for told in history(record, ledger):
        now += 1000 * told.get("seconds", 0)
        yield epoch(record.number, told, int(now))
    yield ended(record, end)


def history(record: "TrialRecord", ledger: "Ledger | None") -> Sequence[Mapping[str, Any]]:
    """The epochs of a trial, from the best source there is.

    A complete trial's folds are in the ledger; of one that was stopped the study keeps the steps; an
    orphan has but the curve that was reported.
    """
    facts = record.facts
    if "steps" in facts:
        return list(facts["steps"])
    if ledger is not None and "units" in facts:
        with suppress(LedgerError):  # a damaged unit: the curve still stands
            folds = [ledger.open(unit).reports for unit in facts["units"]]
            epochs = [_mean(reports) for reports in zip(*folds, strict=True)]
            return [{**told, "val_auc": record.curve[told["epoch"]]} for told in epochs]
    return [{"epoch": number, "val_auc": value} for number, value in record.curve.items()]


def _mean(reports: "Sequence[EpochReport]") -> dict[str, Any]:
    """One epoch of all folds, as a worker tells it."""
    return {
        "epoch": reports[0].epoch,
        "folds": {report.fold: report.val_auc for report in reports},
        "losses": mean_losses([report.losses for report in reports]),
        "seconds": sum(report.seconds for report in reports),
    }


def orphaned(record: "TrialRecord") -> "TrialRecord":
    """A trial that is running although nobody drives it, as the next driver will remember it."""
    if record.state != "running":
        return record
    from cgn_platform.search.records import ORPHAN

    return replace(record, state="orphan", facts={**record.facts, "reason": ORPHAN})


def numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are there."""
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _mean_of(values: Sequence[float | None]) -> float | None:
    """None where one of them is no number: nothing incomplete is averaged."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def when_of(facts: Mapping[str, Any]) -> int:
    """When a table ended, in ms."""
    return int(1000 * datetime.strptime(facts["run"]["when"], "%Y-%m-%dT%H:%M:%S%z").timestamp())


def now_ms() -> int:
    """As MLflow counts."""
    return int(time.time() * 1000)
