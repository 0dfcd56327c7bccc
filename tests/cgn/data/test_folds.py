import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn.data.folds import SplitPlan, make_split, make_splits, named, numbered, splits_fingerprint
from cgn.errors import ConfigError


def cohort(patients, seed=0):
    """One or two pairs a patient, labels at random but enough of both."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 3, patients))
    label = (rng.random(len(patient)) < 0.45).astype(np.int64)
    return label, np.array([f"p{p:03d}" for p in patient])


@settings(max_examples=25, deadline=None)
@given(st.integers(40, 120), st.integers(3, 6), st.integers(0, 9))
def test_no_patient_is_in_two_parts_and_every_pair_is_tested_once(patients, folds, seed):
    label, patient = cohort(patients, seed)
    splits = make_splits(label, patient, folds, seed)
    tested = np.concatenate([s.test for s in splits])
    assert sorted(tested) == list(range(len(label)))
    for split in splits:
        parts = [set(patient[part]) for part in (split.train, split.val, split.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert len(split.train) + len(split.val) + len(split.test) == len(label)
        assert set(split.val) == set(splits[(split.fold + 1) % folds].test)


def test_the_classes_are_spread_evenly():
    label, patient = cohort(100)
    for split in make_splits(label, patient):
        assert label[split.test].mean() == pytest.approx(label.mean(), abs=0.08)


def test_the_same_seed_gives_the_same_folds_and_another_others():
    label, patient = cohort(60)
    names = [f"x{i}" for i in range(len(label))]
    prints = [splits_fingerprint(names, make_splits(label, patient, seed=s)) for s in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_indices_are_read_only_and_can_be_named_and_numbered_again():
    label, patient = cohort(60)
    names = [f"x{i}" for i in range(len(label))]
    splits = make_splits(label, patient)
    back = numbered(names, named(names, splits))
    assert splits_fingerprint(names, back) == splits_fingerprint(names, splits)
    with pytest.raises(ValueError, match="read-only"):
        back[0].test[0] = 1


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (2, "folds must be at least 3"),
        (
            9,
            "9 folds must have at least 9 patients of each class but the malignant class has 4: use at",
        ),
    ],
)
def test_folds_that_cannot_be(folds, message):
    label = np.array([0] * 16 + [1] * 4)
    with pytest.raises(ConfigError, match=message):
        make_splits(label, np.arange(20).astype(str), folds)


@settings(max_examples=25, deadline=None)
@given(st.integers(60, 150), st.integers(0, 9))
def test_a_division_keeps_patients_together_and_comes_near_its_proportion(patients, seed):
    label, patient = cohort(patients, seed)
    (split,) = make_split(label, patient, (8, 1, 1), seed)
    parts = [split.train, split.val, split.test]
    assert sorted(np.concatenate(parts)) == list(range(len(label)))
    owners = [set(patient[part]) for part in parts]
    assert len(set.union(*owners)) == sum(map(len, owners))
    for part, share in zip(parts, (0.8, 0.1, 0.1), strict=True):
        for value in (0, 1):
            assert (label[part] == value).sum() == pytest.approx(share * (label == value).sum(), abs=2.5)


def test_a_division_is_drawn_by_its_seed():
    label, patient = cohort(90)
    names = [f"x{i}" for i in range(len(label))]
    prints = [splits_fingerprint(names, make_split(label, patient, seed=s)) for s in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((8, 0, 1), "three positive numbers but got 8:0:1"),
        (
            (8, 1, 1),
            "8:1:1 must have at least 3 patients of each class but the malignant class has 2: add films",
        ),
    ],
)
def test_divisions_that_cannot_be(parts, message):
    with pytest.raises(ConfigError, match=message):
        make_split(np.array([0] * 18 + [1] * 2), np.arange(20).astype(str), parts)


@st.composite
def small_cohorts(draw):
    """A few patients, each with one to four pairs of any classes."""
    pairs = draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=3, max_size=12))
    label = np.array([value for values in pairs for value in values], np.int64)
    return label, np.array([f"p{n}" for n, values in enumerate(pairs) for _ in values])


def possible(label, patient, parts):
    return all(len(set(patient[label == value])) >= parts for value in (0, 1))


@settings(max_examples=200, deadline=None)
@given(small_cohorts(), st.integers(3, 6), st.integers(0, 3))
def test_folds_are_drawn_exactly_where_each_class_has_enough_patients(cohort, folds, seed):
    label, patient = cohort
    if not possible(label, patient, folds):
        with pytest.raises(ConfigError, match=f"{folds} folds must have at least {folds} patients"):
            make_splits(label, patient, folds, seed)
        return
    for split in make_splits(label, patient, folds, seed):
        parts = [split.train, split.val, split.test]
        assert all(set(label[part]) == {0, 1} for part in parts)
        owners = [set(patient[part]) for part in parts]
        assert len(set.union(*owners)) == sum(map(len, owners))


@settings(max_examples=200, deadline=None)
@given(small_cohorts(), st.sampled_from([(8, 1, 1), (1, 1, 1), (98, 1, 1), (1, 8, 3)]), st.integers(0, 3))
def test_a_division_is_drawn_exactly_where_each_class_has_enough_patients(cohort, parts, seed):
    label, patient = cohort
    if not possible(label, patient, 3):
        with pytest.raises(ConfigError, match="must have at least 3 patients of each class"):
            make_split(label, patient, parts, seed)
        return
    (split,) = make_split(label, patient, parts, seed)
    rows = [split.train, split.val, split.test]
    assert all(set(label[part]) == {0, 1} for part in rows)
    assert sorted(np.concatenate(rows)) == list(range(len(label)))
    owners = [set(patient[part]) for part in rows]
    assert len(set.union(*owners)) == sum(map(len, owners))


def test_three_malignant_women_can_be_divided():
    label = np.array([0] * 57 + [1] * 3)
    (split,) = make_split(label, np.arange(60).astype(str), (8, 1, 1))
    assert [int(label[rows].sum()) for rows in (split.train, split.val, split.test)] == [1, 1, 1]
    assert [len(rows) for rows in (split.train, split.val, split.test)] == pytest.approx([48, 6, 6], abs=2)


def test_splits_of_earlier_versions_are_drawn_again():
    """Recorded before the rule was extended: folds of a cache never change."""
    label, patient = cohort(60)
    names = [f"x{i}" for i in range(len(label))]
    plans = (
        SplitPlan(5),
        SplitPlan(3, seed=4),
        SplitPlan(parts=(8, 1, 1)),
        SplitPlan(parts=(2, 1, 1), seed=3),
    )
    recorded = ["2118ca951023d22b", "679693e9b29b8b9a", "65782840fc7c0891", "afc3f5664261bbb6"]
    assert [splits_fingerprint(names, plan.draw(label, patient)) for plan in plans] == recorded


def test_folds_do_not_depend_on_the_names_of_patients():
    """Another key gives other pseudonyms, in another alphabetical order, and the same folds."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 2
    patients = np.repeat(np.arange(30), 2)
    names = [np.array([f"{rng.integers(10**9)}-{i}" for i in range(30)]) for _ in range(2)]
    for plan in (SplitPlan(5), SplitPlan(parts=(8, 1, 1))):
        one, two = (plan.draw(label, name[patients]) for name in names)
        for a, b in zip(one, two, strict=True):
            assert a.test.tolist() == b.test.tolist()
            assert a.val.tolist() == b.val.tolist()


def test_a_plan_draws_folds_or_one_division():
    label, patient = cohort(60)
    names = [f"x{i}" for i in range(len(label))]
    plan = SplitPlan(4, seed=1)
    drawn, expected = plan.draw(label, patient), make_splits(label, patient, 4, 1)
    assert splits_fingerprint(names, drawn) == splits_fingerprint(names, expected)
    assert plan.facts() == {"folds": 4, "seed": 1}
    (division,) = SplitPlan(parts=(2, 1, 1), seed=3).draw(label, patient)
    assert division.test.tolist() == make_split(label, patient, (2, 1, 1), 3)[0].test.tolist()
    assert SplitPlan(parts=(2, 1, 1), seed=3).facts() == {"parts": [2, 1, 1], "seed": 3}
