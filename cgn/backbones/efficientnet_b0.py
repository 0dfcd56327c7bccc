"""EfficientNet-B0 (Tan and Le 2019, not in the paper): 1280 channels, 7 x 7 at 224."""

from typing import Any

from torch import nn
from torchvision import models

CHANNELS, IN_CHANNELS = 1280, 3
STAGE, STAGE_CHANNELS = 6, 112  # the last stage with a stride, and what is behind it


def build() -> nn.Module:
    """The network as published, without weights."""
    network: nn.Module = models.efficientnet_b0(weights=None)
    return network


def imagenet() -> Any:
    """The state dict of torchvision's ImageNet weights, downloaded once."""
    return models.EfficientNet_B0_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)


def trunk(network: Any) -> nn.Module:
    """All layers before the global pool."""
    layers: nn.Module = network.features
    return layers


def head(network: Any) -> tuple[nn.Module, int]:
    """Global pool and dropout."""
    dropout, linear = network.classifier
    return nn.Sequential(network.avgpool, nn.Flatten(), dropout), linear.in_features
