"""What a sweep, a table and a training print."""

import numpy as np
import pytest
from rich.console import Console

from cgn.config import Config
from cgn.data.pairs import Pairs
from cgn.results import CrossReport, EpochReport
from cgn_platform.console.live import SweepConsole, TableScreen, counted, epoch_line, header
from cgn_platform.search.records import EpochUpdate, StudyInfo, TrialRecord, TrialSpec


@pytest.fixture
def console() -> Console:
    return Console(width=120, record=True, force_terminal=False)


def complete(number: int, value: float) -> TrialRecord:
    return TrialRecord(number, "complete", value, {}, {0: value}, Config(), {"seconds": 12.0})


def test_a_sweep_prints_a_line_for_each_event(console: Console) -> None:
    screen = SweepConsole(console)
    screen.begin(StudyInfo("s", "1", 4, [complete(0, 0.6)], orphans=1))
    screen.started(TrialSpec(1, Config(), {"alpha": 0.25}))
    screen.epoch(1, EpochUpdate(0, 0.5))
    screen.lost(1, "its process ended")
    screen.ended(complete(1, 0.7))
    screen.ended(TrialRecord(2, "failed", None, {}, {}, facts={"reason": "DivergedError: nan"}))
    screen.ended(complete(3, 0.65))
    screen.end("FINISHED", [])
    assert [" ".join(line.split()) for line in console.export_text().splitlines()] == [
        "study s: 1 of 4 trials are finished, 1 of a driver that ended are queued again",
        "trial 1 started alpha 0.25",
        "trial 1 lost its process ended; the trial is retried",
        "trial 1 complete mean validation AUC 0.700 in 12 s (the best so far); 2 of 4 trials",
        "trial 2 failed DivergedError: nan; 3 of 4 trials",
        "trial 3 complete mean validation AUC 0.650 in 12 s (best: trial 1, 0.700); 4 of 4 trials",
    ]


def test_a_new_study_is_not_announced(console: Console) -> None:
    screen = SweepConsole(console)
    screen.begin(StudyInfo("s", "1", 4))
    screen.end("KILLED", [])
    assert console.export_text() == ""


def test_a_table_prints_a_line_for_each_training_and_the_time_left(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 60.0, 120.0, 180.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now, 180.0))
    screen = TableScreen(console)
    screen.begin(3, 30)
    screen.epoch()
    screen.ended("SBF, seed 0, fold 0", 10, "")
    screen.ended("SBF, seed 0, fold 1", 10, "DivergedError: nan")
    screen.ended("GF, seed 1, fold 2", 10, "")
    assert console.export_text().splitlines() == [
        "3 trainings for rows, seeds and folds that are not in the ledger, 30 epochs",
        "training 1 of 3: SBF, seed 0, fold 0: finished; about 2.0 min left",
        "training 2 of 3: SBF, seed 0, fold 1: DivergedError: nan; about 60 s left",
        "training 3 of 3: GF, seed 1, fold 2: finished",
    ]


def test_a_run_begins_with_what_runs_on_which_data(pairs: Pairs) -> None:
    patients = len(set(pairs.patient_id))
    assert header("t", f"{counted(1, 'row')}, {counted(2, 'seed')}", pairs, 5) == (
        f"t: 1 row, 2 seeds, on {pairs.name}: {len(pairs)} pairs of {patients} patients, 5 folds"
    )


def test_an_epoch_of_a_training_is_a_line() -> None:
    folds = tuple(
        EpochReport(fold, 1, 0.5 + fold / 10, {"l_cls": 0.7, "d_tc": fold}, 1.5, np.zeros(2))
        for fold in (0, 1)
    )
    line = epoch_line(CrossReport(1, 0.55, folds), 20)
    assert line == "epoch   2 of 20  val AUC 0.550  d_tc 0.500  l_cls 0.700  3.0 s"
