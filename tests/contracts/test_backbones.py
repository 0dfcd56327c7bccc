"""What every backbone promises, whichever file defines it."""

import pytest
import torch
from safetensors.torch import save_file

from cgn import backbones, plugins
from cgn.config import Config
from cgn.errors import ConfigError, WeightsError
from cgn.methods import build

GRID = {
    "alexnet": 13,
    "convnext_tiny": 7,
    "efficientnet_b0": 7,
    "resnet18": 7,
    "resnet50": 7,
    "tiny": 28,
}  # cells per side at 224 pixels

every_backbone = pytest.mark.parametrize("name", plugins.names("cgn.backbones"))


def test_the_documented_backbones_exist():
    assert set(plugins.names("cgn.backbones")) == set(GRID)


@every_backbone
def test_features_have_the_grid_of_the_paper(name):
    network = backbones.load(name).eval()
    with torch.no_grad():
        h = network(torch.rand(1, 1, 224, 224))
    assert h.shape == (1, network.channels, GRID[name], GRID[name])
    assert torch.isfinite(h).all()


@every_backbone
def test_weights_come_from_a_file(name, tmp_path):
    torch.manual_seed(1)
    source = plugins.load("cgn.backbones", name).build()
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    loaded = [backbones.load(name, str(p)) for p in (path, tmp_path / "weights.pt")]
    trunk = plugins.load("cgn.backbones", name).trunk(source)
    for network in loaded:
        for key, value in trunk.state_dict().items():
            assert torch.equal(network.trunk.state_dict()[key], value)


@every_backbone
def test_weights_of_another_network_are_refused(name, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"something": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="must have shape"):
        backbones.load(name, str(path))
    path.write_bytes(b"not a state dict")
    with pytest.raises(WeightsError, match="must hold a state dict"):
        backbones.load(name, str(path))
    with pytest.raises(WeightsError, match="no such file"):
        backbones.load(name, str(tmp_path / "missing.pt"))


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="must hold a state dict"):
        backbones.load("alexnet", str(tmp_path / "evil.pt"))


@every_backbone
def test_imagenet_weights_that_cannot_be_downloaded_are_one_line(name, monkeypatch, tmp_path):
    import urllib.error

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="backbone_weights=none") as error:
        backbones.load(name, "imagenet")
    assert "\n" not in str(error.value)


def test_wide_backbones_are_projected():
    """Reading 3."""
    assert build(Config(backbone="resnet50")).backbone.channels == 256
    assert build(Config(backbone="resnet18", generator_blocks=1)).backbone.channels == 512
    assert build(Config(backbone="tiny", feature_channels=32)).backbone.channels == 32


def test_an_unknown_name_lists_the_existing_ones():
    listed = "take one of " + ", ".join(plugins.names("cgn.backbones"))
    with pytest.raises(ConfigError, match=listed):
        backbones.load("vgg")
    listed = "among the methods: take one of " + ", ".join(plugins.names("cgn.methods"))
    with pytest.raises(ConfigError, match=listed):
        build(Config(method="cnn"))


@every_backbone
def test_the_last_stage_is_cut_off_and_keeps_the_grid_of_its_input_where_asked(name):
    whole = backbones.load(name).eval()
    lower, upper = backbones.split(name, whole)
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        g = lower(x)
        assert g.shape[1] == lower.channels
        assert torch.equal(upper(g), whole(x))
        assert backbones.same_grid(upper)(g).shape == (1, whole.channels, *g.shape[2:])


@every_backbone
def test_the_published_head_has_the_published_weights(name, tmp_path):
    torch.manual_seed(1)
    module = plugins.load("cgn.backbones", name)
    source = module.build().eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    backbone, head, width = backbones.load_with_head(name, str(tmp_path / "weights.safetensors"))
    head.eval()
    x = torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        pooled = head(backbone.eval()(x))
    assert pooled.shape == (2, width)
    if name != "tiny":  # which has no published head
        *_, last = [layer for layer in source.modules() if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            expected = source(((x - backbones.MEAN) / backbones.STD).expand(-1, 3, -1, -1))
            torch.testing.assert_close(last(pooled), expected)
