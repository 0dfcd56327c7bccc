"""Drivers that get a signal, trials that fail, and the same bits after kills as without."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

pytestmark = pytest.mark.timeout(240)

SPACE = {"trials": 6, "base": {"epochs": 6, "beta": 60}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_gets_a_signal_stores_everything_and_ends(
    number: signal.Signals,
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """As on a spot machine, which is taken away soon after the signal."""
    from mlflow import MlflowClient

    driver = drive(nodes.address, space=SPACE, checkpoint_every=1)
    driver.wait_for("started")
    time.sleep(moments.uniform(0, 3))
    assert driver.running, driver.output
    driver.kill(number)
    assert driver.wait(30) == 128 + number, driver.output
    assert "interrupted: run the same command again to resume" in driver.output
    assert "Traceback" not in driver.output
    client = MlflowClient(f"sqlite:///{store.mlflow_database}")
    runs = client.search_runs([client.get_experiment_by_name("squares").experiment_id])
    states = Counter(run.info.status for run in runs)
    assert states["RUNNING"] == 0
    assert states["KILLED"] >= 2  # the sweep, and a trial of it
    slow.unlink()
    finished = finished_files(store.units)
    last = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert last.wait() == 0, last.output
    assert_whole(store, 6, finished=finished)


def test_an_error_fails_its_trial_only(
    nodes: Any, drive: Any, store: Store, assert_whole: Callable[..., Any]
) -> None:
    """A loss and a score that are not numbers, a bug, a failing disk, a fold that kills its process."""
    wrong = {"diverges": 0.095, "raises": 0.085, "scores NaN": 0.075, "crashes": 0.065, "disk": 0.055}
    first = [{"learning_rate": rate} for rate in wrong.values()]
    space = {"trials": 7, "base": {"epochs": 3, "beta": 10}, "first": [*first, {"alpha": 0.9}]}
    for run in (1, 2):
        driver = drive(nodes.address, space=space)
        assert driver.wait() == 0, driver.output
        records = assert_whole(store, 7)
        states = {r.number: r.state for r in records if r.state != "orphan"}
        assert Counter(states.values()) == {"complete": 2, "failed": 5}
        reasons = {record.number: record.facts.get("reason", "") for record in records}
        assert "DivergedError" in reasons[1]
        assert reasons[2] == "ZeroDivisionError: a bug"
        assert reasons[3] == "the score of epoch 1 is not a number"
        # The second run queues again what machines may have caused, and it fails again; the others are final.
        assert [record.number for record in records if record.state == "orphan"] == [4, 5][: 2 * run - 2]


@pytest.mark.timeout(400)
def test_the_bits_are_those_of_an_undisturbed_run(
    nodes: Any,
    drive: Any,
    store: Store,
    cache: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """Real training of a small network; two workers and a driver are killed."""
    options = {
        "space": {
            "trials": 3,
            # Enough epochs to keep two workers busy for three times as long as the kills take.
            "base": {"backbone": "tiny", "generator_blocks": 1, "epochs": 60, "batch_size": 4, "beta": 1.0},
            "first": [{"alpha": 0.2}, {"alpha": 0.9}],
            "rule": "none",
        },
        "cache": str(cache),
        "simulated": False,
        "checkpoint_every": 1,
    }
    undisturbed_store = Store(store.root / "undisturbed")
    undisturbed = drive(nodes.address, at=undisturbed_store, **options)
    assert undisturbed.wait() == 0, undisturbed.output
    driver = drive(nodes.address, **options)
    for _ in range(2):
        until(lambda: list((store.units).glob("*/at-*")))
        time.sleep(moments.uniform(0, 0.8))
        moments.choice(until(nodes.workers)).kill()
        killed["worker"] += 1
    time.sleep(moments.uniform(0, 0.8))
    assert driver.running, driver.output
    driver.kill()
    killed["driver"] += 1
    driver.wait()
    last = drive(nodes.address, **options)
    assert last.wait() == 0, last.output
    assert_whole(store, 3, experiment="phantom")
    expected, actual = Ledger(undisturbed_store.units), Ledger(store.units)
    assert actual.names() == expected.names()
    for name in expected.names():
        one, other = expected.open(name), actual.open(name)
        assert one.facts["files"]["model.safetensors"] == other.facts["files"]["model.safetensors"]
        assert one.predictions.equals(other.predictions)
        for report, again in zip(one.reports, other.reports, strict=True):
            assert (report.epoch, report.val_auc, report.losses) == (again.epoch, again.val_auc, again.losses)
            assert report.val_scores.tolist() == again.val_scores.tolist()
