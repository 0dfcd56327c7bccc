"""A training step against the plain way, and lockstep folds against one fold times k."""

import os

import pytest
import torch

from cgn import equations as eq
from cgn.config import Config
from cgn.fit import cross_validate, fit
from cgn.methods import Batch, build

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]


def distances(a, b):
    """The usual line for two sets of points: (B, N, C) and (B, M, C) broadcast to (B, N, M, C)."""
    a, b = a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(3)


def chamfer_as_printed(h_r, h_c):
    """Eq. 11 has two sums: a broadcast each."""
    left, right = distances(h_r, h_c).min(2).values, distances(h_c, h_r).min(2).values
    return (left.sum(1) + right.sum(1)) / (2 * left.shape[1])


def chamfer_in_one(h_r, h_c):
    """For those who see that the second sum's distances are the first one's, transposed."""
    both = distances(h_r, h_c)
    return (both.min(2).values.sum(1) + both.min(1).values.sum(1)) / (2 * both.shape[1])


def plain_step(network, batch, config, chamfer):
    """The same gradients, as one would first write them down: reading 24 by cutting the features."""
    h_t, h_r = network.backbone(batch.target), network.backbone(batch.reference)
    h_c = network.generator(eq.interpolate(h_t, h_r, config.alpha))
    logits, cam = network.classifier(torch.cat([h_t - h_c, h_t], 1))
    eq.l_cls(logits, batch.y).mean().backward()

    h_t, h_r = h_t.detach(), h_r.detach()
    h_c = network.generator(eq.interpolate(h_t, h_r, config.alpha))
    omega = eq.lesion_map(cam[torch.arange(len(cam)), logits.argmax(1)].detach())
    others = [*network.classifier.parameters(), *network.discriminator.parameters()]
    for parameter in others:
        parameter.requires_grad_(False)
    logits_c, _ = network.classifier(torch.cat([torch.zeros_like(h_c), h_c], 1), running_statistics=True)
    constraints = (
        eq.l_ad_g(network.discriminator(h_c))
        + eq.l_ne(logits_c)
        + eq.l_ft(eq.d_tc(h_t, h_c, omega), chamfer(h_r, h_c), config.beta)
    )
    constraints.mean().backward()
    for parameter in others:
        parameter.requires_grad_(True)
    real, fake = network.discriminator(h_r.detach()), network.discriminator(h_c.detach())
    eq.l_ad_d(real, fake).mean().backward()


def test_training_step(measure, say):
    """AlexNet, 8 pairs, 224 pixels; at least 2.5 times faster, with the same gradients."""
    torch.set_num_threads(os.cpu_count() or 1)
    config = Config(backbone="alexnet", beta=100.0)
    torch.manual_seed(0)
    network = build(config)
    batch = Batch(torch.rand(8, 1, 224, 224), torch.rand(8, 1, 224, 224), None, torch.arange(8) % 2)
    gradients = []

    def run(step):
        network.zero_grad(set_to_none=True)
        step()

    ways = {
        "plain": lambda: run(lambda: plain_step(network, batch, config, chamfer_as_printed)),
        "one broadcast": lambda: run(lambda: plain_step(network, batch, config, chamfer_in_one)),
        "ours": lambda: run(lambda: network.gradients(batch)),
    }
    for way in ways.values():
        network.classifier.norm.reset_running_stats()
        way()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    for other in gradients[1:]:
        difference = float((gradients[0] - other).norm() / gradients[0].norm())
        assert difference < 1e-3, "all ways must compute the same gradients"
    seconds = measure(ways, rounds=3)
    ratio = seconds["plain"] / seconds["ours"]
    say(
        f"training step, AlexNet, 8 pairs at 224: plain {seconds['plain']:.2f} s, "
        f"ours {seconds['ours']:.2f} s, ratio {ratio:.1f} (goal 2.5); plain with one broadcast "
        f"for both sums of Eq. 11 {seconds['one broadcast']:.2f} s, ratio "
        f"{seconds['one broadcast'] / seconds['ours']:.1f}"
    )
    assert ratio >= 2.5


def test_lockstep_epoch(measure, say, pairs, splits):
    """One epoch of k lockstep folds against one epoch of one fold times k: no overhead is the goal."""
    torch.set_num_threads(1)
    config = Config(backbone="tiny", generator_blocks=4, epochs=10_000, learning_rate=1e-4)
    together = cross_validate(config, pairs, splits)
    alone = fit(config, pairs, splits[0])
    seconds = measure({"together": lambda: next(together), "alone": lambda: next(alone)}, rounds=12)
    ratio = seconds["together"] / (len(splits) * seconds["alone"])
    say(
        f"epoch of {len(splits)} lockstep folds: {seconds['together']:.3f} s, one fold "
        f"{seconds['alone']:.3f} s, ratio to one fold times {len(splits)}: {ratio:.2f} (goal 1.10)"
    )
    assert ratio <= 1.10
