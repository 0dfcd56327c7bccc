"""AlexNet [16]: conv5 after its ReLU and before the pool, 256 channels, 13 x 13 at 224."""

from typing import Any

from torch import nn
from torchvision import models

CHANNELS, IN_CHANNELS = 256, 3
STAGE, STAGE_CHANNELS = 10, 256  # conv5


def build() -> nn.Module:
    """The network as published, without weights."""
    network: nn.Module = models.alexnet(weights=None)
    return network


def imagenet() -> Any:
    """The state dict of torchvision's ImageNet weights, downloaded once."""
    return models.AlexNet_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)


def trunk(network: Any) -> nn.Module:
    """All layers up to the ReLU of conv5."""
    cut: nn.Module = network.features[:12]
    return cut


def head(network: Any) -> tuple[nn.Module, int]:
    """Pool, fc6 and fc7 with their dropouts."""
    layers = nn.Sequential(network.features[12], network.avgpool, nn.Flatten(), *network.classifier[:6])
    return layers, network.classifier[6].in_features


def pool() -> nn.Module:
    """The pool behind conv5: 6 x 6 at 224."""
    return nn.MaxPool2d(3, 2)
