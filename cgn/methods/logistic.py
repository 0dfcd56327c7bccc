"""Logistic regression on frozen features: the cheapest row, which every other one should beat.

An analogue of "Pretrained CNN" of Table I (Dhungel et al. 2016), which is not an image-level method and is
quoted there (reading 47).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, _pooled

READS = ("options",)
TERMS = ()
REQUIRES = _pooled.REQUIRED
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.sides": "both"},
    {"options.sides": "difference", "options.c": 1.0},
)


class Options(_pooled.Options):
    """Which side is read, and the regularisation."""

    c: float = Field(0.01, gt=0, description="inverse weight of the L2 penalty, on standardised features")


class Logistic(_pooled.Pooled):
    """Features standardised on the training pairs; L2-regularised logistic regression."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: Config) -> None:
        options = Options.model_validate(config.options)
        super().__init__(config, options.sides)
        self.c = options.c
        for name, value in (("mean", 0.0), ("scale", 1.0), ("weight", 0.0)):
            self.register_buffer(name, torch.full((self.width,), value))
        self.register_buffer("bias", torch.zeros(()))

    @torch.no_grad()
    def solve(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002  (no randomness)
        """Fit to the training pairs; the value is the cross entropy of each."""
        from sklearn.linear_model import LogisticRegression

        _, x = self.read(batch)
        self.mean.copy_(x.mean(0))
        scale = x.std(0, correction=0)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))
        standardised = ((x - self.mean) / self.scale).double().cpu().numpy()
        fitted = LogisticRegression(C=self.c, max_iter=1000).fit(standardised, batch.y.cpu().numpy())
        self.weight.copy_(torch.from_numpy(fitted.coef_[0]))
        self.bias.copy_(torch.tensor(float(fitted.intercept_[0])))
        losses = F.binary_cross_entropy_with_logits(self._score(x), batch.y.float(), reduction="none")
        return {"l_cls": losses}

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability, and each cell's share of the score of the predicted class, target only."""
        h_t, x = self.read(batch)
        score = self._score(x)
        per_channel = (self.weight / self.scale)[: self.channels]
        cam = torch.einsum("c,bchw->bhw", per_channel, h_t)
        return BatchPrediction(score.sigmoid(), torch.where(score > 0, 1.0, -1.0)[:, None, None] * cam)

    def _score(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


def build(config: Config) -> Logistic:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Logistic(config)
