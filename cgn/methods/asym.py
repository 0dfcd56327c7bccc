"""Asymmetry alone, after AsymMirai (Donnelly et al. 2023): the largest difference between the sides decides.

Besides the backbone there are C + 2 numbers to learn. The question it answers: does asymmetry alone know?
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, Method

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls",)
VARIANTS: tuple[Mapping[str, Any], ...] = ({}, {"options.windows": 3, "precision": "bf16"})


class Options(options.Options):
    """How coarsely the sides are compared."""

    windows: int = Field(5, ge=1, description="windows per side of the grid that the sides are compared on")


class Asym(Method):
    """n = ||s (H_T - H_R)|| for each window of max-pooled features; logit (max n - m) / t.

    s, m and t are learned; m and t begin as mean and standard deviation of max n in the first batch.
    """

    needs_reference = True
    started: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone = backbone
        self.windows = Options.model_validate(config.options).windows
        self.scale = nn.Parameter(torch.ones(backbone.channels))
        self.threshold = nn.Parameter(torch.zeros(()))
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels."""
        largest = self._norms(batch).flatten(1).amax(1)
        with torch.no_grad():  # without a branch on a tensor, which `cgn.cost` could not follow
            for own, first in (
                (self.threshold, largest.mean()),
                (self.log_temperature, largest.std().clamp(min=1e-6).log()),
            ):
                own.copy_(torch.where(self.started, own, first))
            self.started.fill_(True)
        loss = F.binary_cross_entropy_with_logits(self._score(largest), batch.y.float(), reduction="none")
        return self.backward({"l_cls": loss})

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability, and n on the windows, which is the same for both classes."""
        n = self._norms(batch)
        return BatchPrediction(self._score(n.flatten(1).amax(1)).sigmoid(), n)

    def _norms(self, batch: Batch) -> Tensor:
        """(B, windows, windows); on a grid with fewer cells, one window per cell."""
        with self.autocast():
            h = self.backbone(torch.cat([batch.target, batch.reference])).float()
        size = [min(self.windows, side) for side in h.shape[2:]]
        h_t, h_r = F.adaptive_max_pool2d(h, size).chunk(2)
        squared = (self.scale[:, None, None] * (h_t - h_r)).square().sum(1)
        return (squared + 1e-12).sqrt()  # the gradient of a norm of 0 is not defined

    def _score(self, largest: Tensor) -> Tensor:
        return (largest - self.threshold) / self.log_temperature.exp()


def build(config: Config) -> Asym:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Asym(config)
