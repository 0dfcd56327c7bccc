"""How a ratio is measured: both ways in turn, in one process, best of several rounds."""

import time
from collections.abc import Callable

import pytest


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Best seconds of each way, taken in turn so that a noisy minute hits all of them."""
    best = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way()  # warm
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
    """Print a line of the table that `make bench` is, past pytest's capture."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")

    return line
