"""Eq. 6-13, 17-18 and 20 as pure functions, in the paper's symbols.

B batch, C channels, h x w the feature grid. Features are `(B, C, h, w)`, lesion maps `(B, h, w)`,
logits `(B, 2)`. Losses return one value per sample, `(B,)`; the training loop reduces them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # added to the variance, as in [14]


def adain(h_t: Tensor, h_r: Tensor) -> Tensor:
    """Eq. 6. H_T with the channel-wise mean and deviation of H_R. (B,C,h,w) x 2 -> (B,C,h,w)

    Deviations are over the grid, per sample and channel (reading 1).
    """
    sigma_t, mu_t = _moments(h_t)
    sigma_r, mu_r = _moments(h_r)
    return sigma_r * ((h_t - mu_t) / sigma_t) + mu_r


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(h, dim=(2, 3), keepdim=True)
    return (variance + EPSILON).sqrt(), mean


def interpolate(h_t: Tensor, h_r: Tensor, alpha: float) -> Tensor:
    """Eq. 7, the input of G. (B,C,h,w) x 2 -> (B,C,h,w)"""
    return torch.lerp(h_t, adain(h_t, h_r), alpha)


def lesion_map(cam: Tensor) -> Tensor:
    """Sec. III-B, Omega = softmax(CAM) over the grid. (B,h,w) -> (B,h,w), each sums to 1"""
    return cam.flatten(1).softmax(1).view_as(cam)


def distance_map(h_t: Tensor, h_c: Tensor) -> Tensor:
    """Squared target-counterfactual distance at each cell, the sum in Eq. 10. (B,C,h,w) x 2 -> (B,h,w)"""
    return (h_t - h_c).square().sum(1)


def d_tc(h_t: Tensor, h_c: Tensor, omega: Tensor) -> Tensor:
    """Eq. 10. Weighted squared distance outside the lesion. (B,C,h,w) x 2, (B,h,w) -> (B,)

    The weights 1 - Omega sum to hw - 1: a true weighted mean (reading 7).
    """
    return ((1 - omega) * distance_map(h_t, h_c)).sum((1, 2)) / (omega[0].numel() - 1)


def d_rc(h_r: Tensor, h_c: Tensor) -> Tensor:
    """Eq. 11. Chamfer distance of the two sets of cells, insensitive to misalignment. (B,C,h,w) x 2 -> (B,)

    The nearest cells are found with |a - b|^2 = |a|^2 + |b|^2 - 2ab: one matrix product in place of a
    (B, hw, hw, C) array. Features are centred first, because the difference of large squares loses digits.
    The distances of the nearest cells are then computed directly: exact where cells coincide, and with a
    finite gradient.
    """
    r, c = h_r.flatten(2), h_c.flatten(2)  # (B, C, hw)
    with torch.no_grad():
        centre = r.mean(2, keepdim=True)
        r0, c0 = r - centre, c - centre
        squares = r0.square().sum(1).unsqueeze(2) + c0.square().sum(1).unsqueeze(1)  # (B, hw, hw)
        distance = torch.baddbmm(squares, r0.transpose(1, 2), c0, alpha=-2)
        nearest_c, nearest_r = distance.argmin(2), distance.argmin(1)  # (B, hw): for each r, for each c
    channels = r.shape[1]
    to_c = c.gather(2, nearest_c.unsqueeze(1).expand(-1, channels, -1))
    to_r = r.gather(2, nearest_r.unsqueeze(1).expand(-1, channels, -1))
    return ((r - to_c).square().sum(1) + (c - to_r).square().sum(1)).sum(1) / (2 * r.shape[2])


def l_ft(d_tc: Tensor, d_rc: Tensor, beta: float) -> Tensor:
    """Eq. 12. Feedback triplet loss: H_C is nearer to H_T than to H_R by a margin. (B,) x 2 -> (B,)"""
    return F.relu(d_tc + beta - d_rc)


def l_ne(logits_c: Tensor) -> Tensor:
    """Eq. 13. -log(1 - p_m(H_C)), p_m by softmax. (B,2) -> (B,)"""
    return -logits_c.log_softmax(1)[:, 0]


def l_cls(logits: Tensor, y: Tensor) -> Tensor:
    """Eq. 8. Cross entropy. (B,2), (B,) of 0 or 1 -> (B,)"""
    return F.cross_entropy(logits, y, reduction="none")


def l_ad_g(fake: Tensor, saturating: bool = False) -> Tensor:
    """Eq. 9 and 17, the loss of G from D's logits. (B, ...) -> (B,), mean over the other dimensions

    -log D (reading 10), or log(1 - D) as printed if saturating.
    """
    return (-F.softplus(fake) if saturating else F.softplus(-fake)).flatten(1).mean(1)


def l_ad_d(real: Tensor, fake: Tensor) -> Tensor:
    """Eq. 9 and 18, the loss of D: -log D(H_R) - log(1 - D(H_C)). (B, ...) x 2 -> (B,)"""
    return F.softplus(-real).flatten(1).mean(1) + F.softplus(fake).flatten(1).mean(1)


def l_fc(d_tc: Tensor) -> Tensor:
    """Eq. 20. The direct constraint of variant 2 is d_tc itself. (B,) -> (B,)"""
    return d_tc
