import numpy as np
import pytest

from cgn.data.breast import find_breast, prepare
from cgn.data.datasets import phantom

SIZE = 96


def records(pairs=12, seed=0, size=SIZE):
    return phantom.scan(phantom.Options(pairs=pairs, seed=seed), size).records


def prepared(record):
    films = record.load()
    region = find_breast(films.target.pixels, films.target.bits)
    target = prepare(*films.target, SIZE, record.boxes, region)
    counterfactual = prepare(*films.counterfactual, SIZE, region=region)
    return target, prepare(*films.reference, SIZE), counterfactual


def same(a, b):
    return all(np.array_equal(x.pixels, y.pixels) for x, y in zip(a.load(), b.load(), strict=True))


def test_a_pair_depends_only_on_seed_and_number():
    few, many, other = records(3), records(12), records(3, seed=1)
    assert same(few[2], many[2])
    assert few[2].boxes == many[2].boxes
    assert same(few[1], few[1])
    assert not same(few[2], other[2])
    assert len({r.pair_id for r in (*many, *other)}) == 15


def test_half_are_malignant_and_both_sides_occur():
    forty = records(40)
    assert sum(r.label for r in forty) == 20
    assert {r.side for r in forty} == {"L", "R"}


def test_a_second_view_is_of_the_same_breast_and_does_not_change_the_first():
    one, two = records(4), phantom.scan(phantom.Options(pairs=4, views=2), SIZE).records
    mlo, cc = two[::2], two[1::2]
    assert [r.view for r in two] == ["MLO", "CC"] * 4
    assert all(
        a.pair_id == b.pair_id and a.boxes == b.boxes and same(a, b) for a, b in zip(one, mlo, strict=True)
    )
    for a, b in zip(mlo, cc, strict=True):
        assert (a.patient_id, a.study_id, a.side, a.label) == (b.patient_id, b.study_id, b.side, b.label)
        assert a.boxes != b.boxes
        assert not same(a, b)


@pytest.mark.parametrize("index", range(8))
def test_the_counterfactual_differs_only_at_the_lesion(index):
    record = records()[index]
    films = record.load()
    changed = films.target.pixels != films.counterfactual.pixels
    x0, y0, x1, y1 = (int(v) for v in record.boxes[0])
    more = max(x1 - x0, y1 - y0) // 2  # the lesion fades out softly
    around = np.zeros_like(changed)
    around[max(y0 - more, 0) : y1 + more, max(x0 - more, 0) : x1 + more] = True
    assert not changed[~around].any()
    assert changed[y0:y1, x0:x1].mean() > 0.5
    added = films.target.pixels.astype(int) - films.counterfactual.pixels
    assert added.min() >= 0
    assert added[y0:y1, x0:x1].sum() > 0.85 * added.sum()


@pytest.mark.parametrize("index", range(8))
def test_the_prepared_counterfactual_differs_only_at_the_lesion(index):
    target, _, counterfactual = prepared(records()[index])
    assert target.crop == counterfactual.crop
    x0, y0, x1, y1 = target.boxes[0]
    more = 0.6 * max(x1 - x0, y1 - y0)
    rows, columns = np.nonzero(target.pixels != counterfactual.pixels)
    assert len(rows)
    assert rows.min() > y0 - more
    assert rows.max() < y1 + more
    assert columns.min() > x0 - more
    assert columns.max() < x1 + more


def test_the_reference_is_the_healthy_twin_not_the_lesion():
    """Where the lesion is, the reference is nearer to the counterfactual than to the target."""
    nearer = 0
    for record in records(20):
        target, reference, counterfactual = prepared(record)
        x0, y0, x1, y1 = (round(v) for v in target.boxes[0])
        spot = np.s_[y0:y1, x0:x1]
        far, near = (
            np.abs(image.pixels[spot].astype(int) - reference.pixels[spot]).mean()
            for image in (target, counterfactual)
        )
        nearer += near < far
    assert nearer >= 17


def test_the_sides_share_their_cause_but_are_not_the_same():
    for record in records(6):
        _, reference, counterfactual = prepared(record)
        inside = (reference.pixels > 30) & (counterfactual.pixels > 30)
        correlation = np.corrcoef(reference.pixels[inside], counterfactual.pixels[inside])[0, 1]
        assert 0.4 < correlation < 0.99


def test_healthy_films_never_are_the_true_counterfactual():
    options = phantom.Options(pairs=4)
    films = {prepare(*film.load(), 64).pixels.tobytes(): film for film in phantom.healthy_films(options, 64)}
    assert len(films) == 3 * 4
    for record in phantom.scan(options, 64).records:
        target, reference, counterfactual = record.load()
        assert films[prepare(*reference, 64).pixels.tobytes()].reference_of == record.pair_id
        region = find_breast(target.pixels, target.bits)
        for image in (prepare(*target, 64), prepare(*counterfactual, 64, region=region)):
            assert image.pixels.tobytes() not in films


def test_films_are_like_films():
    film = records()[0].load().target
    assert film.bits == 14
    assert film.pixels.dtype == np.uint16
    assert film.pixels.max() > 2**13
    rows, columns = film.pixels.shape
    assert rows > columns >= 2 * SIZE


def test_a_malignant_lesion_is_ragged_and_denser():
    def added(record):
        films = record.load()
        return films.target.pixels.astype(int) - films.counterfactual.pixels

    def box_filled(record):
        x0, y0, x1, y1 = (int(v) for v in record.boxes[0])
        patch = added(record)[y0:y1, x0:x1]
        return (patch > patch.max() / 2).mean()

    thirty = records(30)
    benign, malignant = [r for r in thirty if not r.label], [r for r in thirty if r.label]
    assert max(map(box_filled, malignant)) < min(map(box_filled, benign))
    assert np.mean([added(r).max() for r in malignant]) > np.mean([added(r).max() for r in benign])
