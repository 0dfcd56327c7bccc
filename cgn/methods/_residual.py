"""The second stage that AnoGAN, Fixed-Point GAN and CycleGAN share: classify what they take from a film.

The paper shows activation maps of these systems and measures their localisation by them, so they must have
had a classifier. It is read as the paper's own (reading 5) on [H_T - H_C, H_T], with X_C by the system
(reading 39): the rows of Table I then differ in the counterfactual alone. All look at the target only.
"""

from typing import Any, Literal

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
TERMS = ("l_cls",)
LOCAL = 9  # pixels: side of the mean that smooths a residual map
QUANTILE = 0.99


class Options(options.Options):
    """What the paper leaves open of the three systems (readings 39, 40 and 44)."""

    size: int = Field(112, ge=16, description="side of the films that the system sees, in pixels")
    detail: Literal["keep", "replace"] = Field(
        "keep",
        description="keep: X_C is X_T with the system's change at its resolution; replace: its output alone",
    )
    residual: Literal["features", "image", "score"] = Field(
        "features",
        description="what is classified: H_T - H_C beside H_T; features of |X_T - X_C| beside H_T; or mean, "
        "99 % quantile and maximum of the change alone",
    )
    map: Literal["cam", "residual"] = Field(
        "cam", description="cam: of the classifier; residual: |X_T - X_C|, the same for both classes"
    )
    healthy: Literal["finding", "cohort", "references", "benign"] = Field(
        "finding",
        description="healthy films: without any finding, without one of the cohort's kinds, or the training "
        "pairs' other breasts; benign: benign targets in place of healthy films",
    )


