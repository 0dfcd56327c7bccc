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
