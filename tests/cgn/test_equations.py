"""Every equation against a plain float64 double loop, and identities that must hold."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn import equations as eq

SHAPE = (3, 5, 4, 6)  # B, C, h, w
TOLERANCE = {"rtol": 1e-5, "atol": 0}


@pytest.fixture(params=range(3))
def h(request, features):
    return tuple(features(10 * request.param + k, *SHAPE) * (k + 1) + k for k in range(3))


def loop_adain(t, r):
    out = np.empty_like(t)
    for b in range(t.shape[0]):
        for c in range(t.shape[1]):
            x, y = t[b, c], r[b, c]
            sx = math.sqrt(sum((v - x.mean()) ** 2 for v in x.flat) / (x.size - 1) + 1e-5)
            sy = math.sqrt(sum((v - y.mean()) ** 2 for v in y.flat) / (y.size - 1) + 1e-5)
            out[b, c] = sy * (x - x.mean()) / sx + y.mean()
    return out


def loop_d_tc(t, c, omega):
    _, _, height, width = t.shape
    out = []
    for b in range(len(t)):
        total = 0.0
        for i in range(height):
            for j in range(width):
                total += (1 - omega[b, i, j]) * sum((t[b, :, i, j] - c[b, :, i, j]) ** 2)
        out.append(total / (height * width - 1))
    return np.array(out)


def loop_d_rc(r, c):
    _, _, height, width = r.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    out = []
    for b in range(len(r)):
        total = 0.0
        for i, j in cells:
            total += min(sum((r[b, :, i, j] - c[b, :, u, v]) ** 2) for u, v in cells)
            total += min(sum((c[b, :, i, j] - r[b, :, u, v]) ** 2) for u, v in cells)
        out.append(total / (2 * height * width))
    return np.array(out)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_eq_6_adain(h):
    np.testing.assert_allclose(eq.adain(h[0], h[1]), loop_adain(h[0].numpy(), h[1].numpy()), **TOLERANCE)


def test_eq_7_interpolates_between_the_target_and_adain(h):
    expected = 0.7 * h[0].numpy() + 0.3 * loop_adain(h[0].numpy(), h[1].numpy())
    np.testing.assert_allclose(eq.interpolate(h[0], h[1], 0.3), expected, **TOLERANCE)
    assert torch.equal(eq.interpolate(h[0], h[1], 0.0), h[0])


def test_omega_is_a_softmax_over_the_grid(features):
    cam = features(0, 3, 4, 6) * 5
    expected = np.stack([softmax(m.numpy()) for m in cam])
    np.testing.assert_allclose(eq.lesion_map(cam), expected, **TOLERANCE)


def test_eq_10_d_tc(h, features):
    omega = eq.lesion_map(features(7, 3, 4, 6) * 3)
    np.testing.assert_allclose(
        eq.d_tc(h[0], h[1], omega), loop_d_tc(*(x.numpy() for x in (h[0], h[1], omega))), **TOLERANCE
    )


def test_eq_11_d_rc(h):
    np.testing.assert_allclose(eq.d_rc(h[0], h[1]), loop_d_rc(h[0].numpy(), h[1].numpy()), **TOLERANCE)


@pytest.mark.parametrize("beta", [0.0, 1.0, 250.0])
def test_eq_12_l_ft(beta):
    tc, rc = np.array([5.0, 3.0, 0.0]), np.array([1.0, 100.0, 4.0])
    expected = [max(0.0, a + beta - b) for a, b in zip(tc, rc, strict=True)]
    np.testing.assert_allclose(eq.l_ft(torch.tensor(tc), torch.tensor(rc), beta), expected, **TOLERANCE)


def test_eq_8_and_13_are_logarithms_of_the_softmax(features):
    logits, y = features(3, 6, 2) * 4, torch.tensor([0, 1, 1, 0, 1, 0])
    p = np.stack([softmax(row.numpy()) for row in logits])
    np.testing.assert_allclose(eq.l_ne(logits), [-math.log(1 - q[1]) for q in p], **TOLERANCE)
    expected = [-(k * math.log(q[1]) + (1 - k) * math.log(1 - q[1])) for q, k in zip(p, y, strict=True)]
    np.testing.assert_allclose(eq.l_cls(logits, y), expected, **TOLERANCE)


def test_eq_9_17_18_adversarial(features):
    real, fake = features(4, 3, 4, 6), features(5, 3, 4, 6)

    def mean_log(logits, sign):
        return [
            np.mean([math.log(1 / (1 + math.exp(-sign * v))) for v in sample.flat])
            for sample in logits.numpy()
        ]

    np.testing.assert_allclose(eq.l_ad_g(fake), [-v for v in mean_log(fake, 1)], **TOLERANCE)
    np.testing.assert_allclose(eq.l_ad_g(fake, saturating=True), mean_log(fake, -1), **TOLERANCE)
    expected = [-a - b for a, b in zip(mean_log(real, 1), mean_log(fake, -1), strict=True)]
    np.testing.assert_allclose(eq.l_ad_d(real, fake), expected, **TOLERANCE)


def test_eq_20_is_d_tc_itself(features):
    distance = features(6, 3).abs()
    assert torch.equal(eq.l_fc(distance), distance)


# --- identities ---------------------------------------------------------------------------------


def test_adain_of_a_feature_with_itself_is_that_feature(h):
    torch.testing.assert_close(eq.adain(h[0], h[0]), h[0])


def test_chamfer_of_a_feature_with_itself_is_zero_with_a_finite_gradient(h):
    moving = h[0].clone().requires_grad_()
    distance = eq.d_rc(h[0], moving)
    distance.sum().backward()
    assert torch.equal(distance, torch.zeros(3, dtype=torch.float64))
    assert torch.isfinite(moving.grad).all()


def test_weights_of_eq_10_sum_to_hw_minus_1(features):
    """Reading 7: h x w - 1 is not Bessel's correction."""
    omega = eq.lesion_map(features(1, 3, 13, 13) * 10)
    torch.testing.assert_close((1 - omega).sum((1, 2)), torch.full((3,), 168.0, dtype=torch.float64))


