"""A simulated trainer: alpha decides its score, beta is the duration of a fold's epoch in milliseconds, and
the learning rate decides how it fails. Tests, and processes that they start, run this file by its path.

While the file `slow` exists, an epoch of a fold takes a quarter of a second, so that tests can interrupt a
sweep however fast the machine is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def make(slow: Path | None = None) -> Callable[..., Any]:
    """The trainer, as a nested function: it is pickled by value, since workers cannot import this file."""

    def run(config: Any, pairs: Any, split: Any, _device: str, checkpoints: Any) -> Iterator[Any]:
        import math
        import os
        import signal
        import time

        import numpy as np

        from cgn.errors import DivergedError
        from cgn.results import EpochReport, FoldResult, FoldState, Predictions

        state = checkpoints.load()
        values = list(state.facts["reports"]) if state else []
        value, noise = math.nan, np.random.default_rng(split.fold).normal(size=len(split.val))
        for epoch in range(config.epochs):
            value = 0.5 + 0.4 * config.alpha * (epoch + 1) / config.epochs
            if epoch >= len(values):  # epochs of a checkpoint are repeated at once
                time.sleep(0.25 if slow and slow.exists() else config.beta / 1000)
                values.append(value)
                failure = config.learning_rate if epoch == 1 else 0
                if failure > 0.09:
                    raise DivergedError("l_cls must stay finite but is nan")
                if failure > 0.08:
                    raise ZeroDivisionError("a bug")
                if failure > 0.07:
                    value = math.nan
                elif failure > 0.06:
                    os.kill(os.getpid(), signal.SIGKILL)  # a fold that always kills its process
                elif failure > 0.05:
                    raise OSError(5, "Input/output error")
                if (epoch + 1) % checkpoints.checkpoint_every == 0 and epoch + 1 < config.epochs:
                    checkpoints.save(FoldState({}, {"reports": values}))
            losses = {"l_cls": 1 / (epoch + 1)}
            scores = noise + 8 * (value - 0.5) * pairs.label[split.val]  # higher values give better scores
            yield EpochReport(split.fold, epoch, value, losses, config.beta / 1000, scores)
        index = split.test
        constant = np.full(len(index), 0.5)
        return FoldResult(
            fold=split.fold,
            best_epoch=config.epochs - 1,
            val_auc=value,
            test_auc=value - 0.1,
            localization_error=math.nan if split.fold else 0.25,
            localization_error_any_class=0.2,
            predictions=Predictions(
                index, pairs.label[index], constant, np.zeros((len(index), 4)), constant, constant > 0
            ),
            seconds=0.1,
            state={},
        )

    return run
