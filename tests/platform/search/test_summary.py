"""The figures of a sweep."""

from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.search.records import State, TrialRecord, best_of
from cgn_platform.search.summary import epochs_saved, ranking_value, summary, wrong_prunes


def complete(number: int, value: float, **facts: Any) -> TrialRecord:
    return TrialRecord(number, "complete", value, {}, {0: value}, Config(epochs=1), facts)


def test_a_wrong_prune_is_an_audited_trial_above_the_winner_of_the_others() -> None:
    others = [complete(0, 0.7), complete(1, 0.8)]
    audited = [complete(n, value, would_prune_at=3) for n, value in enumerate((0.6, 0.8, 0.9, 0.5), 2)]
    figures = summary([*others, *audited])
    assert (figures["audited"], figures["wrong_prunes"], figures["wrong_prune_rate"]) == (4, 1, 0.25)
    # Clopper & Pearson for 1 of 4
    assert figures["wrong_prune_rate_low"] == pytest.approx(0.0063, abs=1e-4)
    assert figures["wrong_prune_rate_high"] == pytest.approx(0.8059, abs=1e-4)
    assert wrong_prunes(others) == {}


def ended(number: int, state: State, *curve: float) -> TrialRecord:
    return TrialRecord(number, state, None, {}, dict(enumerate(curve)), Config(epochs=4))


def test_the_best_trial_is_the_earliest_of_the_best_complete_ones() -> None:
    pruned = ended(0, "pruned", 0.99)
    assert best_of([pruned]) is None
    records = [complete(3, 0.8), pruned, complete(2, 0.8), complete(1, 0.7)]
    best = best_of(records)
    assert best is not None
    assert best.number == 2
    assert summary(records)["best_trial"] == 2


def test_pruned_trials_are_ranked_by_their_last_epoch_and_failed_ones_last() -> None:
    assert ranking_value(complete(0, 0.8)) == 0.8
    assert ranking_value(ended(1, "pruned", 0.9, 0.6)) == 0.6
    assert ranking_value(ended(2, "failed", 0.9)) == ranking_value(ended(3, "pruned")) == -float("inf")


def test_saved_epochs_count_complete_and_pruned_trials() -> None:
    whole = TrialRecord(0, "complete", 0.5, {}, dict.fromkeys(range(4), 0.5), Config(epochs=4))
    records = [whole, ended(1, "pruned", 0.5, 0.5), ended(2, "failed", 0.5)]
    assert epochs_saved(records) == 1 - 6 / 8
    assert epochs_saved([]) == 0


def test_the_summary_without_a_complete_trial_has_no_best_one() -> None:
    figures = summary([ended(0, "pruned", 0.5), ended(1, "failed")])
    assert (figures["trials_pruned"], figures["trials_failed"], figures["trials_complete"]) == (1, 1, 0)
    assert not {"best_val_auc", "best_trial", "test_auc_of_best"} & set(figures)
