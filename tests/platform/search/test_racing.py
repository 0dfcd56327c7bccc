"""Races: p-values, error budgets, and what they do to simulated curves."""

import numpy as np
import pytest
from scipy import stats

from cgn.errors import ConfigError
from cgn_platform.search.racing import Curve, budget, is_behind, lag_p_value
from cgn_platform.search.replay import ReplayResult

EPOCHS = 20
PATIENT = np.arange(90) // 2  # 45 patients with two films, nine in each fold
Y, FOLDS = (PATIENT % 9 < 5).astype(int), PATIENT // 9
LOOKS = budget(EPOCHS, first=4, every=4)


def films(rng):
    """How hard each film is for every network; films of a patient share half of it."""
    return np.sqrt(0.5) * (rng.normal(size=45)[PATIENT] + rng.normal(size=90))


def curve(rng, hard, auc):
    """A trial whose true AUC at each epoch is `auc`; its own noise changes slowly from epoch to epoch."""
    own = rng.normal(size=(EPOCHS, 90))
    for epoch in range(1, EPOCHS):
        own[epoch] = 0.8 * own[epoch - 1] + 0.6 * own[epoch]
    effect = np.sqrt(2) * stats.norm.ppf(np.broadcast_to(auc, EPOCHS))[:, None]
    scores = effect * Y + np.sqrt(0.5) * (hard + own)
    end = float(np.broadcast_to(auc, EPOCHS)[-1])
    return Curve(scores, end, end)


def stops(run_race, rule_of, runs=400, trial=0.75, incumbent=0.75, seed=0):
    """The epoch after which each simulated trial is stopped, or None."""
    rng, stopped = np.random.default_rng(seed), []
    for _ in range(runs):
        hard = films(rng)
        best, other = curve(rng, hard, incumbent), curve(rng, hard, trial)
        stopped.append(run_race([best, other], rule_of(best)).stopped[1])  # the incumbent is fixed beforehand
    return stopped


def test_an_equal_trial_is_behind_as_rarely_as_the_p_value_says():
    """One look: 5 %, with a standard error of 0.9 % over 600 runs."""
    rng, p_values = np.random.default_rng(1), []
    for _ in range(600):
        hard = films(rng)
        a, b = (curve(rng, hard, 0.75).scores[0] for _ in range(2))
        p_values.append(lag_p_value(Y, FOLDS, PATIENT, a, b))
    assert 0.025 < np.mean(np.array(p_values) < 0.05) < 0.075
    assert np.mean(np.array(p_values) < 0.01) < 0.025


def test_an_equal_or_better_trial_is_never_behind():
    score = np.random.default_rng(2).normal(size=90)
    assert lag_p_value(Y, FOLDS, PATIENT, score, score) == 1.0
    assert lag_p_value(Y, FOLDS, PATIENT, score + Y, score) == 1.0
    assert not is_behind(Y, FOLDS, PATIENT, score, score, confidence=0.5)
    assert is_behind(Y, FOLDS, PATIENT, score - Y, score + Y, confidence=0.99)


def test_a_standard_error_that_is_zero_or_unknown():
    """Zero if all pairs are wrong against all right; unknown with one patient of a class in each fold."""
    assert lag_p_value(Y, FOLDS, PATIENT, 1 - Y, Y) == 0.0
    assert lag_p_value([0, 1, 0, 1], [0, 0, 1, 1], None, [1, 0, 1, 0], [0, 1, 0, 1]) == 1.0


@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_looks_spend_the_whole_budget_and_no_more(power):
    looks = budget(40, first=8, every=8, confidence=0.9, power=power)
    assert list(looks) == [8, 16, 24, 32]
    assert sum(looks.values()) == pytest.approx(0.1)
    assert min(looks.values()) > 0


def test_a_high_power_spends_late():
    assert budget(40, 8, 8, power=1) == pytest.approx(dict.fromkeys([8, 16, 24, 32], 0.0125))
    assert budget(40, 8, 8, power=3)[8] == pytest.approx(0.05 / 64)


def test_a_budget_without_looks_is_empty():
    assert budget(8, first=8, every=1) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 0}, "at least 1 epoch"),
        ({"every": 0}, "at least 1 epoch"),
        ({"confidence": 1.0}, "confidence must lie between"),
        ({"power": 0}, "power must be above 0"),
    ],
)
def test_an_invalid_budget_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        budget(**{"epochs": 40, "first": 8, "every": 8, **change})


