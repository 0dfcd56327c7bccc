"""Events into MLflow's calls: the door to MLflow.

Runs are found again by their tags, and what a run shows is not told twice, so everything may be told again.
What no event tells (a driver that was killed, a full disk, an empty server) is told from the study and the
ledger, as the same events: `MLflowWriter.settle`.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn import statistics
from cgn.errors import first_line
from cgn_platform.search.summary import summary
from cgn_platform.store import out_of_fold
from cgn_platform.store.layout import Store
from cgn_platform.tracking import descriptions
from cgn_platform.tracking.events import (
    DESCRIPTION,
    STATUS,
    RunInfo,
    numbers,
    replay_events,
    row_event,
    when_of,
)
from cgn_platform.tracking.mlflow_client import connect
from cgn_platform.tracking.outbox import Event

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.store.ledger import Ledger
if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.store.ledger import Ledger


LIMIT = 1000  # metrics, parameters and tags a call


PAGE_RUNS = 500  # runs a call


NOTE = 8000  # characters of a tag


CHILD = {"sweep": "trial", "table": "row"}  # what the runs below a parent are


# Without this the UI opens as one about language models, on a page without runs.
WORKFLOW = "workflowType=machine_learning"


KIND = ("mlflow.experimentKind", "custom_model_development")


# What MLflow's UI keeps of a page that somebody shares; its address names the last part of the tag.
VIEW = "mlflow.sharedViewState."


SHARE = "viewStateShareKey"


class MLflowWriter:
    """Events into MLflow: a parent run a sweep or table, a child run a trial or row, found by their tags."""

    def __init__(
        self,
        uri: str,
        parent: RunInfo,
        *,
        artifacts: Path,
        on_refusal: Callable[[str], None],
        ledger: "Ledger | None" = None,
    ) -> None:
        """Connect; nothing is written.

        Args:
            uri: of a server, or of a database.
            parent: whose runs these are.
            artifacts: where files go that are logged without a server.
            on_refusal: told of what this server will never take.
            ledger: where the test scores of finished folds are, for intervals.
        """
        mlflow, self._client = connect(uri)
        self._entities, self._refusal = mlflow.entities, mlflow.exceptions.MlflowException
        self._artifacts = None if uri.startswith("http") else str(artifacts.absolute())
        self._about, self._on_refusal, self._ledger = parent, on_refusal, ledger
        self._tag = f"cgn.{CHILD[parent.kind]}"
        self._runs: dict[int, str] = {}  # of trials by number
        self._states: dict[int, str] = {}  # of trials that ended, as their run tells it
        self._experiment = self._parent = ""

    def open(self, *, running: bool) -> bool:
        """Find the runs of this study, or make the parent's; returns whether it was there."""
        about = self._about
        found = self._client.get_experiment_by_name(about.experiment)
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(about.experiment, artifact_location=self._artifacts)
        )
        parents = self._search(f"tags.`cgn.study_id` = '{about.study_id}'", "cgn.study_id")
        there = bool(parents)
        if there:
            self._parent = parents[about.study_id].info.run_id
            if running:
                self._client.update_run(self._parent, status="RUNNING")
        else:
            self._parent = self._create(about.study, about.time, {"cgn.study_id": about.study_id})
        self._write(self._parent, [{"params": about.params, "tags": about.tags, "time": about.time}])
        self._set_view(found)
        for trial, run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'", self._tag).items():
            number = int(trial.rpartition("/")[2])
            self._runs[number] = run.info.run_id
            # The state is written before the status: who was killed in between has not ended this run.
            ended = run.info.status != "RUNNING"
            self._states[number] = run.data.tags.get("cgn.state", "") if ended else ""
        return there

    def apply(self, events: Iterable[Event]) -> None:
        """Events of trials, in their order; as few calls as can be."""
        by_trial: dict[int | None, list[Event]] = {}
        for event in events:
            by_trial.setdefault(event["trial"], []).append(event)
        for number, told in by_trial.items():
            run = self._parent if number is None else self._run(number, told[0]["time"])
            self._write(run, [self._with_interval(event) for event in told])
            for event in told:
                match event["kind"]:
                    case "ended":
                        self._client.set_terminated(run, event["status"], event["time"])
                        self._states[event["trial"]] = event["tags"]["cgn.state"]
                    case "artifact" if Path(event["path"]).is_file():
                        self._client.log_artifact(run, event["path"])
                    case "artifact":
                        self._on_refusal(f"{event['path']} is not there any more")

    def settle(self, records: "Sequence[TrialRecord]", ledger: "Ledger | None", *, whole: bool) -> None:
        """Bring the runs up to the study: those that do not end as it says, or all of them (`whole`)."""
        for record in records:
            if record.state in STATUS and (whole or self._states.get(record.number) != record.state):
                self._bring_up(record.number, list(replay_events(record, self._about.tags, ledger)))

    def tell_table(self, facts: Mapping[str, Any], page: Path) -> None:
        """The rows of a table as its facts have them, and what the parent shows. What stands stays."""
        now = when_of(facts)
        for number, row in enumerate(facts["rows"]):
            told = row_event(number, row, self._about.tags, now)
            name, run = told["name"], self._runs.get(number)
            there = self._client.get_run(run).data if run else None
            if there and not _can_say(there, told):
                self._client.delete_run(run)  # a run forgets neither a parameter nor a mean
                del self._runs[number]
                there = None
            run = self._run(number, self._about.time, name)
            self._write(run, [{**told, "metrics": _news(told["metrics"], there.metrics if there else {})}])
            self._client.set_terminated(run, told["status"], now)
        lacking = sum(not row["complete"] for row in facts["rows"])
        state = f"{lacking} of {len(facts['rows'])} rows are INCOMPLETE" if lacking else "complete"
        shown = self._client.get_run(self._parent).data.metrics
        figures = _news(numbers({"detectable": facts["detectable"]}), shown)
        self._write(self._parent, [{"metrics": figures, "tags": {"cgn.state": state}, "time": now}])
        self._describe(descriptions.of_table, facts, page)
        self._client.set_terminated(self._parent, "FAILED" if lacking else "FINISHED", now)

    def finish(
        self, records: "Sequence[TrialRecord]", status: str, now: int, page: Path | None = None
    ) -> None:
        """The end of the sweep, with what a parent shows: a point for each number of trials."""
        for number in self._runs:
            if not self._states.get(number):  # its study was removed, or replaced
                tags = {"cgn.state": "orphan", "cgn.reason": "the study does not know it"}
                event = {"kind": "ended", "trial": number, "time": now, "status": "KILLED", "tags": tags}
                self.apply([event])
        asked = sum(record.state in STATUS for record in records)
        shown = self._client.get_run(self._parent).data.metrics  # a resume with nothing new adds no points
        figures = numbers(summary(records)).items()
        self._write(self._parent, [{"metrics": _news(dict(figures), shown), "epoch": asked, "time": now}])
        self._describe(functools.partial(descriptions.of_sweep, interval=self._interval), records, page)
        self._client.set_terminated(self._parent, status, now)

    @property
    def page(self) -> str:
        """The path, in MLflow's UI, of a page that shows the child runs side by side."""
        return f"#/experiments/{self._experiment}/runs?{SHARE}={self._about.study_id}&{WORKFLOW}"

    def _set_view(self, experiment: Any) -> None:
        """The columns that people compare by, as a shared view; the experiment's kind, for its pages."""
        view = json.dumps(view_of(self._about, self._parent), separators=(",", ":"))
        there = experiment.tags if experiment else {}
        wanted = dict([KIND]) | {f"{VIEW}{self._about.study_id}": view}
        for name, value in wanted.items():
            if there.get(name) != value and not (name in there and name == KIND[0]):  # or what people chose
                self._client.set_experiment_tag(self._experiment, name, value)

    def _describe(self, note: Callable[..., str], told: Any, page: Path | None) -> None:
        """The description of the parent, unless somebody edited it, and the report where there is one."""
        there = self._client.get_run(self._parent).data.tags
        report = None if page is None else page.is_file()
        text = note(told, about=self._about, page=self.page, report=report)[:NOTE]
        tags = {}
        if _digest(there.get(DESCRIPTION, "")) == there.get("cgn.note", _digest("")):
            tags = {DESCRIPTION: text, "cgn.note": _digest(text)}
        if page is not None and report:
            tags["cgn.report"] = _digest(page.read_text())
            if there.get("cgn.report") != tags["cgn.report"]:
                self._client.log_artifact(self._parent, str(page))
        self._write(self._parent, [{"tags": _news(tags, there), "time": 0}])

    def _with_interval(self, event: Event) -> Event:
        """The end of a complete trial, with the interval of its test AUC."""
        if not (interval := self._interval(event.get("units"))):
            return event
        ends = {"test_auc_low": interval.low, "test_auc_high": interval.high}
        return {**event, "metrics": {**event["metrics"], **ends}}

    def _interval(self, units: Sequence[str] | None) -> statistics.Interval | None:
        """Reading 21, from the ledger; None (INCOMPLETE) if a unit is missing or damaged."""
        if self._ledger is None or not units:
            return None
        joined = out_of_fold.read(self._ledger, [units])
        return None if joined is None else joined.auc()

    def _bring_up(self, number: int, events: list[Event]) -> None:
        """Tell what this run does not have yet, whatever times its points have."""
        shown = self._client.get_run(self._run(number, events[0]["time"])).data.metrics
        there = {
            (name, point.step)
            for name in shown
            for point in self._client.get_metric_history(self._runs[number], name)
        }

        def missing(event: Event) -> dict[str, float]:
            values = event.get("metrics", {}).items()
            return {name: value for name, value in values if (name, event.get("epoch", 0)) not in there}

        self.apply({**event, "metrics": missing(event)} for event in events)

    def _run(self, number: int, when: int, name: str = "") -> str:
        if number not in self._runs:
            tags = {self._tag: f"{self._about.study}/{number}", "mlflow.parentRunId": self._parent}
            self._runs[number] = self._create(name or f"trial {number}", when, tags)
        return self._runs[number]

    def _search(self, where: str, tag: str) -> dict[str, Any]:
        """Runs by the value of a tag that is unique to each.

        A server that was killed, or was slow, may have made a run without our hearing of it, and we then
        made it again. The one that was written to stays.
        """
        page = self._client.search_runs([self._experiment], where, max_results=PAGE_RUNS)
        runs = list(page)
        while page.token:
            page = self._client.search_runs(
                [self._experiment], where, max_results=PAGE_RUNS, page_token=page.token
            )
            runs += page
        found: dict[str, Any] = {}
        for run in runs:
            value = run.data.tags.get(tag)
            if value is None:  # somebody's own run, put below ours
                continue
            other = found.setdefault(value, run)
            if other is not run:
                found[value], ghost = sorted((run, other), key=_written, reverse=True)
                self._client.delete_run(ghost.info.run_id)
        return found

    def _create(self, name: str, when: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, start_time=when, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _write(self, run: str, events: Sequence[Event]) -> None:
        """Parameters, tags and metrics of these events. What the server will never take is left out."""
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
                room = LIMIT - len(params) - len(tags)
                self._client.log_batch(run, metrics[:room], params, tags)
                metrics, params, tags = metrics[room:], [], []
        except self._refusal as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(events) == 1:
                self._on_refusal(f"MLflow refuses what it was told ({first_line(error)})")
            else:
                for event in events:
                    self._write(run, [event])


def view_of(about: RunInfo, run: str) -> dict[str, Any]:
    """The runs below a parent, the best first, with the columns that people compare by: MLflow's own words
    for what its UI keeps of a page.
    """
    figures = ["best_val_auc", "test_auc", "test_auc_low", "test_auc_high"]
    figures += ["difference", "difference_low", "difference_high"] if about.kind == "table" else []
    figures += ["localization_error", "seconds", *(f"fold_{fold}/test_auc" for fold in range(about.folds))]
    columns = [f"metrics.`{name}`" for name in figures]
    columns += [f"params.`{name}`" for name in about.params if name != "sampler_seed"]
    columns += ["tags.`cgn.words`"] if about.kind == "table" else []
    best = "test_auc" if about.kind == "table" else "best_val_auc"
    return {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{run}"',
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
    }


def _written(run: Any) -> tuple[int, int, int]:
    """How much a run was told."""
    return len(run.data.metrics), len(run.data.params), len(run.data.tags)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _news(told: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """What a run does not show yet."""
    return {name: value for name, value in told.items() if there.get(name) != value}


def _can_say(there: Any, told: Event) -> bool:
    """Whether this run's data can become what is told: parameters stand for ever, and figures stay."""
    same = all(there.params.get(name, value) == value for name, value in told["params"].items())
    return same and set(there.metrics) <= set(told["metrics"])


def open_writer(
    uri: str, parent: RunInfo, store: Store, say: Callable[[str], None], ledger: "Ledger | None" = None
) -> MLflowWriter:
    return MLflowWriter(uri, parent, artifacts=store.mlflow_artifacts, on_refusal=say, ledger=ledger)
