"""G of Eq. 7: residual blocks on the feature grid."""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, reflection padding, instance normalisation, identity skip (reading 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Generator(nn.Sequential):
    """Eq. 7. `blocks` residual blocks, nine in the paper. (B,C,h,w) -> (B,C,h,w)"""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__(*(ResidualBlock(channels) for _ in range(blocks)))