@pytest.mark.parametrize("power", [1, 3])
def test_equal_trials_are_stopped_within_the_budget(race, run_race, power):
    """Over all looks together, 5 %; 400 runs have a standard error of 1.1 %."""
    rule = race(Y, FOLDS, PATIENT, budget(EPOCHS, 4, 4, power=power))
    stopped = stops(run_race, lambda best: rule, seed=3)
    assert np.mean([epoch is not None for epoch in stopped]) < 0.07


def test_rising_curves_are_compared_at_the_same_epoch(race, run_race):
    """Both rise from 0.55 to 0.85. Compared with the incumbent's last epoch, almost all would be stopped."""
    rising = np.linspace(0.55, 0.85, EPOCHS)
    rule = race(Y, FOLDS, PATIENT, LOOKS)

    def unfair(best):
        at_its_end = best._replace(scores=np.repeat(best.scores[-1:], EPOCHS, 0))
        return lambda so_far, complete: rule(so_far, [at_its_end])

    fair = stops(run_race, lambda best: rule, runs=100, trial=rising, incumbent=rising, seed=4)
    trapped = stops(run_race, unfair, runs=100, trial=rising, incumbent=rising, seed=4)
    assert np.mean([epoch is not None for epoch in fair]) < 0.1
    assert np.mean([epoch is not None for epoch in trapped]) > 0.8


def test_hopeless_trials_are_stopped_early(race, run_race):
    """Chance against 0.9: nearly all by the second of four looks, at epoch 8 of 20."""
    rule = race(Y, FOLDS, PATIENT, LOOKS)
    stopped = stops(run_race, lambda best: rule, runs=60, trial=0.5, incumbent=0.9, seed=5)
    assert np.mean([epoch is not None and epoch <= 8 for epoch in stopped]) > 0.9


def test_a_late_winner_is_lost_by_an_early_look_and_kept_by_a_late_one(race, run_race):
    """No test of an early epoch can predict it; a replay of recorded curves measures it."""
    rng = np.random.default_rng(6)
    hard = films(rng)
    steady = curve(rng, hard, 0.8)
    late = curve(rng, hard, np.r_[np.full(8, 0.4), np.linspace(0.4, 0.97, 12)])
    early_look, late_look = (
        run_race([steady, late], race(Y, FOLDS, PATIENT, budget(EPOCHS, first, 4))) for first in (4, 16)
    )
    assert early_look.wrong == (1,)
    assert early_look.regret == pytest.approx(0.17)
    assert late_look.wrong == ()
    assert (late_look.winner, late_look.regret, late_look.epochs_saved) == (1, 0, 0)


def test_epochs_and_regret_are_counted(run_race):
    """The rule stops trials with a value of 0.5 or less, or of 0.9, at their second epoch."""
    figures = [(0.6, 0.60), (0.5, 0.50), (0.9, 0.80), (0.7, 0.75), (0.4, 0.40)]
    curves = [Curve(np.full((5, 1), value), value, test) for value, test in figures]
    seen = []

    def rule(so_far, complete):
        seen.append((len(so_far), [c.value for c in complete]))
        return len(so_far) == 2 and (so_far[0, 0] <= 0.5 or so_far[0, 0] == 0.9)

    result = run_race(curves, rule)
    assert result.stopped == (None, 2, 2, None, 2)
    assert (result.epochs_used, result.epochs_saved) == (16, 9)
    assert result.winner == 3
    assert (result.regret, result.test_regret) == pytest.approx((0.2, 0.05))
    assert result.wrong == (2,)
    assert seen[0] == (1, [0.6])
    assert seen[-1] == (2, [0.6, 0.7])  # no later trial, none that was stopped
    assert max(epoch for epoch, _ in seen) == 4  # the last epoch saves nothing


def test_a_rule_that_stops_nothing_saves_and_loses_nothing(run_race):
    curves = [Curve(np.zeros((3, 1)), value, value) for value in (0.1, 0.3, 0.2)]
    result = run_race(curves, lambda so_far, complete: False)
    assert result == ReplayResult(9, 0, (None,) * 3, winner=1, regret=0, test_regret=0, wrong=())


def test_a_trial_races_against_the_best_complete_one_unless_that_ended_earlier(race):
    rng = np.random.default_rng(7)
    hard = films(rng)
    good, bad = curve(rng, hard, 0.95), curve(rng, hard, 0.5)
    rule = race(Y, FOLDS, PATIENT, LOOKS)
    assert rule(bad.scores[:8], [bad, good])
    assert not rule(bad.scores[:8], [good._replace(value=0.0), bad])
    assert not rule(bad.scores[:7], [good])  # no look
    assert not rule(bad.scores[:8], [])
    assert not rule(bad.scores[:8], [good._replace(scores=good.scores[:7])])
