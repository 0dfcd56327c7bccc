"""A trainer that costs nothing: alpha is its score, beta its milliseconds an epoch of a fold, and the
learning rate says how it goes wrong. Tests, and processes that they start, run this file by its path.

A test that wants to hurt a sweep in its middle must not depend on how fast the machine is: while the file
`slow` exists, an epoch of a fold takes a quarter of a second.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def make(slow: Path | None = None) -> Callable[..., Any]:
    """A nested function travels to workers by value: this file cannot be imported there."""

    def run(config: Any, pairs: Any, split: Any, _device: str, memory: Any) -> Iterator[Any]:
        import math
        import os
        import signal
        import time

        import numpy as np

        from cgn.errors import DivergedError
        from cgn.results import EpochReport, FoldResult, FoldState, Predictions

        state = memory.load()
        told = list(state.facts["reports"]) if state else []
        value, hard = math.nan, np.random.default_rng(split.fold).normal(size=len(split.val))
        for epoch in range(config.epochs):
            value = 0.5 + 0.4 * config.alpha * (epoch + 1) / config.epochs
            if epoch >= len(told):  # what its memory knows is told again at once
                time.sleep(0.25 if slow and slow.exists() else config.beta / 1000)
                told.append(value)
                wrong = config.learning_rate if epoch == 1 else 0
                if wrong > 0.09:
                    raise DivergedError("l_cls must stay finite but is nan")
                if wrong > 0.08:
                    raise ZeroDivisionError("a bug")
                if wrong > 0.07:
                    value = math.nan
                elif wrong > 0.06:
                    os.kill(os.getpid(), signal.SIGKILL)  # a fold that always crashes its process
                elif wrong > 0.05:
                    raise OSError(5, "Input/output error")
                if (epoch + 1) % memory.checkpoint_every == 0 and epoch + 1 < config.epochs:
                    memory.save(FoldState({}, {"reports": told}))
            losses = {"l_cls": 1 / (epoch + 1)}
            scores = hard + 8 * (value - 0.5) * pairs.label[split.val]  # better values, better scores
            yield EpochReport(split.fold, epoch, value, losses, config.beta / 1000, scores)
        index = split.test
        blank = np.full(len(index), 0.5)
        return FoldResult(
            fold=split.fold,
            best_epoch=config.epochs - 1,
            val_auc=value,
            test_auc=value - 0.1,
            localization_error=math.nan if split.fold else 0.25,
            localization_error_any_class=0.2,
            predictions=Predictions(
                index, pairs.label[index], blank, np.zeros((len(index), 4)), blank, blank > 0
            ),
            seconds=0.1,
            state={},
        )

    return run
