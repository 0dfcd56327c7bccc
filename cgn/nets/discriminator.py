"""D of Eq. 9: a patch discriminator on features."""

from torch import Tensor, nn


class Discriminator(nn.Module):
    """3x3 convolutions C -> C/2 -> C/4 -> 1, leaky ReLU, one logit per cell (reading 11).

    (B,C,h,w) -> (B,h,w)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        self.body = nn.Sequential(
            nn.Conv2d(channels, half, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(half, quarter, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(quarter, 1, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.body(h)
        return logits.squeeze(1)


class ImageDiscriminator(nn.Sequential):
    """The patch discriminator of CycleGAN [35]. (B,1,H,W) -> scores (B,h,w), one per 70 x 70 pixels"""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for into, out, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(into * width, out * width, 4, stride, 1),
                nn.InstanceNorm2d(out * width),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1), nn.Flatten(1, 2))
