"""What Grafana shows of a sweep while it runs: figures of the driver, exported by Ray beside its own.

Ray prefixes the names with `ray_` and adds what it knows of the process; boards are in `dashboards/grafana`.
Nothing here is truth, and nothing here can stop a sweep.
"""

import functools
import re
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray.util import metrics

if TYPE_CHECKING:
    from cgn_platform.study import Asked, TrialRecord
    from cgn_platform.worker import Step

ENDS = ("complete", "pruned", "failed")


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
    """A `Listener` of the sweep that sets gauges and counters; needs a connected Ray, or it is silent."""

    @_never_raises
    def __init__(
        self,
        study: str,
        total: int,
        records: "Sequence[TrialRecord]" = (),
        outbox: Callable[[], int] = lambda: 0,
    ) -> None:
        """Tell what stands.

        Args:
            study: its name, the tag of every figure.
            total: trials in all.
            records: of trials that stand.
            outbox: how many events MLflow does not have yet.
        """
        self._total, self._outbox = total, outbox
        self._states = Counts[str](record.state for record in records if record.state in ENDS)
        self._best = max((r.value for r in records if r.value is not None), default=None)
        self._running: set[int] = set()

        def gauge(name: str, told: str, *tags: str) -> metrics.Gauge:
            made = metrics.Gauge(f"cgn_{name}", told, ("study", *tags))
            made.set_default_tags({"study": study})
            return made

        def counter(name: str, told: str, *tags: str) -> metrics.Counter:
            made = metrics.Counter(f"cgn_{name}", told, ("study", *tags))
            made.set_default_tags({"study": study})
            return made

        self._trials = gauge("trials", "Trials of a sweep by state.", "state")
        self._waiting = gauge("trials_waiting", "Trials that were not asked for yet.")
        self._best_auc = gauge("best_val_auc", "Best mean validation AUC of a complete trial.")
        self._left = gauge("outbox_events", "Events that MLflow does not have yet.")
        self._epochs = counter("epochs", "Epochs that this driver was told.")
        self._retries = counter("retries", "Trials that were begun again, by what was lost.", "cause")
        self._tell()

    @_never_raises
    def started(self, trial: "Asked") -> None:
        """A trial was asked for."""
        self._running.add(trial.number)
        self._tell()

    @_never_raises
    def epoch(self, number: int, step: "Step") -> None:  # noqa: ARG002 - as the sweep tells it
        """A trial finished an epoch."""
        self._epochs.inc()
        self._left.set(self._outbox())

    @_never_raises
    def lost(self, number: int, cause: str) -> None:  # noqa: ARG002
        """A trial's worker was lost; it is tried again."""
        self._retries.inc(tags={"cause": kind_of(cause)})

    @_never_raises
    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        self._running.discard(record.number)
        self._states[record.state] += 1
        if record.value is not None:
            self._best = max(record.value, self._best or record.value)
        self._tell()

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
