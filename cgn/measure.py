"""Is the symmetric prior there (Sec. IV-D), and are the counterfactual features what they should be (IV-F)?

Distances are between the sets of cells of two feature maps, one value a pair (reading 31): a pair's map of
`h x w` cells is a sample of `hw` vectors, so that every pair has a distance, which a test can use and a mean
can summarise, and so that cells of a lesion can be left out.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from cgn import backbones, methods
from cgn.config import Config
from cgn.data import datasets
from cgn.data.boxes import Box
from cgn.data.breast import Preprocessing
from cgn.data.datasets import DatasetOptions
from cgn.data.preparation import PreparedPair, prepare_pairs
from cgn.data.records import PairRecord, Rejection
from cgn.errors import ConfigError, DataError
from cgn.fit import EVALUATION_BATCH, Images, network_of
from cgn.methods import Counterfactual, Features
from cgn.metrics import auc, frechet_distance
from cgn.results import FoldResult

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
        features = _generating(network.eval()).features(images.batch(chunk))
        parts.append(counterfactual_distances(features, boxes, images.pairs.size))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure_folds(config: Config, images: Images, folds: Sequence[FoldResult]) -> Columns:
    """Each test pair by the network of the fold that did not see it; with `index`, its row of the pairs."""
    device, parts = str(images.device), []
    for fold in folds:
        index = fold.predictions.index
        measured = measure_counterfactuals(network_of(config, fold.state, device), images, index)
        parts.append({"index": index.astype(np.float64)} | measured)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check(config: Config) -> None:
    """Raises ConfigError where a configuration makes no counterfactual features, before it is trained."""
    _generating(methods.build(config.edit(backbone_weights="none")))


def _generating(network: nn.Module) -> Counterfactual:
    if not (isinstance(network, Counterfactual) and network.generates):
        raise ConfigError(
            "only what generates counterfactual features can be measured but this configuration does not: "
            "take method=cgn with bilateral=adain_gan, bf_gan or tf_gan"
        )
    return network


def summary(columns: Columns) -> dict[str, float]:
    """Means over the pairs; for phantoms also `nearer`, below 1 where H_C is nearer to the truth than H_T.

    It is the ratio of their mean squared distances to the true features, inside the lesions.
    """
    means = {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        for name, values in columns.items()
        if name != "index"
    }
    if "target_truth_inside" in means:
        means["nearer"] = means["counterfactual_truth_inside"] / means["target_truth_inside"]
    return means


def write_rows(columns: Columns, path: Path) -> None:
    """A JSON list with an object a pair, null where nothing could be measured.

    Raises:
        ConfigError: the file cannot be written.
    """
    rows = [
        {name: None if np.isnan(value) else float(value) for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
    try:
        path.write_text(json.dumps(rows, indent=1))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


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


def prior(
    dataset: str, options: DatasetOptions, size: int, extractors: Mapping[str, "Extractor"]
) -> tuple[dict[str, BilateralTest], tuple[Rejection, ...]]:
    """Sec. IV-D on a data set: its healthy pairs against those with a lesion on one side alone.

    Args:
        dataset, options: as for a cache.
        size: side of the prepared images in pixels.
        extractors: of the features that are compared, by name.

    Returns:
        Eq. 15 by the extractor's name, and the pairs that could not be prepared.

    Raises:
        ConfigError: no pairs of this data set are known to be healthy.
        NotADatasetError: as its scan.
    """
    module = datasets.load(dataset)
    if not hasattr(module, "healthy"):
        raise ConfigError(
            f"dataset {dataset} must tell which pairs are healthy but does not: "
            f"take one of {', '.join(with_healthy_pairs())}"
        )
    scan = module.scan(options, size)
    one_sided = [record for record in scan.records if not record.reference_has_lesion]
    unhealthy, rejected = sides_of(one_sided, size, sandboxed=scan.sandboxed)
    healthy, others = sides_of(module.healthy(options, size), size, sandboxed=scan.sandboxed)
    tests = {
        name: bilateral_test(*(bilateral_distances(sides, extractor) for sides in (healthy, unhealthy)))
        for name, extractor in extractors.items()
    }
    return tests, rejected + others


def with_healthy_pairs() -> list[str]:
    """The data sets that `prior` can look at."""
    return [name for name in datasets.names() if hasattr(datasets.load(name), "healthy")]


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
    records: Sequence[PairRecord], size: int, *, sandboxed: bool = False
) -> tuple[Grey, tuple[Rejection, ...]]:
    """Both sides of each pair, prepared as for training, `(n, 2, size, size)`; and what could not be read."""
    outcomes = dict(prepare_pairs(records, Preprocessing(size), sandboxed=sandboxed))
    pairs = [outcomes[number] for number in range(len(records))]
    sides = [np.stack([p.target.pixels, p.reference.pixels]) for p in pairs if isinstance(p, PreparedPair)]
    rejected = tuple(pair for pair in pairs if isinstance(pair, Rejection))
    return np.array(sides, np.uint8).reshape(-1, 2, size, size), rejected
