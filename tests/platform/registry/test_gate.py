"""What the gate refuses, in which words, with which number."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn.errors import ConfigError
from cgn.statistics import Interval
from cgn_platform.registry.gate import Candidate, Champion, Check, Choice, Demands, Reload, judge
from cgn_platform.store.out_of_fold import OutOfFold

WHOLE = Reload(difference=0.0)


def scores_of(
    seed: int = 0, skill: float = 2.0, seeds: int = 1, cases: int = 90, found: float = 0.6
) -> OutOfFold:
    """Five folds; the same pairs, labels and folds whatever is asked for."""
    label, rng = np.arange(cases) % 2, np.random.default_rng(seed)
    return OutOfFold(
        index=np.arange(cases),
        label=label,
        fold=np.arange(cases) // 2 % 5,
        patient=np.array([f"w{case // 2}" for case in range(cases)]),
        score=skill * label + rng.standard_normal((seeds, cases)),
        localized=np.where(label == 1, (rng.random((seeds, cases)) < found).astype(float), np.nan),
        cache="c0",
        splits="s0",
    )


def candidate(measured: OutOfFold | None = None, **changes: object) -> Candidate:
    return replace(Candidate(5, (), measured or scores_of(), None, WHOLE), **changes)


def named(checks: tuple[Check, ...], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def test_the_first_one_passes_with_every_figure_in_its_line() -> None:
    verdict = judge(candidate(), None, Demands(min_auc=0.6))
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["units", "auc", "champion", "reload"]
    auc = scores_of().auc()
    told = f"AUC: {auc.estimate:.3f} [{auc.low:.3f}, {auc.high:.3f}], must be above 0.600"
    assert named(verdict.checks, "auc").words == told
    assert named(verdict.checks, "units").words == "units: 5 of 5 are whole and belong together"


def test_a_missing_unit_refuses_and_nothing_is_measured() -> None:
    fault = "no unit 3f in runs/units: 'cgn units' lists those there are"
    asks = Candidate(5, (fault,), None, None, None)
    verdict = judge(asks, Champion("3", scores_of()), Demands())
    assert [check.name for check in verdict.refusals] == ["units", "auc", "champion", "reload"]
    assert named(verdict.checks, "units").words == (
        f"units: 4 of 5 are whole and belong together, must be all of them: {fault}"
    )
    assert named(verdict.checks, "auc").words == (
        "AUC: not measured, because its units are not whole, must be above 0.500"
    )
    assert "champion (version 3): not measured" in named(verdict.checks, "champion").words


def test_an_auc_that_is_too_low_is_refused_with_its_number() -> None:
    weak = scores_of(skill=0.2)
    verdict = judge(candidate(weak), None, Demands(min_auc=0.75))
    (refusal,) = verdict.refusals
    assert refusal.words.endswith("must be above 0.750")
    assert refusal.figure == weak.auc().estimate
    # The bound itself is not above it.
    exact = Demands(min_auc=weak.auc().estimate)
    assert not judge(candidate(weak), None, exact).passed
    assert judge(candidate(weak), None, Demands(min_auc=math.nextafter(exact.min_auc, 0))).passed


def test_a_searchs_winner_is_judged_by_its_corrected_figure() -> None:
    asks = candidate(choice=Choice(0.612, Interval(0.553, 0.45, 0.65)))
    (refusal,) = judge(asks, None, Demands(min_auc=0.6)).refusals
    assert refusal.words.startswith(
        "AUC: 0.612 as it was chosen by, corrected 0.553 [0.450, 0.650], test folds "
    )
    assert refusal.words.endswith("; the lower one of the last two must be above 0.600")
    assert (refusal.figure, refusal.demand) == (0.553, 0.6)
    assert judge(asks, None, Demands(min_auc=0.55)).passed
    # Epochs were chosen on the same validation pairs, which BBC-CV does not take away.
    weak = scores_of(skill=0.1)
    (refusal,) = judge(
        candidate(weak, choice=Choice(0.8, Interval(0.77, 0.7, 0.85))), None, Demands(min_auc=0.7)
    ).refusals
    assert refusal.figure == weak.auc().estimate
    (refusal,) = judge(candidate(choice=Choice(0.7, None)), None, Demands()).refusals
    assert "a unit of a trial is missing: run the sweep's command again" in refusal.words


def test_a_worse_one_is_refused_on_the_same_cases() -> None:
    worse = scores_of(1, skill=0.5)
    champion = Champion("7", replace(scores_of(2, skill=3.0), localized=worse.localized))
    (refusal,) = judge(candidate(worse), champion, Demands(margin=0.05)).refusals
    assert refusal.name == "difference"
    assert refusal.words.startswith("champion (version 7): difference of AUC -0.")
    assert refusal.words.endswith("the lower end must be above -0.050")
    assert refusal.figure is not None
    wide = Demands(margin=math.nextafter(-refusal.figure, 1))
    assert judge(candidate(worse), champion, wide).passed or wide.margin >= 1
    assert not judge(candidate(worse), champion, Demands(margin=-refusal.figure)).passed


def test_a_worse_localisation_is_refused_and_does_not_apply_where_nothing_is_marked() -> None:
    ours, theirs = scores_of(found=0.2), scores_of(found=0.9)
    (refusal,) = judge(candidate(ours), Champion("1", theirs), Demands()).refusals
    assert refusal.name == "localisation"
    assert refusal.words.startswith("champion (version 1): difference of localisation error +0.")
    assert refusal.words.endswith("the upper end must be below +0.050")
    blank = np.full_like(ours.localized, np.nan)
    verdict = judge(
        candidate(replace(ours, localized=blank)), Champion("1", replace(theirs, localized=blank)), Demands()
    )
    assert verdict.passed
    assert "does not apply, no lesion is marked" in named(verdict.checks, "localisation").words


@pytest.mark.parametrize(
    ("champion", "why"),
    [
        (Champion("2", replace(scores_of(), cache="c1")), "it was tested on cache c1, this one on c0"),
        (Champion("2", replace(scores_of(), splits="s1")), "it was tested on splits s1, this one on s0"),
        (Champion("2", None, "its units are not whole: no unit 3f"), "its units are not whole: no unit 3f"),
        (Champion("2", scores_of(cases=80)), "it was tested on other pairs"),
    ],
)
def test_what_cannot_be_paired_is_refused_unless_somebody_takes_it_upon_them(
    champion: Champion, why: str
) -> None:
    (refusal,) = judge(candidate(), champion, Demands()).refusals
    assert refusal.words == (
        f"champion (version 2): cannot be compared case by case, {why}; "
        "if it shall pass all the same, give --accept-unpaired, which is recorded"
    )
    verdict = judge(candidate(), champion, Demands(accept_unpaired=True))
    assert verdict.passed
    assert "accepted all the same (--accept-unpaired)" in named(verdict.checks, "champion").words


def test_what_can_be_paired_is_compared_whatever_is_accepted() -> None:
    champion = Champion("7", scores_of(2, skill=3.0))
    assert not judge(candidate(scores_of(1, skill=0.5)), champion, Demands(accept_unpaired=True)).passed


@pytest.mark.parametrize(
    ("reload", "words"),
    [
        (Reload(difference=1e-9), "reload: what it says of the stored probe differs by 1e-09, must be 0"),
        (Reload(difference=math.nan), "reload: what it says of the stored probe differs by nan, must be 0"),
        (Reload(error="fold_0.safetensors is damaged"), "cannot be loaded again: fold_0.safetensors is"),
    ],
)
def test_a_model_that_does_not_come_back_is_refused(reload: Reload, words: str) -> None:
    (refusal,) = judge(candidate(reload=reload), None, Demands()).refusals
    assert words in refusal.words


def test_all_reasons_are_told_at_once() -> None:
    asks = candidate(scores_of(1, skill=0.1, found=0.1), reload=Reload(difference=0.5))
    verdict = judge(asks, Champion("1", scores_of(2, skill=3.0, found=1.0)), Demands(min_auc=0.9))
    assert [check.name for check in verdict.refusals] == ["auc", "difference", "localisation", "reload"]
    assert not any("\n" in check.words for check in verdict.checks)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    skill=st.floats(0, 3),
    seeds=st.integers(1, 3),
    found=st.floats(0, 1),
    margin=st.floats(1e-9, 1),
)
def test_whoever_equals_the_champion_is_not_worse(
    seed: int, skill: float, seeds: int, found: float, margin: float
) -> None:
    same = scores_of(seed, skill, seeds, 40, found)
    verdict = judge(candidate(same), Champion("1", same), Demands(0.0, margin))
    assert named(verdict.checks, "difference").passed
    assert named(verdict.checks, "localisation").passed
    none = judge(candidate(same), Champion("1", same), Demands(0.0, 0.0))
    assert not named(none.checks, "difference").passed  # nothing is above its own margin of nothing


def test_seeds_of_both_sides_may_differ_in_number() -> None:
    verdict = judge(candidate(scores_of(seeds=3)), Champion("1", scores_of(seeds=1)), Demands(margin=0.5))
    assert verdict.passed


@pytest.mark.parametrize("demands", [{"min_auc": 1.5}, {"margin": -0.1}])
def test_demands_that_cannot_be_are_refused(demands: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\] but got"):
        Demands(**demands)
