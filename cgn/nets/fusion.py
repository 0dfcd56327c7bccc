"""FusionLayer and classifier of Sec. III-B, and their class activation maps [34]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusionClassifier(nn.Module):
    """Conv 3x3 -> batch norm -> ReLU, global average pool, linear (reading 5).

    A class's logit is the mean of its activation map plus its bias, so both come from one product.
    """

    def __init__(self, in_channels: int, channels: int, classes: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Tensor, *, running_statistics: bool = False) -> tuple[Tensor, Tensor]:
        """(B, in_channels, h, w) -> logits (B, 2), activation maps (B, 2, h, w).

        With `running_statistics` the batch is normalised as in evaluation mode, also during training:
        normalised by its own moments, a batch of H_C could never look less malignant (reading 25).
        """
        norm = self.norm
        fused = self.convolution(features)
        if running_statistics:
            fused = F.batch_norm(
                fused, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        else:
            fused = norm(fused)
        cam = torch.einsum("kc,bchw->bkhw", self.linear.weight, F.relu(fused))
        return cam.mean((2, 3)) + self.linear.bias, cam


class GatedFusionClassifier(FusionClassifier):
    """GF of Table V (reading 28): each side is weighted by a gate, for each cell and channel.

    A gate is a 1x1 convolution of the concatenation and a sigmoid; one convolution computes both gates.
    """

    def __init__(self, in_channels: int, channels: int, classes: int = 2) -> None:
        super().__init__(in_channels, channels, classes)
        self.gate = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, features: Tensor, *, running_statistics: bool = False) -> tuple[Tensor, Tensor]:
        gated = features * self.gate(features).sigmoid()
        return super().forward(gated, running_statistics=running_statistics)


class DifferenceGatedFusionClassifier(FusionClassifier):
    """GF with one gate for both sides: a 1x1 convolution of |H_T - H_R| and a sigmoid (reading 28)."""

    def __init__(self, in_channels: int, channels: int, classes: int = 2) -> None:
        super().__init__(in_channels, channels, classes)
        self.gate = nn.Conv2d(in_channels // 2, in_channels // 2, 1)

    def forward(self, features: Tensor, *, running_statistics: bool = False) -> tuple[Tensor, Tensor]:
        h_r, h_t = features.chunk(2, 1)
        gate = self.gate((h_t - h_r).abs()).sigmoid()
        gated = torch.cat([gate * h_r, gate * h_t], 1)
        return super().forward(gated, running_statistics=running_statistics)
