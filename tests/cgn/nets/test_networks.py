"""Shapes and identities of discriminator, generators and classifiers."""

import pytest
import torch

from cgn.nets.discriminator import Discriminator
from cgn.nets.fusion import FusionClassifier, GatedFusionClassifier
from cgn.nets.generator import Generator, ImageGenerator


def test_the_discriminator_gives_one_logit_per_cell():
    assert Discriminator(16)(torch.rand(2, 16, 5, 7)).shape == (2, 5, 7)


def test_the_generator_keeps_the_shape_of_features():
    assert Generator(8, 3)(torch.rand(2, 8, 5, 7)).shape == (2, 8, 5, 7)


@pytest.mark.parametrize("sides", [(32, 32), (34, 37)])
def test_the_image_generator_keeps_the_shape_of_images(sides):
    made = ImageGenerator(16, 1)(torch.rand(2, 1, *sides))
    assert made.shape == (2, 1, *sides)
    assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize("classifier", [FusionClassifier, GatedFusionClassifier])
def test_a_logit_is_the_mean_of_its_map_plus_the_bias(classifier):
    network = classifier(16, 8).eval()
    logits, cam = network(torch.rand(3, 16, 5, 5))
    assert cam.shape == (3, 2, 5, 5)
    torch.testing.assert_close(logits, cam.mean((2, 3)) + network.linear.bias)


def test_running_statistics_are_used_and_not_updated():
    """Reading 25."""
    network, features = FusionClassifier(16, 8).train(), torch.rand(3, 16, 5, 5)
    before = network.norm.running_mean.clone()
    logits, _ = network(features, running_statistics=True)
    assert torch.equal(network.norm.running_mean, before)
    torch.testing.assert_close(logits, network.eval()(features)[0])
