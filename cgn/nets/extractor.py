"""The feature extractor that methods share: a backbone, and a projection of wide ones."""

from torch import Tensor, nn

from cgn import backbones
from cgn.config import Config

WIDEST = 512  # channels; a backbone with more is projected (reading 3)
PROJECTED = 256


class Extractor(nn.Module):
    """Backbone, with a 1x1 projection if it is wide or if the configuration asks for it (reading 3).

    (B,1,size,size) in [0, 1] -> (B,C,h,w)
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone: nn.Module = backbone
        wide = self.wide = backbone.channels
        self.channels = config.feature_channels or (PROJECTED if wide > WIDEST else wide)
        self.projection = nn.Identity() if self.channels == wide else nn.Conv2d(wide, self.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.projection(self.backbone(x))
        return h

    def release_backbone(self) -> nn.Module:
        """Remove the backbone and return it: inputs are then its features. The projection stays."""
        backbone, self.backbone = self.backbone, nn.Identity()
        return backbone
