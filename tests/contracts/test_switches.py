"""Every row of Tables III to V and every other switch: it trains, and each term trains only its parts."""

from dataclasses import replace

import pytest
import torch

from cgn import equations as eq
from cgn import objective
from cgn.ablation import Bilateral, Triplet, Variant
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.fit import fit, last
from cgn.methods import Batch, build

B, T = Bilateral, Triplet
ALL = {"l_cls", "l_ad_g", "l_ad_d", "l_ne", "l_ft"}

# (switches, terms that must act)
TABLE_III = [
    (dict(bilateral=B.NONE, negative_embedding=False, triplet=T.NONE), {"l_cls"}),
    (dict(bilateral=B.SBF, negative_embedding=False, triplet=T.NONE), {"l_cls"}),
    (dict(bilateral=B.TF_GAN, negative_embedding=False, triplet=T.NONE), {"l_cls", "l_ad_g", "l_ad_d"}),
    (dict(bilateral=B.BF_GAN, negative_embedding=False, triplet=T.NONE), {"l_cls", "l_ad_g", "l_ad_d"}),
    (dict(bilateral=B.ADAIN_GAN, negative_embedding=False, triplet=T.NONE), {"l_cls", "l_ad_g", "l_ad_d"}),
    (dict(bilateral=B.ADAIN_GAN, triplet=T.NONE), ALL - {"l_ft"}),
    (dict(bilateral=B.ADAIN_GAN, triplet=T.NON_FEEDBACK), ALL),
    (dict(bilateral=B.NONE, triplet=T.FEEDBACK), {"l_cls", "l_ne", "l_ft"}),
    (dict(bilateral=B.ADAIN_GAN, negative_embedding=False), ALL - {"l_ne"}),
    (dict(), ALL),
]
TABLE_IV = [
    (dict(variant=Variant.MASKED_ADVERSARY), ALL - {"l_ft"}),
    (dict(variant=Variant.DIRECT), (ALL - {"l_ft"}) | {"l_fc"}),
]
TABLE_V = [(dict(bilateral=way), {"l_cls"}) for way in (B.SBF, B.GF, B.SFF)]
OTHERS = [
    (dict(generator_level="image"), ALL),
    (dict(generator_level="image", bilateral=B.NONE), {"l_cls", "l_ne", "l_ft"}),
    (dict(generator_level="image", bilateral=B.TF_GAN, triplet=T.NONE), ALL - {"l_ft"}),
    (dict(bilateral=B.ORACLE), {"l_cls"}),
    (dict(counterfactual_gradient="joint"), ALL),
    (dict(adversarial="saturating"), ALL),
    (dict(cam_class="label"), ALL),
    (dict(cam_class="malignant", omega_gradient=True), ALL),
    (dict(loss_weights={"l_ft": 0.1}), ALL),
    (dict(feature_channels=16), ALL),
    (dict(precision="bf16"), ALL),
]


@pytest.mark.parametrize(("switches", "acting"), TABLE_III + TABLE_IV + TABLE_V + OTHERS)
def test_every_row_trains(switches, acting, tiny, pairs, splits):
    config = tiny.edit(**switches)
    reports = list(fit(config, pairs, splits[0]))
    watched = {"d_tc", "d_rc"} & objective.needs(config)
    assert set(reports[-1].losses) == acting | watched
    assert [report.epoch for report in reports] == [0, 1]
    assert all(0 <= report.val_auc <= 1 for report in reports)


def _batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    target, reference, truth, *other = (torch.rand(4, 1, 32, 32, generator=generator) for _ in range(5))
    return Batch(target, reference, truth, torch.tensor([0, 1, 0, 1]), *other)


def _gradients(config: Config, **weights: float) -> dict[str, float]:
    """Norm of each part's gradient with these weights, all other terms at 0."""
    silent = dict.fromkeys(objective.TERM_NAMES, 0.0)
    torch.manual_seed(0)
    network = build(config.edit(loss_weights=silent | weights))
    network.gradients(_batch())
    return {
        part: sum(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)
        for part, module in network.named_children()
    }


