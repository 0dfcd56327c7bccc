"""Drivers that are asked to end, trials that go wrong, and the same bits after all of it."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.store.ledger import Ledger

pytestmark = pytest.mark.timeout(240)

SPACE = {"trials": 6, "base": {"epochs": 6, "beta": 60}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_asked_to_end_leaves_everything_in_order(
    number: signal.Signals,
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """As a spot machine does, which takes the machine away soon after."""
    from mlflow import MlflowClient

    driver = drive(nodes.address, space=SPACE, checkpoint_every=1)
    driver.hear("started")
    time.sleep(moments.uniform(0, 3))
    assert driver.runs, driver.told
    driver.kill(number)
    assert driver.wait(30) == 128 + number, driver.told
    assert "the same command goes on from here" in driver.told
    assert "Traceback" not in driver.told
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("squares").experiment_id])
    states = Counter(run.info.status for run in runs)
    assert states["RUNNING"] == 0
    assert states["KILLED"] >= 2  # the sweep, and a trial of it
    slow.unlink()
    stood = finished_files(store.root / "units")
    last = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert last.wait() == 0, last.told
    assert_whole(store, 6, stood=stood)


def test_what_goes_wrong_fails_its_trial_only(
    nodes: Any, drive: Any, store: Path, assert_whole: Callable[..., Any]
) -> None:
    """A loss and a score that are no numbers, a bug, a disk that fails, a fold that always crashes."""
    wrong = {"diverges": 0.095, "raises": 0.085, "scores NaN": 0.075, "crashes": 0.065, "disk": 0.055}
    first = [{"learning_rate": rate} for rate in wrong.values()]
    space = {"trials": 7, "base": {"epochs": 3, "beta": 10}, "first": [*first, {"alpha": 0.9}]}
    for run in (1, 2):
        driver = drive(nodes.address, space=space)
        assert driver.wait() == 0, driver.told
        records = assert_whole(store, 7)
        states = {r.number: r.state for r in records if r.state != "orphan"}
        assert Counter(states.values()) == {"complete": 2, "failed": 5}
        reasons = {record.number: record.facts.get("reason", "") for record in records}
        assert "DivergedError" in reasons[1]
        assert reasons[2] == "ZeroDivisionError: a bug"
        assert reasons[3] == "the score of epoch 1 is no number"
        # What machines may be guilty of is asked again by the second run, twice in vain; the rest is not.
        assert [record.number for record in records if record.state == "orphan"] == [4, 5][: 2 * run - 2]


@pytest.mark.timeout(400)
def test_the_bits_are_those_of_a_run_that_nothing_happened_to(
    nodes: Any,
    drive: Any,
    store: Path,
    cache: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """The real training of a small network; two workers and a driver are killed."""
    options = {
        "space": {
            "trials": 3,
            # As many epochs as keep two workers busy for thrice the time in which they are killed.
            "base": {"backbone": "tiny", "generator_blocks": 1, "epochs": 60, "batch_size": 4, "beta": 1.0},
            "first": [{"alpha": 0.2}, {"alpha": 0.9}],
            "rule": "none",
        },
        "cache": str(cache),
        "simulated": False,
        "checkpoint_every": 1,
    }
    undisturbed = drive(nodes.address, at=str(store.root / "undisturbed"), **options)
    assert undisturbed.wait() == 0, undisturbed.told
    driver = drive(nodes.address, **options)
    for _ in range(2):
        wait_until(lambda: list((store.root / "units").glob("*/at-*")))
        time.sleep(moments.uniform(0, 0.8))
        moments.choice(wait_until(nodes.workers)).kill()
        killed["worker"] += 1
    time.sleep(moments.uniform(0, 0.8))
    assert driver.runs, driver.told
    driver.kill()
    killed["driver"] += 1
    driver.wait()
    last = drive(nodes.address, **options)
    assert last.wait() == 0, last.told
    assert_whole(store, 3, experiment="phantom")
    expected, found = Ledger(store.root / "undisturbed" / "units"), Ledger(store.root / "units")
    assert found.names() == expected.names()
    for name in expected.names():
        one, other = expected.open(name), found.open(name)
        assert one.facts["files"]["model.safetensors"] == other.facts["files"]["model.safetensors"]
        assert one.predictions.equals(other.predictions)
        for report, again in zip(one.reports, other.reports, strict=True):
            assert (report.epoch, report.val_auc, report.losses) == (again.epoch, again.val_auc, again.losses)
            assert report.val_scores.tolist() == again.val_scores.tolist()
