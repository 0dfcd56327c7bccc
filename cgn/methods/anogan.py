"""AnoGAN (Schlegl et al. 2017) in its fast form, f-AnoGAN: a GAN of healthy films and an encoder; Table I.

The film that the GAN can draw which is most like the target is its healthy version. AnoGAN searches it by
gradient steps for each film; the encoder of f-AnoGAN (2019) answers at once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, Stage, _residual
from cgn.methods._residual import TERMS

__all__ = ["READS", "TERMS", "VARIANTS", "AnoGAN", "Options", "build"]

READS = ("options", "loss_weights", "precision", "feature_channels")
SMALL = {
    **{"options.size": 16, "options.width": 2, "options.images": 4},
    **{"options.steps": 6, "options.encoder_steps": 3},
}
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {**SMALL, "options.healthy": "references"},
    {**SMALL, "options.residual": "score", "options.flip": True, "precision": "bf16"},
    {**SMALL, "options.residual": "image", "options.detail": "replace", "frozen_backbone": True},
)
LATENT, GENERATOR_EVERY, PENALTY = 128, 5, 10.0
FIRST = 4  # cells per side of the generator's first grid


class Options(_residual.Options):
    """The networks and their training. Published: size 64, width 64, 64 films per step."""

    size: int = Field(64, ge=16, description="side of the films that the system sees: 4 times a power of 2")
    width: int = Field(32, ge=1, description="channels at the largest grid; 64 published")
    steps: int = Field(8000, ge=1, description="steps of the critic; the generator has a fifth of them")
    encoder_steps: int = Field(4000, ge=1, description="steps of the encoder")
    images: int = Field(32, ge=1, description="films per step")
    learning_rate: float = Field(1e-4, gt=0, description="of generator and critic")
    encoder_learning_rate: float = Field(5e-5, gt=0, description="of the encoder")
    kappa: float = Field(1.0, ge=0, description="weight of the critic's features in the encoder's loss")
    flip: bool = Field(False, description="flip healthy films vertically at random, where they are few")


class AnoGAN(_residual.Residual):
    """Generator and critic on healthy films alone, then an encoder; X_C = G(E(X_T))."""

    def __init__(self, config: Config) -> None:
        own = Options.model_validate(config.options)
        super().__init__(config, own)
        self.options = own
        doublings = (own.size // FIRST).bit_length() - 1
        if own.size != FIRST * 2**doublings:
            raise ConfigError(
                f"options.size of anogan must be 4 times a power of 2 but got {own.size}: take 32 or 64"
            )
        widths = [own.width * 2 ** min(n, 3) for n in range(doublings)]
        self.generator = _Generator(widths[::-1])
        self.critic = _Critic(widths, 1)
        self.encoder = nn.Sequential(_Critic(widths, LATENT), nn.Tanh())
        self.stages = (
            Stage("gan", own.steps, own.images, ("generator", "critic")),
            Stage("encoder", own.encoder_steps, own.images, ("encoder",), only=("critic",)),
        )

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Adam with beta1 = 0 in both stages; the original's RMSProp of the encoder is read as that."""
        if stage is None:
            return super().groups()
        if stage == "gan":
            return [_residual.adam([self.generator, self.critic], self.options.learning_rate, (0.0, 0.9))]
        return [_residual.adam([self.encoder], self.options.encoder_learning_rate, (0.0, 0.99))]

    def stage_gradients(self, stage: str, batch: Batch, step: int) -> dict[str, Tensor]:
        """A step of the critic, every fifth time also of the generator; or a step of the encoder."""
        assert batch.healthy is not None  # noqa: S101  (`healthy` is set)
        x = 2 * self.resize(batch.healthy) - 1
        if self.options.flip:
            turned = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            x = torch.where(turned, x.flip(2), x)
        if stage == "encoder":
            return self._encode(x)
        return self._compete(x, step)

    def healthy_version(self, x: Tensor) -> Tensor:
        """G(E(x))."""
        drawn: Tensor = self.generator(self.encoder(2 * x - 1))
        return (drawn + 1) / 2

    def _compete(self, x: Tensor, step: int) -> dict[str, Tensor]:
        fake = self.generator(torch.randn(len(x), LATENT, device=x.device))
        critic = (self.critic(fake.detach()) - self.critic(x)).flatten()
        penalty = _residual.gradient_penalty(self.critic, x, fake.detach())
        _residual.minimise([critic, PENALTY * penalty], [self.critic])
        values = {"d": critic.detach(), "penalty": penalty.detach()}
        if (step + 1) % GENERATOR_EVERY == 0:
            drawn = -self.critic(fake).flatten()
            _residual.minimise([drawn], [self.generator])
            values["g"] = drawn.detach()
        return values

    def _encode(self, x: Tensor) -> dict[str, Tensor]:
        drawn = self.generator(self.encoder(x))
        image = (x - drawn).square().flatten(1).mean(1)
        feature = (self.critic.features(x) - self.critic.features(drawn)).square().flatten(1).mean(1)
        _residual.minimise([image, self.options.kappa * feature], [self.encoder])
        return {"image": image.detach(), "feature": feature.detach()}


class _Block(nn.Module):
    """Two convolutions beside a 1x1 one; the grid is doubled, or halved at the end."""

    def __init__(self, into: int, out: int, *, up: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if up else _layer_norm
        grid: nn.Module = nn.Upsample(scale_factor=2) if up else nn.Identity()
        pool: nn.Module = nn.Identity() if up else nn.AvgPool2d(2)
        self.body = nn.Sequential(
            *(norm(into), nn.ReLU(), grid, nn.Conv2d(into, out, 3, padding=1)),
            *(norm(out), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), pool),
        )
        self.skip = nn.Sequential(grid, nn.Conv2d(into, out, 1), pool)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.skip(x)
        return out


def _layer_norm(channels: int) -> nn.Module:
    """Over all channels and cells: a critic with a gradient penalty must not mix the films of a batch."""
    return nn.GroupNorm(1, channels)


class _Generator(nn.Module):
    """z (B,128) -> films (B,1,size,size) in [-1, 1]"""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.first = nn.Linear(LATENT, widths[0] * FIRST**2)
        pairs = zip(widths, [*widths[1:], widths[-1]], strict=True)
        self.blocks = nn.Sequential(*(_Block(into, out, up=True) for into, out in pairs))
        last = widths[-1]
        self.last = nn.Sequential(
            nn.BatchNorm2d(last), nn.ReLU(), nn.Conv2d(last, 1, 3, padding=1), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        first = self.first(z).reshape(len(z), -1, FIRST, FIRST)
        out: Tensor = self.last(self.blocks(first))
        return out


class _Critic(nn.Module):
    """Films (B,1,size,size) in [-1, 1] -> (B, outputs)"""

    def __init__(self, widths: list[int], outputs: int) -> None:
        super().__init__()
        pairs = zip(widths, [*widths[1:], widths[-1]], strict=True)
        blocks = [_Block(into, out, up=False) for into, out in pairs]
        self.body = nn.Sequential(nn.Conv2d(1, widths[0], 3, padding=1), *blocks)
        self.last = nn.Linear(widths[-1] * FIRST**2, outputs)

    def features(self, x: Tensor) -> Tensor:
        """The last features, (B, n)."""
        h: Tensor = self.body(x)
        return h.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.features(x))
        return out


def build(config: Config) -> AnoGAN:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return AnoGAN(config)
