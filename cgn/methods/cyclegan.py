"""CycleGAN (Zhu J.-Y. et al. 2017) between films with a lesion and healthy ones; Table I.

A generator that leaves films as they are makes this row a network of one view:
see `FoldResult.made_difference`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, Stage, _residual
from cgn.methods._residual import TERMS
from cgn.nets.discriminator import Discriminator, ImageDiscriminator
from cgn.nets.generator import Generator, ImageGenerator

__all__ = ["READS", "TERMS", "VARIANTS", "CycleGAN", "Options", "build"]

READS = ("options", "loss_weights", "precision", "feature_channels")
SMALL = {"options.size": 32, "options.width": 2, "options.blocks": 1, "options.steps": 4}
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {**SMALL, "options.healthy": "references", "loss_weights": {"l_cls": 0.5}},
    {**SMALL, "options.healthy": "benign", "options.residual": "image", "precision": "bf16"},
    {**SMALL, "options.residual": "score", "options.detail": "replace"},
    {**SMALL, "options.level": "feature", "frozen_backbone": True, "options.map": "residual"},
    {**SMALL, "options.level": "feature", "frozen_backbone": True, "options.residual": "image"},
)


class Options(_residual.Options):
    """The generators and their training. Published: size 224, width 64, 9 blocks, 200 epochs."""

    level: Literal["image", "feature"] = Field(
        "image", description="image, as published; feature: on the features of a frozen backbone"
    )
    width: int = Field(32, ge=1, description="channels of the first layer; 64 published")
    blocks: int = Field(6, ge=1, description="residual blocks of each generator; 9 published")
    steps: int = Field(4000, ge=1, description="steps; the learning rate falls to 0 in the second half")
    images: int = Field(1, ge=1, description="films of each domain per step")
    learning_rate: float = Field(2e-4, gt=0, description="of generators and discriminators")
    lambda_cycle: float = Field(10.0, ge=0, description="weight of cycle consistency")
    lambda_identity: float = Field(0.5, ge=0, description="weight of identity, relative to the cycle's")


class CycleGAN(_residual.Residual):
    """G to healthy films and F back, a discriminator for each domain; X_C = G(X_T)."""

    def __init__(self, config: Config) -> None:
        own = Options.model_validate(config.options)
        super().__init__(config, own)
        self.options, self.level = own, own.level
        if own.level == "feature" and not config.frozen_backbone:
            raise ConfigError(
                "options.level=feature needs frozen_backbone=true, because the generator is trained before "
                "the backbone would be: set frozen_backbone=true"
            )
        parts = ("to_healthy", "to_lesion", "d_healthy", "d_lesion")
        self.stages = (Stage("gan", own.steps, own.images, parts, only=parts[1:]),)
        channels = self.backbone.wide
        for name in parts:
            if own.level == "feature":
                part: nn.Module = (
                    Discriminator(channels) if name[0] == "d" else Generator(channels, own.blocks)
                )
            elif name[0] == "d":
                part = ImageDiscriminator(2 * own.width)
            else:
                part = ImageGenerator(4 * own.width, own.blocks)
            _residual.start_small(part)
            self.add_module(name, part)

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Adam with beta1 = 0.5 in the stage."""
        if stage is None:
            return super().groups()
        modules = [self.get_submodule(name) for name in self.stages[0].trains]
        return [_residual.adam(modules, self.options.learning_rate, (0.5, 0.999))]

    def rate(self, stage: str, step: int) -> float:  # noqa: ARG002  (there is one stage)
        """Constant, then linearly to 0 in the second half."""
        return min(1.0, 2 * (1 - step / self.options.steps))

    def stage_gradients(self, stage: str, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Least-squares losses of both pairs, cycle consistency and identity."""
        assert batch.healthy is not None  # noqa: S101  (`healthy` is set)
        a, b = self.resize(batch.target), self.resize(batch.healthy)
        generators = [self.get_submodule(name) for name in ("to_healthy", "to_lesion")]
        discriminators = [self.get_submodule(name) for name in ("d_healthy", "d_lesion")]
        (g, f), (d_b, d_a) = generators, discriminators
        fake_b, fake_a = g(a), f(b)
        fooled = _squared(d_b(fake_b), 1) + _squared(d_a(fake_a), 1)
        cycle = _residual.l1(f(fake_b), a) + _residual.l1(g(fake_a), b)
        identity = _residual.l1(g(b), b) + _residual.l1(f(a), a)
        weight = self.options.lambda_cycle
        terms = [fooled, weight * cycle, weight * self.options.lambda_identity * identity]
        _residual.minimise(terms, generators)
        fakes = (fake_b.detach(), fake_a.detach())
        separation = [
            (_squared(d(real), 1) + _squared(d(fake), 0)) / 2
            for d, real, fake in zip(discriminators, (b, a), fakes, strict=True)
        ]
        _residual.minimise(separation, discriminators)
        d_loss = (separation[0] + separation[1]).detach()
        return {"g": fooled.detach(), "cycle": cycle.detach(), "identity": identity.detach(), "d": d_loss}

    def healthy_version(self, x: Tensor) -> Tensor:
        """G(x)."""
        answer: Tensor = self.get_submodule("to_healthy")(x)
        return answer


def _squared(score: Tensor, wanted: float) -> Tensor:
    return (score - wanted).square().flatten(1).mean(1)


def build(config: Config) -> CycleGAN:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return CycleGAN(config)
