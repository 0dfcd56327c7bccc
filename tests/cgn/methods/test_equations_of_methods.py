"""The equations of the compared systems, against plain loops and against scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cgn import methods
from cgn.config import Config
from cgn.methods import Batch, _residual, forest
from cgn.nets.cam import linear_map, of_class, pooled_gradient_map

SIZE = 32


def batch_of(n: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((2, n, 1, SIZE, SIZE), generator=generator)
    return Batch(images[0], images[1], None, torch.arange(n) % 2)


def build(method: str, **options: Any) -> Any:
    torch.manual_seed(0)
    required = {"frozen_backbone": True, "epochs": 1} if method in ("logistic", "forest") else {}
    edits = {f"options.{name}": value for name, value in options.items()}
    return methods.build(Config(backbone="tiny").edit(method=method, **required, **edits))


# -------------------------------------------------------------------------------------------------- maps


def test_the_gradient_map_of_a_pooled_linear_layer_is_its_activation_map():
    torch.manual_seed(0)
    h, linear = torch.randn(5, 8, 4, 3), nn.Linear(8, 2)
    logits, cam = pooled_gradient_map(h, lambda x: linear(x.mean((2, 3))))
    expected = of_class(linear_map(h, linear.weight), logits.argmax(1))
    torch.testing.assert_close(cam, expected)
    chosen = linear.bias[logits.argmax(1)]
    torch.testing.assert_close(cam.mean((1, 2)) + chosen, logits.max(1).values)


# ------------------------------------------------------------------------------------------------- vanilla


@torch.no_grad()
def test_gap_is_a_linear_layer_on_mean_features():
    network, batch = build("vanilla", head="gap").eval(), batch_of()
    h = network.backbone(batch.target)
    for n in range(len(h)):
        scores = [
            sum(float(network.linear.weight[k, c]) * float(h[n, c].mean()) for c in range(h.shape[1]))
            + float(network.linear.bias[k])
            for k in range(2)
        ]
        p = math.exp(scores[1]) / (math.exp(scores[0]) + math.exp(scores[1]))
        assert float(network.predict(batch).p_malignant[n]) == pytest.approx(p, rel=1e-4)


# ----------------------------------------------------------------------------------------------------- zhu


def bce(probability: float, label: float) -> float:
    return -math.log(probability if label else 1 - probability)


@pytest.mark.parametrize("scheme", ["max", "sparse", "assign"])
def test_losses_of_instances_against_loops(scheme):
    network, batch = build("zhu", scheme=scheme, sparsity=0.01, assigned=2).train(), batch_of()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        cells = network.head(network.backbone(batch.target)).sigmoid().flatten(1).double()
    network.load_state_dict(state)  # batch norm has counted the pass
    values = network.gradients(batch)
    for n, y in enumerate(batch.y.tolist()):
        r = sorted(cells[n].tolist(), reverse=True)
        if scheme == "assign":
            loss = sum(bce(p, y if rank < 2 else 0) for rank, p in enumerate(r)) / len(r)
        else:
            loss = bce(r[0], y)
        assert float(values["l_cls"][n]) == pytest.approx(loss, rel=1e-4)
        if scheme == "sparse":
            assert float(values["l_sparse"][n]) == pytest.approx(0.01 * sum(r), rel=1e-4)
    assert ("l_sparse" in values) == (scheme == "sparse")


def test_label_assignment_begins_after_its_steps():
    network, batch = build("zhu", scheme="assign", assign_after=1).train(), batch_of()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = network.gradients(batch)["l_cls"]
    network.load_state_dict(state | {"steps": network.steps})
    assert not torch.allclose(network.gradients(batch)["l_cls"], first)


def test_attention_is_a_weighted_mean_of_cells():
    network, batch = build("zhu", scheme="attention").eval(), batch_of()
    head, h = network.head, network.backbone(batch.target)
    flat = h.flatten(2).transpose(1, 2)  # (B, cells, C)

    def layer(convolution: nn.Conv2d, x: Tensor) -> Tensor:
        return F.linear(x, convolution.weight.flatten(1), convolution.bias)

    gated = layer(head.value, flat).tanh() * layer(head.gate, flat).sigmoid()
    attention = layer(head.weight, gated).softmax(1)
    score = layer(head.linear, (attention * flat).sum(1)).squeeze(1)
    p, cam = network.predict(batch)
    torch.testing.assert_close(p, score.sigmoid(), rtol=1e-4, atol=1e-6)
    shares = cam.sum((1, 2)) * torch.where(score > 0, 1.0, -1.0)
    torch.testing.assert_close(shares + head.linear.bias, score, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- abn


def test_perception_reads_the_features_weighted_by_one_plus_the_map():
    network, batch = build("abn").eval(), batch_of()
    g = network.backbone(batch.target)
    _, m = network.attention(g)
    assert m.shape[2:] == g.shape[2:]
    logits = network.linear(network.upper((1 + m) * g).mean((2, 3)))
    torch.testing.assert_close(network.predict(batch).p_malignant, logits.softmax(1)[:, 1])


def test_a_constant_attention_map_points_nowhere():
    network, batch = build("abn", map="attention").eval(), batch_of()
    nn.init.zeros_(network.attention.map[0].weight)
    assert not network.predict(batch).cam.any()


# ------------------------------------------------------------------------------------------------------ wu


def test_views_are_averaged_as_probabilities():
    network, batch = build("wu").eval(), batch_of()
    own = batch._replace(other_target=batch.target, other_reference=batch.reference)
    other = batch._replace(other_target=batch.reference, other_reference=batch.target)
    swapped = batch._replace(target=batch.reference, reference=batch.target)
    swapped = swapped._replace(other_target=swapped.target, other_reference=swapped.reference)
    mean = (network.predict(own).p_malignant + network.predict(swapped).p_malignant) / 2
    torch.testing.assert_close(network.predict(other).p_malignant, mean)


# ---------------------------------------------------------------------------------------------------- asym


def test_the_largest_difference_decides():
    network, batch = build("asym").eval(), batch_of()
    same = batch._replace(reference=batch.target)
    p, cam = network.predict(same)
    assert float(cam.max()) < 1e-5
    assert float(network.predict(batch).p_malignant.min()) > float(p.max())


# ------------------------------------------------------------------------------------------------- disasym


def test_a_made_lesion_is_one_rectangle_of_the_next_film():
    network = build("disasym", lesion=0.5)
    h = torch.arange(4.0)[:, None, None, None].expand(4, 64, 6, 6).contiguous()
    torch.manual_seed(0)
    marked = network._with_lesion(h) != h
    for n in range(4):
        assert torch.equal(marked[n, 0], marked[n, 63])
        rows, columns = marked[n, 0].any(1).nonzero().flatten(), marked[n, 0].any(0).nonzero().flatten()
        assert 1 <= len(rows) <= 3
        assert 1 <= len(columns) <= 3
        assert marked[n, 0].sum() == len(rows) * len(columns)
        assert (rows.diff() == 1).all()


def test_terms_of_the_counterfactual_train_the_attention_alone():
    network, batch = build("disasym").train(), batch_of()
    network.config = network.config.edit(loss_weights={"l_cls": 0.0})
    network.gradients(batch)
    assert any(p.grad.abs().sum() > 0 for p in network.attention.parameters())
    others = (*network.backbone.parameters(), *network.classifier.parameters())
    assert all(p.grad is None or not p.grad.any() for p in others)


# ------------------------------------------------------------------------------------ logistic and forest


@pytest.mark.parametrize("sides", ["target", "both", "difference"])
def test_logistic_regression_is_that_of_scikit_learn(sides):
    network, batch = build("logistic", sides=sides, c=0.5), batch_of(20)
    network.eval().solve(batch, torch.Generator())
    p_t, p_r = (network.backbone(x).mean((2, 3)).detach().numpy() for x in (batch.target, batch.reference))
    x = {"target": p_t, "both": np.hstack([p_t, p_r]), "difference": np.hstack([p_t, abs(p_t - p_r)])}[sides]
    scale = x.std(0)
    standardised = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
    fitted = LogisticRegression(C=0.5, max_iter=1000).fit(standardised, batch.y.numpy())
    expected = fitted.predict_proba(standardised)[:, 1]
    np.testing.assert_allclose(network.predict(batch).p_malignant, expected, atol=1e-4)


def test_the_forest_is_that_of_scikit_learn():
    network, batch = build("forest", sides="both"), batch_of(30)
    network.eval().solve(batch, torch.Generator().manual_seed(4))
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(4)))
    x = np.hstack(
        [network.backbone(x).mean((2, 3)).detach().numpy() for x in (batch.target, batch.reference)]
    )
    expected = RandomForestClassifier(
        n_estimators=forest.TREES,
        max_depth=forest.DEPTH,
        min_samples_leaf=forest.SAMPLES_PER_LEAF,
        max_features="sqrt",
        random_state=seed,
    ).fit(x, batch.y.numpy())
    np.testing.assert_allclose(network.predict(batch).p_malignant, expected.predict_proba(x)[:, 1], atol=1e-6)


# ------------------------------------------------------------------------------------------ residual systems

SMALL = {"size": 16, "width": 2, "blocks": 1}


def test_a_generator_that_changes_nothing_gives_the_film_back():
    network, batch = build("fixedpoint", **SMALL).eval(), batch_of()
    for parameter in network.generator.parameters():
        nn.init.zeros_(parameter)
    grey = (batch.target * 255).round() / 255
    torch.testing.assert_close(network.make(grey), grey)


def test_detail_of_the_film_is_kept_and_the_change_is_added():
    torch.manual_seed(0)
    fine = torch.rand(2, 1, SIZE, SIZE) * 0.5
    network = build("fixedpoint", **SMALL).eval()
    network.healthy_version = lambda x: x + 0.25
    expected = ((fine + 0.25) * 255).round() / 255
    torch.testing.assert_close(network.make(fine), expected)
    network.detail = "replace"
    assert (network.make(fine) - expected).abs().mean() > 0.05  # the fine texture is lost


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    torch.manual_seed(0)
    weight = torch.randn(1, 1, 4, 4)
    real, fake = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    penalty = _residual.gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake)
    expected = (weight.norm() - 1).square().expand(3)
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("method", ["cyclegan", "fixedpoint", "anogan"])
def test_what_is_made_are_grey_values(method):
    options = {"size": 32, "width": 2} | ({} if method == "anogan" else {"blocks": 1})
    made = build(method, **options).eval().make(batch_of().target)
    assert made.shape == (6, 1, SIZE, SIZE)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    torch.testing.assert_close(made * 255, (made * 255).round())
