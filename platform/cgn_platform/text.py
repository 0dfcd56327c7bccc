"""Numbers and parameters as text: the same in the terminal, in MLflow and in decisions about models."""

import math
from collections.abc import Mapping
from typing import Any, Protocol


class Interval(Protocol):
    """An estimate with its bounds, e.g. `cgn.statistics.Interval` or `Difference`."""

    @property
    def estimate(self) -> float:
        """The point estimate."""

    @property
    def low(self) -> float:
        """The lower bound."""

    @property
    def high(self) -> float:
        """The upper bound."""


def number(value: float | None, form: str = ".3f") -> str:
    """A number; "-" if there is none."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def bounds(interval: Interval | Mapping[str, float], form: str = ".3f") -> str:
    """The bounds of an interval (a record, or its facts): `[0.550, 0.800]`."""
    _, low, high = _values(interval)
    return f"[{low:{form}}, {high:{form}}]"


def interval(interval: Interval | Mapping[str, float], form: str = ".3f") -> str:
    """An estimate with its bounds: `0.675 [0.550, 0.800]`."""
    estimate, _, _ = _values(interval)
    return f"{estimate:{form}} {bounds(interval, form)}"


def difference(difference: Interval | Mapping[str, float]) -> str:
    """A difference with its bounds, all signed: `+0.100 [-0.020, +0.200]`."""
    return interval(difference, "+.3f")


def short(value: Any) -> str:
    """A setting: three significant digits of a float, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def params(values: Mapping[str, Any]) -> str:
    """Parameters in one line: `alpha 0.5, bilateral none`."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def _values(interval: Interval | Mapping[str, float]) -> tuple[float, float, float]:
    if isinstance(interval, Mapping):
        return interval["estimate"], interval["low"], interval["high"]
    return interval.estimate, interval.low, interval.high
