"""G of Eq. 7: residual blocks on the feature grid, or on a downsampled image (Sec. IV-G)."""

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


class ImageGenerator(nn.Module):
    """Sec. IV-G, reading 30. The same blocks at a quarter of the side. (B,1,H,W) -> (B,1,H,W), in [0, 1]

    Around them are the layers of CycleGAN's image networks [35]: 7x7 convolutions at both ends, two
    convolutions of stride 2 before the blocks, and two after nearest-neighbour upsampling behind them.

    Args:
        channels: of the blocks.
        blocks: number of residual blocks.
        in_channels: 1, and planes that name a domain.
        last: what the last convolution goes through; default: a sigmoid.
    """

    def __init__(
        self, channels: int, blocks: int, in_channels: int = 1, last: nn.Module | None = None
    ) -> None:
        super().__init__()
        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        self.body = nn.Sequential(
            *_layer(in_channels, quarter, 7),
            *_layer(quarter, half, 3, stride=2),
            *_layer(half, channels, 3, stride=2),
            Generator(channels, blocks),
            nn.Upsample(scale_factor=2),
            *_layer(channels, half, 3),
            nn.Upsample(scale_factor=2),
            *_layer(half, quarter, 3),
            nn.Conv2d(quarter, 1, 7, padding=3, padding_mode="reflect"),
            last or nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out[..., : x.shape[2], : x.shape[3]]  # sides not divisible by 4 come out larger


def _layer(into: int, out: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(into, out, kernel, stride, kernel // 2, padding_mode="reflect", bias=False),
        nn.InstanceNorm2d(out),
        nn.ReLU(inplace=True),
    )
