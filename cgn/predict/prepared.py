"""Prepared images as pairs that a network can read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cgn.data.pairs import Pairs
from cgn.data.reading.films import OpenedPair

ImageStack = NDArray[np.uint8]
"""`(n, size, size)`, chest wall on the left."""


def pairs_of_films(opened: Sequence[OpenedPair]) -> Pairs:
    """Pairs from films that were opened and prepared."""
    return pairs_of_images(*(np.stack([pair[role].prepared.pixels for pair in opened]) for role in (0, 1)))


def pairs_of_images(target: ImageStack, reference: ImageStack) -> Pairs:
    """Pairs of which only the images are known; each is its own other view."""
    n = len(target)
    names, unknown = np.array([str(number) for number in range(n)]), np.array([""] * n)
    no_crop = np.zeros((n, 4), np.int64)
    return Pairs(
        name="served",
        fingerprint="",
        pair_id=names,
        patient_id=names,
        study_id=unknown,
        view=unknown,
        side=unknown,
        label=np.zeros(n, np.int64),
        kinds=((),) * n,
        boxes=((),) * n,
        reference_has_lesion=np.zeros(n, bool),
        target=target,
        reference=reference,
        counterfactual=None,
        target_crop=no_crop,
        reference_crop=no_crop,
    )
