"""Tests of the symmetric prior (Sec. IV-D), and distances of counterfactual features (Sec. IV-F).

A distance is between the sets of cells of two feature maps, one value per pair (reading 31): a map of `h x w`
cells is a sample of `hw` vectors. Every pair therefore has a distance, which can be tested and averaged, and
the cells of a lesion can be left out.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from cgn import backbones, files, methods, sealed
from cgn.config import Config
from cgn.data import datasets, leaks
from cgn.data.boxes import Box
from cgn.data.breast import Preprocessing
from cgn.data.datasets import DatasetOptions
from cgn.data.preparation import PreparedPair, prepare_pairs
from cgn.data.records import PairRecord, Rejection
from cgn.errors import ConfigError, DataError
from cgn.fit import network_of
from cgn.images import EVALUATION_BATCH, Images
from cgn.methods import Counterfactual, Features
from cgn.metrics import auc, frechet_distance
from cgn.results import FoldResult

Floats = NDArray[np.float64]
Grey = NDArray[np.uint8]
Columns = dict[str, Floats]
"""Named measurements, one row per pair; NaN where one is undefined."""

PUBLISHED: Mapping[str, float] = {
    "target_reference": 56.15,
    "counterfactual_reference": 27.04,
    "target_counterfactual": 25.42,
    "target_counterfactual_outside": 0.60,
}
"""Sec. IV-F, mean distances on INBreast. The scale of features is arbitrary: compare ratios."""


# ------------------------------------------------------------------------------ Sec. IV-F, counterfactuals


def counterfactual_distances(features: Features, boxes: Sequence[Sequence[Box]], size: int) -> Columns:
    """Sec. IV-F. Frechet distances of each pair and, with a true counterfactual, the distances to it.

    Args:
        features: `(n, C, h, w)` each.
        boxes: lesions of each target, in pixels of the image.
        size: side of the image in pixels.

    Returns:
        The names of `PUBLISHED`, where "outside" means the cells that touch no lesion. For phantoms also
        `<name>_truth_<where>`: the mean squared distance of the target's, the reference's or the
        counterfactual's features to those of the true counterfactual, inside and outside of the lesions.
    """
    h_t, h_r, h_c = (_cells(h) for h in features[:3])
    inside = np.stack([lesion_cells(b, size, *features.target.shape[2:]).ravel() for b in boxes])
    columns = {
        "target_reference": _frechet(h_t, h_r),
        "counterfactual_reference": _frechet(h_c, h_r),
        "target_counterfactual": _frechet(h_t, h_c),
        "target_counterfactual_outside": _frechet(h_t, h_c, inside),
    }
    if features.truth is not None:
        truth = _cells(features.truth)
        for name, h in (("target", h_t), ("reference", h_r), ("counterfactual", h_c)):
            squared = np.square(h - truth).sum(2)
            columns[f"{name}_truth_inside"] = _mean_where(squared, inside)
            columns[f"{name}_truth_outside"] = _mean_where(squared, ~inside)
    return columns


def measure_counterfactuals(network: nn.Module, images: Images, index: NDArray[np.int64]) -> Columns:
    """`counterfactual_distances` of these pairs, on which the network should not have been trained.

    Raises:
        ConfigError: the network generates no counterfactual features.
    """
    parts = []
    for chunk in torch.split(torch.as_tensor(index.copy()), EVALUATION_BATCH):
        boxes = [images.pairs.boxes[i] for i in chunk.tolist()]
        features = _generating(network.eval()).features(images.batch(chunk))
        parts.append(counterfactual_distances(features, boxes, images.pairs.size))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure_folds(config: Config, images: Images, folds: Sequence[FoldResult]) -> Columns:
    """Distances of each test pair by the network of its fold; `index` is the row of the pair."""
    device, parts = str(images.device), []
    for fold in folds:
        index = fold.predictions.index
        measured = measure_counterfactuals(network_of(config, fold.state, device), images, index)
        parts.append({"index": index.astype(np.float64)} | measured)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check(config: Config) -> None:
    """Raise ConfigError, before training, if a configuration generates no counterfactual features."""
    _generating(methods.build(config.edit(backbone_weights="none")))


def _generating(network: nn.Module) -> Counterfactual:
    if not (isinstance(network, Counterfactual) and network.generates):
        raise ConfigError(
            "only a method that generates counterfactual features can be measured but this configuration "
            "generates none: choose method=cgn with bilateral=adain_gan, bf_gan or tf_gan"
        )
    return network


def summary(columns: Columns) -> dict[str, float]:
    """Means over the pairs; for phantoms also `truth_ratio`.

    `truth_ratio` is the mean squared distance of H_C to the true features divided by that of H_T, inside the
    lesions: below 1, H_C is nearer to the truth than H_T.
    """
    means = {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        for name, values in columns.items()
        if name != "index"
    }
    if "target_truth_inside" in means:
        means["truth_ratio"] = means["counterfactual_truth_inside"] / means["target_truth_inside"]
    return means


def write_rows(columns: Columns, path: Path) -> None:
    """Write a JSON list with one object per pair; null where a distance is undefined.

    Raises:
        ConfigError: the file cannot be written.
    """
    rows = [
        {name: None if np.isnan(value) else float(value) for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
    try:
        files.write(path, sealed.plain(rows))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def lesion_cells(boxes: Sequence[Box], size: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Cells of a `rows x columns` grid over the image that share a pixel with a lesion's box."""
    x, y = (np.arange(n + 1) * (size / n) for n in (columns, rows))
    mask = np.zeros((rows, columns), bool)
    for x0, y0, x1, y1 in boxes:
        across, down = (x[:-1] < x1) & (x[1:] > x0), (y[:-1] < y1) & (y[1:] > y0)
        mask |= down[:, None] & across[None]
    return mask


