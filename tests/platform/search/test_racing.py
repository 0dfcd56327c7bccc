import numpy as np
import pytest
from scipy import stats

from cgn.errors import ConfigError
from cgn.racing import Curve, budget, chance_of_lag, loses, race, replay

EPOCHS = 20
PATIENT = np.arange(90) // 2  # 45 patients of two films, nine a fold
Y, FOLDS = (PATIENT % 9 < 5).astype(int), PATIENT // 9
LOOKS = budget(EPOCHS, first=4, every=4)


def films(rng):
    """What makes a film hard for every network; films of a patient share half of it."""
    return np.sqrt(0.5) * (rng.normal(size=45)[PATIENT] + rng.normal(size=90))


def curve(rng, hard, auc):
    """A trial whose true AUC at each epoch is `auc`; its own noise moves slowly from epoch to epoch."""
    own = rng.normal(size=(EPOCHS, 90))
    for epoch in range(1, EPOCHS):
        own[epoch] = 0.8 * own[epoch - 1] + 0.6 * own[epoch]
    effect = np.sqrt(2) * stats.norm.ppf(np.broadcast_to(auc, EPOCHS))[:, None]
    scores = effect * Y + np.sqrt(0.5) * (hard + own)
    end = float(np.broadcast_to(auc, EPOCHS)[-1])
    return Curve(scores, end, end)


def share_stopped(rule_of, runs=400, trial=0.75, incumbent=0.75, seed=0):
    rng, stopped = np.random.default_rng(seed), []
    for _ in range(runs):
        hard = films(rng)
        best, other = curve(rng, hard, incumbent), curve(rng, hard, trial)
        # the incumbent is the one fixed beforehand, whatever its value came to be
        stopped.append(replay([best, other], rule_of(best)).stopped[1])
    return stopped


def test_an_equal_trial_lags_as_seldom_as_is_said():
    """One look: 5 %, with a standard error of 0.9 % over 600 runs."""
    rng, chances = np.random.default_rng(1), []
    for _ in range(600):
        hard = films(rng)
        a, b = (curve(rng, hard, 0.75).scores[0] for _ in range(2))
        chances.append(chance_of_lag(Y, FOLDS, PATIENT, a, b))
    assert 0.025 < np.mean(np.array(chances) < 0.05) < 0.075
    assert np.mean(np.array(chances) < 0.01) < 0.025


def test_what_is_the_same_or_better_never_loses():
    score = np.random.default_rng(2).normal(size=90)
    assert chance_of_lag(Y, FOLDS, PATIENT, score, score) == 1.0
    assert chance_of_lag(Y, FOLDS, PATIENT, score + Y, score) == 1.0
    assert not loses(Y, FOLDS, PATIENT, score, score, confidence=0.5)
    assert loses(Y, FOLDS, PATIENT, score - Y, score + Y, confidence=0.99)


def test_where_the_error_is_zero_or_unknown():
    """All wrong against all right has no error left; a patient of a class a fold leaves it unknown."""
    assert chance_of_lag(Y, FOLDS, PATIENT, 1 - Y, Y) == 0.0
    assert chance_of_lag([0, 1, 0, 1], [0, 0, 1, 1], None, [1, 0, 1, 0], [0, 1, 0, 1]) == 1.0


@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_looks_spend_the_whole_budget_and_no_more(power):
    looks = budget(40, first=8, every=8, confidence=0.9, power=power)
    assert list(looks) == [8, 16, 24, 32]
    assert sum(looks.values()) == pytest.approx(0.1)
    assert min(looks.values()) > 0


def test_a_high_power_spends_late():
    assert budget(40, 8, 8, power=1) == pytest.approx(dict.fromkeys([8, 16, 24, 32], 0.0125))
    assert budget(40, 8, 8, power=3)[8] == pytest.approx(0.05 / 64)


def test_no_look_no_budget():
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
def test_a_budget_that_cannot_be_is_said(change, message):
    with pytest.raises(ConfigError, match=message):
        budget(**{"epochs": 40, "first": 8, "every": 8, **change})


@pytest.mark.parametrize("power", [1, 3])
def test_equal_trials_are_stopped_within_the_budget(power):
    """Over all looks together, 5 %; 400 runs have a standard error of 1.1 %."""
    rule = race(Y, FOLDS, PATIENT, budget(EPOCHS, 4, 4, power=power))
    stopped = share_stopped(lambda best: rule, seed=3)
    assert np.mean([epoch is not None for epoch in stopped]) < 0.07


