"""Numbers and parameters as text: the same in the terminal, in MLflow and in decisions about models."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any, Protocol

CHANCE = 0.5
"""AUC of a random score."""


SHORT_UNITS = {"seconds": "s", "minutes": "min", "hours": "h"}


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


def measured_auc(auc: Interval | Mapping[str, float]) -> str:
    """A test AUC with its bounds, and whether it differs from chance: `0.520 [0.410, 0.640], not ...`."""
    return f"{interval(auc)}, {against_chance(auc)}"


def against_chance(auc: Interval | Mapping[str, float]) -> str:
    """Whether the interval of an AUC includes that of a random score."""
    _, low, high = _values(auc)
    if low <= CHANCE <= high:
        return "not distinguishable from chance"
    return "better than chance" if low > CHANCE else "worse than chance"


def chosen_trial(
    trial: int,
    test: Interval | Mapping[str, float] | float | None,
    validation: float | None,
    corrected: Interval | Mapping[str, float] | None = None,
) -> str:
    """The result of a search: the test AUC of the chosen trial, then the validation AUC that chose it.

    Args:
        trial: its number.
        test: its AUC on the test folds, with an interval where there is one.
        validation: its AUC on the validation folds.
        corrected: the latter, corrected for the choice among trials (BBC-CV).
    """
    measured = number(test) if test is None or isinstance(test, float) else measured_auc(test)
    after = f", {interval(corrected)} corrected for the choice among trials" if corrected else ""
    return (
        f"Trial {trial} was chosen by its validation AUC. Test AUC: {measured}. "
        f"Validation AUC: {number(validation)}{after}; this is optimistic, because the validation folds "
        "also chose the epochs."
    )


def short(value: Any) -> str:
    """A setting: three significant digits of a float, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration_parts(seconds: float) -> tuple[float, str]:
    """A duration in a unit that suits it: `(4.2, "minutes")`."""
    if seconds < 100:
        return seconds, "seconds"
    return (seconds / 60, "minutes") if seconds < 100 * 60 else (seconds / 3600, "hours")


def duration(seconds: float) -> str:
    """A duration: `45 s`, `4.2 min`, `2.5 h`."""
    value, unit = duration_parts(seconds)
    return f"{value:{'.0f' if unit == 'seconds' else '.1f'}} {SHORT_UNITS[unit]}"


def params(values: Mapping[str, Any]) -> str:
    """Parameters in one line: `alpha 0.5, bilateral none`."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


MARKDOWN = re.compile(r"[\\`*<>|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|&(?=[#\w])|!(?=\[)")
"""What means something in a line of Markdown."""


def markdown(typed: str) -> str:
    """Text that people typed, in one line of Markdown that shows it as it is."""
    return MARKDOWN.sub(lambda match: f"\\{match[0]}", " ".join(typed.split()))


def chart_text(typed: str) -> str:
    """Text that people typed, for a chart: Plotly interprets some tags of HTML."""
    return html.escape(typed, quote=False)


def _values(interval: Interval | Mapping[str, float]) -> tuple[float, float, float]:
    if isinstance(interval, Mapping):
        return interval["estimate"], interval["low"], interval["high"]
    return interval.estimate, interval.low, interval.high
