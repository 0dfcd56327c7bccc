"""SIGKILL at random moments: drivers, workers, nodes, whole clusters. The same command finishes the sweep."""

import contextlib
import random
import runpy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cgn_platform.store.layout import Store

pytestmark = pytest.mark.timeout(240)

SPACE = {"trials": 8, "base": {"epochs": 6, "beta": 60}}
LONG = {**SPACE, "trials": 16}


def test_drivers(
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """Some before they opened anything, most in the middle of trials; the store is empty at first."""
    store.mlflow_database.unlink()
    finished: dict[Path, bytes] = {}
    for wait in ("", "started", "started", "started", "mean validation", "mean validation"):
        driver = drive(nodes.address, space=LONG, checkpoint_every=1)
        if wait:
            driver.wait_for(wait)
        time.sleep(moments.uniform(0, 1.5))
        assert driver.running, driver.output
        driver.kill()
        killed["driver"] += 1
        driver.wait()
        finished = finished_files(store.units) | finished
    slow.unlink()
    last = drive(nodes.address, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.output
    assert finished
    assert_whole(store, 16, finished=finished)


def test_workers(
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """A trial may lose so many workers that it fails; the same command queues it again."""
    driver = drive(nodes.address, space=LONG, checkpoint_every=1)
    driver.wait_for("started")
    remaining = 8
    while remaining:
        assert driver.running, driver.output
        time.sleep(moments.uniform(0, 0.8))
        if workers := nodes.workers():
            moments.choice(workers).kill()
            killed["worker"] += 1
            remaining -= 1
    slow.unlink()
    assert driver.wait() == 0, driver.output
    finished = finished_files(store.units)
    last = drive(nodes.address, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.output
    assert_whole(store, 16, finished=finished)


def test_nodes(
    new_nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
) -> None:
    """Twice, one of three nodes is lost and another one joins; its trials are retried elsewhere."""
    space = {**SPACE, "trials": 24}
    nodes = new_nodes(1, 1, 1)
    driver = drive(nodes.address, space=space, checkpoint_every=1)
    driver.wait_for("started", 3)
    for times in (1, 2):
        time.sleep(moments.uniform(0, 1.5))
        raylets = nodes.named("raylet")[1:]  # not the first one, which is the driver's own node
        assert driver.running, driver.output
        moments.choice(raylets).kill()
        killed["node"] += 1
        nodes.send("1")
        nodes.wait_for("added", times)
    slow.unlink()
    assert driver.wait() == 0, driver.output
    again = drive(nodes.address, space=space, checkpoint_every=1)
    assert again.wait() == 0, again.output
    assert_whole(store, 24)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("cluster", ("",)), ("control service", ("gcs_server",)), ("driver's node", ("raylet",))],
)
def test_a_lost_cluster_ends_the_driver_with_a_message(
    kind: str,
    names: tuple[str, ...],
    nodes: Any,
    new_nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """Ray itself would wait for a minute, then end the driver without this message."""
    lost = new_nodes(2)
    driver = drive(lost.address, space=SPACE, checkpoint_every=1)
    driver.wait_for("started", 2)
    time.sleep(moments.uniform(0, 4))
    assert driver.running, driver.output
    for process in lost.named(*names):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    killed[kind] += 1
    assert driver.wait(60) == 2, driver.output
    assert "does not answer" in driver.output
    assert "run the same command again, finished folds are kept" in driver.output
    slow.unlink()
    finished = finished_files(store.units)
    again = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert again.wait() == 0, again.output
    assert_whole(store, 8, finished=finished)


@pytest.fixture
def server(store: Store) -> Iterator[Any]:
    script = Path(__file__).parents[1] / "platform" / "mlflow_server.py"
    server = runpy.run_path(str(script))["Server"](store.root)
    server.start()
    yield server
    server.kill()


def test_the_tracking_server(
    server: Any,
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
) -> None:
    """It is killed twice, followed by the driver: the events that it missed are sent later."""
    variables = {"MLFLOW_TRACKING_URI": server.uri}
    for _ in range(2):
        driver = drive(nodes.address, variables, space=LONG, checkpoint_every=1)
        driver.wait_for("started")
        time.sleep(moments.uniform(0, 2))
        server.kill()
        killed["tracking server"] += 1
        time.sleep(moments.uniform(0, 1))
        assert driver.running, driver.output
        driver.kill()
        killed["driver"] += 1
        driver.wait()
        server.start()
    slow.unlink()
    last = drive(nodes.address, variables, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.output
    assert "MLflow lacks" not in last.output
    assert_whole(store, 16, uri=server.uri)


def test_enough_was_killed(killed: Counter[str]) -> None:
    """A run of this whole file kills at least twenty times."""
    assert sum(killed.values()) >= 20, dict(killed)