def test_a_rising_curve_is_measured_at_its_own_epoch():
    """Both rise from 0.55 to 0.85. Against the incumbent's last epoch every equal would be stopped."""
    rising = np.linspace(0.55, 0.85, EPOCHS)
    rule = race(Y, FOLDS, PATIENT, LOOKS)

    def unfair(best):
        at_its_end = best._replace(scores=np.repeat(best.scores[-1:], EPOCHS, 0))
        return lambda so_far, complete: rule(so_far, [at_its_end])

    fair = share_stopped(lambda best: rule, runs=100, trial=rising, incumbent=rising, seed=4)
    trapped = share_stopped(unfair, runs=100, trial=rising, incumbent=rising, seed=4)
    assert np.mean([epoch is not None for epoch in fair]) < 0.1
    assert np.mean([epoch is not None for epoch in trapped]) > 0.8


def test_strong_losers_are_stopped_early():
    """Chance against 0.9: nearly all by the second of four looks, at epoch 8 of 20."""
    rule = race(Y, FOLDS, PATIENT, LOOKS)
    stopped = share_stopped(lambda best: rule, runs=60, trial=0.5, incumbent=0.9, seed=5)
    assert np.mean([epoch is not None and epoch <= 8 for epoch in stopped]) > 0.9


def test_a_late_bloomer_is_lost_by_an_early_look_and_kept_by_a_late_one():
    """What no test of an early epoch can know, a replay of recorded curves shows."""
    rng = np.random.default_rng(6)
    hard = films(rng)
    steady = curve(rng, hard, 0.8)
    late = curve(rng, hard, np.r_[np.full(8, 0.4), np.linspace(0.4, 0.97, 12)])
    early_look, late_look = (
        replay([steady, late], race(Y, FOLDS, PATIENT, budget(EPOCHS, first, 4))) for first in (4, 16)
    )
    assert early_look.wrong == (1,)
    assert early_look.regret == pytest.approx(0.17)
    assert late_look.wrong == ()
    assert (late_look.winner, late_look.regret, late_look.epochs_saved) == (1, 0, 0)


def test_replay_counts_epochs_and_regret():
    """Stops at its second epoch whatever is given the value 0.5 or less, or 0.9."""
    given = [(0.6, 0.60), (0.5, 0.50), (0.9, 0.80), (0.7, 0.75), (0.4, 0.40)]
    curves = [Curve(np.full((5, 1), value), value, test) for value, test in given]
    seen = []

    def rule(so_far, complete):
        seen.append((len(so_far), [c.value for c in complete]))
        return len(so_far) == 2 and (so_far[0, 0] <= 0.5 or so_far[0, 0] == 0.9)

    result = replay(curves, rule)
    assert result.stopped == (None, 2, 2, None, 2)
    assert (result.epochs_used, result.epochs_saved) == (16, 9)
    assert result.winner == 3
    assert (result.regret, result.test_regret) == pytest.approx((0.2, 0.05))
    assert result.wrong == (2,)
    assert seen[0] == (1, [0.6])
    assert seen[-1] == (2, [0.6, 0.7])  # no later trial, none that was stopped
    assert max(epoch for epoch, _ in seen) == 4  # the last epoch saves nothing


def test_without_a_rule_nothing_is_saved_or_lost():
    curves = [Curve(np.zeros((3, 1)), value, value) for value in (0.1, 0.3, 0.2)]
    assert replay(curves, lambda so_far, complete: False) == (9, 0, (None,) * 3, 1, 0, 0, ())
    with pytest.raises(ValueError, match="at least one"):
        replay([], lambda so_far, complete: False)


def test_the_race_is_against_the_best_complete_trial_that_got_so_far():
    rng = np.random.default_rng(7)
    hard = films(rng)
    good, bad = curve(rng, hard, 0.95), curve(rng, hard, 0.5)
    rule = race(Y, FOLDS, PATIENT, LOOKS)
    assert rule(bad.scores[:8], [bad, good])
    assert not rule(bad.scores[:8], [good._replace(value=0.0), bad])
    assert not rule(bad.scores[:7], [good])  # no look
    assert not rule(bad.scores[:8], [])
    assert not rule(bad.scores[:8], [good._replace(scores=good.scores[:7])])
