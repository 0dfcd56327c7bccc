"""Processes to be killed, random delays before that, and the checks afterwards.

The delays come from one seed: `CGN_CHAOS_SEED`, or a drawn one that is printed. The same seed gives the same
delays, not the same interleaving of processes.
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
from cgn_platform.store.layout import Store

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEED = int(os.environ.get("CGN_CHAOS_SEED") or secrets.randbelow(10**6))
SECONDS = 90  # timeout for a driver, on a busy machine
KILLED: Counter[str] = Counter()  # kills at random moments, by kind of process

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
    kills = ", ".join(f"{count} x {kind}" for kind, count in KILLED.items()) or "nothing"
    terminalreporter.write_line(f"chaos: CGN_CHAOS_SEED={SEED}, killed at random moments: {kills}")


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """Random delays, a separate stream for each test."""
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def killed() -> Counter[str]:
    return KILLED


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: creating them takes seconds, once for all tests."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tables: Path) -> Iterator[Store]:
    folder = Path(tempfile.mkdtemp(prefix="cgnc-"))
    shutil.copy(tables, folder)
    yield Store(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slow(store: Store) -> Path:
    """While this file exists, simulated sweeps are slow: they do not end before they are interrupted."""
    path = store.root / "slow"
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
    check: Callable[..., Any] = WHOLE["assert_whole"]
    return check


@pytest.fixture
def finished_files() -> Callable[[Path], dict[Path, bytes]]:
    files: Callable[[Path], dict[Path, bytes]] = WHOLE["finished_files"]
    return files


TOKEN = secrets.token_hex(32)


def environment(**more: str) -> dict[str, str]:
    """The environment of a test's process, without the shell's settings. All processes share one token."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_", "PYTEST_"))}
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    return {**clean, "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **more}


class Process:
    """A Python process whose output is read line by line."""

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
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def wait_for(self, text: str, times: int = 1, seconds: float = SECONDS) -> str:
        """Wait until a text was printed this many times. Returns the last line with it."""
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._printed(text, times) or not self._reader.is_alive(), timeout=seconds
            )
            lines = self._printed(text, times)
        assert in_time, f"no {text!r} in {seconds} s: {self.output}"
        assert lines, f"no {text!r}: {self.output}"
        return lines[-1]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for its end. Returns its exit code."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in {seconds} s: {self.output}")
        self._reader.join(5)
        return code

    def end(self) -> None:
        """Kill it and its children."""
        for process in [psutil.Process(self.pid), *children(self.pid)] if self.running else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._reader.join(5)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]

    def _printed(self, text: str, times: int) -> list[str]:
        lines = [line for line in self._lines if text in line]
        return lines if len(lines) >= times else []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, ""):
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class Nodes(Process):
    """A Ray cluster with a node for each of these numbers of CPUs."""

    def __init__(self, *cpus: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="cgncn-")
        super().__init__(HERE / "nodes.py", self._folder, *map(str, cpus))
        self.address = self.wait_for("address ").split()[-1]

    def named(self, *names: str) -> list[psutil.Process]:
        """Processes of this cluster whose title starts with one of these names, the oldest first."""
        matches = []
        for process in children(self.pid):
            with contextlib.suppress(psutil.Error, IndexError):
                if Path(process.cmdline()[0]).name.startswith(names) and process.status() != "zombie":
                    matches.append(process)
        return sorted(matches, key=lambda process: (process.create_time(), process.pid))

    def workers(self) -> list[psutil.Process]:
        """Actors that train. Tune wraps the class; its own name is shown only between epochs."""
        return self.named("ray::CrossValidation", "ray::_Inner")

    def end(self) -> None:
        super().end()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """One node with two CPUs, for all tests of a module."""
    cluster = Nodes(2)
    yield cluster
    cluster.end()


@pytest.fixture
def new_nodes() -> Iterator[Callable[..., Nodes]]:
    """Starts clusters that may be killed."""
    clusters: list[Nodes] = []

    def start(*cpus: int) -> Nodes:
        clusters.append(Nodes(*cpus))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.end()


@pytest.fixture
def drive(store: Store) -> Iterator[Callable[..., Process]]:
    """Starts a driver as `cgn sweep` does: for the study in the store, or in the store `at`.

    Options are arguments of `main` in tests/platform/driver.py.
    """
    drivers: list[Process] = []

    def start(
        address: str, variables: dict[str, str] | None = None, at: Store = store, **options: Any
    ) -> Process:
        folder = store.root / "tmp"
        folder.mkdir(exist_ok=True)
        arguments = json.dumps({"address": address, **options})
        script = HERE.parent / "platform" / "driver.py"
        drivers.append(Process(script, str(at), arguments, TMPDIR=str(folder), **(variables or {})))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.end()
