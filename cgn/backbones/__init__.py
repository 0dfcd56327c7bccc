"""Backbones, one file each (Sec. III-B, IV-C).

A module defines `CHANNELS`, `IN_CHANNELS` and three functions: `build()` returns the network as published,
`trunk(network)` returns its layers up to the last convolution layer (reading 4), and `imagenet()` returns the
published weights. A trunk maps `(B, IN_CHANNELS, size, size)` to `(B, CHANNELS, h, w)`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgn import plugins
from cgn.errors import WeightsError

MEAN, STD = 0.449, 0.226  # of ImageNet's grey values, in [0, 1]


class Backbone(nn.Module):
    """A trunk with a grey-value input: `(B, 1, size, size)` in [0, 1] -> `(B, channels, h, w)`."""

    def __init__(self, trunk: nn.Module, channels: int, in_channels: int) -> None:
        super().__init__()
        self.trunk, self.channels, self.in_channels = trunk, channels, in_channels

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.trunk(((x - MEAN) / STD).expand(-1, self.in_channels, -1, -1))
        return features


def load(name: str, weights: str = "none") -> Backbone:
    """The backbone of that name with its weights: 'none', 'imagenet' or the path of a state dict.

    Raises:
        ConfigError: no such backbone.
        WeightsError: the weights cannot be downloaded or read, or belong to another network.
    """
    module = plugins.load(__name__, name)
    network: nn.Module = module.build()
    if weights != "none":
        state = _imagenet(module, name) if weights == "imagenet" else _read(Path(weights))
        _fill(network, state, module.trunk(network), f"{weights} for {name}")
    return Backbone(module.trunk(network), module.CHANNELS, module.IN_CHANNELS)


def _imagenet(module: Any, name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = module.imagenet()
    except OSError as error:
        raise WeightsError(
            f"ImageNet weights of {name} cannot be downloaded ({error}): "
            "train with backbone_weights=none or give the path of a state dict"
        ) from None
    return state


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"backbone_weights must be 'none', 'imagenet' or a file but got {str(path)!r}: no such file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a reader raises, the file is at fault
        raise WeightsError(
            f"{path} must hold a state dict (safetensors, or torch.save of tensors): {error}"
        ) from None
    return state


def _fill(network: nn.Module, state: dict[str, Tensor], trunk: nn.Module, what: str) -> None:
    """Load the trunk's weights; those of the classifier may be missing or have another shape."""
    needed = {id(tensor) for tensor in trunk.state_dict(keep_vars=True).values()}
    own = {key: value for key, value in network.state_dict(keep_vars=True).items() if id(value) in needed}
    for key, value in own.items():
        if key not in state or state[key].shape != value.shape:
            given = "nothing" if key not in state else f"shape {tuple(state[key].shape)}"
            raise WeightsError(
                f"weights {what}: {key} must have shape {tuple(value.shape)} but got {given}: "
                "are they weights of another network?"
            )
    network.load_state_dict({key: state[key] for key in own}, strict=False)
