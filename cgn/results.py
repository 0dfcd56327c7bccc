"""Results of training as plain values, and folds that advance in lockstep. Reading them needs no torch."""

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
        fold: number of the fold.
        epoch: from 0.
        val_auc: on the validation fold.
        losses: means over the training pairs, by term, and the distances d_tc and d_rc.
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
    """Predictions for the test pairs of a fold, one row per pair.

    Attributes:
        index: rows of the pairs.
        label: 0 benign, 1 malignant.
        p_malignant: probability of malignancy.
        box: `(n, 4)`, pixels of the cached target.
        iou: NaN where no lesion is annotated.
        localized: class and location are right (Table II); False where no lesion is annotated.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    p_malignant: NDArray[np.float64]
    box: NDArray[np.float64]
    iou: NDArray[np.float64]
    localized: NDArray[np.bool_]


@dataclass(frozen=True)
class FoldResult:
    """The epoch with the best validation AUC, and its figures on the test fold (reading 19).

    Attributes:
        localization_error: Table II, class and location; NaN if nothing is annotated.
        localization_error_any_class: the location only.
        state: the network's tensors at that epoch (`cgn.fit.network_of`).
        before_seconds: of the stages before classification; not part of `seconds`.
        healthy_films: number that the stages used.
        made_difference: mean |X_T - X_C| of a method that makes counterfactuals (of features, if it makes
            these); otherwise NaN.
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
    before_seconds: float = 0.0
    healthy_films: int = 0
    made_difference: float = math.nan


@dataclass(frozen=True)
class CrossReport:
    """One epoch of all folds; `val_auc` is the mean over folds at this epoch."""

    epoch: int
    val_auc: float
    folds: tuple[EpochReport, ...]

    @property
    def losses(self) -> dict[str, float]:
        """Means over the folds, by term."""
        return mean_losses([fold.losses for fold in self.folds])

    @property
    def seconds(self) -> float:
        """Sum over the folds."""
        return sum(fold.seconds for fold in self.folds)

    def facts(self) -> dict[str, Any]:
        """The epoch as plain JSON, see `epoch_facts`."""
        val_aucs = {fold.fold: fold.val_auc for fold in self.folds}
        return epoch_facts(self.epoch, self.val_auc, val_aucs, self.losses, self.seconds)


@dataclass(frozen=True)
class CrossResult:
    """All folds of one configuration; means are over folds, as the paper prints them (reading 21)."""

    folds: tuple[FoldResult, ...]

    @property
    def val_auc(self) -> float:
        """Mean of the folds' best validation AUC; a search may select by it."""
        return float(np.mean([fold.val_auc for fold in self.folds]))

    @property
    def test_auc(self) -> float:
        """Mean of the folds' test AUC; reported, and never used for selection."""
        return float(np.mean([fold.test_auc for fold in self.folds]))

    @property
    def localization_error(self) -> float:
        """Mean of the folds' top-1 localisation error; NaN if a fold has no annotated pair."""
        return float(np.mean([fold.localization_error for fold in self.folds]))


@dataclass(frozen=True)
class FoldState:
    """The state of a fold between two epochs: enough to resume it without any difference.

    Attributes:
        tensors: model, its best epoch, the optimiser's moments, the generator that orders batches.
        facts: everything else, as plain JSON.
    """

    tensors: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """Finished epochs; 0 within a stage."""
        return len(self.facts.get("reports", ()))

    def part(self, name: str) -> dict[str, Any]:
        """The tensors whose names begin with `name.`, without this prefix."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}

    @staticmethod
    def moments_of(optimizer: Any) -> dict[str, Any]:
        """The moments of Adam as tensors of a state, for `restore_moments`."""
        moments = optimizer.state_dict()["state"].items()
        return {f"adam.{i}.{name}": value for i, own in moments for name, value in own.items()}

    def restore_moments(self, optimizer: Any) -> None:
        """Give the moments of Adam to an optimiser of the same parameters."""
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in self.part("adam").items():
            number, _, name = key.partition(".")
            moments.setdefault(int(number), {})[name] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


class CheckpointStore(Protocol):
    """Where `cgn.fit.fit` saves the state of one fold and resumes it from."""

    checkpoint_every: int
    """Epochs between two checkpoints."""

    def load(self) -> FoldState | None:
        """The last complete checkpoint, or None."""

    def save(self, state: FoldState) -> None:
        """Save a checkpoint; it replaces older ones."""


FoldRun = Generator[EpochReport, None, FoldResult]
CrossRun = Generator[CrossReport, None, CrossResult]
MapFunction = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Result = TypeVar("Result")


def lockstep(folds: Sequence[FoldRun], epochs: int, map_function: MapFunction = map) -> CrossRun:
    """Advance all folds epoch by epoch, so that a decision to stop is based on all of them.

    Args:
        folds: one iterator of epochs per fold.
        epochs: number of epochs of each fold.
        map_function: calls a function for every fold. The `map` of a thread pool calls it concurrently; use
            it only for folds that train in separate processes, because weights are drawn from a global
            generator.
    """
    for epoch in range(epochs):
        reports = tuple(map_function(next, folds))
        yield CrossReport(epoch, math.fsum(report.val_auc for report in reports) / len(reports), reports)
    return CrossResult(tuple(map_function(last, folds)))


def last(run: Generator[object, None, Result]) -> Result:
    """Run an iterator of epochs to its end and return its result."""
    while True:
        try:
            next(run)
        except StopIteration as end:
            return cast(Result, end.value)


def facts_of(result: CrossResult) -> dict[str, Any]:
    """A result as plain JSON; None for figures that are not finite."""
    scores = ("val_auc", "test_auc", "localization_error")
    fold_figures = ("fold", "best_epoch", *scores, "localization_error_any_class", "seconds")
    folds = [{name: _finite(getattr(fold, name)) for name in fold_figures} for fold in result.folds]
    means = {name: _finite(getattr(result, name)) for name in scores}
    return {**means, "folds": folds}


def epoch_facts(
    epoch: int,
    val_auc: float,
    val_aucs: Mapping[int, float],
    losses: Mapping[str, float],
    seconds: float,
) -> dict[str, Any]:
    """An epoch of all folds as plain JSON. The keys are part of the format of stored studies.

    Args:
        epoch: from 0.
        val_auc: mean over the folds.
        val_aucs: by the number of the fold.
        losses: means over the folds, by term.
        seconds: of this epoch.
    """
    return {
        "epoch": epoch,
        "val_auc": val_auc,
        "folds": {str(fold): auc for fold, auc in val_aucs.items()},
        "losses": dict(losses),
        "seconds": round(seconds, 3),
    }


def mean_losses(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over folds of each term; NaN for a term that a fold lacks."""
    names = dict.fromkeys(name for fold in losses for name in fold)
    return {name: sum(fold.get(name, math.nan) for fold in losses) / len(losses) for name in names}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
