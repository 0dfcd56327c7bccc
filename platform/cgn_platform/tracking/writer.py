"""Turns events into calls of MLflow.

Runs are identified by their tags, and what a run shows already is not written again, so every event may be
applied repeatedly. What no event contains (a driver was killed, a disk was full, the server is empty) is
written from the study and the ledger, as the same events: `MLflowWriter.reconcile`.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cgn.errors import PlatformError, first_line
from cgn.statistics import Interval
from cgn_platform.search.records import TrialRecord
from cgn_platform.search.summary import summary
from cgn_platform.store import out_of_fold
from cgn_platform.store.databases import hidden
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking import descriptions
from cgn_platform.tracking.events import (
    DESCRIPTION,
    STATUS,
    RunInfo,
    replay_events,
    row_event,
    table_ended_ms,
    without_none,
)
from cgn_platform.tracking.links import report_page, run_page, runs_page
from cgn_platform.tracking.mlflow_client import artifact_location, connect
from cgn_platform.tracking.outbox import Event
from cgn_platform.tracking.views import VIEW, shared_view

BATCH_LIMIT = 1000  # metrics, parameters and tags per call, and parameters and tags together
PAGE_RUNS = 500  # runs per call of a search
TAG_LENGTH = 8000  # MLflow's limit
SHOWN = 3  # restored runs that a line names
DELETED = "deleted"  # MLflow's lifecycle stage
REPLACED = "cgn.replaced"
"""Tag of a run that was deleted here because another one replaces it."""
CHILD = {"sweep": "trial", "table": "row"}  # what the child runs of a parent are
KIND, OUR_KIND = "mlflow.experimentKind", "custom_model_development"
"""The tag by which MLflow's UI chooses its pages for an experiment, and the value for training networks."""


class DeletedExperimentError(PlatformError):
    """Somebody deleted the experiment in MLflow."""

    def __init__(self, name: str, experiment_id: str, uri: str) -> None:
        super().__init__(
            f"somebody deleted the experiment {name!r} in MLflow",
            remedy=f"'MLFLOW_TRACKING_URI={shlex.quote(hidden(uri))} mlflow experiments restore "
            f"--experiment-id {experiment_id}' brings it back with its runs; then run 'cgn track'",
        )


