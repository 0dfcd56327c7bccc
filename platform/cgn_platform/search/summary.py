"""The figures of a whole sweep, from its trial records."""

import math
from collections.abc import Sequence

from cgn_platform.search.records import TrialRecord, best_of

IMPORTANCE_TRIALS = 20
"""Complete trials that importances need. With fewer, the shares follow the noise of the validation AUC."""


def summary(records: Sequence[TrialRecord]) -> dict[str, float]:
    """The figures of a whole sweep, by the names of the metrics of its parent run in MLflow."""
    figures: dict[str, float] = {
        f"trials_{state}": sum(record.state == state for record in records)
        for state in ("complete", "pruned", "failed", "orphan")
    }
    figures["epochs_saved"] = epochs_saved(records)
    best = best_of(records)
    if best is not None:
        figures |= {"best_val_auc": ranking_value(best), "best_trial": best.number}
        if best.facts.get("test_auc") is not None:
            figures["test_auc_of_best"] = best.facts["test_auc"]
    return figures | wrong_prunes(records)


def epochs_saved(records: Sequence[TrialRecord]) -> float:
    """Share of the epochs of all complete and pruned trials that pruning saved."""
    trials = [record for record in records if record.state in ("complete", "pruned") and record.config]
    declared = sum(record.config.epochs for record in trials if record.config)
    return 1 - sum(len(record.curve) for record in trials) / declared if declared else 0.0


def wrong_prunes(records: Sequence[TrialRecord]) -> dict[str, float]:
    """Of the audited trials that the pruner would have stopped, how many would have won the search.

    With an exact 95 % interval (Clopper & Pearson 1934). The winner is the best complete trial that the
    pruner would not have stopped. Empty without such audited trials.
    """
    complete = [record for record in records if record.value is not None]
    audited = [ranking_value(record) for record in complete if "would_prune_at" in record.facts]
    if not audited:
        return {}
    from scipy.stats import binomtest

    others = [ranking_value(record) for record in complete if "would_prune_at" not in record.facts]
    winner = max(others, default=-math.inf)
    wrong = sum(value > winner for value in audited)
    interval = binomtest(wrong, len(audited)).proportion_ci(0.95, method="exact")
    return {
        "audited": len(audited),
        "wrong_prunes": wrong,
        "wrong_prune_rate": wrong / len(audited),
        "wrong_prune_rate_low": float(interval.low),
        "wrong_prune_rate_high": float(interval.high),
    }


def ranking_value(record: TrialRecord) -> float:
    """What a trial is ranked by: its value, or the last validation AUC of a pruned trial."""
    if record.value is not None:
        return record.value
    return record.curve[max(record.curve)] if record.curve and record.state == "pruned" else -math.inf
