"""What can be trained, one file per method.

A module defines `build(config) -> Network`, and `READS`: the fields of `Config` that change the method,
besides `provenance.TRAINING_FIELDS`. Other fields are not part of the identity of its results, and no search
over it varies them. The contract test of all methods is `tests/contracts/test_methods.py`.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from cgn import plugins
from cgn.config import Config


class Batch(NamedTuple):
    """Images `(B, 1, size, size)` in [0, 1], chest wall on the left; labels `(B,)`, 0 or 1."""

    target: Tensor
    reference: Tensor
    counterfactual: Tensor | None
    y: Tensor
    other_target: Tensor | None = None  # the other view of the same breasts, if the network's `needs_other`
    other_reference: Tensor | None = None  # is true; a pair without one is its own other view


class BatchPrediction(NamedTuple):
    """Probability of malignancy `(B,)` and the activation map of the predicted class `(B, h, w)`."""

    p_malignant: Tensor
    cam: Tensor


class Network(Protocol):
    """What `cgn.fit` requires of a method's network, which is also an `nn.Module`."""

    needs_other: bool
    """Whether a batch must have the other view of each breast."""

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass: fill `.grad` of every parameter and return each term's value per sample, `(B,)`."""

    def predict(self, batch: Batch) -> BatchPrediction:
        """Predict without reading the labels."""

    def release_trunk(self) -> tuple[str, nn.Module]:
        """Remove the backbone, so that batches hold its features; return its name prefix and the backbone."""


class Features(NamedTuple):
    """H_T, H_R, H_C and, for phantoms, those of the true counterfactual; each `(B, C, h, w)`."""

    target: Tensor
    reference: Tensor
    counterfactual: Tensor
    truth: Tensor | None


@runtime_checkable
class Counterfactual(Protocol):
    """A network that can generate counterfactual features, on which Sec. IV-F can be measured."""

    generates: bool
    """Whether it does so in this configuration."""

    def features(self, batch: Batch) -> Features:
        """All features, by the same extractor and without gradients. Labels are not read.

        Raises:
            ConfigError: this configuration generates no counterfactual.
        """


def build(config: Config) -> nn.Module:
    """The network of `config.method`. Raises ConfigError if there is no such method."""
    network: nn.Module = plugins.load(__name__, config.method).build(config)
    return network
