"""Pairs on a device, batch by batch, as images or as the features of a frozen trunk."""

import copy
import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgn.data.pairs import Pairs
from cgn.errors import ConfigError
from cgn.methods import Batch, Making, Method

EVALUATION_BATCH = 64  # pairs; changes results only by rounding


class Images:
    """Pairs on a device: stored as uint8, once for all folds, and converted to floats batch by batch."""

    def __init__(self, pairs: Pairs, device: str = "cpu") -> None:
        self.pairs = pairs
        self.device = find_device(device)
        self.target, self.reference = self._put(pairs.target), self._put(pairs.reference)
        self.counterfactual = None if pairs.counterfactual is None else self._put(pairs.counterfactual)
        self.label = self._put(pairs.label)
        companion = pairs.companion
        self.other = self._put(np.where(companion < 0, np.arange(len(pairs)), companion))
        self.made: Tensor | None = None
        self.made_difference = math.nan
        self._frozen: dict[str, Images] = {}

    def batch(self, index: Tensor, *, other: bool = False) -> Batch:
        """The pairs at these rows, as a network reads them; `other` adds the other view of each."""
        index = index.to(self.device, non_blocking=True)
        truth = None if self.counterfactual is None else self._float(self.counterfactual[index])
        made = None if self.made is None else self._float(self.made[index])
        target, reference = self._float(self.target[index]), self._float(self.reference[index])
        batch = Batch(target, reference, truth, self.label[index], made=made)
        if not other:
            return batch
        views = self.other[index]
        return batch._replace(
            other_target=self._float(self.target[views]), other_reference=self._float(self.reference[views])
        )

    def through(self, trunk: nn.Module, name: str = "") -> "Images":
        """Features of the same pairs by a frozen trunk, computed once per name (the weights' hash)."""
        name = name or weights_hash(trunk)
        if name not in self._frozen:
            self._frozen[name] = _Features(self, trunk.eval())
        return self._frozen[name]

    def with_made(self, maker: Making) -> "Images":
        """The same pairs with a counterfactual of each target that a network makes, once.

        `made_difference` is the mean |X_T - X_C|: near 0, the network changes nothing.
        """
        added = copy.copy(self)
        added._frozen = {}
        chunks = torch.split(self.target, EVALUATION_BATCH)
        added.made = torch.cat([self._stored(maker.make(self._float(chunk))) for chunk in chunks])
        differences = [
            maker.change(self._float(a), self._float(b)).mean((1, 2, 3))
            for a, b in zip(chunks, torch.split(added.made, EVALUATION_BATCH), strict=True)
        ]
        added.made_difference = float(torch.cat(differences).mean())
        return added

    def put_films(self, films: NDArray[np.uint8], trunk: nn.Module | None = None) -> Tensor:
        """Films `(m, size, size)` on the device, as floats; as features if a trunk is given."""
        chunks = torch.split(self._put(films), EVALUATION_BATCH)
        with torch.no_grad():
            floats = [chunk.unsqueeze(1).float().div_(255) for chunk in chunks]
            return torch.cat([chunk if trunk is None else trunk.eval()(chunk) for chunk in floats])

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.tensor(array)
        return tensor.pin_memory().to(self.device) if self.device.type == "cuda" else tensor

    def _float(self, pixels: Tensor) -> Tensor:
        return pixels.unsqueeze(1).float().div_(255)

    def _stored(self, floats: Tensor) -> Tensor:
        """Images of a network as they are kept: grey values from 0 to 255."""
        return floats.squeeze(1).mul(255).round_().clamp_(0, 255).to(torch.uint8)


class _Features(Images):
    """Features of a trunk in place of images."""

    def __init__(self, images: Images, trunk: nn.Module) -> None:
        @torch.no_grad()
        def features(pixels: Tensor) -> Tensor:
            chunks = torch.split(pixels, EVALUATION_BATCH)
            return torch.cat([trunk(images._float(chunk)) for chunk in chunks])

        self.pairs, self.device = images.pairs, images.device
        self.label, self.other = images.label, images.other
        self.target, self.reference = features(images.target), features(images.reference)
        self.counterfactual = None if images.counterfactual is None else features(images.counterfactual)
        self.made = None if images.made is None else features(images.made)
        self.made_difference = images.made_difference

    def _float(self, features: Tensor) -> Tensor:
        return features

    def _stored(self, floats: Tensor) -> Tensor:
        return floats


def weights_hash(trunk: nn.Module) -> str:
    """SHA-256 of a network's tensors, in hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in trunk.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def inputs_of(network: Method, images: Images, trunk: nn.Module | None = None, name: str = "") -> Images:
    """What a network reads: the images with its own counterfactual images, or their features.

    The network is left in evaluation mode.

    Args:
        network: after its stages.
        images: the pairs.
        trunk: a frozen trunk that the network has released; the inputs are then its features.
        name: of the trunk's weights, see `Images.through`.
    """
    network.eval()
    maker = network if isinstance(network, Making) and network.makes else None
    if maker and network.level == "image":
        images = images.with_made(maker)
    if trunk is not None:
        images = images.through(trunk, name)
        if maker and network.level == "feature":
            images = images.with_made(maker)
    return images


def find_device(name: str) -> torch.device:
    """The device of that name. Raises ConfigError if there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N but got {name!r}") from None
    count = torch.cuda.device_count() if device.type == "cuda" and torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"device {name} must exist but this machine has {count} CUDA devices: use cpu")
    return device
