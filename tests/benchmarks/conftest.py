"""How a ratio is measured: both ways in turn, in one process, best of several rounds."""

import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each way. The ways are run in turn, so that a noisy minute affects all of them."""
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()  # warm-up
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


@pytest.fixture
def measure() -> Callable[[dict[str, Callable[[], object]], int], dict[str, float]]:
    return interleaved


@pytest.fixture
def say(capsys):
    """Print a line of the output of `make bench`, past pytest's capture."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return line


@pytest.fixture(scope="session")
def listeners_of() -> Callable[..., list[Any]]:
    """`listeners_of(site, console)`: the listeners of `cgn sweep`; see tests/platform/driver.py."""
    driver = runpy.run_path(str(Path(__file__).parents[1] / "platform" / "driver.py"))
    make: Callable[..., list[Any]] = driver["listeners_of"]
    return make
