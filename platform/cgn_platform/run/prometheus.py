"""What Grafana shows of a sweep while it runs: figures of the driver, exported by Ray beside its own.

Ray prefixes the names with `ray_` and adds what it knows of the process; boards are in `dashboards/grafana`.
It forgets a gauge that is not set for two of its reports (20 s), so a thread sets them all again and again:
a trial may be silent for longer. Nothing here is truth, and nothing here can stop a sweep.
"""

import functools
import re
import threading
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from typing import Any

from ray.util import metrics

from cgn_platform.search.records import EpochUpdate, StudyInfo, TrialRecord, TrialSpec

ENDS = ("complete", "pruned", "failed")


PULSE_SECONDS = 5.0  # half of the interval at which Ray reports


def _never_raises(method: Callable[..., None]) -> Callable[..., None]:
    """A figure that cannot be exported is not worth a trial."""

    @functools.wraps(method)
    def quiet(*arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception as error:  # whatever Ray's exporter does
            del error

    return quiet


class SweepMetrics:
    """A `Listener` of the sweep that counts, and tells while it is entered; Ray must be connected by then."""

    def __init__(self, outbox: Callable[[], int] = lambda: 0) -> None:
        """Nothing is exported before `begin`.

        Args:
            outbox: how many events MLflow does not have yet.
        """
        self._outbox, self._running, self._ended = outbox, set[int](), threading.Event()

    @_never_raises
    def begin(self, study: StudyInfo) -> None:
        """Start exporting, from the trials that the study holds already."""
        records = study.records
        self._total = study.trials
        self._states = Counts[str](record.state for record in records if record.state in ENDS)
        self._best = max((r.value for r in records if r.value is not None), default=None)

        def gauge(name: str, told: str, *tags: str) -> metrics.Gauge:
            made = metrics.Gauge(f"cgn_{name}", told, ("study", *tags))
            made.set_default_tags({"study": study.name})
            return made

        def counter(name: str, told: str, *tags: str) -> metrics.Counter:
            made = metrics.Counter(f"cgn_{name}", told, ("study", *tags))
            made.set_default_tags({"study": study.name})
            return made

        self._trials = gauge("trials", "Trials of a sweep by state.", "state")
        self._waiting = gauge("trials_waiting", "Trials that were not asked for yet.")
        self._best_auc = gauge("best_val_auc", "Best mean validation AUC of a complete trial.")
        self._left = gauge("outbox_events", "Events that MLflow does not have yet.")
        self._epochs = counter("epochs", "Epochs that this driver was told.")
        self._retries = counter("retries", "Trials that were begun again, by what was lost.", "cause")

        threading.Thread(target=self._work, name="metrics", daemon=True).start()

    @_never_raises
    def end(self, _outcome: str, _records: Sequence[TrialRecord]) -> None:
        """Export the last figures, then stop."""
        self._ended.set()
        self._tell()

    @_never_raises
    def started(self, trial: TrialSpec) -> None:
        """A trial was asked for."""
        self._running.add(trial.number)

    @_never_raises
    def epoch(self, number: int, step: EpochUpdate) -> None:  # noqa: ARG002 - as the sweep tells it
        """A trial finished an epoch."""
        self._epochs.inc()

    @_never_raises
    def lost(self, number: int, cause: str) -> None:  # noqa: ARG002
        """A trial's worker was lost; it is tried again."""
        self._retries.inc(tags={"cause": kind_of(cause)})

    @_never_raises
    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running.discard(record.number)
        self._states[record.state] += 1
        if record.value is not None:
            self._best = max(record.value, self._best or record.value)

    def _work(self) -> None:
        self._tell()
        while not self._ended.wait(PULSE_SECONDS):
            self._tell()

    @_never_raises
    def _tell(self) -> None:
        for state in ENDS:
            self._trials.set(self._states[state], {"state": state})
        self._trials.set(len(self._running), {"state": "running"})
        self._waiting.set(self._total - len(self._running) - sum(self._states.values()))
        if self._best is not None:
            self._best_auc.set(self._best)
        self._left.set(self._outbox())


def kind_of(cause: str) -> str:
    """The exception's name, or "process ended": a tag must not take ever new values."""
    found = re.match(r"(?:\w+\.)*(\w*(?:Error|Exception))\b", cause)
    return found[1] if found else "process ended"