def test_d_tc_of_a_constant_difference_does_not_depend_on_omega(features):
    h_t, omega = features(2, 2, 3, 5, 5), eq.lesion_map(features(3, 2, 5, 5) * 4)
    torch.testing.assert_close(eq.d_tc(h_t, h_t + 2, omega), torch.full((2,), 12.0, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 5), st.integers(2, 5))
def test_chamfer_does_not_depend_on_the_order_of_cells(seed, channels, height, width):
    generator = torch.Generator().manual_seed(seed)
    r, c = (torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64) for _ in "rc")
    moved = c.flatten(2)[:, :, torch.randperm(height * width, generator=generator)].view_as(c)
    torch.testing.assert_close(eq.d_rc(r, c), eq.d_rc(r, moved))
    torch.testing.assert_close(eq.d_rc(r, c), eq.d_rc(c, r))


def test_chamfer_keeps_its_digits_in_float32_far_from_zero(features):
    """Features of size 1,000 that differ by 0.01: the difference of their squares has no correct digit."""
    r = (features(1, 2, 16, 6, 6) + 1000).float()
    c = (r.double() + 0.01 * features(2, 2, 16, 6, 6)).float()
    expected = loop_d_rc(r.double().numpy(), c.double().numpy())
    np.testing.assert_allclose(eq.d_rc(r, c), expected, rtol=1e-3)


def test_gradients_of_the_distances_are_those_of_finite_differences(features):
    r, c = features(1, 2, 3, 3, 3), features(2, 2, 3, 3, 3).requires_grad_()
    omega = eq.lesion_map(features(3, 2, 3, 3))
    assert torch.autograd.gradcheck(lambda x: eq.d_rc(r, x), (c,))
    assert torch.autograd.gradcheck(lambda x: eq.d_tc(r, x, omega), (c,))
    assert torch.autograd.gradcheck(lambda x: eq.adain(x, r), (c,))
