"""Is the symmetric prior there (Sec. IV-D), and are the counterfactual features what they should be (IV-F)?

Distances are between the sets of cells of two feature maps, one value a pair (reading 31): a pair's map of
`h x w` cells is a sample of `hw` vectors, so that every pair has a distance, which a test can use and a mean
can summarise, and so that cells of a lesion can be left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from cgn import backbones
from cgn.data.datasets import PairRecord
from cgn.data.pairs import Box
from cgn.data.workers import PreparedPair, Rejection, prepare_pairs
from cgn.errors import ConfigError, DataError
from cgn.fit import EVALUATION_BATCH, Images
from cgn.methods import Counterfactual, Features
from cgn.metrics import auc, frechet_distance

Floats = NDArray[np.float64]
Grey = NDArray[np.uint8]
Columns = dict[str, Floats]
"""Named measurements, a row a pair; NaN where one cannot be taken."""

PUBLISHED: Mapping[str, float] = {
    "target_reference": 56.15,
    "counterfactual_reference": 27.04,
    "target_counterfactual": 25.42,
    "target_counterfactual_outside": 0.60,
}
"""Sec. IV-F, mean distances on INBreast. Features have a scale of their own: compare ratios."""


# ------------------------------------------------------------------------------ Sec. IV-F, counterfactuals


def counterfactual_distances(features: Features, boxes: Sequence[Sequence[Box]], size: int) -> Columns:
    """Sec. IV-F. Frechet distances of each pair; with a true counterfactual, the distances to it too.

    Args:
        features: `(n, C, h, w)` each.
        boxes: lesions of each target, in pixels of the image.
        size: side of the image in pixels.

    Returns:
        The names of `PUBLISHED`, "outside" being the cells that touch no lesion; for phantoms
        `<whose>_truth_<where>`, the mean squared distance of a cell of the target's, the reference's or
        the counterfactual's features to the truth's, inside and outside of the lesions.
    """
    h_t, h_r, h_c = (_cells(h) for h in features[:3])
    inside = np.stack([touched(b, size, *features.target.shape[2:]).ravel() for b in boxes])
    columns = {
        "target_reference": _frechet(h_t, h_r),
        "counterfactual_reference": _frechet(h_c, h_r),
        "target_counterfactual": _frechet(h_t, h_c),
        "target_counterfactual_outside": _frechet(h_t, h_c, inside),
    }
    if features.truth is not None:
        truth = _cells(features.truth)
        for whose, h in (("target", h_t), ("reference", h_r), ("counterfactual", h_c)):
            squared = np.square(h - truth).sum(2)
            columns[f"{whose}_truth_inside"] = _mean_where(squared, inside)
            columns[f"{whose}_truth_outside"] = _mean_where(squared, ~inside)
    return columns


def measure_counterfactuals(network: nn.Module, images: Images, index: NDArray[np.int64]) -> Columns:
    """`counterfactual_distances` of these pairs, which the network should not have been trained on.

    Raises:
        ConfigError: the network makes no counterfactual features.
    """
    parts = []
    for chunk in torch.split(torch.as_tensor(index.copy()), EVALUATION_BATCH):
        boxes = [images.pairs.boxes[i] for i in chunk.tolist()]
        parts.append(counterfactual_distances(features_of(network, images, chunk), boxes, images.pairs.size))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def features_of(network: nn.Module, images: Images, index: Tensor) -> Features:
    """H_T, H_R, H_C of these pairs. Raises ConfigError where the network makes none."""
    if not isinstance(network, Counterfactual):
        raise ConfigError(
            f"{type(network).__name__} makes no counterfactual features to measure: take method=cgn"
        )
    return network.eval().features(images.batch(index))


def summary(columns: Columns) -> dict[str, float]:
    """Means over the pairs; for phantoms also `nearer`, below 1 where H_C is nearer to the truth than H_T.

    It is the ratio of their mean squared distances to the true features, inside the lesions.
    """
    means = {name: float(np.nanmean(v)) if np.isfinite(v).any() else np.nan for name, v in columns.items()}
    if "target_truth_inside" in means:
        means["nearer"] = means["counterfactual_truth_inside"] / means["target_truth_inside"]
    return means


def touched(boxes: Sequence[Box], size: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Which cells of a `rows x columns` grid over the image share a pixel with a lesion's box."""
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
    """A distance a pair; `without` some cells: NaN where there are none of them, or no others."""
    if without is None:
        return np.array([frechet_distance(x, y) for x, y in zip(a, b, strict=True)])
    return np.array(
        [
            frechet_distance(x[~gone], y[~gone]) if gone.any() and (~gone).sum() > 1 else np.nan
            for x, y, gone in zip(a, b, without, strict=True)
        ]
    )


