"""What an ensemble predicts, for prepared pairs and for a pair of films."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn.data.boxes import Box
from cgn.data.reading.films import FilmPair, OpenedPair
from cgn.data.records import Rejection

EMPTY_BOX: Box = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class EnsembleOutput:
    """For n prepared pairs: probabilities `(k, n)` of the k folds, and activation maps `(n, h, w)`."""

    fold_p: NDArray[np.float64]
    cam: NDArray[np.float32]

    @property
    def p_malignant(self) -> NDArray[np.float64]:
        """Mean over the folds, `(n,)`."""
        return np.asarray(self.fold_p.mean(0))


@dataclass(frozen=True)
class PairPrediction:
    """Reading 36. The ensemble's prediction for a pair of films.

    Attributes:
        pair_id: as given by the caller.
        p_malignant: mean over the folds, in [0, 1]; NaN if the films cannot be used.
        fold_p: of each fold.
        spread: standard deviation over the folds.
        box: location of the predicted class, in pixels of the target's source image (Sec. IV-E); empty if no
            value of the map is positive.
        cam: `(h, w)` map of the predicted class, mean over the folds that predict it; chest wall on the left.
        warnings: how the input differs from the training data, as `code: sentence`.
        refused: why the films cannot be used; None if they can.
        opened: the films as they were opened and prepared; None if they were refused.
    """

    pair_id: str
    p_malignant: float
    fold_p: tuple[float, ...]
    spread: float
    box: Box
    cam: NDArray[np.float32] = field(repr=False)
    warnings: tuple[str, ...]
    refused: Rejection | None = None
    opened: OpenedPair | None = field(default=None, repr=False)

    def summary(self) -> str:
        """The probability and its spread over the folds, as a sentence."""
        return f"probability of malignancy {self.p_malignant:.3f} (folds spread by {self.spread:.3f})"

    def facts(self) -> dict[str, Any]:
        """The prediction as plain JSON."""
        names = ("p_malignant", "spread", "fold_p", "box", "warnings")
        return {name: getattr(self, name) for name in names}


def refused_pair(pair: FilmPair, rejection: Rejection, folds: int) -> PairPrediction:
    """The prediction for films that cannot be used: no figures, and one warning with the reason."""
    return PairPrediction(
        pair_id=pair.pair_id,
        p_malignant=math.nan,
        fold_p=(math.nan,) * folds,
        spread=math.nan,
        box=EMPTY_BOX,
        cam=np.zeros((0, 0), np.float32),
        warnings=(f"{rejection.reason}: the {rejection.role or 'pair'}: {rejection.message}",),
        refused=rejection,
    )