@pytest.mark.parametrize("term", ["l_cls", "l_ad_g", "l_ad_d", "l_ne", "l_ft"])
@pytest.mark.parametrize("way", ["generator", "joint"])
@pytest.mark.parametrize("level", ["feature", "image"])
def test_a_term_trains_the_parts_that_it_names_and_no_others(term, way, level, tiny):
    """Reading 24. A large beta makes the triplet loss active. An image G learns through the backbone."""
    config = tiny.edit(counterfactual_gradient=way, generator_level=level, beta=1e6)
    named = next(t.trains for t in objective.terms(config) if t.name == term)
    trained = {part for part, norm in _gradients(config, **{term: 1.0}).items() if norm > 0}
    assert trained == set(named)


@pytest.mark.parametrize(
    ("way", "reached"), [("generator", {"generator"}), ("joint", {"backbone", "generator"})]
)
def test_reading_24_limits_which_parts_the_constraints_train(way, reached, tiny):
    config = tiny.edit(counterfactual_gradient=way, beta=1e6)
    norms = _gradients(config, l_ad_g=1.0, l_ne=1.0, l_ft=1.0)
    assert {part for part, norm in norms.items() if norm > 0} == reached


def test_gradients_are_the_sum_over_the_terms(tiny):
    """One backward pass per set of terms gives the same as one pass per term."""
    config = tiny.edit(beta=1e6, loss_weights={"l_ne": 0.5})
    torch.manual_seed(0)
    network = build(config)
    network.gradients(_batch())
    got = {name: p.grad.clone() for name, p in network.named_parameters()}

    torch.manual_seed(0)
    plain = build(config)
    step, total = plain(_batch()), {}
    for term in objective.terms(config):
        value = term.value(step, config).mean() * config.loss_weights.get(term.name, 1.0)
        own = [(n, p) for n, p in plain.named_parameters() if n.split(".")[0] in term.trains]
        slopes = torch.autograd.grad(value, [p for _, p in own], retain_graph=True, allow_unused=True)
        for (name, _), slope in zip(own, slopes, strict=True):
            if slope is not None:
                total[name] = total.get(name, 0) + slope
    assert set(total) == set(got)
    for name, expected in total.items():
        torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-5)


