"""Metrics of a running sweep for Prometheus and Grafana, exported by Ray beside its own.

Ray adds the prefix `ray_` to the names, and labels for the process. The dashboards are in
`dashboards/grafana`. Ray drops a gauge that is not set for two of its reports (20 s), and an epoch may take
longer, so a thread sets all gauges repeatedly. No result depends on these metrics, and no error of theirs
ends a sweep.
"""

import functools
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ray.util import metrics

from cgn.errors import one_line
from cgn_platform.search.records import ENDED, EpochUpdate, StudyInfo, TrialRecord, TrialSpec

PULSE_SECONDS = 5.0  # between two exports; half of Ray's interval

_log = logging.getLogger(__name__)
Metric = TypeVar("Metric", metrics.Gauge, metrics.Counter)


def _never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """A metric that cannot be exported must not end a sweep. The first error is logged as a warning."""

    @functools.wraps(method)
    def wrapper(self: "SweepMetrics", *arguments: Any) -> None:
        try:
            method(self, *arguments)
        except Exception as error:  # whatever Ray's exporter raises
            self.warn_once(error)

    return wrapper


class SweepMetrics:
    """A `Listener` of the sweep that exports metrics between `begin` and `end`. Ray must be connected."""

    def __init__(self, outbox: Callable[[], int] = lambda: 0) -> None:
        """Nothing is exported before `begin`.

        Args:
            outbox: returns the number of events that MLflow does not have yet.
        """
        self._outbox, self._running, self._ended = outbox, set[int](), threading.Event()
        self._warned = False

    @_never_raises
    def begin(self, study: StudyInfo) -> None:
        """Start exporting, from the trials that the study holds already."""
        records = study.records
        self._total = study.trials
        self._states = Counter[str](record.state for record in records if record.state in ENDED)
        self._best = max((record.value for record in records if record.value is not None), default=None)

        def make(kind: type[Metric], name: str, description: str, *tags: str) -> Metric:
            metric = kind(f"cgn_{name}", description, ("study", *tags))
            metric.set_default_tags({"study": study.name})
            return metric

        self._trials = make(metrics.Gauge, "trials", "Trials of a sweep by state.", "state")
        self._waiting = make(metrics.Gauge, "trials_waiting", "Trials that have not started yet.")
        self._best_auc = make(metrics.Gauge, "best_val_auc", "Best mean validation AUC of a complete trial.")
        self._left = make(metrics.Gauge, "outbox_events", "Events that MLflow does not have yet.")
        self._epochs = make(metrics.Counter, "epochs", "Epochs reported to this driver.")
        self._retries = make(metrics.Counter, "retries", "Retries of trials, by cause.", "cause")
        threading.Thread(target=self._work, name="metrics", daemon=True).start()

    @_never_raises
    def end(self, outcome: str, records: Sequence[TrialRecord]) -> None:  # noqa: ARG002
        """Export a last time, then stop."""
        self._ended.set()
        self._export()

    @_never_raises
    def started(self, trial: TrialSpec) -> None:
        """A trial starts."""
        self._running.add(trial.number)

    @_never_raises
    def epoch(self, number: int, update: EpochUpdate) -> None:  # noqa: ARG002
        """A trial finished an epoch."""
        self._epochs.inc()

    @_never_raises
    def lost(self, number: int, cause: str) -> None:  # noqa: ARG002
        """A trial's worker was lost; the trial is retried."""
        self._retries.inc(tags={"cause": kind_of(cause)})

    @_never_raises
    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running.discard(record.number)
        self._states[record.state] += 1
        if record.value is not None:
            self._best = max(record.value, self._best or record.value)

    def warn_once(self, error: Exception) -> None:
        """Log the first error; later ones are mostly its consequences."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "metrics of the sweep are not exported (%s: %s): the sweep continues without them",
                type(error).__name__,
                one_line(error),
            )

    def _work(self) -> None:
        self._export()
        while not self._ended.wait(PULSE_SECONDS):
            self._export()

    @_never_raises
    def _export(self) -> None:
        for state in ENDED:
            self._trials.set(self._states[state], {"state": state})
        self._trials.set(len(self._running), {"state": "running"})
        self._waiting.set(self._total - len(self._running) - sum(self._states.values()))
        if self._best is not None:
            self._best_auc.set(self._best)
        self._left.set(self._outbox())


def kind_of(cause: str) -> str:
    """The exception's name, or "process ended": the values of a label must be few."""
    match = re.match(r"(?:\w+\.)*(\w*(?:Error|Exception))\b", cause)
    return match[1] if match else "process ended"
