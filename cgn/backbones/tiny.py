"""Four convolutions, 64 channels, a cell for 8 x 8 pixels: for phantoms and tests, none of the paper's."""

from typing import Any

from torch import nn

from cgn.errors import WeightsError

CHANNELS, IN_CHANNELS = 64, 1


def build() -> nn.Module:
    """Strides 2, 2, 2, 1."""
    layers: list[nn.Module] = []
    for into, out, stride in ((1, 16, 2), (16, 32, 2), (32, CHANNELS, 2), (CHANNELS, CHANNELS, 1)):
        layers += [
            nn.Conv2d(into, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def imagenet() -> Any:
    """There are none."""
    raise WeightsError("tiny has no ImageNet weights: take backbone_weights=none")


def trunk(network: nn.Module) -> nn.Module:
    """All of it."""
    return network
