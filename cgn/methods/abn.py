"""Vanilla + Attention Branch Network of Table I (Fukui et al. 2019), on the target alone."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, Method
from cgn.nets.cam import linear_map, of_class

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls", "l_attention")
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.map": "attention", "precision": "bf16"},
    {"options.perception": "product", "options.attention_channels": 4, "loss_weights": {"l_attention": 0.5}},
)


class Options(options.Options):
    """What the paper leaves open (reading 43)."""

    map: Literal["cam", "attention"] = Field(
        "cam", description="cam: of the perception branch; attention: the attention map above its minimum"
    )
    attention_channels: int = Field(2, ge=1, description="channels that the attention map is made from")
    perception: Literal["residual", "product"] = Field(
        "residual", description="residual: (1 + M) g; product: M g, an ablation of the original"
    )


class ABN(Method):
    """Two branches behind the lower layers g: attention gives the map M, and perception classifies (1 + M) g.

    Both branches begin with a copy of the backbone's last stage, the attention branch's at stride 1. A frozen
    backbone is g alone.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = Options.model_validate(config.options)
        whole = backbones.load(config.backbone, config.backbone_weights)
        self.backbone, self.upper = backbones.split(config.backbone, whole)
        self.linear = nn.Linear(whole.channels, 2)
        self.attention = _AttentionBranch(
            backbones.same_grid(self.upper), whole.channels, self.options.attention_channels
        )

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of both branches."""
        with self.autocast():
            logits, branch, _, _ = self._branches(batch)
        values = {"l_cls": logits, "l_attention": branch}
        return self.backward(
            {name: F.cross_entropy(v.float(), batch.y, reduction="none") for name, v in values.items()}
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability of the perception branch and its CAM; or M, which is the same for both classes."""
        with self.autocast():
            logits, _, m, h = self._branches(batch)
        if self.options.map == "attention":
            cam = (m - m.amin((2, 3), keepdim=True)).squeeze(1)
        else:
            cam = of_class(linear_map(h.float(), self.linear.weight), logits.argmax(1))
        return BatchPrediction(logits.float().softmax(1)[:, 1], cam.float())

    def _branches(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of both branches (B,2), the attention map (B,1,h,w), perception features (B,C,h',w')."""
        g = self.backbone(batch.target)
        branch, m = self.attention(g)
        h = self.upper((1 + m) * g if self.options.perception == "residual" else m * g)
        return self.linear(h.mean((2, 3))), branch, m, h


class _AttentionBranch(nn.Module):
    """(B,C,h,w) -> logits (B,2), map (B,1,h,w) in (0, 1). The norms are those of the authors' code."""

    def __init__(self, stage: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.stage = stage
        self.features = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, classes, 1, bias=False),
            nn.BatchNorm2d(classes),
            nn.ReLU(),
        )
        self.classifier = nn.Conv2d(classes, 2, 1, bias=False)
        self.map = nn.Sequential(
            nn.Conv2d(classes, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid()
        )

    def forward(self, g: Tensor) -> tuple[Tensor, Tensor]:
        v = self.features(self.stage(g))
        return self.classifier(v).mean((2, 3)), self.map(v)


def build(config: Config) -> ABN:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return ABN(config)
