"""ResNet18 [10]: layer4, 512 channels, 7 x 7 at 224."""

from typing import Any

from torch import nn
from torchvision import models

from cgn.backbones._resnet import trunk

__all__ = ["CHANNELS", "IN_CHANNELS", "STAGE", "STAGE_CHANNELS", "build", "imagenet", "trunk"]

CHANNELS, IN_CHANNELS = 512, 3
STAGE, STAGE_CHANNELS = 7, 256  # layer4


def build() -> nn.Module:
    """The network as published, without weights."""
    network: nn.Module = models.resnet18(weights=None)
    return network


def imagenet() -> Any:
    """The state dict of torchvision's ImageNet weights, downloaded once."""
    return models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
