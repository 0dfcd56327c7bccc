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


@settings(max_examples=25)
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
    ("folds", "message"), [(2, "at least 3"), (9, "folds must not exceed .* 9 > 4 malignant")]
)
def test_folds_that_cannot_be(folds, message):
    label = np.array([0] * 16 + [1] * 4)
    with pytest.raises(ConfigError, match=message):
        make_splits(label, np.arange(20).astype(str), folds)


@settings(max_examples=25)
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
    [((8, 0, 1), "three positive numbers but got 8:0:1"), ((98, 1, 1), "no 98:1:1 division with")],
)
def test_divisions_that_cannot_be(parts, message):
    with pytest.raises(ConfigError, match=message):
        make_split(np.arange(20) % 2, np.arange(20).astype(str), parts)


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
