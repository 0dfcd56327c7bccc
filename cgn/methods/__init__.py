"""What can be trained, one file each: `build(config) -> Network`. CGN here, Table I's baselines to come."""

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from cgn import plugins
from cgn.config import Config


class Batch(NamedTuple):
    """Images `(B, 1, size, size)` in [0, 1], chest wall on the left; labels `(B,)`, 0 or 1."""

    target: Tensor
    reference: Tensor
    counterfactual: Tensor | None
    y: Tensor


class Prediction(NamedTuple):
    """Probability of malignancy `(B,)` and the activation map of the predicted class `(B, h, w)`."""

    p_malignant: Tensor
    cam: Tensor


class Network(Protocol):
    """What `cgn.fit` asks of a method's network, which is an `nn.Module` too."""

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass: fill `.grad` of every parameter, return each term's value a sample, `(B,)`."""

    def predict(self, batch: Batch) -> Prediction:
        """Labels are not looked at."""


def build(config: Config) -> nn.Module:
    """The network of `config.method`. Raises ConfigError where there is no such method."""
    network: nn.Module = plugins.load(__name__, config.method).build(config)
    return network
