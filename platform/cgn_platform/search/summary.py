"""The figures of a whole sweep, from its trial records."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgn_platform.search.records import TrialRecord


def epochs_saved(records: "Sequence[TrialRecord]") -> float:
    """Share of the epochs of all complete and pruned trials that pruning did not train."""
    judged = [record for record in records if record.state in ("complete", "pruned") and record.config]
    asked = sum(record.config.epochs for record in judged if record.config)
    return 1 - sum(len(record.curve) for record in judged) / asked if asked else 0.0


def summary(records: "Sequence[TrialRecord]") -> dict[str, float]:
    """The figures of a whole sweep, by the names that its parent run in MLflow has."""
    figures: dict[str, float] = {
        f"trials_{state}": sum(record.state == state for record in records)
        for state in ("complete", "pruned", "failed", "orphan")
    }
    figures["epochs_saved"] = epochs_saved(records)
    complete = [record for record in records if record.value is not None]
    if complete:
        best = max(complete, key=ranking_value)
        figures |= {"best_val_auc": ranking_value(best), "best_trial": best.number}
        if best.facts.get("test_auc") is not None:
            figures["test_auc_of_best"] = best.facts["test_auc"]
    return figures | wrong_prunes(records)


def wrong_prunes(records: "Sequence[TrialRecord]") -> dict[str, float]:
    """Of the audited trials, how many would have won had they not been stopped; empty without an audit.

    With an exact 95 % interval (Clopper & Pearson 1934). The winner is that of the trials left: the complete
    ones that the pruner let through.
    """
    complete = [record for record in records if record.value is not None]
    audited = [ranking_value(record) for record in complete if "would_prune_at" in record.facts]
    if not audited:
        return {}
    from scipy.stats import binomtest

    left = [ranking_value(record) for record in complete if "would_prune_at" not in record.facts]
    wrong = sum(value > max(left, default=-math.inf) for value in audited)
    interval = binomtest(wrong, len(audited)).proportion_ci(0.95, method="exact")
    return {
        "audited": len(audited),
        "wrong_prunes": wrong,
        "wrong_prune_rate": wrong / len(audited),
        "wrong_prune_rate_low": float(interval.low),
        "wrong_prune_rate_high": float(interval.high),
    }


def ranking_value(record: "TrialRecord") -> float:
    """What a trial is ranked by: its score, or the last that was seen of a pruned one."""
    if record.value is not None:
        return record.value
    return record.curve[max(record.curve)] if record.curve and record.state == "pruned" else -math.inf
