"""Pooled features of a frozen backbone, as the methods without steps read them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, Method

REQUIRED: Mapping[str, Any] = {"frozen_backbone": True, "epochs": 1}

# The features of a pair, from the pooled features of both sides, (B, C) each. The target's come first.
SIDES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "target": lambda p_t, _p_r: p_t,
    "both": lambda p_t, p_r: torch.cat([p_t, p_r], 1),
    "difference": lambda p_t, p_r: torch.cat([p_t, (p_t - p_r).abs()], 1),
}


class Options(options.Options):
    """Which side is read."""

    sides: Literal["target", "both", "difference"] = Field(
        "target", description="pooled features of the target; with the reference's; with |difference|"
    )


class Pooled(Method):
    """A classifier of pooled features that is solved once and has buffers only."""

    def __init__(self, config: Config, sides: str) -> None:
        super().__init__(config)
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone = backbone
        self.channels = backbone.channels
        self.width = self.channels * (1 if sides == "target" else 2)
        self.needs_reference = sides != "target"
        self.sides = SIDES[sides]

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:  # noqa: ARG002  (there is none)
        """Nothing is learned in steps."""
        return []

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The target's features (B,C,h,w), and the pair's pooled features (B, width)."""
        h_t = self.backbone(batch.target).float()
        h_r = self.backbone(batch.reference).float() if self.needs_reference else h_t
        return h_t, self.sides(h_t.mean((2, 3)), h_r.mean((2, 3)))
