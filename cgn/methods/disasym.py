"""Asymmetry split from symmetry by cross-attention, after DisAsymNet (Wang et al. 2023).

Written from the paper's idea; no code was found. It works on features here, and only the target is
classified. The paper makes lesions in images: here a rectangle of cells is taken from another film of the
batch. It too generates a counterfactual, so that Sec. IV-F can be measured beside CGN.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import options
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, BatchPrediction, Features, Method
from cgn.nets.cam import of_class
from cgn.nets.extractor import Extractor
from cgn.nets.fusion import FusionClassifier

READS = ("options", "loss_weights", "precision", "feature_channels")
TERMS = ("l_cls", "l_symmetric", "l_normal")
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.heads": 2, "options.lesion": 0.25, "precision": "bf16", "loss_weights": {"l_normal": 0.5}},
)


class Options(options.Options):
    """The attention, and the size of made lesions."""

    heads: int = Field(
        4, ge=1, description="heads of the cross-attention; must divide the features' channels"
    )
    lesion: float = Field(
        0.4, gt=0, lt=1, description="largest side of a made lesion, as a share of the grid's"
    )


class DisAsym(Method):
    """H_C is what the other breast says of each cell; H_T - H_C is the asymmetry that is classified."""

    needs_reference = True
    generates = True
    backbone: Extractor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        own = Options.model_validate(config.options)
        self.lesion = own.lesion
        self.backbone = Extractor(config)
        channels = self.backbone.channels
        if channels % own.heads:
            raise ConfigError(
                f"options.heads must divide the {channels} channels of the features but is {own.heads}: "
                "take 4"
            )
        self.attention = _CrossAttention(channels, own.heads)
        self.classifier = FusionClassifier(2 * channels, channels)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Three terms; the last two train the attention alone.

        `l_cls`: cross entropy of the label. `l_symmetric`: a lesion made in the reference must vanish in its
        counterfactual. `l_normal`: the classifier must find nothing malignant in the target's.
        """
        with self.autocast():
            h_t, h_r = self.backbone(torch.cat([batch.target, batch.reference])).chunk(2)
            h_c = self.attention(h_t, h_r)
            logits, _ = self.classifier(torch.cat([h_t - h_c, h_t], 1))
            fixed_t, fixed_r = h_t.detach(), h_r.detach()
            restored = self.attention(self._with_lesion(fixed_r), fixed_t)
            normal = self.attention(fixed_t, fixed_r)
            absent = torch.cat([torch.zeros_like(normal), normal], 1)
            logits_c, _ = self.classifier(absent, running_statistics=True)
        values = {
            "l_cls": F.cross_entropy(logits.float(), batch.y, reduction="none"),
            "l_symmetric": (restored.float() - fixed_r.float()).square().flatten(1).mean(1),
            "l_normal": F.cross_entropy(logits_c.float(), torch.zeros_like(batch.y), reduction="none"),
        }
        weights = self.config.loss_weights
        own = {name: weights.get(name, 1.0) * value.mean() for name, value in values.items()}
        attention = list(self.attention.parameters())
        torch.autograd.backward(own["l_cls"], retain_graph=True)
        torch.autograd.backward(own["l_symmetric"] + own["l_normal"], inputs=attention)
        return {name: value.detach() for name, value in values.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability and the map of the predicted class."""
        with self.autocast():
            h_t, _, h_c = self._features(batch)
            logits, cam = self.classifier(torch.cat([h_t - h_c, h_t], 1))
        return BatchPrediction(logits.float().softmax(1)[:, 1], of_class(cam.float(), logits.argmax(1)))

    def release_trunk(self) -> tuple[str, nn.Module]:
        """The part whose features can be computed once; the projection stays and is trained."""
        return "backbone.backbone.", self.backbone.release_backbone()

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Sec. IV-F: the features that are compared."""
        with self.autocast():
            h_t, h_r, h_c = (h.float() for h in self._features(batch))
            truth = None if batch.counterfactual is None else self.backbone(batch.counterfactual).float()
        return Features(h_t, h_r, h_c, truth)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """H_T, H_R, H_C."""
        h_t, h_r = self.backbone(torch.cat([batch.target, batch.reference])).chunk(2)
        return h_t, h_r, self.attention(h_t, h_r)

    def _with_lesion(self, h: Tensor) -> Tensor:
        """Each film with a random rectangle of cells of the next one in the batch."""
        height, width = h.shape[2:]
        inside = torch.ones(len(h), 1, height, width, dtype=torch.bool, device=h.device)
        for axis, side in ((2, height), (3, width)):
            length = (torch.rand(len(h), device=h.device) * self.lesion * side).floor() + 1
            begin = (torch.rand(len(h), device=h.device) * (side - length + 1)).floor()
            cells = torch.arange(side, device=h.device)
            within = (cells >= begin[:, None]) & (cells < (begin + length)[:, None])
            inside &= within[:, None, :, None] if axis == 2 else within[:, None, None, :]
        return torch.where(inside, h.roll(1, 0), h)


class _CrossAttention(nn.Module):
    """Each cell of one side as a mixture of the other side's cells. (B,C,h,w), (B,C,h,w) -> (B,C,h,w)"""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.last = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        query, cells = (h.flatten(2).transpose(1, 2) for h in (own, other))
        mixed, _ = self.attention(self.norm(query), self.norm(cells), cells, need_weights=False)
        answer: Tensor = mixed + self.last(mixed)
        return answer.transpose(1, 2).reshape(own.shape)


def build(config: Config) -> DisAsym:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return DisAsym(config)