def test_the_masked_adversary_gives_d_only_the_lesion(tiny):
    """Eq. 17-18: D's input is Omega * H. An Omega of 1/hw everywhere shrinks it by hw."""
    torch.manual_seed(0)
    network = build(tiny.edit(variant=Variant.MASKED_ADVERSARY))
    seen = []
    network.discriminator.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    step = network(_batch())
    real, fake = seen[0].chunk(2)
    assert float(real.detach().norm()) < float(step.h_r.detach().norm())
    ratio = (fake / step.h_c).detach()
    omega = ratio[:, 0]
    torch.testing.assert_close(ratio, omega.unsqueeze(1).expand_as(ratio), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(omega.sum((1, 2)), torch.ones(4), rtol=1e-3, atol=1e-3)


def test_non_feedback_omega_is_largest_where_the_distance_is(tiny):
    torch.manual_seed(0)
    network = build(tiny.edit(triplet=T.NON_FEEDBACK))
    step = network(_batch())
    omega = network.omega(step)
    distance = (step.h_t - step.h_c).square().sum(1).flatten(1)
    assert torch.equal(omega.flatten(1).argmax(1), distance.argmax(1))


def test_the_single_view_network_does_not_read_the_reference(tiny):
    network = build(tiny.edit(bilateral=B.NONE, negative_embedding=False, triplet=T.NONE)).eval()
    batch = _batch()
    other = batch._replace(reference=torch.zeros_like(batch.reference))
    assert torch.equal(network.predict(batch).p_malignant, network.predict(other).p_malignant)
    sbf = build(tiny.edit(bilateral=B.SBF)).eval()
    assert not torch.equal(sbf.predict(batch).p_malignant, sbf.predict(other).p_malignant)


@pytest.mark.parametrize("way", [B.SBF, B.GF, B.SFF])
def test_without_a_generator_the_classification_loss_trains_all_parts(way, tiny):
    norms = _gradients(tiny.edit(bilateral=way), l_cls=1.0)
    assert set(norms) == {"backbone", "classifier"}
    assert all(norms.values())


def test_gates_weight_the_features_that_sbf_fuses(tiny):
    """Reading 28. With open gates GF equals SBF; a closed gate hides its side."""
    torch.manual_seed(0)
    gf = build(tiny.edit(bilateral=B.GF)).eval()
    sbf = build(tiny.edit(bilateral=B.SBF)).eval()
    sbf.load_state_dict({k: v for k, v in gf.state_dict().items() if "gate" not in k})
    batch = _batch()
    other = batch._replace(reference=torch.zeros_like(batch.reference))
    gate = gf.classifier.gate
    with torch.no_grad():
        gate.weight.zero_()
        gate.bias.fill_(100.0)
        assert torch.equal(gf.predict(batch).p_malignant, sbf.predict(batch).p_malignant)
        gate.bias[:64] = -1000.0  # of [H_R, H_T]
        assert torch.equal(gf.predict(batch).p_malignant, gf.predict(other).p_malignant)


def test_sff_averages_the_views_and_equals_sbf_for_one_view(tiny):
    """Reading 29. The classifier is linear after pooling: averaging logits averages pooled features."""
    torch.manual_seed(0)
    sff = build(tiny.edit(bilateral=B.SFF)).eval()
    sbf = build(tiny.edit(bilateral=B.SBF)).eval()
    sbf.load_state_dict(sff.state_dict())
    assert (sff.needs_other, sbf.needs_other) == (True, False)
    batch = _batch()
    own = batch._replace(other_target=batch.target, other_reference=batch.reference)
    other = batch._replace(target=batch.other_target, reference=batch.other_reference)
    torch.testing.assert_close(sff.predict(own).p_malignant, sbf.predict(own).p_malignant)
    with torch.no_grad():
        views = [sbf(view).logits for view in (batch, other)]
    expected = torch.stack(views).mean(0).softmax(1)[:, 1]
    torch.testing.assert_close(sff.predict(batch).p_malignant, expected)


def test_the_features_of_the_generated_image_are_h_c(tiny):
    """Sec. IV-G, reading 30. Also for sides that are not divisible by 4."""
    torch.manual_seed(0)
    network = build(tiny.edit(generator_level="image")).eval()
    seen = []
    network.generator.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    batch = Batch(*(torch.rand(2, 1, 34, 37) for _ in range(3)), torch.tensor([0, 1]))
    found = network.features(batch)
    (mixed, x_c), config = seen[0], network.config
    torch.testing.assert_close(mixed, eq.interpolate(batch.target, batch.reference, config.alpha))
    assert x_c.shape == batch.target.shape
    assert 0 <= x_c.min() <= x_c.max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(found.counterfactual, network.backbone(x_c))
        torch.testing.assert_close(found.truth, network.backbone(batch.counterfactual))


def test_features_need_a_generator(tiny):
    with pytest.raises(ConfigError, match="bilateral=sbf must generate a counterfactual"):
        build(tiny.edit(bilateral=B.SBF)).features(_batch())


def test_cam_class_chooses_the_class_whose_map_is_omega(tiny):
    """Reading 6."""
    omegas = {}
    for chosen in ("label", "malignant", "predicted"):
        torch.manual_seed(0)
        network = build(tiny.edit(cam_class=chosen)).eval()
        with torch.no_grad():
            step = network(_batch())
            omegas[chosen] = network.omega(step)
    classes = {"label": step.y, "malignant": torch.ones_like(step.y), "predicted": step.logits.argmax(1)}
    for chosen, index in classes.items():
        torch.testing.assert_close(omegas[chosen], eq.lesion_map(step.cam[torch.arange(4), index]))


@pytest.mark.parametrize("enabled", [False, True])
def test_omega_has_a_gradient_only_if_enabled(enabled, tiny):
    network = build(tiny.edit(omega_gradient=enabled))
    assert network.omega(network(_batch())).requires_grad is enabled


def test_cam_class_label_does_not_read_labels_when_predicting(tiny):
    network = build(tiny.edit(cam_class="label")).eval()
    batch = _batch()
    swapped = batch._replace(y=1 - batch.y)
    assert torch.equal(network.predict(batch).cam, network.predict(swapped).cam)


def test_the_oracle_needs_true_counterfactuals(tiny, pairs, splits):
    without = replace(pairs, counterfactual=None)
    with pytest.raises(ConfigError, match="only phantoms have"):
        last(fit(tiny.edit(bilateral=B.ORACLE), without, splits[0]))


def test_loss_weights_name_existing_terms(tiny):
    with pytest.raises(ConfigError, match=r"may name .*l_ft.* but got 'l_tf'"):
        build(tiny.edit(loss_weights={"l_tf": 1.0}))
