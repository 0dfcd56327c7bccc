"""What can be trained, one file per method.

A module defines `build(config) -> Method` and these constants:

- `READS`: the fields of `Config` that change the method, besides `provenance.TRAINING_FIELDS`. Other fields
  are not part of the identity of its results, and no search over it varies them.
- `TERMS`: names of its loss terms, which `loss_weights` may name; empty if nothing is minimised in steps.
- `REQUIRES` (optional): fields of `Config` that must have a certain value.
- `Options` (optional): a subclass of `cgn.options.Options`, its own settings; `READS` then has "options".
- `VARIANTS`: edits of `Config` that together reach every branch, for the contract tests of all methods
  (`tests/contracts/test_methods.py`).

A name that begins with `_` is a part that methods share.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cgn import plugins
from cgn.config import Config
from cgn.errors import ConfigError


class Batch(NamedTuple):
    """Images `(B, 1, size, size)` in [0, 1], chest wall on the left; labels `(B,)`, 0 or 1."""

    target: Tensor
    reference: Tensor
    counterfactual: Tensor | None
    y: Tensor
    other_target: Tensor | None = None  # the other view of the same breasts, if the network's `needs_other`
    other_reference: Tensor | None = None  # is true; a pair without one is its own other view
    healthy: Tensor | None = None  # films of other women without a lesion, (M, 1, size, size), in a stage
    made: Tensor | None = None  # counterfactual of the target by `Making.make`


class BatchPrediction(NamedTuple):
    """Probability of malignancy `(B,)` and the activation map of the predicted class `(B, h, w)`."""

    p_malignant: Tensor
    cam: Tensor


class Stage(NamedTuple):
    """Training before classification, with a number of steps that no score decides.

    Attributes:
        name: appears in the names of losses, `name.term`.
        steps: number of steps.
        images: films of each domain per step.
        trains: children that learn; all others are frozen and in evaluation mode.
        only: children that nothing needs after the stage, e.g. a discriminator.
    """

    name: str
    steps: int
    images: int
    trains: tuple[str, ...]
    only: tuple[str, ...] = ()


class Method(nn.Module):
    """Base class of a method's network: what `cgn.fit` requires of it, with the usual answers.

    Args:
        config: what is trained.
    """

    needs_reference: bool = False
    """Whether a prediction depends on the other breast."""
    needs_other: bool = False
    """Whether a batch must have the other view of each breast."""
    stages: tuple[Stage, ...] = ()
    """Training before classification, in this order."""
    healthy: Literal["finding", "cohort", "references", "benign"] | None = None
    """Which films the stages use as healthy ones (`cgn.data.folds.healthy_films`)."""
    level: Literal["image", "feature"] = "image"
    """What stages and `make` read: images, or the features of a frozen trunk."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = nn.Identity()

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass: fill `.grad` of every parameter and return each term's value per sample, `(B,)`.

        A parameter whose `.grad` stays None keeps its value in this step.
        """
        raise NotImplementedError

    def predict(self, batch: Batch) -> BatchPrediction:
        """Predict without reading the labels."""
        raise NotImplementedError

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Parameter groups of Adam, for classification or for a stage.

        The learning rate is the configuration's where a group has none. Default: the children that learn,
        which for classification are those that no stage trains.
        """
        trained = {name for own in self.stages for name in own.trains if stage in (None, own.name)}
        names = {name for name, _ in self.named_children()}
        learning = names - trained if stage is None else trained
        own = [] if stage else list(self.parameters(recurse=False))
        children = [
            p for name, child in self.named_children() if name in learning for p in child.parameters()
        ]
        return [{"params": own + children}] if own + children else []

    def rate(self, stage: str, step: int) -> float:  # noqa: ARG002  (a method may override it)
        """Factor of the learning rate at a step of a stage."""
        return 1.0

    def stage_gradients(self, stage: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """One step of a stage, as `gradients`; a part that is not due keeps `.grad` as None."""
        raise NotImplementedError

    def end_stage(self, stage: Stage) -> None:
        """Remove what only this stage needs."""
        for name in stage.only:
            delattr(self, name)

    def change(self, target: Tensor, made: Tensor) -> Tensor:
        """What `Making.make` has changed of a target."""
        return (target - made).abs()

    def release_trunk(self) -> tuple[str, nn.Module]:
        """Remove the backbone, so that batches hold its features; return its name prefix and the backbone."""
        backbone, self.backbone = self.backbone, nn.Identity()
        return "backbone.", backbone

    def backward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fill `.grad` from the weighted sum of the terms' means; return the values without their graph."""
        weights = self.config.loss_weights
        total = torch.stack([weights.get(name, 1.0) * value.mean() for name, value in values.items()]).sum()
        torch.autograd.backward(total)
        return {name: value.detach() for name, value in values.items()}

    def autocast(self) -> torch.autocast:
        """bf16 where the configuration asks for it."""
        device = next(iter((*self.parameters(), *self.buffers()))).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")


@runtime_checkable
class Making(Protocol):
    """A method that makes a counterfactual of each target once, between its stages and classification."""

    makes: bool
    """Whether it does so in this configuration."""

    def make(self, target: Tensor) -> Tensor:
        """X_C of X_T, or H_C of H_T by `level`; without gradient and without randomness.

        X_C is kept as grey values: the result must be a multiple of 1/255 in [0, 1].
        """

    def change(self, target: Tensor, made: Tensor) -> Tensor:
        """|X_T - X_C|, or |H_T - H_C|, from a target and what `make` has made of it."""


@runtime_checkable
class Solving(Protocol):
    """A method that is solved on all training pairs at once, in place of an epoch of steps.

    Its module requires `frozen_backbone=true` and `epochs=1` (`REQUIRES`).
    """

    def solve(self, batch: Batch, draw: torch.Generator) -> dict[str, Tensor]:
        """Set the network's buffers from all training pairs; return each term's value per sample, `(n,)`.

        Args:
            batch: features of the frozen trunk; labels.
            draw: the only source of random numbers.
        """


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


def check(config: Config) -> None:
    """Check what a method requires of a configuration, without building it.

    Raises:
        ConfigError: no such method, an unknown loss term, or a field without the value that the method needs.
    """
    module = plugins.load(__name__, config.method)
    if module.TERMS and (unknown := sorted(set(config.loss_weights) - set(module.TERMS))):
        raise ConfigError(
            f"loss_weights may name {', '.join(module.TERMS)} for method {config.method} "
            f"but got {unknown[0]!r}: take one of these"
        )
    for name, required in getattr(module, "REQUIRES", {}).items():
        if getattr(config, name) != required:
            fix = f"{name}={str(required).lower()}"
            raise ConfigError(f"method {config.method} needs {fix} but got {config.value(name)}: set {fix}")


def build(config: Config) -> Method:
    """The network of `config.method`. Raises ConfigError as `check` does, and WeightsError."""
    check(config)
    network: Method = plugins.load(__name__, config.method).build(config)
    return network
