"""Backbones, one file each (Sec. III-B, IV-C).

A module defines `CHANNELS`, `IN_CHANNELS` and three functions: `build()` returns the network as published,
`trunk(network)` returns its layers up to the last convolution layer (reading 4), and `imagenet()` returns the
published weights. A trunk is sequential and maps `(B, IN_CHANNELS, size, size)` to `(B, CHANNELS, h, w)`.
`STAGE` is the number of its first layer that belongs to the last stage, and `STAGE_CHANNELS` what goes into
it.

A network that ends in more than a global average pool and a linear layer also defines `head(network)`: its
layers between the trunk and the last linear layer, and the number of their outputs; if a pool follows the
trunk directly, `pool()` returns it.
"""

import copy
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
    return load_with_head(name, weights)[0]


def load_with_head(name: str, weights: str = "none") -> tuple[Backbone, nn.Module, int]:
    """The backbone, the published layers between it and the last linear layer, and the width of their output.

    Both parts have the weights. The head of most networks is a global average pool. Raises what `load`
    raises.
    """
    module = plugins.load(__name__, name)
    network: nn.Module = module.build()
    head, width = module.head(network) if has_head(name) else (GlobalPool(), module.CHANNELS)
    trunk = module.trunk(network)
    if weights != "none":
        state = _imagenet(module, name) if weights == "imagenet" else _read(Path(weights))
        _fill(network, state, nn.ModuleList([trunk, head]), f"{weights} for {name}")
    return Backbone(trunk, module.CHANNELS, module.IN_CHANNELS), head, width


def has_head(name: str) -> bool:
    """Whether the published network has more than a global average pool before its last linear layer."""
    return hasattr(plugins.load(__name__, name), "head")


def has_pool(name: str) -> bool:
    """Whether a pool follows the trunk in the published network."""
    return hasattr(plugins.load(__name__, name), "pool")


def pool(name: str) -> nn.Module:
    """The pool that follows the trunk in the published network; the identity if there is none."""
    layer: nn.Module = plugins.load(__name__, name).pool() if has_pool(name) else nn.Identity()
    return layer


def split(name: str, backbone: Backbone) -> tuple[Backbone, nn.Module]:
    """The backbone up to its last stage, and that stage. Both share their tensors with the backbone."""
    module, layers = plugins.load(__name__, name), backbone.trunk
    lower = Backbone(layers[: module.STAGE], module.STAGE_CHANNELS, backbone.in_channels)  # type: ignore[index]
    return lower, layers[module.STAGE :]  # type: ignore[index]


def same_grid(stage: nn.Module) -> nn.Module:
    """A copy of a stage, with its weights, whose output has the grid of its input: every stride is 1."""
    copied = copy.deepcopy(stage)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    return copied


class GlobalPool(nn.Module):
    """Global average pool: `(B, C, h, w)` -> `(B, C)`."""

    def forward(self, h: Tensor) -> Tensor:
        return h.mean((2, 3))


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
