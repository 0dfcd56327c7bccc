"""Multi-view fusion after pooling (Wu et al. 2019), for the label of the target.

Written from the paper. The authors' code is under AGPL-3.0; nothing is taken from it, nor from their weights.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, BatchPrediction, Method
from cgn.nets.cam import pooled_gradient_map

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls",)
WIDEST = 512  # outputs of the hidden layer at most

# For each fusion, the fields of Batch that each of its heads reads, its target first.
HEADS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "view": (("target", "reference"), ("other_target", "other_reference")),
    "image": (("target",), ("other_target",)),
    "side": (("target", "other_target"),),
    "joint": (("target", "reference", "other_target", "other_reference"),),
}
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.fusion": "image", "precision": "bf16"},
    {"options.fusion": "side", "loss_weights": {"l_cls": 0.5}},
    {"options.fusion": "joint", "options.noise": 0.01},
)


class Options(options.Options):
    """Which films are fused; all share one backbone and one head (reading 42)."""

    fusion: Literal["view", "image", "side", "joint"] = Field(
        "view",
        description="view: both sides of each view, probabilities averaged over the views; image: each film "
        "of the side; side: both views of the side; joint: all four films",
    )
    noise: float = Field(0.0, ge=0, description="standard deviation of noise on the images; 0.01 published")


class Wu(Method):
    """Pooled features of the films, concatenated; a hidden layer and a linear one."""

    needs_other = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = Options.model_validate(config.options)
        if self.options.noise and config.frozen_backbone:
            raise ConfigError(
                "options.noise changes the images but frozen_backbone=true reads their features: "
                "set one of them to its default"
            )
        self.heads = HEADS[self.options.fusion]
        self.needs_reference = "reference" in self.heads[0]
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone = backbone
        pooled = len(self.heads[0]) * backbone.channels
        width = min(pooled, WIDEST)
        self.head = nn.Sequential(nn.Linear(pooled, width), nn.ReLU(), nn.Linear(width, 2))

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy, as a mean over the heads' films."""
        with self.autocast():
            pooled = {name: h.mean((2, 3)) for name, h in self._features(batch).items()}
            logits = [self._logits(pooled, films).float() for films in self.heads]
        losses = [F.cross_entropy(own, batch.y, reduction="none") for own in logits]
        return self.backward({"l_cls": torch.stack(losses).mean(0)})

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Mean probability of the heads' films; the map is that of the target in its own view."""
        with self.autocast():
            features = self._features(batch)
        pooled = {name: h.float().mean((2, 3)) for name, h in features.items()}
        first, *others = self.heads
        logits, cam = pooled_gradient_map(
            features["target"].float(),
            lambda h: self._logits({**pooled, "target": h.mean((2, 3))}, first),
        )
        p = [logits.softmax(1)[:, 1], *(self._logits(pooled, films).softmax(1)[:, 1] for films in others)]
        return BatchPrediction(torch.stack(p).mean(0), cam)

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        """Features of each film that a head reads."""
        films = tuple(dict.fromkeys(film for head in self.heads for film in head))
        images = torch.cat([getattr(batch, film) for film in films])
        if self.training and self.options.noise:
            images = images + self.options.noise * torch.randn_like(images)
        return dict(zip(films, self.backbone(images).chunk(len(films)), strict=True))

    def _logits(self, pooled: Mapping[str, Tensor], films: tuple[str, ...]) -> Tensor:
        logits: Tensor = self.head(torch.cat([pooled[film] for film in films], 1))
        return logits


def build(config: Config) -> Wu:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Wu(config)
