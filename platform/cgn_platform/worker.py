"""A worker's side of a sweep: an actor that trains one configuration after the other.

It imports no Optuna and no MLflow: it tells epochs and is told nothing but configurations.
"""

import math
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import tune

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import CGNError
from cgn_platform.cluster import Resources

Runner = Callable[..., Generator[Any, None, Any]]  # cgn.fit.cross_validate, or one that simulates it

STEP = "step"  # the key of a Step in Tune's result


@dataclass(frozen=True)
class Step:
    """One epoch of a trial, as its worker tells it.

    Attributes:
        epoch: from 0.
        val_auc: mean over all folds at this epoch.
        folds: validation AUC of each fold.
        losses: mean over folds, by term.
        seconds: of this epoch, all folds.
        result: facts of the finished cross-validation, with its last epoch.
        failure: why the trial cannot go on; no other field counts then.
    """

    epoch: int = -1
    val_auc: float = math.nan
    folds: Mapping[int, float] | None = None
    losses: Mapping[str, float] | None = None
    seconds: float = 0.0
    result: Mapping[str, Any] | None = None
    failure: str | None = None


class Trial(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """A worker's side: one configuration after the other over the same pairs."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        pairs: Pairs,
        splits: Sequence[Split],
        runner: Runner,
        resources: Resources,
    ) -> None:
        """Called once an actor."""
        self._pairs, self._splits, self._runner = pairs, splits, runner
        self._device = _device(resources)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called for every further trial of this actor."""
        self._run: Generator[Any, None, Any] | None = None  # frees the networks of the trial before
        self._trial_config = Config.of(new_config["config"])
        self._run = self._runner(self._trial_config, self._pairs, self._splits, self._device)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch of all folds."""
        try:
            step = self._advance()
        except CGNError as error:  # its own fault: the actor is sound and serves the next trial
            step = Step(failure=f"{type(error).__name__}: {error}")
        return {STEP: step, "done": step.result is not None or step.failure is not None}

    def _advance(self) -> Step:
        begin = time.perf_counter()
        if self._run is None:
            raise RuntimeError("a trial was stepped before it was configured")
        report = next(self._run)
        result = None
        if report.epoch + 1 >= self._trial_config.epochs:
            try:
                next(self._run)
            except StopIteration as end:
                result = facts_of(end.value)
        return Step(
            epoch=report.epoch,
            val_auc=report.val_auc,
            folds={fold.fold: fold.val_auc for fold in report.folds},
            losses=_mean_losses([fold.losses for fold in report.folds]),
            seconds=time.perf_counter() - begin,
            result=result,
        )


def facts_of(result: Any) -> dict[str, Any]:
    """A CrossResult as plain JSON: None where it is no number."""
    scores = ("val_auc", "test_auc", "localization_error")
    of_a_fold = ("fold", "best_epoch", *scores, "localization_error_any_class", "seconds")
    folds = [{name: _number(getattr(fold, name)) for name in of_a_fold} for fold in result.folds]
    means = {name: _number(getattr(result, name)) for name in scores}
    return {**means, "folds": folds}


def _device(resources: Resources) -> str:
    """Where this worker computes; a fraction of a GPU is made a limit, since to Ray it is bookkeeping."""
    if resources.gpus == 0 and "torch" not in sys.modules:
        return "cpu"  # a simulated trainer needs no torch
    import torch

    torch.set_num_threads(max(1, int(resources.cpus)))
    if resources.gpus == 0 or not torch.cuda.is_available():
        return "cpu"
    if resources.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(resources.gpus)
    return "cuda"


def _mean_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in losses for name in each)
    return {name: sum(each.get(name, math.nan) for each in losses) / len(losses) for name in names}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
