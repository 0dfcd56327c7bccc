"""A transformer over the cells of all films of a woman (after Chen et al. 2022), for the target's label."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgn import backbones, options
from cgn.config import Config
from cgn.methods import Batch, BatchPrediction, Method

READS = ("options", "loss_weights", "precision")
TERMS = ("l_cls",)
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {},
    {"options.views": 2, "options.layers": 1, "precision": "bf16", "loss_weights": {"l_cls": 0.5}},
)
WIDTH, HEADS = 256, 4
FILMS = ("target", "reference", "other_target", "other_reference")


class Options(options.Options):
    """How much the transformer reads, and its depth."""

    views: int = Field(1, ge=1, le=2, description="views of the breasts: the target's, or both")
    layers: int = Field(2, ge=1, le=12, description="transformer layers")


class CrossView(Method):
    """Tokens are cells, with embeddings of side and view and of the place; a class token is classified.

    Sides are both oriented to the chest wall, so equal places of two films have equal embeddings.
    """

    needs_reference = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        own = Options.model_validate(config.options)
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone = backbone
        self.films = FILMS[: 2 * own.views]
        self.needs_other = own.views == 2
        self.project = nn.Conv2d(backbone.channels, WIDTH, 1)
        self.film = nn.Parameter(0.02 * torch.randn(len(self.films), WIDTH))
        self.token = nn.Parameter(0.02 * torch.randn(WIDTH))
        self.layers = nn.ModuleList(_Layer() for _ in range(own.layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, 2)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels."""
        with self.autocast():
            logits, _ = self._classify(batch)
        return self.backward({"l_cls": F.cross_entropy(logits.float(), batch.y, reduction="none")})

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability, and the class token's attention to the target's cells above its minimum.

        The map is the mean over the last layer's heads, and the same for both classes.
        """
        with self.autocast():
            logits, attention = self._classify(batch)
        attention = attention.float()
        cam = attention - attention.amin((1, 2), keepdim=True)
        return BatchPrediction(logits.float().softmax(1)[:, 1], cam)

    def _classify(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B,2), attention to the target's cells (B,h,w)."""
        h = self.project(self.backbone(torch.cat([getattr(batch, film) for film in self.films])))
        height, width = h.shape[2:]
        cells = (h + _places(height, width).to(h)).flatten(2).transpose(1, 2).chunk(len(self.films))
        tokens = torch.cat([own + film for own, film in zip(cells, self.film, strict=True)], 1)
        x = torch.cat([self.token.expand(len(tokens), 1, -1).to(tokens), tokens], 1)
        attention = x.new_zeros(())
        for layer in self.layers:
            x, attention = layer(x)
        of_target = attention[:, 0, 1 : 1 + height * width].reshape(-1, height, width)
        return self.linear(self.norm(x[:, 0])), of_target


class _Layer(nn.Module):
    """Attention and a hidden layer, normalised before. (B,n,WIDTH) -> the same, attention (B,n,n)"""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention, self.norm_hidden = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm_attention(x)
        mixed, attention = self.attention(normed, normed, normed, need_weights=True)
        x = x + mixed
        return x + self.hidden(self.norm_hidden(x)), attention


def _places(height: int, width: int) -> Tensor:
    """Sines and cosines of row and column, a quarter of the channels each. (WIDTH, height, width)"""
    frequency = 10_000 ** -(torch.arange(WIDTH // 4) / (WIDTH // 4))
    rows = (torch.arange(height)[:, None] * frequency).T[:, :, None].expand(-1, -1, width)
    columns = (torch.arange(width)[:, None] * frequency).T[:, None, :].expand(-1, height, -1)
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()])


def build(config: Config) -> CrossView:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return CrossView(config)
