"""A random forest on frozen features.

An analogue of "Pretrained CNN + Random Forest" of Table I (Dhungel et al. 2016), which is not an image-level
method and is quoted there (reading 47).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, _pooled

READS = ("options",)
TERMS = ()
REQUIRES = _pooled.REQUIRED
VARIANTS: tuple[Mapping[str, Any], ...] = ({}, {"options.sides": "both"}, {"options.sides": "difference"})

TREES, DEPTH, SAMPLES_PER_LEAF = 200, 8, 2
NODES = 2 ** (DEPTH + 1) - 1  # of a full tree; the children of node i are 2i + 1 and 2i + 2


class Options(_pooled.Options):
    """Which side is read."""


class Forest(_pooled.Pooled):
    """Trees as tensors of a fixed shape, so that the state needs no pickle: a row per tree, a column per
    node.

    `feature` is -1 in a leaf, and `p` is the share of malignant pairs in it.
    """

    feature: Tensor
    threshold: Tensor
    p: Tensor
    evidence: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config, Options.model_validate(config.options).sides)
        self.register_buffer("feature", torch.full((TREES, NODES), -1, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros((TREES, NODES), dtype=torch.float64))
        self.register_buffer("p", torch.full((TREES, NODES), 0.5, dtype=torch.float64))
        self.register_buffer("evidence", torch.zeros(self.channels))

    @torch.no_grad()
    def solve(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:
        """Grow the trees on the training pairs; the value is the cross entropy of each."""
        from sklearn.ensemble import RandomForestClassifier

        _, x = self.read(batch)
        y = batch.y.cpu().numpy()
        seed = int(torch.randint(2**31, (), generator=draw))
        forest = RandomForestClassifier(
            n_estimators=TREES,
            max_depth=DEPTH,
            min_samples_leaf=SAMPLES_PER_LEAF,
            max_features="sqrt",
            random_state=seed,
        ).fit(x.cpu().numpy(), y)
        for row, estimator in enumerate(forest.estimators_):
            self._store(row, estimator.tree_)
        malignant = batch.y == 1
        direction = (x[malignant].mean(0) - x[~malignant].mean(0)).sign()
        importance = torch.from_numpy(forest.feature_importances_).to(x)
        self.evidence.copy_((importance * direction)[: self.channels])
        p = self._p(x).clamp(1e-7, 1 - 1e-7)
        return {"l_cls": F.binary_cross_entropy(p, batch.y.double(), reduction="none")}

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Mean share of malignant pairs in the leaves.

        The map is a surrogate, because a forest has none: channels weighted by their importance, with the
        sign of the classes' difference in their means.
        """
        h_t, x = self.read(batch)
        p = self._p(x)
        cam = torch.einsum("c,bchw->bhw", self.evidence, h_t)
        return BatchPrediction(p.float(), torch.where(p > 0.5, 1.0, -1.0)[:, None, None].to(cam) * cam)

    def _p(self, x: Tensor) -> Tensor:
        """(B, width) -> (B,), in double precision. All trees go down one level at a time."""
        trees = torch.arange(TREES, device=x.device)
        node = torch.zeros((len(x), TREES), dtype=torch.int64, device=x.device)
        for _ in range(DEPTH):
            feature = self.feature[trees, node]
            value = x.gather(1, feature.clamp(min=0)).double()
            below = 2 * node + torch.where(value <= self.threshold[trees, node], 1, 2)
            node = torch.where(feature < 0, node, below)
        return self.p[trees, node].mean(1)

    def _store(self, row: int, tree: Any) -> None:
        """Copy a tree of scikit-learn. Its thresholds compare features in single precision."""
        feature = np.full(NODES, -1, dtype=np.int64)
        threshold, p = np.zeros(NODES), np.full(NODES, 0.5)
        pending = [(0, 0)]
        while pending:
            source, node = pending.pop()
            counts = tree.value[source, 0]
            p[node] = counts[1] / counts.sum() if len(counts) > 1 else 0.5
            if tree.children_left[source] >= 0:
                feature[node], threshold[node] = tree.feature[source], tree.threshold[source]
                pending += [
                    (tree.children_left[source], 2 * node + 1),
                    (tree.children_right[source], 2 * node + 2),
                ]
        for buffer, values in ((self.feature, feature), (self.threshold, threshold), (self.p, p)):
            buffer[row] = torch.from_numpy(values)


def build(config: Config) -> Forest:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Forest(config)
