"""What training tells, as plain values, and how folds advance together. No torch is needed to read it."""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EpochReport:
    """One epoch of one fold.

    Attributes:
        fold: which one.
        epoch: from 0.
        val_auc: on the validation fold.
        losses: means over the training pairs, by term, with d_tc and d_rc.
        seconds: of this epoch.
        val_scores: probability of malignancy of each validation pair, in the order of the split.
    """

    fold: int
    epoch: int
    val_auc: float
    losses: Mapping[str, float]
    seconds: float
    val_scores: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Predictions:
    """A row a test pair. Boxes in pixels of the cached target; IoU is NaN where no lesion is marked.

    `localized`: class and place are right (Table II); False where no lesion is marked.
    """

    index: NDArray[np.int64]  # into the pairs
    label: NDArray[np.int64]
    p_malignant: NDArray[np.float64]
    box: NDArray[np.float64]  # (n, 4)
    iou: NDArray[np.float64]
    localized: NDArray[np.bool_]


@dataclass(frozen=True)
class FoldResult:
    """The epoch with the best validation AUC, and what it does on the test fold (reading 19).

    Attributes:
        localization_error: Table II, class and place; NaN where nothing is annotated.
        localization_error_any_class: the place alone.
        state: the network's tensors at that epoch (`cgn.fit.network_of`).
    """

    fold: int
    best_epoch: int
    val_auc: float
    test_auc: float
    localization_error: float
    localization_error_any_class: float
    predictions: Predictions
    seconds: float
    state: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class CrossReport:
    """One epoch of all folds; `val_auc` is their mean at this epoch."""

    epoch: int
    val_auc: float
    folds: tuple[EpochReport, ...]


@dataclass(frozen=True)
class CrossResult:
    """All folds of one configuration; the means are over folds, as the paper prints them (reading 21)."""

    folds: tuple[FoldResult, ...]

    @property
    def val_auc(self) -> float:
        """Mean of the folds' best validation AUC: what a search may choose by."""
        return float(np.mean([fold.val_auc for fold in self.folds]))

    @property
    def test_auc(self) -> float:
        """Mean of the folds' test AUC: reported, never chosen by."""
        return float(np.mean([fold.test_auc for fold in self.folds]))

    @property
    def localization_error(self) -> float:
        """Mean of the folds' top-1 localisation error; NaN where a fold has no annotated pair."""
        return float(np.mean([fold.localization_error for fold in self.folds]))


@dataclass(frozen=True)
class FoldState:
    """Where a fold stands between two epochs: enough to go on as if nothing had happened.

    Attributes:
        tensors: model, its best epoch, the optimiser's moments, the generator that orders batches.
        facts: the rest, as plain JSON.
    """

    tensors: Mapping[str, Any]
    facts: Mapping[str, Any]


class Memory(Protocol):
    """Whoever remembers where a fold stood; without one, a fold that is cut short starts anew."""

    every: int
    """Epochs between two states to save."""

    def load(self) -> FoldState | None:
        """The last state that is whole, if there is one."""

    def save(self, state: FoldState) -> None:
        """Remember this state in place of older ones."""


FoldRun = Generator[EpochReport, None, FoldResult]
CrossRun = Generator[CrossReport, None, CrossResult]
Together = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Result = TypeVar("Result")


def lockstep(folds: Sequence[FoldRun], epochs: int, together: Together = map) -> CrossRun:
    """Advance folds epoch by epoch, so that whoever stops a run looks at all of them.

    Args:
        folds: one iterator of epochs each.
        epochs: that each of them has.
        together: how one call is made for every fold; the `map` of a thread pool makes them at once,
            for folds that train in processes of their own (their weights are drawn from a global stream).
    """
    for epoch in range(epochs):
        reports = tuple(together(next, folds))
        yield CrossReport(epoch, math.fsum(report.val_auc for report in reports) / len(reports), reports)
    return CrossResult(tuple(together(last, folds)))


def last(run: Generator[object, None, Result]) -> Result:
    """Run an iterator of epochs to its end and give what it returns."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            return cast(Result, end.value)


def facts_of(result: CrossResult) -> dict[str, Any]:
    """A result as plain JSON: None where it is no number."""
    scores = ("val_auc", "test_auc", "localization_error")
    of_a_fold = ("fold", "best_epoch", *scores, "localization_error_any_class", "seconds")
    folds = [{name: _number(getattr(fold, name)) for name in of_a_fold} for fold in result.folds]
    means = {name: _number(getattr(result, name)) for name in scores}
    return {**means, "folds": folds}


def mean_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over folds of each term; no number where a fold has it not."""
    names = dict.fromkeys(name for each in losses for name in each)
    return {name: sum(each.get(name, math.nan) for each in losses) / len(losses) for name in names}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