class Residual(Method):
    """X_C by the system, made once; then a classifier of the difference."""

    backbone: Extractor
    makes = True

    def __init__(self, config: Config, own: Options) -> None:
        super().__init__(config)
        self.size, self.detail, self.residual, self.map = own.size, own.detail, own.residual, own.map
        self.healthy = own.healthy
        self.generates = own.residual == "features"
        self.backbone = Extractor(config)
        channels = self.backbone.channels
        self.classifier: nn.Module = (
            _Scores() if own.residual == "score" else FusionClassifier(2 * channels, channels)
        )

    def groups(self, stage: str | None = None) -> list[dict[str, Any]]:
        """For classification, all that no stage trains; `residual=score` reads no features."""
        if self.residual == "score" and stage is None:
            return [{"params": list(self.classifier.parameters())}]
        return super().groups(stage)

    def healthy_version(self, x: Tensor) -> Tensor:
        """The system's answer to films at its own size. (B,1,size,size) in [0, 1] -> the same"""
        raise NotImplementedError

    @torch.no_grad()
    def make(self, target: Tensor) -> Tensor:
        """X_C or H_C; for `residual=image`, its distance from the target."""
        features = self.level == "feature"
        made = self.healthy_version(target) if features else self._at_full_size(target)
        made = (target - made).abs() if self.residual == "image" else made
        return made if features else (made * 255).round() / 255

    def _at_full_size(self, target: Tensor) -> Tensor:
        """X_C in [0, 1], from the system's answer at its own size."""
        x = self.resize(target)
        x_c = self.healthy_version(x)
        change = x_c - x if self.detail == "keep" else x_c
        enlarged = F.interpolate(change, target.shape[2:], mode="bilinear", align_corners=False)
        return (target + enlarged if self.detail == "keep" else enlarged).clamp(0, 1)

    def change(self, target: Tensor, made: Tensor) -> Tensor:
        """|X_T - X_C|, which `make` itself returns for `residual=image`."""
        return made if self.residual == "image" else (target - made).abs()

    def resize(self, images: Tensor) -> Tensor:
        """Images at the system's size; features as they are."""
        if self.level == "feature" or images.shape[-1] == self.size:
            return images
        return F.interpolate(images, (self.size, self.size), mode="area")

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the labels."""
        with self.autocast():
            logits, _ = self._classify(batch)
        return self.backward({"l_cls": F.cross_entropy(logits.float(), batch.y, reduction="none")})

    @torch.no_grad()
    def predict(self, batch: Batch) -> BatchPrediction:
        """Probability and map. Where the trunk is frozen, a residual map is one of features."""
        with self.autocast():
            logits, cam = self._classify(batch)
        p = logits.float().softmax(1)
        if self.map == "residual" or cam is None:
            return BatchPrediction(p[:, 1], self._change(batch))
        return BatchPrediction(p[:, 1], of_class(cam.float(), logits.argmax(1)))

    def release_trunk(self) -> tuple[str, nn.Module]:
        """The part whose features can be computed once; the projection stays and is trained."""
        return "backbone.backbone.", self.backbone.release_backbone()

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Sec. IV-F: the features that are compared. Raises ConfigError if H_C is not computed."""
        if not self.generates:
            raise ConfigError(
                f"options.residual={self.residual} computes no features of the counterfactual: "
                "set options.residual=features"
            )
        h_t, h_c = (h.float() for h in self._features(batch))
        truth = None if batch.counterfactual is None else self.backbone(batch.counterfactual).float()
        return Features(h_t, self.backbone(batch.reference).float(), h_c, truth)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the target and of what is made of it."""
        if self.level == "image":
            h_t, h_made = self.backbone(torch.cat([batch.target, self._made(batch)])).chunk(2)
            return h_t, h_made
        raw, made = self._before_projection(batch)
        return self.backbone.projection(raw), self.backbone.projection(made)

    def _before_projection(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the system reads and makes: images, or features of the trunk."""
        target = batch.target if self.level == "image" else self.backbone.backbone(batch.target)
        return target, self.make(target) if batch.made is None else batch.made

    def _made(self, batch: Batch) -> Tensor:
        return self._before_projection(batch)[1]

    def _classify(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Logits (B,2), maps of both classes (B,2,h,w) if the classifier has maps."""
        if self.residual == "score":
            return self.classifier(self._change(batch)), None
        h_t, h_made = self._features(batch)
        second = h_made if self.residual == "image" else h_t - h_made
        logits, cam = self.classifier(torch.cat([second, h_t], 1))
        return logits, cam

    def _change(self, batch: Batch) -> Tensor:
        """|X_T - X_C|, smoothed and as a mean over channels; of features if the trunk is frozen. (B,h,w)"""
        target, made = self._before_projection(batch)
        if self.level == "image" and self.config.frozen_backbone:
            target, made = self.backbone.backbone(target), self.backbone.backbone(made)
        change = made if self.residual == "image" else (target - made).abs()
        side = min(LOCAL, change.shape[-1] - 1 + change.shape[-1] % 2)
        return F.avg_pool2d(change.float().mean(1, keepdim=True), side, 1, side // 2).squeeze(1)


class _Scores(nn.Module):
    """What a detector of anomalies knows of malignancy. Maps of change (B,h,w) -> logits (B,2)"""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)

    def forward(self, change: Tensor) -> Tensor:
        cells = change.flatten(1)
        numbers = torch.stack([cells.mean(1), cells.quantile(QUANTILE, 1), cells.amax(1)], 1)
        logits: Tensor = self.linear(self.norm(numbers))
        return logits


def start_small(network: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02), as CycleGAN and its descendants begin."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def adam(modules: list[nn.Module], learning_rate: float, betas: tuple[float, float]) -> dict[str, Any]:
    """A parameter group of Adam."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return {"params": parameters, "lr": learning_rate, "betas": betas}


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of each sample. (B,)"""
    return (x - y).abs().flatten(1).mean(1)


def gradient_penalty(score: Any, real: Tensor, fake: Tensor) -> Tensor:
    """(||grad D|| - 1)^2 at random mixtures of real and generated films. (B,)"""
    mix = torch.rand(len(real), 1, 1, 1, device=real.device)
    x = torch.lerp(real, fake, mix).requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    norm: Tensor = gradient.flatten(1).norm(dim=1)
    return (norm - 1).square()


def minimise(values: list[Tensor], modules: list[nn.Module]) -> None:
    """Fill `.grad` of these modules alone from the mean of a sum of losses, `(B,)` each."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    total = torch.stack([value.mean() for value in values]).sum()
    torch.autograd.backward(total, inputs=parameters)