def _mean_where(values: Floats, where: NDArray[np.bool_]) -> Floats:
    count = where.sum(1)
    total = np.where(where, values, 0.0).sum(1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


# ---------------------------------------------------------------------- Sec. IV-D, the bilateral prior


class BilateralTest(NamedTuple):
    """Eq. 15. H_1: the sides of healthy pairs are less distant on average than those of unhealthy ones."""

    healthy: int  # pairs
    unhealthy: int
    mean_healthy: float  # Frechet distance
    mean_unhealthy: float
    t: float
    p_value: float  # one-sided
    auc: float  # how often an unhealthy pair has the larger distance of two


def bilateral_test(healthy: Floats, unhealthy: Floats) -> BilateralTest:
    """Eq. 15, by Welch's t-test (Welch 1947), one-sided: unequal variances, independent pairs.

    Args:
        healthy, unhealthy: `(n,)` and `(m,)` distances between the two sides of a pair.
    """
    if min(len(healthy), len(unhealthy)) < 2:
        raise DataError(
            f"a test needs two pairs of each kind but got {len(healthy)} healthy, {len(unhealthy)} unhealthy"
        )
    result = stats.ttest_ind(healthy, unhealthy, equal_var=False, alternative="less")
    which = np.repeat([0, 1], [len(healthy), len(unhealthy)])
    return BilateralTest(
        len(healthy),
        len(unhealthy),
        float(np.mean(healthy)),
        float(np.mean(unhealthy)),
        float(result.statistic),
        float(result.pvalue),
        auc(which, np.concatenate([healthy, unhealthy])),
    )


Extractor = Callable[[Grey], Tensor]
"""Images `(n, size, size)` -> features `(n, C, h, w)`."""


def bilateral_distances(sides: Grey, extractor: Extractor) -> Floats:
    """Sec. IV-D. Frechet distance between the two sides of each pair. (n, 2, size, size) -> (n,)"""
    left, right = (_cells(extractor(np.ascontiguousarray(sides[:, k]))) for k in range(2))
    return _frechet(left, right)


def grey_cells(images: Grey, cells: int = 16) -> Tensor:
    """Mean and deviation of the grey values in each of `cells x cells` patches: nothing is learned or drawn.

    (n, size, size) -> (n, 2, cells, cells), in [0, 1]
    """
    x = torch.tensor(images).unsqueeze(1).float() / 255
    mean = nn.functional.adaptive_avg_pool2d(x, cells)
    square = nn.functional.adaptive_avg_pool2d(x.square(), cells)
    return torch.cat([mean, (square - mean.square()).clamp_min(0).sqrt()], 1)


def trunk(name: str, weights: str = "none", seed: int = 0) -> Extractor:
    """A fixed backbone: pre-trained where there are weights, else drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = backbones.load(name, weights).eval()

    @torch.no_grad()
    def extract(images: Grey) -> Tensor:
        chunks = torch.split(torch.tensor(images).unsqueeze(1), EVALUATION_BATCH)
        return torch.cat([network(chunk.float() / 255) for chunk in chunks])

    return extract


def sides_of(
    records: Sequence[PairRecord], size: int, *, contained: bool = False
) -> tuple[Grey, tuple[Rejection, ...]]:
    """Both sides of each pair, prepared as for training, `(n, 2, size, size)`; and what could not be read."""
    outcomes = dict(prepare_pairs(records, size, "keep", contained=contained))
    pairs = [outcomes[number] for number in range(len(records))]
    sides = [np.stack([p.target.pixels, p.reference.pixels]) for p in pairs if isinstance(p, PreparedPair)]
    rejected = tuple(pair for pair in pairs if isinstance(pair, Rejection))
    return np.array(sides, np.uint8).reshape(-1, 2, size, size), rejected
