"""ConvNeXt-T (Liu et al. 2022, not in the paper): last stage, 768 channels, 7 x 7 at 224."""

from typing import Any

from torch import nn
from torchvision import models

CHANNELS, IN_CHANNELS = 768, 3
STAGE, STAGE_CHANNELS = 7, 768  # the blocks behind the last downsampling


def build() -> nn.Module:
    """The network as published, without weights."""
    network: nn.Module = models.convnext_tiny(weights=None)
    return network


def imagenet() -> Any:
    """The state dict of torchvision's ImageNet weights, downloaded once."""
    return models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)


def trunk(network: Any) -> nn.Module:
    """All layers before the global pool."""
    layers: nn.Module = network.features
    return layers


def head(network: Any) -> tuple[nn.Module, int]:
    """Global pool and layer normalisation."""
    norm, flatten, linear = network.classifier
    return nn.Sequential(network.avgpool, norm, flatten), linear.in_features
