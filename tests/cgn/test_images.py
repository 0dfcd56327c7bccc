"""Pairs on a device, with what a network makes of them."""

import pytest
import torch

from cgn import methods, stages
from cgn.images import Images, inputs_of

SMALL = {"options.size": 32, "options.width": 2, "options.blocks": 1, "options.steps": 4}


@pytest.mark.parametrize("residual", ["features", "image", "score"])
@pytest.mark.parametrize("change", [0.0, 0.2])
def test_the_difference_that_a_generator_makes_is_measured_whatever_is_classified(
    residual, change, tiny, pairs, monkeypatch
):
    """`residual=image` keeps |X_T - X_C| in place of X_C: collapsed generators were not noticed."""
    config = tiny.edit(method="cyclegan", **{**SMALL, "options.residual": residual})
    network = methods.build(config)
    stages.finish(network)
    monkeypatch.setattr(network, "healthy_version", lambda x: (x + change).clamp(0, 1))
    measured = inputs_of(network, Images(pairs)).made_difference
    target = torch.from_numpy(pairs.target).float() / 255
    expected = ((target + change).clamp(0, 1) - target).mean()
    assert measured == pytest.approx(float(expected), abs=1e-6)
