"""Reading 37. Warnings about pairs that differ from the training data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn.data.pairs import Pairs
from cgn.data.reading.films import FilmPair, OpenedPair

MARGIN = 1.25
"""Factor by which a breast's size or brightness may lie outside the range in training without a warning."""


def training_ranges(pairs: Pairs) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each measurement over the films of these pairs."""
    films = [*zip(pairs.target, pairs.target_crop, strict=True)]
    films += zip(pairs.reference, pairs.reference_crop, strict=True)
    measured = [_measure(pixels, crop.tolist()) for pixels, crop in films]
    return {name: (min(m[name] for m in measured), max(m[name] for m in measured)) for name in measured[0]}


def input_warnings(pair: FilmPair, opened: OpenedPair, trained_on: Mapping[str, Any]) -> Iterator[str]:
    """How a pair differs from the training data, as `code: sentence`.

    Args:
        pair: sides and views as the caller gave them.
        opened: the films, with sides and views from their tags.
        trained_on: `ranges` of `training_ranges`, and `views`.
    """
    given = {"target": pair.target, "reference": pair.reference}
    for role, film in opened._asdict().items():
        for name, value in _measure(film.prepared.pixels, film.prepared.crop).items():
            low, high = trained_on["ranges"][name]
            if not low / MARGIN <= value <= high * MARGIN:
                yield f"{name}: {value:.0f} in the {role}, {low:.0f} to {high:.0f} in training"
        if film.side and given[role].side and film.side != given[role].side:
            yield f"laterality: the {role} was given as {given[role].side} but its tags say {film.side}"
        view, given_view = film.view or given[role].view, given[role].view
        if film.view and given_view and film.view.upper() != given_view.upper():
            yield f"view: the {role} was given as {given_view} but its tags say {film.view}"
        if view and view not in trained_on["views"]:
            yield f"view: {view} in the {role}, {', '.join(trained_on['views'])} in training"
    yield from _contradictions(pair, opened)


def _contradictions(pair: FilmPair, opened: OpenedPair) -> Iterator[str]:
    """Films of the same breast, or of different views."""
    target, reference = opened
    sides = target.side or pair.target.side, reference.side or pair.reference.side
    if sides[0] and sides[0] == sides[1]:
        yield f"same_side: both films are of side {sides[0]} but the reference must be of the other breast"
    elif target.chest_wall == reference.chest_wall and not (target.side and reference.side):
        yield (
            f"same_side: both films have the chest wall on their {target.chest_wall} "
            "but the reference must be of the other breast"
        )
    if target.view and reference.view and target.view != reference.view:
        yield f"view: {target.view} in the target but {reference.view} in the reference"


def _measure(pixels: NDArray[np.uint8], crop: Sequence[int]) -> dict[str, float]:
    """Size of the breast in pixels of the source image, and its mean brightness."""
    return {"width": float(crop[2]), "height": float(crop[3]), "brightness": float(pixels.mean())}
