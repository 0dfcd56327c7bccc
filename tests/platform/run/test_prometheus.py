"""The metrics of a sweep, with Ray's exporter replaced by a dictionary."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.run import prometheus
from cgn_platform.run.prometheus import SweepMetrics, kind_of
from cgn_platform.search.records import EpochUpdate, State, StudyInfo, TrialRecord, TrialSpec

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


def study(trials: int, records: Sequence[TrialRecord] = ()) -> StudyInfo:
    return StudyInfo(name="s", id="1", trials=trials, records=records)


def test_a_sweep_in_metrics(exported: Figures, until: Callable[..., Any]) -> None:
    metrics = SweepMetrics(lambda: 7)
    metrics.begin(study(6, [record(0, "complete", 0.6), record(1, "orphan"), record(2, "pruned")]))
    until(lambda: ("cgn_outbox_events", "s") in exported)
    assert exported[("cgn_best_val_auc", "s")] == 0.6
    for number in (3, 4):
        metrics.started(TrialSpec(number, Config(), {}))
        metrics.epoch(number, EpochUpdate(0, 0.5))
    metrics.lost(3, "ray.exceptions.OutOfMemoryError: task was killed")
    metrics.ended(record(4, "complete", 0.9))
    metrics.end("KILLED", [])
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


def test_gauges_are_set_repeatedly_though_nothing_happens(
    exported: Figures, monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    """Ray drops gauges that are not set."""
    monkeypatch.setattr(prometheus, "PULSE_SECONDS", 0.01)
    metrics = SweepMetrics()
    metrics.begin(study(2))
    for _ in range(3):
        until(lambda: ("cgn_trials_waiting", "s") in exported)
        del exported[("cgn_trials_waiting", "s")]
    metrics.end("KILLED", [])


def test_no_best_score_before_a_trial_is_complete(exported: Figures) -> None:
    metrics = SweepMetrics()
    metrics.begin(study(2))
    metrics.ended(record(0, "failed"))
    metrics.end("KILLED", [])
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
def test_causes_have_few_kinds(cause: str, kind: str) -> None:
    assert kind_of(cause) == kind


def test_an_exporter_that_fails_does_not_end_a_sweep_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no exporter")

    monkeypatch.setattr(prometheus.metrics, "Gauge", broken)
    metrics = SweepMetrics()
    with caplog.at_level(logging.WARNING):
        metrics.begin(study(2))
        metrics.started(TrialSpec(0, Config(), {}))
        metrics.epoch(0, EpochUpdate(0, 0.5))
        metrics.lost(0, "its process ended")
        metrics.ended(record(0, "complete", 0.5))
        metrics.end("FINISHED", [])
    assert [entry.getMessage() for entry in caplog.records] == [
        "metrics of the sweep are not exported (RuntimeError: no exporter): the sweep continues without them"
    ]
