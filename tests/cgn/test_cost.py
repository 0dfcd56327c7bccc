"""Costs against counts by hand, and against those of the paper's networks."""

from typing import Any

import pytest
import torch
from torch import nn

from cgn import cost, methods, plugins
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, BatchPrediction, Method

CASES = [
    pytest.param(method, variant, id=" ".join((method, *map(str, variant.values()))))
    for method in plugins.names("cgn.methods")
    for variant in plugins.load("cgn.methods", method).VARIANTS
]


def configure(method: str, tiny: Config, **changes: Any) -> Config:
    required = getattr(plugins.load("cgn.methods", method), "REQUIRES", {})
    return tiny.edit(method=method, **required, **changes)


class OneConvolution(Method):
    """A 3 x 3 convolution from 1 to 5 channels on 8 x 8 pixels; a discriminator for a stage alone."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.backbone = nn.Conv2d(1, 5, 3, padding=1, bias=False)
        self.linear = nn.Linear(5, 2)
        self.discriminator = nn.Linear(100, 1)
        self.stages = (methods.Stage("gan", 1, 1, ("discriminator",), only=("discriminator",)),)

    def predict(self, batch: Batch) -> BatchPrediction:
        logits = self.linear(self.backbone(batch.target).mean((2, 3)))
        return BatchPrediction(logits[:, 1], batch.target[:, 0])

    def gradients(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.backward({"l_cls": self.predict(batch).p_malignant})


def test_a_convolution_is_counted_as_by_hand(monkeypatch, tiny):
    monkeypatch.setattr(methods, "build", OneConvolution)
    counted = cost.count(tiny, 8)
    convolution, linear = 8 * 8 * 5 * 9, 5 * 2  # multiply-adds
    assert counted.parameters == 5 * 9 + 5 * 2 + 2
    assert counted.parameters_training == counted.parameters + 101
    assert counted.gflop_predicted == pytest.approx(2 * (convolution + linear) / 1e9)
    # Backwards, a layer costs as much again for its weights, and for its input unless that is an image.
    assert counted.gflop_trained == pytest.approx(2 * (2 * convolution + 3 * linear) / 1e9)


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_every_method_can_be_counted(method, variant, tiny):
    state = torch.get_rng_state()
    counted = cost.count(configure(method, tiny, **variant), 32)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < counted.parameters <= counted.parameters_training
    assert counted.gflop_predicted > 0
    solved = not plugins.load("cgn.methods", method).TERMS
    assert (counted.gflop_trained is None) == solved


SBF = {"bilateral": "sbf", "triplet": "none", "negative_embedding": False}
SOLVED = {"frozen_backbone": True, "epochs": 1}


@pytest.mark.parametrize(
    ("backbone", "changes", "millions", "gflop"),
    [
        ("alexnet", {**SBF, "bilateral": "none"}, 3.1, 1.5),
        ("alexnet", SBF, 3.6, 3.0),
        ("alexnet", {**SBF, "bilateral": "sff"}, 3.6, 6.0),
        ("resnet50", SBF, 25.2, 16.6),
        ("alexnet", {}, 14.6, 6.6),
        ("resnet50", {}, 36.2, 17.6),
        ("alexnet", {"method": "vanilla", "options.head": "gap"}, 2.5, 1.31),
        # Grad-CAM behind the published head goes backwards through fc6 to fc8: 0.11 more than 1.42.
        ("alexnet", {"method": "vanilla"}, 57.0, 1.53),
        ("resnet50", {"method": "vanilla"}, 23.5, 8.17),
        ("alexnet", {"method": "abn"}, 3.1, 1.5),
        ("resnet50", {"method": "abn"}, 38.5, 14.0),
        ("alexnet", {"method": "zhu"}, 2.5, 1.31),
        ("alexnet", {"method": "wu"}, 2.7, 5.2),
        ("alexnet", {"method": "cyclegan"}, 3.6 + 2.0, 3.0 + 4.0),
        ("alexnet", {"method": "logistic", **SOLVED}, 2.5, 1.31),
        ("alexnet", {"method": "asym"}, 2.5, 2.6),
    ],
    ids=str,
)
def test_the_systems_of_table_1_cost_what_their_sources_say(backbone, changes, millions, gflop):
    """At 224 pixels; counted before by another program, or from the published layers."""
    counted = cost.count(Config(backbone=backbone).edit(**changes), 224)
    assert counted.parameters / 1e6 == pytest.approx(millions, rel=0.03)
    assert counted.gflop_predicted == pytest.approx(gflop, rel=0.03)


def test_a_training_step_of_cgn_is_counted_as_by_hand():
    """AlexNet's features have 256 channels on 13 x 13 cells. Backwards, each layer counts again for its
    weights and for its input, and G's inputs once more for the backbone, which learns from L_cls alone.
    """
    layer = 2 * 9 * 13 * 13 / 1e9  # of a 3 x 3 convolution, for each pair of channels
    g = 18 * layer * 256**2
    classifier = layer * 512 * 256
    d = 2 * layer * (256 * 128 + 128 * 64 + 64)  # H_R and H_C
    trunk = cost.count(Config(method="vanilla", options={"head": "gap"}), 224).gflop_predicted
    first = 2 * 11 * 11 * 64 * 3 * 55 * 55 / 1e9  # the images need no gradient
    forward = 2 * trunk + g + 2 * classifier + d
    backbone_and_classifier = 2 * classifier + g + 2 * (2 * trunk - first)
    generator = 2 * classifier + d + 2 * g - layer * 256**2
    discriminator = 2 * d - 2 * layer * 256 * 128
    counted = cost.count(Config(), 224).gflop_trained
    assert counted == pytest.approx(forward + backbone_and_classifier + generator + discriminator, rel=0.01)


def test_features_of_a_frozen_backbone_are_not_counted_in_a_step():
    learned, frozen = (cost.count(Config(**SBF, frozen_backbone=value), 224) for value in (False, True))
    assert frozen.gflop_predicted == learned.gflop_predicted
    assert frozen.parameters == learned.parameters
    assert frozen.gflop_trained is not None
    assert frozen.gflop_trained == pytest.approx(2 * 0.399, rel=0.01)  # no gradient of features
    assert learned.gflop_trained == pytest.approx(8.8, rel=0.03)


def test_an_unknown_method_is_refused_as_by_training(tiny):
    with pytest.raises(ConfigError, match="no_such"):
        cost.count(tiny.edit(method="no_such"), 32)
