"""What is measured of every row beside its AUC: cost, localisation by place alone, what its stages did."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cgn.config import Config
from cgn_platform.store.ledger import Unit

UNCHANGED = 1e-3
"""Grey values in [0, 1]: a generator with a smaller mean |X_T - X_C| changes nothing."""
COUNTED = ("parameters", "parameters_training", "gflop_predicted", "gflop_trained")


def row_measurements(units: Sequence[Sequence[Unit]], config: Config | None, size: int) -> dict[str, Any]:
    """Further facts of a complete row, as plain JSON; None where there is no such figure.

    - `localization_error_folds`, `localization_error_any_class`: means over folds and seeds; class and
      place, place alone. (The row's `localization_error` is the former over all annotated cases.)
    - `epochs_per_second`: 1 / median of an epoch's seconds, without the first epoch of each unit.
    - `before_seconds`: of the stages before classification, summed over units as `seconds`.
    - `healthy_films`: `least` and `most` of a fold, if stages used any.
    - `made_difference`: `least` of a fold and `mean` of |X_T - X_C|, if counterfactuals are made.
    - `parameters` to `gflop_trained`: see `cgn.cost`; None if the method cannot be counted.
    - `note`: what a reader must know of the row.

    Args:
        units: of the row, `[seed][fold]`.
        config: of the row.
        size: side of the images in pixels.
    """
    flat = [unit for seed in units for unit in seed]
    results = [unit.facts["result"] for unit in flat]
    epochs = [report.seconds for unit in flat for report in unit.reports if report.epoch]
    films = [result.get("healthy_films") or 0 for result in results]
    made = [value for result in results if (value := result.get("made_difference")) is not None]
    return {
        "localization_error_folds": _mean(results, "localization_error"),
        "localization_error_any_class": _mean(results, "localization_error_any_class"),
        "epochs_per_second": 1 / middle if epochs and (middle := statistics.median(epochs)) else None,
        "before_seconds": math.fsum(result.get("before_seconds") or 0.0 for result in results),
        "healthy_films": {"least": min(films), "most": max(films)} if any(films) else None,
        "made_difference": {"least": min(made), "mean": statistics.fmean(made)} if made else None,
        "note": unchanged(min(made)) if made and min(made) < UNCHANGED else None,
        **_counted(config, size),
    }


def unchanged(difference: float) -> str:
    """The note of a row whose generator has collapsed to the identity in a fold."""
    return (
        f"the generator changes nothing: mean |X_T - X_C| {difference:.1e} is below {UNCHANGED:.0e}; "
        "this row is a one-view network"
    )


def _counted(config: Config | None, size: int) -> dict[str, Any]:
    """Parameters and operations. A plug-in whose code the meta device cannot run has none."""
    from cgn import cost  # imports torch, which reading facts does not need

    try:
        return asdict(cost.count(config, size)) if config else dict.fromkeys(COUNTED)
    except Exception:  # a method's code may raise anything, and the table is finished
        return dict.fromkeys(COUNTED)


def _mean(results: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """None if a value is missing: nothing incomplete is averaged."""
    values = [result.get(name) for result in results]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
