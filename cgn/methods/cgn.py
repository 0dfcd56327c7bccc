"""CGN itself (Sec. III-B, Fig. 3), with the switches of Tables III and IV as tables."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cgn import backbones, objective
from cgn import equations as eq
from cgn.ablation import Bilateral, CamClass, Triplet, Variant
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, Prediction
from cgn.nets.discriminator import Discriminator
from cgn.nets.fusion import FusionClassifier
from cgn.nets.generator import Generator
from cgn.objective import Step

WIDEST = 512  # channels; what is wider is projected (reading 3)
PROJECTED = 256

# What G sees, by Table III's first column: of H_T, H_R and alpha.
GENERATOR_INPUT: Mapping[Bilateral, Callable[[Tensor, Tensor, float], Tensor]] = {
    Bilateral.NONE: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.TF_GAN: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.BF_GAN: lambda h_t, h_r, alpha: torch.lerp(h_t, h_r, alpha),
    Bilateral.ADAIN_GAN: eq.interpolate,
}
# Those whose prediction looks at the other breast, and the one that looks at the true counterfactual.
SEES_REFERENCE = frozenset({Bilateral.SBF, Bilateral.BF_GAN, Bilateral.ADAIN_GAN})
SEES_TRUTH = frozenset({Bilateral.ORACLE})

# Fields of Step that are functions of H_C: asking for one asks for a generator.
OF_H_C = frozenset({"logits_c", "d_tc", "d_rc", "fake"})
OF_H_R = frozenset({"d_rc", "real"})

# Reading 6: the class whose map is Omega, of logits (B, 2) and labels (B,).
CAM_CLASS: Mapping[CamClass, Callable[[Tensor, Tensor], Tensor]] = {
    CamClass.PREDICTED: lambda logits, _y: logits.argmax(1),
    CamClass.LABEL: lambda _logits, y: y,
    CamClass.MALIGNANT: lambda _logits, y: torch.ones_like(y),
}
# What D and G's adversarial loss see of a feature map (reading 16).
SEEN_BY_D: Mapping[Variant, Callable[[Tensor, Tensor], Tensor]] = {
    Variant.PROPOSED: lambda h, _omega: h,
    Variant.DIRECT: lambda h, _omega: h,
    Variant.MASKED_ADVERSARY: lambda h, omega: omega.unsqueeze(1) * h,
}


class Extractor(nn.Module):
    """Backbone and, where it is wide or the configuration asks, a 1x1 projection (reading 3)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = backbones.load(config.backbone, config.backbone_weights)
        wide = self.backbone.channels
        self.channels = config.feature_channels or (PROJECTED if wide > WIDEST else wide)
        self.projection = nn.Identity() if self.channels == wide else nn.Conv2d(wide, self.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.projection(self.backbone(x))
        return h


class CGN(nn.Module):
    """Fig. 3 with the parts that the configuration's terms ask for, and no others."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.terms = objective.terms(config)
        self.needs = objective.needs(config)
        self.backbone = Extractor(config)
        channels = self.backbone.channels
        generates = bool(self.needs & OF_H_C)
        self.generator = Generator(channels, config.generator_blocks) if generates else None
        self.discriminator = Discriminator(channels) if "fake" in self.needs else None
        # Beside H_T stands the residual H_T - H_C, or H_R itself, or nothing.
        self.sees_truth = config.bilateral in SEES_TRUTH
        alone = not (generates or self.sees_truth or config.bilateral in SEES_REFERENCE)
        self.classifier = FusionClassifier(channels * (1 if alone else 2), channels)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """One pass; every part's gradient is that of the terms that train it (reading 24).

        The graph is built once: each distinct set of terms is one backward pass through it, and
        D's logits serve both sides of the game.
        """
        with self._autocast():
            step = self(batch)
            values = {term.name: term.value(step, self.config) for term in self.terms}
        weights, present = self.config.loss_weights, dict(self.named_children())
        for parts, terms in objective.by_part(self.terms):
            total = torch.stack(
                [weights.get(term.name, 1.0) * values[term.name].mean() for term in terms]
            ).sum()
            parameters = [p for part in parts if part in present for p in present[part].parameters()]
            torch.autograd.backward(total, inputs=parameters, retain_graph=True)
        watched = {"d_tc": step.d_tc, "d_rc": step.d_rc}
        values |= {name: value for name, value in watched.items() if value is not None}
        return {name: value.detach() for name, value in values.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """Sec. IV-E: probability and the map of the predicted class."""
        with self._autocast():
            logits, cam = self._classify(*self._features(batch, training=False))[:2]
        return Prediction(logits.softmax(1)[:, 1], _of_class(cam, logits.argmax(1)))

    def forward(self, batch: Batch) -> Step:
        """Everything that some term reads, once."""
        h_t, h_r, truth = self._features(batch, training=True)
        logits, cam, h_c = self._classify(h_t, h_r, truth)
        step = Step(y=batch.y, logits=logits, cam=cam, h_t=h_t, h_r=h_r, h_c=h_c)
        if self.generator is None or h_c is None:
            return step
        omega = self._omega(step)
        if "logits_c" in self.needs:
            absent = torch.cat([torch.zeros_like(h_c), h_c], 1)
            step = step._replace(logits_c=self.classifier(absent, running_statistics=True)[0].float())
        if "d_tc" in self.needs:
            step = step._replace(d_tc=eq.d_tc(h_t, h_c, omega))
        if "d_rc" in self.needs and h_r is not None:
            step = step._replace(d_rc=eq.d_rc(h_r, h_c))
        if self.discriminator is not None and h_r is not None:
            seen = SEEN_BY_D[self.config.variant]
            both = torch.cat([seen(h_r, omega), seen(h_c, omega)])
            real, fake = self.discriminator(both).float().chunk(2)
            step = step._replace(real=real, fake=fake)
        return step

    def _features(self, batch: Batch, *, training: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """H_T, H_R and the features of the truth in one pass through the backbone."""
        wants_reference = self.config.bilateral in SEES_REFERENCE or (training and self.needs & OF_H_R)
        if self.sees_truth and batch.counterfactual is None:
            raise ConfigError(
                "bilateral=oracle needs the true counterfactual, which only phantoms have: "
                "take another value or a phantom cache"
            )
        images = {
            "target": batch.target,
            "reference": batch.reference if wants_reference else None,
            "truth": batch.counterfactual if self.sees_truth else None,
        }
        present = {name: image for name, image in images.items() if image is not None}
        h = self.backbone(torch.cat(list(present.values()))).float().chunk(len(present))
        named = dict(zip(present, h, strict=True))
        return named["target"], named.get("reference"), named.get("truth")

    def _classify(
        self, h_t: Tensor, h_r: Tensor | None, truth: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        h_c = truth
        if self.generator is not None:
            other = h_t if h_r is None else h_r
            h_c = self.generator(
                GENERATOR_INPUT[self.config.bilateral](h_t, other, self.config.alpha)
            ).float()
        beside = h_r if h_c is None else h_t - h_c
        logits, cam = self.classifier(h_t if beside is None else torch.cat([beside, h_t], 1))
        return logits.float(), cam.float(), h_c

    def _omega(self, step: Step) -> Tensor:
        """Omega `(B, h, w)`, from the feedback or from the distance (readings 6 and 15)."""
        assert step.h_c is not None  # noqa: S101  (asked for by forward alone)
        if self.config.triplet is Triplet.NON_FEEDBACK:
            evidence = eq.distance_map(step.h_t, step.h_c)
        else:
            chosen = CAM_CLASS[self.config.cam_class](step.logits, step.y)
            evidence = _of_class(step.cam, chosen)
        return eq.lesion_map(evidence if self.config.omega_gradient else evidence.detach())

    def _autocast(self) -> torch.autocast:
        device = next(self.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.precision == "bf16")


def _of_class(cam: Tensor, chosen: Tensor) -> Tensor:
    """Each sample's map of its chosen class. (B,2,h,w), (B,) -> (B,h,w)"""
    return cam[torch.arange(len(cam), device=cam.device), chosen]


def build(config: Config) -> CGN:
    """The network of a configuration. Raises ConfigError, WeightsError."""
    return CGN(config)
