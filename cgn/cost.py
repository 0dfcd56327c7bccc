"""What a configuration costs: parameters, and floating-point operations for a pair of images.

They are counted on torch's meta device, whose tensors have a shape and no content: no data, weights or time
are needed. Counted are convolutions and matrix products, forwards and backwards, with 2 operations for a
multiply-add; the steps of optimisers, normalisations and other operations by element are not.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cgn import methods, stages
from cgn.config import Config
from cgn.methods import Batch, Making, Method, Solving

GIGA = 1e9
IMAGES = ("target", "reference", "counterfactual", "other_target", "other_reference")


@dataclass(frozen=True)
class Cost:
    """The cost of one network.

    Attributes:
        parameters: of the network that predicts, with its backbone; for a method that is solved also the
            numbers that `solve` sets.
        parameters_training: most of them that exist while it is trained, e.g. with discriminators.
        gflop_predicted: 10^9 operations for the prediction of a pair from its images. A counterfactual is
            made, and a frozen backbone is applied.
        gflop_trained: of a training step, for each of its pairs; features of a frozen backbone and
            counterfactuals that are made once do not count. None for a method that is solved.
    """

    parameters: int
    parameters_training: int
    gflop_predicted: float
    gflop_trained: float | None


def count(config: Config, size: int) -> Cost:
    """The cost of a configuration on images of this size. The global random generator is not changed.

    Args:
        config: the weights of its backbone are not read.
        size: side of the images in pixels.

    Raises:
        ConfigError: there is no such network.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = methods.build(config.edit(backbone_weights="none"))
        network.autocast = nullcontext  # type: ignore[method-assign,assignment]  # the meta device has none
        most = _parameters(network)
        stages.finish(network)
        kept = _parameters(network)
        pairs = torch.zeros(config.batch_size, 1, size, size)
        batch = Batch(y=torch.zeros(config.batch_size, dtype=torch.int64), **dict.fromkeys(IMAGES, pairs))
        network.eval()
        with _Operations() as predicted:
            network.predict(batch)
        return Cost(kept, most, _per_pair(predicted, batch), _trained(network, batch))


def _parameters(network: Method) -> int:
    own = network.buffers(recurse=False) if isinstance(network, Solving) else ()
    return sum(tensor.numel() for tensor in (*network.parameters(), *own))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the operations of a block by torch's formulas.

    `FlopCounterMode` does the same by module, with hooks that a method's own `autograd.grad` may break.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _per_pair(counted: _Operations, batch: Batch) -> float:
    return counted.total / len(batch.y) / GIGA


def _trained(network: Method, batch: Batch) -> float | None:
    """Of a step, divided by its pairs; None if there are no steps."""
    if isinstance(network, Solving):
        return None
    trunk = network.release_trunk()[1] if network.config.frozen_backbone else None
    batch = _inputs(network, batch, trunk)
    network.train()
    with _Operations() as step:
        network.gradients(batch)
    return _per_pair(step, batch)


@torch.no_grad()
def _inputs(network: Method, batch: Batch, trunk: nn.Module | None) -> Batch:
    """What a training step reads, as `cgn.images.inputs_of` makes it."""
    make = network.make if isinstance(network, Making) and network.makes else None
    if make and network.level == "image":
        batch = batch._replace(made=make(batch.target))
    if trunk is not None:
        images: dict[str, Tensor] = {name: getattr(batch, name) for name in (*IMAGES, "made")}
        features = {name: trunk(image) for name, image in images.items() if image is not None}
        batch = batch._replace(**features)
    if make and network.level == "feature":
        batch = batch._replace(made=make(batch.target))
    return batch
