"""Four convolutions, 64 channels, one cell per 8 x 8 pixels: for phantoms and tests, not from the paper."""

from typing import Any

from torch import nn

from cgn.errors import WeightsError

CHANNELS, IN_CHANNELS = 64, 1
STAGE, STAGE_CHANNELS = 9, CHANNELS  # the last convolution


def build() -> nn.Module:
    """Four convolutions with strides 2, 2, 2, 1."""
    layers: list[nn.Module] = []
    for into, out, stride in ((1, 16, 2), (16, 32, 2), (32, CHANNELS, 2), (CHANNELS, CHANNELS, 1)):
        layers += [
            nn.Conv2d(into, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def imagenet() -> Any:
    """Raises WeightsError: there are none."""
    raise WeightsError("tiny has no ImageNet weights: use backbone_weights=none")


def trunk(network: nn.Module) -> nn.Module:
    """The whole network."""
    return network
