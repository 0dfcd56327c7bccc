"""Draws of patients, and the percentile intervals that they give."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cgn.statistics._checks import Floats, patient_numbers


@dataclass(frozen=True)
class Resampling:
    """How often patients are drawn, from which seed, and the level of the intervals."""

    n: int = 2000
    seed: int = 0
    level: float = 0.95


DEFAULT = Resampling()


class Interval(NamedTuple):
    """An estimate and its bounds."""

    estimate: float
    low: float
    high: float


class Difference(NamedTuple):
    """An estimated difference, its bounds, and its two-sided p-value."""

    estimate: float
    low: float
    high: float
    p_value: float


def draw(groups: ArrayLike | None, cases: int, n: int, seed: int) -> Floats:
    """How often each case is drawn, `(1 + n, cases)`: as many groups as there are, with replacement.

    The first row is the data itself. Draws are not stratified: a fold has only a few patients of a class, and
    strata that small would make the draws vary too little.
    """
    member = patient_numbers(groups, cases)
    count = int(member.max()) + 1
    picks = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    return np.concatenate([np.ones((1, cases)), picks[:, member]])


def percentile_interval(figures: Floats, level: float) -> Interval:
    """The first figure, with the percentile interval of the others."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(figures[1:], [tail, 1 - tail])
    return Interval(float(figures[0]), float(low), float(high))


def percentile_difference(figures: Floats, level: float) -> Difference:
    """The first figure, with the percentile interval of the others and the p-value that belongs to it."""
    drawn = figures[1:][~np.isnan(figures[1:])]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(2 * (1 + int(tail)) / (1 + len(drawn)), 1.0)
    return Difference(*percentile_interval(figures, level), p)
