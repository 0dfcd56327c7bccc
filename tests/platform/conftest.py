"""A simulated trainer, a store in a folder, and one Ray for all tests of a process."""

import contextlib
import runpy
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.cluster import connect
from cgn_platform.cluster.resources import Cluster
from cgn_platform.space import Float, Prune, Space
from cgn_platform.store.layout import Store

# Warnings of third parties, while they are imported or end, that the project cannot fix.
THIRD_PARTIES = (
    "ignore::DeprecationWarning:(ray|mlflow|google|pydantic|starlette|fastapi|alembic)",
    "ignore::optuna.exceptions.ExperimentalWarning",  # TPE's group=True; the driver silences it too
    "ignore:unclosed:ResourceWarning",  # Ray's sockets and log files, when its processes end
    "ignore:subprocess .* is still running:ResourceWarning",  # servers that `cgn up` leaves on purpose
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for ignored in THIRD_PARTIES:
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture
def store() -> Iterator[Store]:
    """A store with a short path: the paths of Ray's sockets, which lie below it, are limited."""
    folder = Path(tempfile.mkdtemp(prefix="cgnt-"))
    yield Store(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds: once for all tests."""
    from cgn_platform.tracking.mlflow_client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The one Ray that this process joins: four CPUs, and four GPUs that exist by name only.

    Its workers have another working directory than the tests, and it exports metrics every second.
    """
    with contextlib.ExitStack() as ending:
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(tmp_path_factory.mktemp("node"))
            patched.setenv("RAY_metrics_report_interval_ms", "1000")
            connected = ending.enter_context(connect.connect("local", num_cpus=4, num_gpus=4))
        yield connected


@pytest.fixture
def space() -> Space:
    return Space(
        base=Config(epochs=6),
        dimensions={"alpha": Float(0, 1), "learning_rate": Float(1e-5, 1e-1, log=True)},
        trials=8,
        prune=Prune("median", startup_trials=2, warmup_epochs=2),
    )


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Any]:
    """A runner in place of `cgn.fit.fit`; see `simulated.py`."""
    runner: Callable[..., Any] = runpy.run_path(str(Path(__file__).with_name("simulated.py")))["make"]()
    return runner


@pytest.fixture(scope="session")
def listeners_of() -> Callable[..., list[Any]]:
    """`listeners_of(site, console)`: the listeners of `cgn sweep`; see `driver.py`."""
    driver = runpy.run_path(str(Path(__file__).with_name("driver.py")))
    make: Callable[..., list[Any]] = driver["listeners_of"]
    return make


POSTGRES = runpy.run_path(str(Path(__file__).with_name("postgres.py")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A private Postgres server: its address, with `{}` in place of the database's name."""
    if POSTGRES["programs"]() is None:
        pytest.skip("no Postgres is installed: apt-get install postgresql")
    with POSTGRES["server"]() as address:
        yield address


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The address of an empty Postgres database."""
    with POSTGRES["database"](postgres, "study") as address:
        yield address


@pytest.fixture
def tracking_database(postgres: str) -> Iterator[str]:
    """The address of another one, for MLflow, which remembers by address where it has created its tables."""
    with POSTGRES["database"](postgres, f"mlflow_{secrets.token_hex(4)}") as address:
        yield address
