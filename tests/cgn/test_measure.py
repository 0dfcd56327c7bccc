import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cgn import measure
from cgn.ablation import Bilateral
from cgn.data.datasets import phantom
from cgn.errors import ConfigError, DataError, Reason, UnreadableImageError
from cgn.fit import fit, last, network_of
from cgn.images import Images
from cgn.methods import Features, build
from cgn.metrics import frechet_distance


def maps(seed: int, n: int = 3, channels: int = 4, side: int = 6) -> torch.Tensor:
    return torch.randn((n, channels, side, side), generator=torch.Generator().manual_seed(seed))


LESIONS = [((0.0, 0.0, 20.0, 11.0),), ((59.0, 59.0, 60.0, 60.0), (0.0, 20.0, 10.0, 30.0)), ()]  # of 60 pixels


def test_lesion_cells_share_a_pixel_with_a_box():
    grid = measure.lesion_cells(LESIONS[0], 60, 6, 6)
    assert grid[:2, :2].all()  # rows 0 to 10: a pixel of the second row of cells too
    assert grid.sum() == 4
    assert np.argwhere(measure.lesion_cells(LESIONS[1], 60, 6, 6)).tolist() == [[2, 0], [5, 5]]
    assert not measure.lesion_cells((), 60, 6, 6).any()


def test_frechet_distances_are_between_the_cells_of_a_pair():
    h_t, h_r, h_c = maps(0), maps(1), maps(2)
    found = measure.counterfactual_distances(Features(h_t, h_r, h_c, None), LESIONS, 60)
    assert set(found) == set(measure.PUBLISHED)
    cells = [h[1].flatten(1).T.double().numpy() for h in (h_t, h_r, h_c)]
    assert found["target_reference"][1] == pytest.approx(frechet_distance(cells[0], cells[1]))
    assert found["counterfactual_reference"][1] == pytest.approx(frechet_distance(cells[2], cells[1]))
    kept = ~measure.lesion_cells(LESIONS[1], 60, 6, 6).ravel()
    outside = frechet_distance(cells[0][kept], cells[2][kept])
    assert found["target_counterfactual_outside"][1] == pytest.approx(outside)
    assert np.isnan(found["target_counterfactual_outside"]).tolist() == [False, False, True]


def test_a_counterfactual_that_differs_only_in_the_lesion_has_distance_0_outside():
    """As in Theorem III.1: Eq. 3 holds outside, and the features are the true ones everywhere."""
    h_t, h_r = maps(0), maps(1)
    mask = torch.tensor(np.stack([measure.lesion_cells(b, 60, 6, 6) for b in LESIONS])).unsqueeze(1)
    truth = torch.where(mask, h_r, h_t)
    columns = measure.counterfactual_distances(Features(h_t, h_r, truth, truth), LESIONS, 60)
    means = measure.summary(columns)
    assert means["target_counterfactual_outside"] == pytest.approx(0, abs=1e-6)
    assert means["target_counterfactual"] > 0.01
    assert means["truth_ratio"] == 0
    assert means["target_truth_outside"] == 0 == means["reference_truth_inside"]
    copied = measure.counterfactual_distances(Features(h_t, h_r, h_t, truth), LESIONS, 60)
    assert measure.summary(copied)["truth_ratio"] == 1
    inside = (h_t - truth).square().sum(1)[0][mask[0, 0]].mean()
    assert copied["target_truth_inside"][0] == pytest.approx(float(inside), rel=1e-5)
    assert np.isnan(copied["target_truth_inside"][2])  # no lesion is annotated


def facts(columns):
    return {name: values.tobytes() for name, values in columns.items()}


