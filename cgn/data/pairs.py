"""What training reads: pairs of prepared images in memory, and the folds over them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn.data.boxes import Box

__all__ = ["Box", "Films", "Pairs", "Split"]


@dataclass(frozen=True)
class Split:
    """Reading 18. One fold: indices into the pairs. No patient is in more than one of the three parts."""

    fold: int
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Films:
    """Healthy films, for methods that learn what a breast without a lesion looks like.

    Attributes:
        film_id, patient_id, view, side: `(m,)` strings.
        no_finding: `(m,)` bool: the whole film was read as normal (BI-RADS 1, "normal"), not merely unmarked.
        no_cohort_finding: `(m,)` bool: no finding of the cohort's kinds.
        image: `(m, size, size)` uint8, chest wall on the left.
    """

    film_id: NDArray[np.str_]
    patient_id: NDArray[np.str_]
    view: NDArray[np.str_]
    side: NDArray[np.str_]
    no_finding: NDArray[np.bool_]
    no_cohort_finding: NDArray[np.bool_]
    image: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.film_id)


@dataclass(frozen=True)
class Pairs:
    """A cache in memory. Arrays are read-only, and processes of a node share them.

    Attributes:
        name: dataset and cohort, e.g. `mias-all`.
        fingerprint: of the content, as in the cache's manifest.
        pair_id, patient_id, study_id, view, side: `(n,)` strings; `side` is the target's, L or R;
            `study_id` is "" if it is not known.
        label: `(n,)` int64, 0 benign, 1 malignant.
        kinds: finding kinds of each target.
        boxes: lesions of each target, in pixels of the cached target.
        reference_has_lesion: `(n,)` bool.
        target, reference: `(n, size, size)` uint8, chest wall on the left.
        counterfactual: the target without its lesion; only phantoms have it.
        target_crop, reference_crop: `(n, 4)` int64 `x0, y0, width, height` in the source image.
        recipe: how the images were prepared, from the cache's manifest; empty for pairs without a cache.
        healthy: healthy films; None if the cache has none.
    """

    name: str
    fingerprint: str
    pair_id: NDArray[np.str_]
    patient_id: NDArray[np.str_]
    study_id: NDArray[np.str_]
    view: NDArray[np.str_]
    side: NDArray[np.str_]
    label: NDArray[np.int64]
    kinds: Sequence[tuple[str, ...]]
    boxes: Sequence[tuple[Box, ...]]
    reference_has_lesion: NDArray[np.bool_]
    target: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    counterfactual: NDArray[np.uint8] | None
    target_crop: NDArray[np.int64]
    reference_crop: NDArray[np.int64]
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    healthy: Films | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def size(self) -> int:
        """Side of the cached images in pixels."""
        return int(self.target.shape[-1])

    @cached_property
    def companion(self) -> NDArray[np.int64]:
        """`(n,)` row of the same breast's other view (CC for MLO, MLO for CC) of the same study.

        -1 if there is none, or more than one.
        """
        breasts: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        keys = list(zip(self.patient_id.tolist(), self.study_id.tolist(), self.side.tolist(), strict=True))
        for row, key in enumerate(keys):
            breasts[key].append(row)
        companion = np.full(len(self), -1, np.int64)
        for row, key in enumerate(keys):
            others = [other for other in breasts[key] if self.view[other] != self.view[row]]
            if len(others) == 1:
                companion[row] = others[0]
        companion.setflags(write=False)
        return companion
