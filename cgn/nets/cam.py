"""Class activation maps: 0 = no evidence, positive = for the class, negative = against it (Sec. IV-E)."""

from collections.abc import Callable

import torch
from torch import Tensor


def of_class(cam: Tensor, chosen: Tensor) -> Tensor:
    """Each sample's map of its chosen class. (B,2,h,w), (B,) -> (B,h,w)"""
    return cam[torch.arange(len(cam), device=cam.device), chosen]


def linear_map(h: Tensor, weight: Tensor) -> Tensor:
    """CAM of a linear layer behind a global average pool. (B,C,h,w), (K,C) -> (B,K,h,w)"""
    return torch.einsum("kc,bchw->bkhw", weight, h)


def pooled_gradient_map(h: Tensor, logits: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the predicted class: channels are weighted by the gradient of its logit.

    A channel's weight is the gradient with respect to its mean over the grid; behind a global average pool
    and a linear layer, this is the CAM.

    Args:
        h: features of the target, `(B, C, h, w)`.
        logits: from the features to `(B, 2)`, without mixing samples.

    Returns:
        The logits `(B, 2)` and the maps `(B, h, w)`, without a graph.
    """
    with torch.enable_grad():
        features = h.detach().requires_grad_()
        scores = logits(features).float()
        predicted = of_class(scores, scores.argmax(1))
        (gradient,) = torch.autograd.grad(predicted.sum(), features)
    maps = torch.einsum("bc,bchw->bhw", gradient.sum((2, 3)), h.float())
    return scores.detach(), maps
