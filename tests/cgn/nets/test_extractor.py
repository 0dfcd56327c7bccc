import pytest
import torch
from torch import nn

from cgn.config import Config
from cgn.nets.extractor import Extractor


@pytest.mark.parametrize(
    ("backbone", "feature_channels", "channels"),
    [
        ("resnet50", None, 256),
        ("resnet18", None, 512),
        ("tiny", None, 64),
        ("tiny", 32, 32),
        ("tiny", 64, 64),
    ],
)
def test_wide_backbones_are_projected(backbone, feature_channels, channels):
    """Reading 3."""
    extractor = Extractor(Config(backbone=backbone, feature_channels=feature_channels)).eval()
    with torch.no_grad():
        assert extractor(torch.rand(1, 1, 64, 64)).shape[:2] == (1, channels)
    assert extractor.channels == channels
    assert isinstance(extractor.projection, nn.Conv2d) == (channels not in (512, 64))


def test_the_released_backbone_and_the_rest_are_the_whole():
    torch.manual_seed(0)
    extractor = Extractor(Config(backbone="tiny", feature_channels=8)).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        whole = extractor(images)
        backbone = extractor.release_backbone()
        assert torch.equal(extractor(backbone(images)), whole)
    assert list(extractor.state_dict()) == ["projection.weight", "projection.bias"]
