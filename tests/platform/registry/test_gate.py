"""What the gate refuses, with which message and which number."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn.errors import ConfigError
from cgn.statistics import Interval
from cgn_platform.registry.gate import (
    Candidate,
    Champion,
    Check,
    ReloadResult,
    Requirements,
    WinnerAuc,
    evaluate,
)
from cgn_platform.store.out_of_fold import OutOfFold
from cgn_platform.text import measured_auc

UNCHANGED = ReloadResult(difference=0.0)


def scores_of(
    seed: int = 0, skill: float = 2.0, seeds: int = 1, cases: int = 90, localized: float = 0.6
) -> OutOfFold:
    """Five folds; pairs, labels and folds are the same for all arguments."""
    label, rng = np.arange(cases) % 2, np.random.default_rng(seed)
    return OutOfFold(
        index=np.arange(cases),
        label=label,
        fold=np.arange(cases) // 2 % 5,
        patient=np.array([f"w{case // 2}" for case in range(cases)]),
        score=skill * label + rng.standard_normal((seeds, cases)),
        localized=np.where(label == 1, (rng.random((seeds, cases)) < localized).astype(float), np.nan),
        cache="c0",
        splits="s0",
    )


def candidate(measured: OutOfFold | None = None, **changes: object) -> Candidate:
    return replace(Candidate(5, (), measured or scores_of(), None, UNCHANGED), **changes)


def named(checks: tuple[Check, ...], name: str) -> Check:
    (named_check,) = (check for check in checks if check.name == name)
    return named_check


def test_the_first_candidate_passes_with_every_figure_in_its_line() -> None:
    verdict = evaluate(candidate(), None, Requirements(min_auc=0.6))
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["units", "auc", "champion", "reload"]
    auc = scores_of().auc()
    words = (
        f"AUC: {auc.estimate:.3f} [{auc.low:.3f}, {auc.high:.3f}], better than chance, must be above 0.600"
    )
    assert named(verdict.checks, "auc").words == words
    assert named(verdict.checks, "units").words == "units: 5 of 5 are complete and match the row"


def test_a_missing_unit_refuses_and_nothing_is_measured() -> None:
    fault = "no unit 3f in runs/units: 'cgn units' lists the existing ones"
    incomplete = Candidate(5, (fault,), None, None, None)
    verdict = evaluate(incomplete, Champion("3", scores_of()), Requirements())
    assert [check.name for check in verdict.refusals] == ["units", "auc", "champion", "reload"]
    assert named(verdict.checks, "units").words == (
        f"units: 4 of 5 are complete and match the row, must be all of them: {fault}"
    )
    assert named(verdict.checks, "auc").words == (
        "AUC: not measured because units are missing or damaged, must be above 0.500"
    )
    assert "champion (version 3): not measured" in named(verdict.checks, "champion").words


def test_an_auc_that_is_too_low_is_refused_with_its_number() -> None:
    weak = scores_of(skill=0.2)
    verdict = evaluate(candidate(weak), None, Requirements(min_auc=0.75))
    (refusal,) = verdict.refusals
    assert refusal.words.endswith("must be above 0.750")
    assert refusal.figure == weak.auc().estimate
    # The bound itself is not above it.
    exact = Requirements(min_auc=weak.auc().estimate)
    assert not evaluate(candidate(weak), None, exact).passed
    assert evaluate(candidate(weak), None, Requirements(min_auc=math.nextafter(exact.min_auc, 0))).passed


def test_the_winner_of_a_search_is_evaluated_by_its_corrected_auc() -> None:
    subject = candidate(winner=WinnerAuc(0.612, Interval(0.553, 0.45, 0.65)))
    (refusal,) = evaluate(subject, None, Requirements(min_auc=0.6)).refusals
    assert refusal.words.startswith(
        f"AUC: test folds {measured_auc(scores_of().auc())}; validation folds, which selected it, 0.612, "
    )
    assert refusal.words.endswith(
        "corrected for the selection 0.553 [0.450, 0.650]; "
        "the lower one of test and corrected AUC must be above 0.600"
    )
    assert (refusal.figure, refusal.demand) == (0.553, 0.6)
    assert evaluate(subject, None, Requirements(min_auc=0.55)).passed
    # Epochs were selected on the same validation pairs, which BBC-CV does not correct.
    weak = scores_of(skill=0.1)
    (refusal,) = evaluate(
        candidate(weak, winner=WinnerAuc(0.8, Interval(0.77, 0.7, 0.85))), None, Requirements(min_auc=0.7)
    ).refusals
    assert refusal.figure == weak.auc().estimate
    (refusal,) = evaluate(candidate(winner=WinnerAuc(0.7, None)), None, Requirements()).refusals
    assert "a unit of a trial is missing: run the sweep's command again" in refusal.words


def test_a_worse_candidate_is_refused_on_the_same_cases() -> None:
    worse = scores_of(1, skill=0.5)
    champion = Champion("7", replace(scores_of(2, skill=3.0), localized=worse.localized))
    (refusal,) = evaluate(candidate(worse), champion, Requirements(margin=0.05)).refusals
    assert refusal.name == "difference"
    assert refusal.words.startswith("champion (version 7): difference of AUC -0.")
    assert refusal.words.endswith("the lower bound must be above -0.050")
    assert refusal.figure is not None
    wide = Requirements(margin=math.nextafter(-refusal.figure, 1))
    assert evaluate(candidate(worse), champion, wide).passed or wide.margin >= 1
    assert not evaluate(candidate(worse), champion, Requirements(margin=-refusal.figure)).passed


def test_a_worse_localisation_is_refused_and_not_compared_without_annotations() -> None:
    ours, theirs = scores_of(localized=0.2), scores_of(localized=0.9)
    (refusal,) = evaluate(candidate(ours), Champion("1", theirs), Requirements()).refusals
    assert refusal.name == "localisation"
    assert refusal.words.startswith("champion (version 1): difference of localisation error +0.")
    assert refusal.words.endswith("the upper bound must be below +0.050")
    blank = np.full_like(ours.localized, np.nan)
    verdict = evaluate(
        candidate(replace(ours, localized=blank)),
        Champion("1", replace(theirs, localized=blank)),
        Requirements(),
    )
    assert verdict.passed
    assert "not compared, no lesion is annotated" in named(verdict.checks, "localisation").words


@pytest.mark.parametrize(
    ("champion", "why"),
    [
        (Champion("2", replace(scores_of(), cache="c1")), "it was tested on cache c1, this one on c0"),
        (Champion("2", replace(scores_of(), splits="s1")), "it was tested on splits s1, this one on s0"),
        (
            Champion("2", None, "its units are missing or damaged: no unit 3f"),
            "its units are missing or damaged: no",
        ),
        (Champion("2", scores_of(cases=80)), "it was tested on other pairs"),
    ],
)
def test_what_cannot_be_paired_is_refused_unless_it_is_accepted(champion: Champion, why: str) -> None:
    (refusal,) = evaluate(candidate(), champion, Requirements()).refusals
    assert refusal.words.startswith(f"champion (version 2): cannot be compared case by case, {why}")
    assert refusal.words.endswith("; to promote it anyway, give --accept-unpaired, which is recorded")
    verdict = evaluate(candidate(), champion, Requirements(accept_unpaired=True))
    assert verdict.passed
    assert "accepted without a comparison (--accept-unpaired)" in named(verdict.checks, "champion").words


def test_what_can_be_paired_is_compared_even_if_unpaired_is_accepted() -> None:
    champion = Champion("7", scores_of(2, skill=3.0))
    assert not evaluate(
        candidate(scores_of(1, skill=0.5)), champion, Requirements(accept_unpaired=True)
    ).passed


@pytest.mark.parametrize(
    ("reload", "words"),
    [
        (
            ReloadResult(difference=1e-9),
            "reload: predictions for the stored probe differ by 1e-09, must be 0",
        ),
        (
            ReloadResult(difference=math.nan),
            "reload: predictions for the stored probe differ by nan, must be 0",
        ),
        (
            ReloadResult(error="fold_0.safetensors is damaged"),
            "cannot be loaded again: fold_0.safetensors is",
        ),
    ],
)
def test_a_model_that_predicts_something_else_after_reloading_is_refused(
    reload: ReloadResult, words: str
) -> None:
    (refusal,) = evaluate(candidate(reload=reload), None, Requirements()).refusals
    assert words in refusal.words


def test_all_reasons_are_reported_at_once() -> None:
    subject = candidate(scores_of(1, skill=0.1, localized=0.1), reload=ReloadResult(difference=0.5))
    verdict = evaluate(
        subject, Champion("1", scores_of(2, skill=3.0, localized=1.0)), Requirements(min_auc=0.9)
    )
    assert [check.name for check in verdict.refusals] == ["auc", "difference", "localisation", "reload"]
    assert not any("\n" in check.words for check in verdict.checks)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    skill=st.floats(0, 3),
    seeds=st.integers(1, 3),
    localized=st.floats(0, 1),
    margin=st.floats(1e-9, 1),
)
def test_a_candidate_equal_to_the_champion_is_not_worse(
    seed: int, skill: float, seeds: int, localized: float, margin: float
) -> None:
    same = scores_of(seed, skill, seeds, 40, localized)
    verdict = evaluate(candidate(same), Champion("1", same), Requirements(0.0, margin))
    assert named(verdict.checks, "difference").passed
    assert named(verdict.checks, "localisation").passed
    none = evaluate(candidate(same), Champion("1", same), Requirements(0.0, 0.0))
    assert not named(none.checks, "difference").passed  # the difference 0 is not above a margin of 0


def test_seeds_of_both_sides_may_differ_in_number() -> None:
    verdict = evaluate(
        candidate(scores_of(seeds=3)), Champion("1", scores_of(seeds=1)), Requirements(margin=0.5)
    )
    assert verdict.passed


@pytest.mark.parametrize("values", [{"min_auc": 1.5}, {"margin": -0.1}])
def test_requirements_outside_0_and_1_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\] but got"):
        Requirements(**values)


def test_a_candidate_at_chance_is_described_as_such() -> None:
    weak = scores_of(skill=0.0)
    words = named(evaluate(candidate(weak), None, Requirements(min_auc=0)).checks, "auc").words
    assert ", not distinguishable from chance, must be above 0.000" in words
