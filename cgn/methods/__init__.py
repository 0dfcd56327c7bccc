"""What can be trained, one file each.

A module has `build(config) -> Network` and `READS`, the fields of `Config` that change the method beside
`provenance.TRAINING_FIELDS`. The other fields are neither part of the identity of its results nor offered to
its searches.
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
    other_target: Tensor | None = None  # the other view of the same breasts where `needs_other` asks for it;
    other_reference: Tensor | None = None  # a pair without one is its own other view


class Prediction(NamedTuple):
    """Probability of malignancy `(B,)` and the activation map of the predicted class `(B, h, w)`."""

    p_malignant: Tensor
    cam: Tensor


class Network(Protocol):
    """What `cgn.fit` asks of a method's network, which is an `nn.Module` too."""

    needs_other: bool
    """Whether a batch must hold the other view of each breast."""

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass: fill `.grad` of every parameter, return each term's value a sample, `(B,)`."""

    def predict(self, batch: Batch) -> Prediction:
        """Labels are not looked at."""

    def release_trunk(self) -> tuple[str, nn.Module]:
        """Give away the backbone: batches then hold its features. With it, the prefix of its tensors."""


class Features(NamedTuple):
    """H_T, H_R, H_C and, for phantoms, those of the true counterfactual; each `(B, C, h, w)`."""

    target: Tensor
    reference: Tensor
    counterfactual: Tensor
    truth: Tensor | None


@runtime_checkable
class Counterfactual(Protocol):
    """A network that may make counterfactual features: Sec. IV-F can be measured on it where it does."""

    generates: bool

    def features(self, batch: Batch) -> Features:
        """All of them by the one extractor, without gradients. Labels are not looked at.

        Raises:
            ConfigError: this configuration makes no counterfactual.
        """


def build(config: Config) -> nn.Module:
    """The network of `config.method`. Raises ConfigError where there is no such method."""
    network: nn.Module = plugins.load(__name__, config.method).build(config)
    return network
