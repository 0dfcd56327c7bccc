"""What a sweep tells Prometheus, with Ray's exporter replaced by a dictionary."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.run import prometheus
from cgn_platform.run.prometheus import SweepMetrics, kind_of
from cgn_platform.search.records import EpochUpdate, State, TrialRecord, TrialSpec

Figures = dict[tuple[str, ...], float]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Figures:
    figures: Figures = {}

    class Fake:
        def __init__(self, name: str, _description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.keys, self.tags = name, tag_keys, dict[str, str]()

        def set_default_tags(self, tags: dict[str, str]) -> None:
            self.tags = tags

        def at(self, tags: dict[str, str] | None) -> tuple[str, ...]:
            values = self.tags | (tags or {})
            return (self.name, *(values[key] for key in self.keys))

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            figures[self.at(tags)] = value

        def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
            figures[self.at(tags)] = figures.get(self.at(tags), 0) + value

    monkeypatch.setattr(prometheus.metrics, "Gauge", Fake)
    monkeypatch.setattr(prometheus.metrics, "Counter", Fake)
    return figures


def record(number: int, state: State, value: float | None = None) -> TrialRecord:
    return TrialRecord(number, state, value, {}, {})


def test_a_sweep_in_figures(exported: Figures) -> None:
    stands = [record(0, "complete", 0.6), record(1, "orphan"), record(2, "pruned")]
    with SweepMetrics("s", 6, stands, lambda: 7) as told:
        until(lambda: ("cgn_outbox_events", "s") in exported)
        assert exported[("cgn_best_val_auc", "s")] == 0.6
        for number in (3, 4):
            told.started(TrialSpec(number, Config(), {}))
            told.epoch(number, EpochUpdate(0, 0.5))
        told.lost(3, "ray.exceptions.OutOfMemoryError: task was killed")
        told.ended(record(4, "complete", 0.9))
    assert exported == {
        ("cgn_trials", "s", "complete"): 2,
        ("cgn_trials", "s", "pruned"): 1,
        ("cgn_trials", "s", "failed"): 0,
        ("cgn_trials", "s", "running"): 1,
        ("cgn_trials_waiting", "s"): 2,
        ("cgn_best_val_auc", "s"): 0.9,
        ("cgn_epochs", "s"): 2,
        ("cgn_retries", "s", "OutOfMemoryError"): 1,
        ("cgn_outbox_events", "s"): 7,
    }


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_gauges_are_set_again_though_nothing_happens(
    exported: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets those that are not."""
    monkeypatch.setattr(prometheus, "PULSE_SECONDS", 0.01)
    with SweepMetrics("s", 2):
        for _ in range(3):
            until(lambda: ("cgn_trials_waiting", "s") in exported)
            del exported[("cgn_trials_waiting", "s")]


def test_no_best_before_there_is_one(exported: Figures) -> None:
    with SweepMetrics("s", 2) as told:
        told.ended(record(0, "failed"))
    assert exported[("cgn_trials", "s", "failed")] == 1
    assert ("cgn_best_val_auc", "s") not in exported


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("OSError: [Errno 5] Input/output error: '/a'", "OSError"),
        ("cgn.errors.LedgerError: full", "LedgerError"),
        ("The actor died unexpectedly before finishing this task.", "process ended"),
        ("its process ended", "process ended"),
    ],
)
def test_a_cause_is_one_of_a_few(cause: str, kind: str) -> None:
    assert kind_of(cause) == kind


def test_an_exporter_that_fails_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no exporter")

    monkeypatch.setattr(prometheus.metrics, "Gauge", broken)
    with SweepMetrics("s", 2) as told:
        told.started(TrialSpec(0, Config(), {}))
        told.epoch(0, EpochUpdate(0, 0.5))
        told.lost(0, "its process ended")
        told.ended(record(0, "complete", 0.5))


def test_an_epoch_costs_next_to_nothing() -> None:
    """Ray's own counters, without a connected Ray: the sweep must not wait."""
    told = SweepMetrics("s", 2)
    begin = time.perf_counter()
    for _ in range(1000):
        told.epoch(0, EpochUpdate(0, 0.5))
    assert (time.perf_counter() - begin) / 1000 < 1e-3
