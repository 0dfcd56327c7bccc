"""A trainer that costs nothing: alpha is its score, beta its milliseconds an epoch, and the learning
rate says how it goes wrong. Tests, and processes that they start, run this file by its path.
"""

from collections.abc import Callable, Iterator
from typing import Any


def make() -> Callable[..., Any]:
    """A nested function travels to workers by value: this file cannot be imported there."""

    def run(config: Any, _pairs: Any, splits: Any, _device: str = "cpu") -> Iterator[Any]:
        import math
        import time
        from types import SimpleNamespace

        from cgn.errors import DivergedError

        folds = range(len(splits))
        value = math.nan
        for epoch in range(config.epochs):
            time.sleep(config.beta / 1000)
            value = 0.5 + 0.4 * config.alpha * (epoch + 1) / config.epochs
            if epoch == 1 and config.learning_rate > 0.09:
                raise DivergedError("l_cls must stay finite but is nan")
            if epoch == 1 and config.learning_rate > 0.08:
                raise ZeroDivisionError("a bug")
            if epoch == 1 and config.learning_rate > 0.07:
                value = math.nan
            reports = tuple(
                SimpleNamespace(fold=fold, val_auc=value, losses={"l_cls": 1 / (epoch + 1)}) for fold in folds
            )
            yield SimpleNamespace(epoch=epoch, val_auc=value, folds=reports)
        ended = tuple(
            SimpleNamespace(
                fold=fold,
                best_epoch=config.epochs - 1,
                val_auc=value,
                test_auc=value - 0.1,
                localization_error=math.nan if fold else 0.25,
                localization_error_any_class=0.2,
                seconds=0.1,
            )
            for fold in folds
        )
        return SimpleNamespace(val_auc=value, test_auc=value - 0.1, localization_error=math.nan, folds=ended)

    return run
