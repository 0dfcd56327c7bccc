"""Deep multi-instance networks (Zhu et al. 2017): every cell of the feature grid is an instance.

The paper's row is sparse multi-instance learning. `attention` is the pooling of Ilse et al. 2018.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, Method

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls", "l_sparse")
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.scheme": "max", "precision": "bf16"},
    {"options.scheme": "assign", "options.assigned": 2, "options.assign_after": 1},
    {"options.scheme": "attention", "options.pool": False, "loss_weights": {"l_cls": 0.5}},
)
WIDTH = 128  # channels of the instance classifier and of the attention


class Options(options.Options):
    """Which cells the loss reads, and how strongly few are preferred."""

    scheme: Literal["max", "assign", "sparse", "attention"] = Field(
        "sparse",
        description="max: the highest cell; assign: the `assigned` highest cells have the label, all others "
        "are benign; sparse: max and a penalty on all cells; attention: a weighted mean of the cells",
    )
    sparsity: float = Field(1e-3, ge=0, description="weight of the penalty of `sparse` (reading 41)")
    assigned: int = Field(1, ge=1, description="cells with the label of the film, for `assign`")
    assign_after: int = Field(0, ge=0, description="steps of `max` before `assign` begins")
    pool: bool = Field(True, description="AlexNet: keep the pool behind conv5 (6 x 6 cells, not 13 x 13)")
    weight_decay: float = Field(1e-5, ge=0, description="L2 penalty in Adam")

    def for_backbone(self, backbone: str) -> Self:
        """Only AlexNet has a pool behind its last convolution."""
        return self if backbones.has_pool(backbone) else self.model_copy(update={"pool": True})


class Zhu(Method):
    """A classifier of cells, two hidden layers of 1x1 convolutions; the film's score is its highest cell."""

    steps: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = Options.model_validate(config.options)
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone = backbone
        self.pool = backbones.pool(config.backbone) if self.options.pool else nn.Identity()
        scored = nn.Sequential(
            *(nn.Conv2d(backbone.channels, WIDTH, 1), nn.ReLU()),
            *(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU()),
            nn.Conv2d(WIDTH, 1, 1),
        )
        self.head = _Attention(backbone.channels) if self.options.scheme == "attention" else scored
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:  # noqa: ARG002  (there is none)
        """All parameters with the weight decay of the published code."""
        return [{"params": list(self.parameters()), "weight_decay": self.options.weight_decay}]

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """The scheme's terms."""
        y = batch.y.float()
        if self.options.scheme == "attention":
            score, _ = self._attention(batch)
            return self.backward({"l_cls": _bce(score, y)})
        cells = self._cells(batch).flatten(1)
        loss = _of_highest(cells, y)
        if self.options.scheme == "assign":
            assigning = self.steps >= self.options.assign_after  # a tensor, so that `cgn.cost` can follow
            loss = torch.where(assigning, self._assigned(cells, y), loss)
        values = {"l_cls": loss}
        if self.options.scheme == "sparse":
            values["l_sparse"] = self.options.sparsity * cells.sigmoid().sum(1)
        self.steps += 1
        return self.backward(values)

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability of the highest cell; the map is each cell's probability of malignancy, for both
        classes.

        `attention`: each cell's share of the logit of the predicted class.
        """
        if self.options.scheme == "attention":
            score, evidence = self._attention(batch)
            sign = torch.where(score > 0, 1.0, -1.0)
            return BatchPrediction(score.sigmoid(), evidence * sign[:, None, None])
        cells = self._cells(batch)
        return BatchPrediction(cells.flatten(1).amax(1).sigmoid(), cells.sigmoid())

    def _cells(self, batch: Batch) -> Tensor:
        """Logits of malignancy, (B, h, w)."""
        with self.autocast():
            cells: Tensor = self.head(self.pool(self.backbone(batch.target)))
        return cells.float().squeeze(1)

    def _attention(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The film's logit (B,), and each cell's share of it without the bias (B, h, w)."""
        with self.autocast():
            score, evidence = self.head(self.pool(self.backbone(batch.target)))
        return score.float(), evidence.float()

    def _assigned(self, cells: Tensor, y: Tensor) -> Tensor:
        """Label assignment: the mean over cells, of which the highest ones have the film's label."""
        ordered = cells.sort(1, descending=True).values
        labels = torch.zeros_like(ordered)
        labels[:, : self.options.assigned] = y[:, None]
        return F.binary_cross_entropy_with_logits(ordered, labels, reduction="none").mean(1)


class _Attention(nn.Module):
    """Gated attention of Ilse et al. 2018. (B,C,h,w) -> (B,), (B,h,w)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Conv2d(channels, WIDTH, 1), nn.Conv2d(channels, WIDTH, 1)
        self.weight, self.linear = nn.Conv2d(WIDTH, 1, 1, bias=False), nn.Conv2d(channels, 1, 1)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.weight(self.value(h).tanh() * self.gate(h).sigmoid())
        attention = attention.flatten(1).softmax(1).reshape(attention.shape)
        evidence = attention * F.conv2d(h, self.linear.weight)
        return evidence.sum((1, 2, 3)) + self.linear.bias, evidence.squeeze(1)


def _bce(score: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(score, y, reduction="none")


def _of_highest(cells: Tensor, y: Tensor) -> Tensor:
    """The maximum of the probabilities is the probability of the maximum."""
    return _bce(cells.amax(1), y)


def build(config: Config) -> Zhu:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return Zhu(config)
