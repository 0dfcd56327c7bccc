"""The race over recorded curves, for tests of racing, pruning and replay."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.search.replay import ReplayResult

RACE = runpy.run_path(str(Path(__file__).with_name("race.py")))


@pytest.fixture(scope="session")
def race() -> Callable[..., Any]:
    """`race(y, folds, groups, errors)`: a rule; see `race.py`."""
    make: Callable[..., Any] = RACE["race"]
    return make


@pytest.fixture(scope="session")
def run_race() -> Callable[..., ReplayResult]:
    """`run_race(curves, rule)`; see `race.py`."""
    run: Callable[..., ReplayResult] = RACE["run_race"]
    return run
