"""The trunk that all ResNets share."""

from typing import Any

from torch import nn


def trunk(network: Any) -> nn.Module:
    """All layers before the global pool (reading 4)."""
    return nn.Sequential(
        network.conv1,
        network.bn1,
        network.relu,
        network.maxpool,
        network.layer1,
        network.layer2,
        network.layer3,
        network.layer4,
    )
