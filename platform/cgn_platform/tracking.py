"""MLflow as a window for people, and the only door to it: the driver writes, in batches, from one thread.

What happens is told as events, plain JSON with the time fixed once. `Projection` turns an event into
MLflow calls; applying one again changes nothing that people see. `Tracker` queues the events, so that
training never waits for the server; if the server fails, training goes on and it is said once.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cgn

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn_platform.study import Asked, TrialRecord
    from cgn_platform.worker import Step

Event = Mapping[str, Any]

LIMIT = 1000  # metrics a call
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "orphan": "KILLED"}
CLOSE_SECONDS = 60  # what the driver waits at the end for a slow server

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a dead server blocks for minutes otherwise
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# Without this the UI opens as one about language models, on a page without runs.
PAGE = "#/experiments?workflowType=machine_learning"


def default_uri(store: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve() / 'mlflow.db'}"


def how_to_look(uri: str) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith("http"):
        return f"{uri}/{PAGE}"
    mlflow = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{mlflow} ui --backend-store-uri {uri}\nand open http://127.0.0.1:5000/{PAGE}"


def code_version() -> str:
    """The git commit of `cgn`, "-dirty" where files differ from it; "unknown" in an uploaded copy."""
    folder = Path(cgn.__file__).parent

    def git(*command: str) -> str:
        asked = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True)
        return asked.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Projection:
    """Events into MLflow: one parent run a study, one child run a trial, found again by their tags."""

    def __init__(self, uri: str, *, experiment: str, study: str, study_id: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._entities = mlflow.entities
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment_name, self._study, self._study_id = experiment, study, study_id
        self._runs: dict[int, str] = {}  # of trials by number
        self._pending: dict[int, list[Any]] = {}
        self._experiment = self._parent = ""

    def open(self, event: Event, records: "Sequence[TrialRecord]") -> None:
        """The parent run, found or made; runs that a dead driver left behind are brought up to the study."""
        found = self._client.get_experiment_by_name(self._experiment_name)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(self._experiment_name)
        )
        parents = self._search(f"tags.`cgn.study_id` = '{self._study_id}'")
        if parents:
            self._parent = parents[0].info.run_id
            self._client.update_run(self._parent, status="RUNNING")
        else:
            self._parent = self._create(self._study, event["time"], {"cgn.study_id": self._study_id})
        self._write(self._parent, event)
        children = self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'")
        for run in children:
            self._runs[int(run.data.tags["cgn.trial"].rpartition("/")[2])] = run.info.run_id
        left = {number for number, run in self._runs.items() if not _ended(children, run)}
        for record in records:
            if record.state in STATUS and (record.number in left or record.number not in self._runs):
                self._catch_up(record, event["time"])

    def apply(self, event: Event) -> None:
        """One event of a trial."""
        number = event["trial"]
        match event["kind"]:
            case "started":
                if number not in self._runs:
                    tags = {"cgn.trial": f"{self._study}/{number}", "mlflow.parentRunId": self._parent}
                    self._runs[number] = self._create(f"trial {number}", event["time"], tags)
                self._write(self._runs[number], event)
            case "epoch":
                points = self._points(event, event["epoch"])
                self._pending.setdefault(number, []).extend(points)
                if len(self._pending[number]) >= LIMIT:
                    self.flush()
            case "ended":
                self.flush()
                self._write(self._runs[number], event)
                self._client.set_terminated(self._runs[number], event["status"], event["time"])

    def flush(self) -> None:
        """Write the metrics that were gathered, one call a run."""
        while self._pending:
            number, points = self._pending.popitem()
            for at in range(0, len(points), LIMIT):
                self._client.log_batch(self._runs[number], metrics=points[at : at + LIMIT])

    def close(self, event: Event) -> None:
        """The end of the sweep, with what a parent shows. Trials still running are ended with it."""
        self.flush()
        shown = self._client.get_run(self._parent).data.metrics  # a resume with nothing new adds no points
        news = {name: value for name, value in event["metrics"].items() if shown.get(name) != value}
        self._write(self._parent, {**event, "metrics": news})
        for run in self._search(
            f"tags.`mlflow.parentRunId` = '{self._parent}' and attributes.status = 'RUNNING'"
        ):
            self._client.set_tag(run.info.run_id, "cgn.reason", "its driver ended before it did")
            self._client.set_terminated(run.info.run_id, "KILLED", event["time"])
        self._client.set_terminated(self._parent, event["status"], event["time"])

    def _catch_up(self, record: "TrialRecord", now: int) -> None:
        """From the study: a driver that was killed may have told it, and not yet MLflow."""
        if record.number not in self._runs and record.config is not None:
            self.apply(started(record.number, record.config.model_dump(mode="json"), {}, now))
        if record.number not in self._runs:
            return
        there = self._client.get_metric_history(self._runs[record.number], "val_auc")
        missing = set(record.curve) - {point.step for point in there}
        for epoch in sorted(missing):
            metrics = {"val_auc": record.curve[epoch]}
            self.apply(_event("epoch", trial=record.number, epoch=epoch, metrics=metrics, time=now))
        self.apply(ended(record, now))

    def _search(self, where: str) -> list[Any]:
        runs: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], where, max_results=500, page_token=token)
            runs += page
            if not (token := page.token):
                return runs

    def _create(self, name: str, when: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, start_time=when, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _write(self, run: str, event: Event) -> None:
        params = [self._entities.Param(name, value) for name, value in event.get("params", {}).items()]
        tags = [self._entities.RunTag(name, value) for name, value in event.get("tags", {}).items()]
        self._client.log_batch(run, self._points(event, 0), params, tags)

    def _points(self, event: Event, step: int) -> list[Any]:
        values = event.get("metrics", {}).items()
        return [self._entities.Metric(name, value, event["time"], step) for name, value in values]


class Tracker:
    """Queues events to a `Projection` in a thread of its own; a `Listener` of the sweep."""

    def __init__(
        self,
        make: Callable[[], Projection],
        *,
        records: "Sequence[TrialRecord]" = (),
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        on_problem: Callable[[str], None] = print,
    ) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._make, self._records, self._on_problem = make, tuple(records), on_problem
        self._tags = dict(tags or {})  # of every run: cache, splits, commit
        self._lost = 0
        self._broken = False
        opened = _event("opened", tags=self._tags, params=dict(params or {}))
        self._thread = threading.Thread(target=self._work, args=(opened,), name="mlflow", daemon=True)
        self._thread.start()

    def started(self, trial: "Asked") -> None:
        """A trial was asked for."""
        tags = {**self._tags, "fingerprint": trial.config.fingerprint()}
        self._queue.put(started(trial.number, trial.config.model_dump(mode="json"), tags))

    def epoch(self, number: int, step: "Step") -> None:
        """Mean and folds of the validation AUC, and the losses."""
        folds = {f"fold_{fold}/val_auc": value for fold, value in (step.folds or {}).items()}
        metrics = {"val_auc": step.val_auc, **folds, **(step.losses or {})}
        self._queue.put(_event("epoch", trial=number, epoch=step.epoch, metrics=metrics))

    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        self._queue.put(ended(record))

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """Write what is queued and end the parent run. Says so where something could not be written."""
        self._queue.put(_event("closed", status=status, metrics=_numbers(metrics)))
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            left = self._queue.qsize()
            self._on_problem(f"MLflow is slow: {left} events were not written after {CLOSE_SECONDS} s")
        elif self._broken:
            self._on_problem(f"MLflow: {self._lost} events were not written; the study holds the results")

    def _work(self, opened: Event) -> None:
        projection: Projection | None = None
        try:
            projection = self._make()
            projection.open(opened, self._records)
        except Exception as error:  # whatever a server or its client does, training goes on
            self._fail(error)
        while (event := self._queue.get()) is not None:
            if self._broken or projection is None:
                self._lost += 1
                continue
            try:
                if event["kind"] == "closed":
                    projection.close(event)
                else:
                    projection.apply(event)
                    if self._queue.empty():
                        projection.flush()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._broken = True
        self._lost += 1
        lines = str(error).strip().splitlines() or [type(error).__name__]
        self._on_problem(f"MLflow cannot be written ({lines[0][:200]}): the sweep goes on without it")


def started(trial: int, config: Mapping[str, Any], tags: Mapping[str, str], now: int | None = None) -> Event:
    """A trial began, with its configuration as parameters."""
    params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}
    return _event("started", trial=trial, params=params, tags=tags, time=now)


def ended(record: "TrialRecord", now: int | None = None) -> Event:
    """A trial ended: its final figures, by fold, and the reason where it was stopped."""
    facts = dict(record.facts)
    metrics = {name: facts.get(name) for name in ("test_auc", "localization_error", "seconds")}
    metrics["best_val_auc"] = record.value
    for fold in facts.get("folds", ()):
        names = ("test_auc", "localization_error", "best_epoch")
        metrics |= {f"fold_{fold['fold']}/{name}": fold[name] for name in names}
    reason = {"cgn.reason": facts["reason"]} if "reason" in facts else {}
    tags = {"cgn.state": record.state, **reason}
    if "retry_of" in facts:
        tags["cgn.retry_of"] = str(facts["retry_of"])
    return _event(
        "ended",
        trial=record.number,
        status=STATUS[record.state],
        metrics=_numbers(metrics),
        tags=tags,
        time=now,
    )


def _event(kind: str, **facts: Any) -> Event:
    now = facts.pop("time", None)
    return {"kind": kind, "time": int(time.time() * 1000) if now is None else now, **facts}


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _ended(runs: Sequence[Any], run_id: str) -> bool:
    return any(run.info.run_id == run_id and run.info.status != "RUNNING" for run in runs)
