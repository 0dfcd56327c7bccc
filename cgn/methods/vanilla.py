"""Vanilla and Vanilla + GAP of Table I: the target alone (Zhou et al. 2016 for the class activation map).

The paper's Vanilla and Vanilla + GAP are equal for ResNet50 and differ for AlexNet. Vanilla is therefore read
as the network as published with two classes, and + GAP as a global average pool in place of its head (reading
38).
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, Method
from cgn.nets.cam import pooled_gradient_map

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls",)
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.head": "gap", "precision": "bf16", "loss_weights": {"l_cls": 0.5}},
    {"options.head": "gap_convolutions"},
)
INSERTED = 512  # channels of the convolutions of AlexNet-GAP

Head = Literal["published", "gap", "gap_convolutions"]


class Options(options.Options):
    """Which head follows the backbone."""

    head: Head = Field(
        "published",
        description="published: of the network, last layer replaced; gap: global average pool and a linear "
        "layer; gap_convolutions: with two 3x3 convolutions before the pool, as in AlexNet*-GAP",
    )

    def for_backbone(self, backbone: str) -> Self:
        """A published head that is a global average pool is `gap` under another name."""
        same = self.head == "gap" and not backbones.has_head(backbone)
        return self.model_copy(update={"head": "published"}) if same else self


class Vanilla(Method):
    """Backbone, head, linear layer; cross entropy."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        chosen = Options.model_validate(config.options).head
        backbone, published, width = backbones.load_with_head(config.backbone, config.backbone_weights)
        self.backbone = backbone
        if chosen == "published":
            self.head = published
        elif chosen == "gap":
            self.head, width = backbones.GlobalPool(), backbone.channels
        else:
            self.head, width = _convolutions(backbone.channels), INSERTED
        self.linear = nn.Linear(width, 2)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels."""
        with self.autocast():
            logits = self._logits(self.backbone(batch.target)).float()
        return self.backward({"l_cls": F.cross_entropy(logits, batch.y, reduction="none")})

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability and the CAM; behind the head of AlexNet, Grad-CAM on conv5."""
        with self.autocast():
            h = self.backbone(batch.target).float()
        logits, cam = pooled_gradient_map(h, self._logits)
        return BatchPrediction(logits.softmax(1)[:, 1], cam)

    def _logits(self, h: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.head(h))
        return logits


def _convolutions(channels: int) -> nn.Sequential:
    """conv6 and conv7 of Zhou et al. (two groups each), pool, dropout."""
    return nn.Sequential(
        nn.Conv2d(channels, INSERTED, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(INSERTED, INSERTED, 3, padding=1, groups=2),
        nn.ReLU(),
        backbones.GlobalPool(),
        nn.Dropout(0.5),
    )


def build(config: Config) -> Vanilla:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Vanilla(config)