def _cells(h: Tensor) -> Floats:
    """(n, C, h, w) -> (n, hw, C)"""
    return np.asarray(h.flatten(2).transpose(1, 2).double().cpu().numpy())


def _frechet(a: Floats, b: Floats, without: NDArray[np.bool_] | None = None) -> Floats:
    """One distance per pair, `without` some cells; NaN if a pair has none of these, or too few others."""
    if without is None:
        return np.array([frechet_distance(x, y) for x, y in zip(a, b, strict=True)])
    return np.array(
        [
            frechet_distance(x[~removed], y[~removed]) if removed.any() and (~removed).sum() > 1 else np.nan
            for x, y, removed in zip(a, b, without, strict=True)
        ]
    )


def _mean_where(values: Floats, where: NDArray[np.bool_]) -> Floats:
    count = where.sum(1)
    total = np.where(where, values, 0.0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


# ---------------------------------------------------------------------- Sec. IV-D, the bilateral prior


class BilateralTest(NamedTuple):
    """Eq. 15. H_1: the sides of healthy pairs are less distant on average than those of unhealthy pairs."""

    healthy: int  # pairs
    unhealthy: int
    mean_healthy: float  # Frechet distance
    mean_unhealthy: float
    t: float
    p_value: float  # one-sided
    auc: float  # share of (healthy, unhealthy) combinations in which the unhealthy pair is more distant


def bilateral_test(healthy: Floats, unhealthy: Floats) -> BilateralTest:
    """Eq. 15, by Welch's t-test (Welch 1947), one-sided: unequal variances, independent pairs.

    Args:
        healthy, unhealthy: `(n,)` and `(m,)` distances between the two sides of a pair.

    Raises:
        DataError: fewer than two pairs of a kind.
    """
    if min(len(healthy), len(unhealthy)) < 2:
        raise DataError(
            f"a test needs two pairs of each kind but got {len(healthy)} healthy, {len(unhealthy)} unhealthy"
        )
    result = stats.ttest_ind(healthy, unhealthy, equal_var=False, alternative="less")
    kinds = np.repeat([0, 1], [len(healthy), len(unhealthy)])
    return BilateralTest(
        len(healthy),
        len(unhealthy),
        float(np.mean(healthy)),
        float(np.mean(unhealthy)),
        float(result.statistic),
        float(result.pvalue),
        auc(kinds, np.concatenate([healthy, unhealthy])),
    )


def symmetry_test(
    dataset: str, options: DatasetOptions, size: int, extractors: Mapping[str, "FeatureFunction"]
) -> tuple[dict[str, BilateralTest], tuple[Rejection, ...]]:
    """Sec. IV-D on a data set: its healthy pairs against the pairs with a lesion on one side only.

    Args:
        dataset, options: as for a cache.
        size: side of the prepared images in pixels.
        extractors: functions that compute the features to compare, by name.

    Returns:
        Eq. 15 by the name of the features, and the pairs that could not be prepared.

    Raises:
        ConfigError: the data set does not state which pairs are healthy.
        NotADatasetError: as its scan.
    """
    module = datasets.load(dataset)
    if not hasattr(module, "healthy"):
        raise ConfigError(
            f"dataset {dataset} must state which pairs are healthy but does not: "
            f"take one of {', '.join(with_healthy_pairs())}"
        )
    scan = module.scan(options, size)
    one_sided = [record for record in scan.records if not record.reference_has_lesion]
    unhealthy, unhealthy_rejected = prepare_sides(one_sided, size, sandboxed=scan.sandboxed)
    healthy, healthy_rejected = prepare_sides(module.healthy(options, size), size, sandboxed=scan.sandboxed)
    tests = {
        name: bilateral_test(*(bilateral_distances(sides, extractor) for sides in (healthy, unhealthy)))
        for name, extractor in extractors.items()
    }
    return tests, unhealthy_rejected + healthy_rejected


def with_healthy_pairs() -> list[str]:
    """Data sets that `symmetry_test` can be run on."""
    return [name for name in datasets.names() if hasattr(datasets.load(name), "healthy")]


FeatureFunction = Callable[[Grey], Tensor]
"""Images `(n, size, size)` -> features `(n, C, h, w)`."""


def bilateral_distances(sides: Grey, extractor: FeatureFunction) -> Floats:
    """Sec. IV-D. Frechet distance between the two sides of each pair. (n, 2, size, size) -> (n,)"""
    left, right = (_cells(extractor(np.ascontiguousarray(sides[:, k]))) for k in range(2))
    return _frechet(left, right)


def grey_cells(images: Grey, cells: int = 16) -> Tensor:
    """Mean and standard deviation of the grey values in each of `cells x cells` patches; nothing is learned.

    (n, size, size) -> (n, 2, cells, cells), in [0, 1]
    """
    x = torch.tensor(images).unsqueeze(1).float() / 255
    mean = nn.functional.adaptive_avg_pool2d(x, cells)
    square = nn.functional.adaptive_avg_pool2d(x.square(), cells)
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)


def trunk(name: str, weights: str = "none", seed: int = 0) -> FeatureFunction:
    """Features of a fixed backbone: pre-trained, or with random weights from `seed` for "none"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbones.load(name, weights).eval()

    @torch.no_grad()
    def extract(images: Grey) -> Tensor:
        chunks = torch.split(torch.tensor(images).unsqueeze(1), EVALUATION_BATCH)
        return torch.cat([network(chunk.float() / 255) for chunk in chunks])

    return extract


def prepare_sides(
    records: Sequence[PairRecord], size: int, *, sandboxed: bool = False
) -> tuple[Grey, tuple[Rejection, ...]]:
    """Both sides of each pair, prepared as for training, `(n, 2, size, size)`; and the pairs that failed."""
    outcomes = dict(prepare_pairs(records, Preprocessing(size), sandboxed=sandboxed))
    pairs = leaks.without_contradictions(records, [outcomes[number] for number in range(len(records))])
    sides = [np.stack([p.target.pixels, p.reference.pixels]) for p in pairs if isinstance(p, PreparedPair)]
    rejected = tuple(pair for pair in pairs if isinstance(pair, Rejection))
    return np.array(sides, np.uint8).reshape(-1, 2, size, size), rejected
