"""Fixed-Point GAN (Rahman Siddiquee et al. 2019) of Table I: make a film healthy, change nothing else.

Written from the paper's equations. The authors' code is for non-commercial use and a patent is pending on the
method: whether that concerns a use of this file is for its user to find out.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn.config import Config
from cgn.methods import Batch, Stage, _residual
from cgn.methods._residual import TERMS
from cgn.nets.generator import ImageGenerator

__all__ = ["READS", "TERMS", "VARIANTS", "FixedPoint", "Options", "build"]

READS = ("options", "loss_weights", "precision", "feature_channels")
SMALL = {"options.size": 16, "options.width": 2, "options.blocks": 1, "options.steps": 6, "options.images": 2}
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {**SMALL, "options.healthy": "references"},
    {**SMALL, "options.domains": "three", "options.output": "tanh", "precision": "bf16"},
    {**SMALL, "options.residual": "score", "options.lambda_identity": 1.0, "frozen_backbone": True},
)
GENERATOR_EVERY = 5
PENALTY = CYCLE = 10.0
HEALTHY = 0  # number of the domain

# The number of a pair's domain, from its label.
DOMAINS: Mapping[str, tuple[int, int]] = {"two": (1, 1), "three": (1, 2)}


class Options(_residual.Options):
    """The networks and their training. Published: size 224, width 64, 200,000 steps of 16 films."""

    domains: Literal["two", "three"] = Field(
        "two", description="two: healthy and lesion; three: healthy, benign and malignant"
    )
    output: Literal["clamp", "tanh"] = Field(
        "clamp",
        description="clamp: x' = x + change within [0, 1]; tanh: as published, where no change is no fixed "
        "point (reading 45)",
    )
    width: int = Field(32, ge=1, description="channels of the first layer; 64 published")
    blocks: int = Field(6, ge=1, description="residual blocks of the generator")
    steps: int = Field(
        5000, ge=1, description="steps of the discriminator; the generator has a fifth of them"
    )
    images: int = Field(4, ge=1, description="films of each domain per step")
    learning_rate: float = Field(1e-4, gt=0, description="of generator and discriminator")
    lambda_identity: float = Field(10.0, ge=0, description="weight of the identity in a film's own domain")


class FixedPoint(_residual.Residual):
    """A generator x' = x + G(x, domain), a discriminator that also names the domain; X_C = x' for healthy."""

    def __init__(self, config: Config) -> None:
        own = Options.model_validate(config.options)
        super().__init__(config, own)
        self.options = own
        self.of_label = DOMAINS[own.domains]
        self.domains = max(self.of_label) + 1
        self.stages = (
            Stage("gan", own.steps, own.images, ("generator", "discriminator"), only=("discriminator",)),
        )
        self.generator = ImageGenerator(4 * own.width, own.blocks, 1 + self.domains, nn.Identity())
        self.discriminator = _Discriminator(own.width, own.size, self.domains)
        _residual.start_small(self.generator)
        _residual.start_small(self.discriminator)

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Adam with beta1 = 0.5 in the stage."""
        if stage is None:
            return super().groups()
        modules: list[nn.Module] = [self.generator, self.discriminator]
        return [_residual.adam(modules, self.options.learning_rate, (0.5, 0.999))]

    def rate(self, stage: str, step: int) -> float:  # noqa: ARG002  (there is one stage)
        """Constant, then linearly to 0 in the second half."""
        return min(1.0, 2 * (1 - step / self.options.steps))

    def stage_gradients(self, stage: str, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """A step of the discriminator; every fifth time also one of the generator."""
        assert batch.healthy is not None  # noqa: S101  (`healthy` is set)
        x = torch.cat([self.resize(batch.target), self.resize(batch.healthy)])
        of_label = torch.tensor(self.of_label, device=x.device)
        own = torch.cat([of_label[batch.y], torch.full_like(batch.y[:1], HEALTHY).expand(len(batch.healthy))])
        other = own[torch.randperm(len(own), device="cpu").to(own.device)]
        values = self._discriminate(x, own, other)
        if (step + 1) % GENERATOR_EVERY == 0:
            values |= self._generate(x, own, other)
        return values

    def healthy_version(self, x: Tensor) -> Tensor:
        """X' for the healthy domain."""
        return self._translate(x, torch.full((len(x),), HEALTHY, device=x.device))

    def _translate(self, x: Tensor, domain: Tensor) -> Tensor:
        planes = F.one_hot(domain, self.domains).to(x)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        change: Tensor = self.generator(torch.cat([x, planes], 1))
        if self.options.output == "clamp":
            clamped = (x + change).clamp(0, 1)
            return x + change + (clamped - x - change).detach()  # gradients also beyond the range
        return (torch.tanh(2 * x - 1 + change) + 1) / 2

    def _discriminate(self, x: Tensor, own: Tensor, other: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self._translate(x, other)
        score, named = self.discriminator(x)
        critic = self.discriminator(fake)[0] - score
        penalty = _residual.gradient_penalty(lambda mixed: self.discriminator(mixed)[0], x, fake)
        domain = F.cross_entropy(named, own, reduction="none")
        _residual.minimise([critic, PENALTY * penalty, domain], [self.discriminator])
        return {"d": critic.detach(), "penalty": penalty.detach(), "d_domain": domain.detach()}

    def _generate(self, x: Tensor, own: Tensor, other: Tensor) -> dict[str, Tensor]:
        terms: dict[str, list[Tensor]] = {"g": [], "g_domain": [], "cycle": []}
        for domain in (other, own):
            fake = self._translate(x, domain)
            score, named = self.discriminator(fake)
            terms["g"].append(-score)
            terms["g_domain"].append(F.cross_entropy(named, domain, reduction="none"))
            terms["cycle"].append(_residual.l1(self._translate(fake, own), x))
        identity = _residual.l1(fake, x)  # of the own domain, the last one
        sums = {name: torch.stack(values).sum(0) for name, values in terms.items()}
        weighted = [
            sums["g"],
            sums["g_domain"],
            CYCLE * sums["cycle"],
            self.options.lambda_identity * identity,
        ]
        _residual.minimise(weighted, [self.generator])
        return {name: value.detach() for name, value in (sums | {"identity": identity}).items()}


class _Discriminator(nn.Module):
    """Convolutions of stride 2 down to at most 4 cells per side. (B,1,H,W) -> score (B,), domains (B,K)"""

    def __init__(self, width: int, size: int, domains: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        into, out, grid = 1, width, size
        while grid > 4:
            layers += [nn.Conv2d(into, out, 4, 2, 1), nn.LeakyReLU(0.01)]
            into, out, grid = out, 2 * out, grid // 2
        self.layers = nn.Sequential(*layers)
        self.score = nn.Conv2d(into, 1, 3, 1, 1, bias=False)
        self.domain = nn.Conv2d(into, domains, grid, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers(x)
        return self.score(h).mean((1, 2, 3)), self.domain(h).flatten(1)


def build(config: Config) -> FixedPoint:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return FixedPoint(config)
