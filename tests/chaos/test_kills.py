"""kill -9 at random moments: of drivers, workers, nodes, whole clusters. The same command finishes."""

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

pytestmark = pytest.mark.timeout(240)

SPACE = {"trials": 8, "base": {"epochs": 6, "beta": 60}}
LONG = {**SPACE, "trials": 16}


def test_drivers(
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """Some before they opened anything, most in the middle of trials; the store is empty at first."""
    (store / "mlflow.db").unlink()
    stood: dict[Path, bytes] = {}
    for wait in ("", "started", "started", "started", "mean validation", "mean validation"):
        driver = drive(nodes.address, space=LONG, checkpoint_every=1)
        if wait:
            driver.hear(wait)
        time.sleep(moments.uniform(0, 1.5))
        assert driver.runs, driver.told
        driver.kill()
        killed["driver"] += 1
        driver.wait()
        stood = finished_files(store / "units") | stood
    slow.unlink()
    last = drive(nodes.address, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.told
    assert stood
    assert_whole(store, 16, stood=stood)


def test_workers(
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """A trial may lose so many that it fails; the same command asks for it again."""
    driver = drive(nodes.address, space=LONG, checkpoint_every=1)
    driver.hear("started")
    left = 8
    while left:
        assert driver.runs, driver.told
        time.sleep(moments.uniform(0, 0.8))
        if workers := nodes.workers():
            moments.choice(workers).kill()
            killed["worker"] += 1
            left -= 1
    slow.unlink()
    assert driver.wait() == 0, driver.told
    stood = finished_files(store / "units")
    last = drive(nodes.address, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.told
    assert_whole(store, 16, stood=stood)


def test_nodes(
    new_nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
) -> None:
    """Of three nodes one is lost, twice, and another one comes; its trials are tried again elsewhere."""
    space = {**SPACE, "trials": 24}
    nodes = new_nodes(1, 1, 1)
    driver = drive(nodes.address, space=space, checkpoint_every=1)
    driver.hear("started", 3)
    for times in (1, 2):
        time.sleep(moments.uniform(0, 1.5))
        raylets = nodes.named("raylet")[1:]  # the first one's is the driver's own
        assert driver.runs, driver.told
        moments.choice(raylets).kill()
        killed["node"] += 1
        nodes.ask("1")
        nodes.hear("added", times)
    slow.unlink()
    assert driver.wait() == 0, driver.told
    again = drive(nodes.address, space=space, checkpoint_every=1)
    assert again.wait() == 0, again.told
    assert_whole(store, 24)


@pytest.mark.parametrize(
    ("what", "names"),
    [("cluster", ("",)), ("control service", ("gcs_server",)), ("driver's node", ("raylet",))],
)
def test_a_cluster_that_is_gone_ends_the_driver_in_words(
    what: str,
    names: tuple[str, ...],
    nodes: Any,
    new_nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """Ray itself waits for a minute, then ends the driver without saying why in words of ours."""
    lost = new_nodes(2)
    driver = drive(lost.address, space=SPACE, checkpoint_every=1)
    driver.hear("started", 2)
    time.sleep(moments.uniform(0, 4))
    assert driver.runs, driver.told
    for process in lost.named(*names):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    killed[what] += 1
    assert driver.wait(60) == 2, driver.told
    assert "is gone" in driver.told
    slow.unlink()
    stood = finished_files(store / "units")
    again = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert again.wait() == 0, again.told
    assert_whole(store, 8, stood=stood)


@pytest.fixture
def server(store: Path) -> Iterator[Any]:
    server = Path(__file__).parents[1] / "platform" / "mlflow_server.py"
    made = runpy.run_path(str(server))["Server"](store)
    made.start()
    yield made
    made.kill()


def test_the_tracking_server(
    server: Any,
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    killed: Counter[str],
    assert_whole: Callable[..., Any],
) -> None:
    """Twice, and then the driver, too: what the server missed is sent later."""
    variables = {"MLFLOW_TRACKING_URI": server.uri}
    for _ in range(2):
        driver = drive(nodes.address, variables, space=LONG, checkpoint_every=1)
        driver.hear("started")
        time.sleep(moments.uniform(0, 2))
        server.kill()
        killed["tracking server"] += 1
        time.sleep(moments.uniform(0, 1))
        assert driver.runs, driver.told
        driver.kill()
        killed["driver"] += 1
        driver.wait()
        server.start()
    slow.unlink()
    last = drive(nodes.address, variables, space=LONG, checkpoint_every=1)
    assert last.wait() == 0, last.told
    assert "MLflow lacks" not in last.told
    assert_whole(store, 16, uri=server.uri)


def test_enough_was_killed(killed: Counter[str]) -> None:
    """A run of this file kills at least twenty times; parts of it are for looking closer."""
    assert sum(killed.values()) >= 20, dict(killed)
