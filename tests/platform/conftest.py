"""A simulated trainer, a study in a folder, and a Ray of the tests' own."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.space import Float, Prune, Space

# What third parties warn of while they are imported or end, and what we cannot mend.
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
def store() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="cgnt-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


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
    """Stands in for `cross_validate`: alpha is the score, the learning rate says how it goes wrong.

    Nested, so that workers get it by value: test modules cannot be imported there.
    """

    def run(config: Config, pairs: Any, splits: Any, device: str = "cpu") -> Iterator[Any]:
        import time

        from cgn.errors import DivergedError

        folds = range(len(splits))
        for epoch in range(config.epochs):
            value = 0.5 + 0.4 * config.alpha * (epoch + 1) / config.epochs
            if epoch == 1 and config.learning_rate > 0.09:
                raise DivergedError("l_cls must stay finite but is nan")
            if epoch == 1 and config.learning_rate > 0.08:
                raise ZeroDivisionError("a bug")
            if epoch == 1 and config.learning_rate > 0.07:
                value = math.nan
            time.sleep(config.beta / 1000)  # milliseconds an epoch
            reports = tuple(
                SimpleNamespace(fold=fold, val_auc=value + fold / 100, losses={"l_cls": 1 / (epoch + 1)})
                for fold in folds
            )
            yield SimpleNamespace(epoch=epoch, val_auc=value, folds=reports)
        ended = [
            SimpleNamespace(
                fold=fold,
                best_epoch=epoch,
                val_auc=value,
                test_auc=value - 0.1,
                localization_error=math.nan if fold else 0.25,
                localization_error_any_class=0.2,
                seconds=0.1,
            )
            for fold in folds
        ]
        return SimpleNamespace(
            val_auc=value, test_auc=value - 0.1, localization_error=math.nan, folds=tuple(ended)
        )

    return run