class MLflowWriter:
    """Writes events to MLflow: one parent run per sweep or table, one child run per trial or row."""

    def __init__(
        self,
        uri: str,
        parent: RunInfo,
        *,
        artifacts: Path,
        on_refusal: Callable[[str], None],
        ledger: Ledger | None = None,
    ) -> None:
        """Connect. Nothing is written.

        Args:
            uri: of a server, or of a database.
            parent: whose runs these are.
            artifacts: folder for files that are logged without a server.
            on_refusal: called with a line about what this server will never accept.
            ledger: contains the epochs and test scores of finished folds.
        """
        self._uri = uri
        mlflow, self._client = connect(uri)
        self._entities, self._mlflow_error = mlflow.entities, mlflow.exceptions.MlflowException
        self._artifacts = None if uri.startswith("http") else artifact_location(artifacts)
        self._info, self._on_refusal, self._ledger = parent, on_refusal, ledger
        self._child_tag = f"cgn.{CHILD[parent.kind]}"
        self._runs: dict[int, str] = {}  # run ids, by number of the trial or row
        self._states: dict[int, str] = {}  # of trials, as their runs show it; empty while they are running
        self._experiment = self._parent = ""

    def open(self, *, running: bool) -> bool:
        """Find the runs of this study; create the parent run if it is missing.

        Args:
            running: set the status of an existing parent to RUNNING.

        Runs that somebody deleted are restored: to write them anew beside the others would double them.

        Returns:
            Whether the parent run existed.

        Raises:
            DeletedExperimentError: somebody deleted the experiment; that concerns other studies, too.
        """
        info = self._info
        experiment = self._client.get_experiment_by_name(info.experiment)
        if experiment is not None and experiment.lifecycle_stage == DELETED:
            raise DeletedExperimentError(info.experiment, experiment.experiment_id, self._uri)
        self._experiment = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(info.experiment, artifact_location=self._artifacts)
        )
        parents = self._search(f"tags.`cgn.study_id` = '{info.study_id}'", "cgn.study_id")
        if parents:
            self._parent = parents[info.study_id].info.run_id
            if running:
                self._client.update_run(self._parent, status="RUNNING")
        else:
            self._parent = self._create(info.study, info.time, {"cgn.study_id": info.study_id})
        self._write(self._parent, [{"params": info.params, "tags": info.tags, "time": info.time}])
        self._set_view(experiment.tags if experiment else {})
        for trial, run in self._search(
            f"tags.`mlflow.parentRunId` = '{self._parent}'", self._child_tag
        ).items():
            number = int(trial.rpartition("/")[2])
            self._runs[number] = run.info.run_id
            # The state is written before the status: a run with a state may still have to be ended.
            ended = run.info.status != "RUNNING"
            self._states[number] = run.data.tags.get("cgn.state", "") if ended else ""
        return bool(parents)

    def apply(self, events: Iterable[Event]) -> None:
        """Write events of trials, in their order, with as few calls as possible."""
        by_trial: dict[int, list[Event]] = {}
        for event in events:
            by_trial.setdefault(event["trial"], []).append(event)
        for number, trial_events in by_trial.items():
            run = self._run(number, trial_events[0]["time"])
            self._write(run, [self._with_interval(event) for event in trial_events])
            for event in trial_events:
                if event["kind"] == "ended":
                    self._client.set_terminated(run, event["status"], event["time"])
                    self._states[number] = event["tags"]["cgn.state"]

    def log_files(self, number: int, paths: Iterable[Path]) -> None:
        """Add files to the artifacts of a trial."""
        for path in paths:
            self._client.log_artifact(self._runs[number], str(path.absolute()))

    def reconcile(self, records: Sequence[TrialRecord], *, whole: bool) -> None:
        """Write what the runs lack, from the study and the ledger.

        Args:
            records: trials; those that have not ended are skipped.
            whole: compare every run. Otherwise only those whose state differs from the study's.
        """
        for record in records:
            if record.state in STATUS and (whole or self._states.get(record.number) != record.state):
                self._backfill(record.number, list(replay_events(record, self._info.tags, self._ledger)))

    def write_table(self, facts: Mapping[str, Any], report: Path) -> None:
        """Write the rows of a table from its facts, and the parent; what a run shows already stays."""
        now = table_ended_ms(facts)
        for number, row in enumerate(facts["rows"]):
            self._write_row(number, row_event(number, row, self._info.tags, now))
        incomplete = sum(not row["complete"] for row in facts["rows"])
        state = f"{incomplete} of {len(facts['rows'])} rows are INCOMPLETE" if incomplete else "complete"
        shown = self._client.get_run(self._parent).data.metrics
        metrics = _changed(without_none({"detectable": facts["detectable"]}), shown)
        self._write(self._parent, [{"metrics": metrics, "tags": {"cgn.state": state}, "time": now}])
        attached = report.is_file()
        text = descriptions.describe_table(
            facts, info=self._info, page=self.runs_page, attached=attached, report=self._report_page
        )
        self._describe(text, report if attached else None)
        self._client.set_terminated(self._parent, "FAILED" if incomplete else "FINISHED", now)

    def finish(
        self, records: Sequence[TrialRecord], status: str, now: int, report: Path | None = None
    ) -> None:
        """End the parent run, with figures of the whole sweep (a point per number of ended trials).

        Args:
            records: all trials.
            status: of the parent run.
            now: in ms.
            report: the HTML page, which need not exist; None if there cannot be one.
        """
        for number in self._runs:
            if not self._states.get(number):  # its study was removed or replaced
                tags = {"cgn.state": "orphan", "cgn.reason": "the study does not know it"}
                event = {"kind": "ended", "trial": number, "time": now, "status": "KILLED", "tags": tags}
                self.apply([event])
        if records or not self._runs:  # figures of trials that no study knows any more are kept
            self._write_summary(records, now, report)
        self._client.set_terminated(self._parent, status, now)

    def _write_summary(self, records: Sequence[TrialRecord], now: int, report: Path | None) -> None:
        """Figures and description of the parent run."""
        ended = sum(record.state in STATUS for record in records)
        shown = self._client.get_run(self._parent).data.metrics  # a resume without new trials adds no points
        metrics = _changed(without_none(summary(records)), shown)
        self._write(self._parent, [{"metrics": metrics, "epoch": ended, "time": now}])
        attached = None if report is None else report.is_file()
        text = descriptions.describe_sweep(
            records,
            info=self._info,
            page=self.runs_page,
            attached=attached,
            report=self._report_page,
            test_interval=self._test_interval,
        )
        self._describe(text, report if attached else None)

    def retire(self, study_id: str) -> int:
        """Delete the runs of another study, which this one repeats. Returns how many there were."""
        parents = [run.info.run_id for run in self._all_runs(f"tags.`cgn.study_id` = '{study_id}'")]
        runs = [
            run
            for parent in parents
            for query in (f"tags.`mlflow.parentRunId` = '{parent}'", f"attributes.run_id = '{parent}'")
            for run in self._all_runs(query)
            if not _is_deleted(run) and ("cgn.study_id" in run.data.tags or self._child_tag in run.data.tags)
        ]
        for run in runs:  # the parent last: if this process is killed, the next one finds it
            self._delete(run.info.run_id)
        return len(runs)

    @property
    def runs_page(self) -> str:
        """The page of MLflow's UI that shows the child runs side by side."""
        return runs_page(self._experiment, self._info.study_id)

    def child_page(self, number: int) -> str:
        """The page of MLflow's UI that shows a trial or row."""
        return run_page(self._experiment, self._runs[number])

    @property
    def _report_page(self) -> str:
        return report_page(self._experiment, self._parent)

    @property
    def _belongs(self) -> str:
        """The description of a child run."""
        return descriptions.describe_child(
            self._info, run_page(self._experiment, self._parent), self._report_page
        )

    def _set_view(self, tags: Mapping[str, str]) -> None:
        """Share a view with the columns to compare by; set the experiment's kind unless someone has."""
        view, content = (
            f"{VIEW}{self._info.study_id}",
            json.dumps(shared_view(self._info, self._parent), separators=(",", ":")),
        )
        if tags.get(view) != content:
            self._client.set_experiment_tag(self._experiment, view, content)
        if KIND not in tags:
            self._client.set_experiment_tag(self._experiment, KIND, OUR_KIND)

    def _describe(self, text: str, report: Path | None) -> None:
        """Set the parent's description, unless someone has edited it, and attach the report."""
        text = text[:TAG_LENGTH]
        shown = self._client.get_run(self._parent).data.tags
        tags = {}
        if _digest(shown.get(DESCRIPTION, "")) == shown.get("cgn.note", _digest("")):
            tags = {DESCRIPTION: text, "cgn.note": _digest(text)}
        if report is not None:
            tags["cgn.report"] = _digest(report.read_text())
            if shown.get("cgn.report") != tags["cgn.report"]:
                self._client.log_artifact(self._parent, str(report))
        self._write(self._parent, [{"tags": _changed(tags, shown), "time": 0}])

    def _with_interval(self, event: Event) -> Event:
        """The end of a complete trial, with the interval of its test AUC."""
        if not (interval := self._test_interval(event.get("units"))):
            return event
        bounds = {"test_auc_low": interval.low, "test_auc_high": interval.high}
        return {**event, "metrics": {**event["metrics"], **bounds}}

    def _test_interval(self, units: Sequence[str] | None) -> Interval | None:
        """Reading 21, from the ledger; None (INCOMPLETE) if a unit is missing or damaged."""
        if self._ledger is None or not units:
            return None
        joined = out_of_fold.read(self._ledger, [units])
        return None if joined is None else joined.auc()

    def _backfill(self, number: int, events: Sequence[Event]) -> None:
        """Apply the events of a trial, without points that its run has, whatever their times are."""
        data = self._client.get_run(self._run(number, events[0]["time"])).data
        shown = data.metrics
        if DESCRIPTION not in data.tags:  # written by an earlier version
            self._write(self._runs[number], [{"tags": {DESCRIPTION: self._belongs}, "time": 0}])
        existing = {
            (name, point.step)
            for name in shown
            for point in self._client.get_metric_history(self._runs[number], name)
        }

        def missing(event: Event) -> dict[str, float]:
            metrics = event.get("metrics", {}).items()
            return {name: value for name, value in metrics if (name, event.get("epoch", 0)) not in existing}

        self.apply({**event, "metrics": missing(event)} for event in events)

    def _write_row(self, number: int, event: Event) -> None:
        """Write a row of a table. A run keeps its parameters and means, so one that cannot is replaced."""
        shown = self._client.get_run(self._runs[number]).data if number in self._runs else None
        if shown and not _can_become(shown, event):
            self._delete(self._runs.pop(number))
            shown = None
        run = self._run(number, self._info.time, event["name"])
        metrics = _changed(event["metrics"], shown.metrics if shown else {})
        text = "\n\n".join(filter(None, [event["tags"][DESCRIPTION], self._belongs]))
        tags = {**event["tags"], DESCRIPTION: text[:TAG_LENGTH]}
        self._write(run, [{**event, "metrics": metrics, "tags": tags}])
        self._client.set_terminated(run, event["status"], event["time"])

    def _run(self, number: int, started: int, name: str = "") -> str:
        """The id of a child run, which is created if it is missing."""
        if number not in self._runs:
            tags = {
                self._child_tag: f"{self._info.study}/{number}",
                "mlflow.parentRunId": self._parent,
                DESCRIPTION: self._belongs,
            }
            self._runs[number] = self._create(name or f"trial {number}", started, tags)
        return self._runs[number]

    def _search(self, query: str, tag: str) -> dict[str, Any]:
        """Runs by the value of a tag that is unique to each.

        If a server is killed or too slow after it has created a run, the client does not learn of it and
        creates the run again. Of two such runs, the one with more data is kept.
        """
        by_value: dict[str, Any] = {}
        for run in self._all_runs(query):
            value = run.data.tags.get(tag)
            if value is None or (_is_deleted(run) and REPLACED in run.data.tags):
                continue  # a run of someone else, put below ours; or one that another has replaced
            other = by_value.setdefault(value, run)
            if other is not run:
                by_value[value], duplicate = sorted((run, other), key=_worth, reverse=True)
                if not _is_deleted(duplicate):
                    self._delete(duplicate.info.run_id)
        deleted = [run for run in by_value.values() if _is_deleted(run)]
        for run in deleted:
            self._client.restore_run(run.info.run_id)
        if deleted:
            names = ", ".join(str(run.info.run_name) for run in deleted[:SHOWN])
            more = f" and {len(deleted) - SHOWN} more" if len(deleted) > SHOWN else ""
            self._on_refusal(f"restored in MLflow, where somebody had deleted them: {names}{more}")
        return by_value

    def _all_runs(self, query: str) -> list[Any]:
        """Runs that a query finds, deleted ones included."""
        runs, token = [], None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                query,
                run_view_type=self._entities.ViewType.ALL,
                max_results=PAGE_RUNS,
                page_token=token,
            )
            runs += page
            if not (token := page.token):
                return runs

    def _delete(self, run: str) -> None:
        """Delete a run that another one replaces. The tag says that it is not to be restored."""
        self._client.set_tag(run, REPLACED, "true")
        self._client.delete_run(run)

    def _create(self, name: str, started: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, start_time=started, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _write(self, run: str, events: Sequence[Event]) -> None:
        """Write parameters, tags and metrics of these events, without those that the server rejects."""
        entities = self._entities
        metrics = [
            entities.Metric(name, value, event["time"], event.get("epoch", 0))
            for event in events
            for name, value in event.get("metrics", {}).items()
        ]
        params = [entities.Param(*pair) for event in events for pair in event.get("params", {}).items()]
        tags = [entities.RunTag(*pair) for event in events for pair in event.get("tags", {}).items()]
        try:
            while metrics or params or tags:
                room = BATCH_LIMIT - len(params) - len(tags)
                self._client.log_batch(run, metrics[:room], params, tags)
                metrics, params, tags = metrics[room:], [], []
        except self._mlflow_error as error:
            if error.error_code != "INVALID_PARAMETER_VALUE" or _is_deleted(self._client.get_run(run)):
                raise
            if len(events) == 1:
                self._on_refusal(f"MLflow rejects a value, which is left out ({first_line(error)})")
            else:
                for event in events:
                    self._write(run, [event])


def open_writer(
    uri: str, parent: RunInfo, store: Store, warn: Callable[[str], None], ledger: Ledger | None = None
) -> MLflowWriter:
    """A writer that keeps artifacts in the store if there is no server."""
    return MLflowWriter(uri, parent, artifacts=store.mlflow_artifacts, on_refusal=warn, ledger=ledger)


def _is_deleted(run: Any) -> bool:
    return bool(run.info.lifecycle_stage == DELETED)


def _worth(run: Any) -> tuple[bool, bool, int, int, int]:
    """Which of two runs of a trial is kept: the one that was not deleted or replaced, then by its data."""
    data = run.data
    return (
        not _is_deleted(run),
        REPLACED not in data.tags,
        len(data.metrics),
        len(data.params),
        len(data.tags),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _changed(values: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a run does not show yet."""
    return {name: value for name, value in values.items() if shown.get(name) != value}


def _can_become(shown: Any, event: Event) -> bool:
    """Whether a run can show this row: MLflow changes no parameter and deletes no metric."""
    same = all(shown.params.get(name, value) == value for name, value in event["params"].items())
    return same and set(shown.metrics) <= set(event["metrics"])
