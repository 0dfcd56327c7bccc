"""Processes to be killed, the moments at which they are, and what must hold afterwards.

The moments come from one seed: `CGN_CHAOS_SEED`, or drawn and printed. It gives the same delays again, not
the same interleaving of processes.
"""

import contextlib
import json
import os
import random
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEED = int(os.environ.get("CGN_CHAOS_SEED") or secrets.randbelow(10**6))
SECONDS = 90  # that a driver may take, on a busy machine
KILLED: Counter[str] = Counter()  # at random moments, by what it was

THIRD_PARTIES = (
    "ignore::DeprecationWarning:(ray|mlflow|google|pydantic|starlette|fastapi|alembic)",
    "ignore::optuna.exceptions.ExperimentalWarning",
    "ignore:unclosed:ResourceWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            for ignored in THIRD_PARTIES:
                item.add_marker(pytest.mark.filterwarnings(ignored))


def pytest_report_header() -> str:
    return f"chaos: CGN_CHAOS_SEED={SEED}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and HERE in item.path.parents:
        report.sections.append(("chaos", f"CGN_CHAOS_SEED={SEED}, killed so far: {dict(KILLED)}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    told = ", ".join(f"{count} x {what}" for what, count in KILLED.items()) or "nothing"
    terminalreporter.write_line(f"chaos: CGN_CHAOS_SEED={SEED}, killed at random moments: {told}")


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """This test's own stream of random delays."""
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def killed() -> Counter[str]:
    return KILLED


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables: making them takes seconds, once for all tests."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tables: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cgnc-"))
    shutil.copy(tables, folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slow(store: Path) -> Path:
    """While this file is there, simulated sweeps are slow: they cannot end before they were hurt, however
    fast the machine is."""
    path = store / "slow"
    path.touch()
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantom pairs of 32 pixels in three folds."""
    folder = tmp_path_factory.mktemp("cache")
    return write_cache(
        "phantom", phantom.Options(pairs=24), Preprocessing(32), SplitPlan(3), caches=folder / "cache"
    ).path


WHOLE = runpy.run_path(str(HERE / "whole.py"))


@pytest.fixture
def assert_whole() -> Callable[..., Any]:
    checked: Callable[..., Any] = WHOLE["assert_whole"]
    return checked


@pytest.fixture
def finished_files() -> Callable[[Path], dict[Path, bytes]]:
    found: Callable[[Path], dict[Path, bytes]] = WHOLE["finished_files"]
    return found


def environment(**more: str) -> dict[str, str]:
    """Of a process of ours, whatever the shell has set. All share one token."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_", "PYTEST_"))}
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    return {**clean, "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **more}


TOKEN = secrets.token_hex(32)


class Process:
    """A Python process whose lines are read as they come."""

    def __init__(self, script: Path, *arguments: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", str(script), *arguments],
            env=environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def told(self) -> str:
        return "".join(self._lines)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self, text: str, times: int = 1, seconds: float = SECONDS) -> str:
        """Wait until a text was told so often; the last line with it."""
        with self._news:
            found = self._news.wait_for(
                lambda: self._told(text, times) or not self._reader.is_alive(), timeout=seconds
            )
            there = self._told(text, times)
        assert found, f"no {text!r} in {seconds} s: {self.told}"
        assert there, f"no {text!r}: {self.told}"
        return there[-1]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit code."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in {seconds} s: {self.told}")
        self._reader.join(5)
        return code

    def end(self) -> None:
        for process in [psutil.Process(self.pid), *children(self.pid)] if self.runs else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]

    def _told(self, text: str, times: int) -> list[str]:
        found = [line for line in self._lines if text in line]
        return found if len(found) >= times else []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, ""):
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Nodes(Process):
    """A Ray of so many nodes with these CPUs."""

    def __init__(self, *cpus: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="cgncn-")
        super().__init__(HERE / "nodes.py", self._folder, *map(str, cpus))
        self.address = self.hear("address ").split()[-1]

    def named(self, *names: str) -> list[psutil.Process]:
        """Processes of this cluster by the begin of their title: raylet, gcs_server."""
        found = []
        for process in children(self.pid):
            with contextlib.suppress(psutil.Error, IndexError):
                if Path(process.cmdline()[0]).name.startswith(names) and process.status() != "zombie":
                    found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def workers(self) -> list[psutil.Process]:
        """Those that train: `with_parameters` wraps the class, whose own name shows only between epochs."""
        return self.named("ray::Trial", "ray::_Inner")

    def end(self) -> None:
        super().end()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """One node with two CPUs, for all tests of a module."""
    made = Nodes(2)
    yield made
    made.end()


@pytest.fixture
def new_nodes() -> Iterator[Callable[..., Nodes]]:
    """Makes clusters that may be killed."""
    made: list[Nodes] = []

    def make(*cpus: int) -> Nodes:
        made.append(Nodes(*cpus))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def drive(store: Path) -> Iterator[Callable[..., Process]]:
    """Starts a driver of the study in the store, as `cgn sweep` would; see tests/platform/driver.py."""
    begun: list[Process] = []

    def begin(address: str, variables: dict[str, str] | None = None, **told: Any) -> Process:
        folder = store / "tmp"
        folder.mkdir(exist_ok=True)
        place = told.pop("at", str(store))
        asked = json.dumps({"address": address, **told})
        driver = HERE.parent / "platform" / "driver.py"
        begun.append(Process(driver, place, asked, TMPDIR=str(folder), **(variables or {})))
        return begun[-1]

    yield begin
    for each in begun:
        each.end()


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait for something that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"it did not happen in {seconds} s")


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until