def test_a_trained_fold_is_measured_on_its_test_pairs(tiny, pairs, splits, tmp_path):
    images, split = Images(pairs), splits[0]
    result = last(fit(tiny, images, split))
    network = network_of(tiny, result.state)
    columns = measure.measure_counterfactuals(network, images, split.test)
    of_fold = measure.measure_folds(tiny, images, [result])
    assert np.array_equal(of_fold.pop("index"), split.test)
    assert facts(of_fold) == facts(columns)
    measure.write_rows(columns, tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows[1]["target_reference"] == columns["target_reference"][1]
    assert rows[0]["target_truth_inside"] is None  # benign pairs have no annotated lesion
    assert {len(values) for values in columns.values()} == {len(split.test)}
    assert np.isfinite(measure.summary(columns)["truth_ratio"])
    blind = Images(replace(pairs, counterfactual=None))
    assert set(measure.measure_counterfactuals(network, blind, split.test)) == set(measure.PUBLISHED)


def test_a_method_without_counterfactuals_is_refused(tiny, pairs):
    index = np.arange(2)
    with pytest.raises(ConfigError, match="only a method that generates counterfactual features"):
        measure.check(tiny.edit(bilateral=Bilateral.SBF))
    measure.check(tiny)
    with pytest.raises(ConfigError, match="only a method that generates counterfactual features"):
        measure.measure_counterfactuals(build(tiny.edit(bilateral=Bilateral.ORACLE)), Images(pairs), index)
    with pytest.raises(ConfigError, match="only a method that generates counterfactual features"):
        measure.measure_counterfactuals(torch.nn.Identity(), Images(pairs), index)


def test_eq_15_is_one_sided():
    rng = np.random.default_rng(0)
    healthy, unhealthy = rng.normal(1, 0.2, 40), rng.normal(1.3, 0.6, 60)
    found = measure.bilateral_test(healthy, unhealthy)
    two_sided = stats.ttest_ind(healthy, unhealthy, equal_var=False).pvalue
    assert found.p_value == pytest.approx(two_sided / 2)
    assert measure.bilateral_test(unhealthy, healthy).p_value == pytest.approx(1 - two_sided / 2)
    assert (found.healthy, found.unhealthy, found.t < 0, found.auc > 0.5) == (40, 60, True, True)
    with pytest.raises(DataError, match="two pairs of each kind but got 1 healthy"):
        measure.bilateral_test(healthy[:1], unhealthy)


def test_the_symmetric_prior_holds_on_phantoms_and_only_with_lesions():
    """Sec. IV-D: lesions increase the distance between sides; two samples of healthy pairs do not differ."""
    options = phantom.Options(pairs=60)
    unhealthy, rejected = measure.prepare_sides(phantom.scan(options, 64).records, 64)
    healthy, _ = measure.prepare_sides(phantom.healthy(options, 64), 64)
    assert (unhealthy.shape, healthy.shape, rejected) == ((60, 2, 64, 64), (60, 2, 64, 64), ())
    extractor = measure.trunk("tiny")
    a, b = (measure.bilateral_distances(sides, extractor) for sides in (healthy, unhealthy))
    assert measure.bilateral_test(a, b).p_value < 0.05
    assert measure.bilateral_test(a[:30], a[30:]).p_value > 0.05


def test_features_do_not_depend_on_the_global_generator():
    sides = np.random.default_rng(0).integers(0, 255, (2, 2, 32, 32), np.uint8)
    torch.manual_seed(5)
    first = measure.bilateral_distances(sides, measure.trunk("tiny", seed=1))
    torch.manual_seed(6)
    assert np.array_equal(first, measure.bilateral_distances(sides, measure.trunk("tiny", seed=1)))
    assert not np.array_equal(first, measure.bilateral_distances(sides, measure.trunk("tiny", seed=2)))
    assert measure.bilateral_distances(np.stack([sides[:, 0]] * 2, 1), measure.grey_cells) == pytest.approx(0)


def test_grey_cells_are_means_and_deviations():
    image = np.zeros((1, 32, 32), np.uint8)
    image[0, :2, :1] = 255
    mean, deviation = measure.grey_cells(image)[0]
    assert (mean[0, 0], deviation[0, 0]) == (0.5, 0.5)
    assert mean[1:].sum() == deviation[1:].sum() == 0


def test_an_unreadable_film_rejects_only_its_pair():
    def broken():
        raise UnreadableImageError("torn", Reason.TRUNCATED)

    records = list(phantom.scan(phantom.Options(pairs=3), 32).records)
    records[1] = replace(records[1], load=broken)
    sides, rejected = measure.prepare_sides(records, 32)
    assert len(sides) == 2
    assert [str(why) for why in rejected] == [f"{records[1].pair_id}: one film: torn"]


def test_the_same_films_of_two_women_are_left_out():
    records = list(phantom.scan(phantom.Options(pairs=3), 32).records)
    records[1] = replace(records[1], load=records[0].load)
    sides, rejected = measure.prepare_sides(records, 32)
    assert len(sides) == 1
    assert [pair.reason for pair in rejected] == [Reason.SAME_FILM] * 2


def test_the_symmetry_test_needs_a_data_set_with_healthy_pairs(tmp_path):
    assert "phantom" in measure.with_healthy_pairs()
    options = phantom.Options(pairs=10)
    tests, rejected = measure.symmetry_test("phantom", options, 32, {"grey values": measure.grey_cells})
    assert list(tests) == ["grey values"]
    assert (tests["grey values"].healthy, tests["grey values"].unhealthy, rejected) == (10, 10, ())
    with pytest.raises(ConfigError, match="dataset cbis must state which pairs are healthy"):
        measure.symmetry_test("cbis", options, 32, {})
