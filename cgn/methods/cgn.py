"""CGN itself (Sec. III-B, Fig. 3), with the switches of Tables III to V as tables."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cgn import backbones, objective
from cgn import equations as eq
from cgn.ablation import Bilateral, CamClass, GeneratorLevel, Triplet, Variant
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.methods import Batch, Features, Prediction
from cgn.nets.discriminator import Discriminator
from cgn.nets.fusion import FusionClassifier, GatedFusionClassifier
from cgn.nets.generator import Generator, ImageGenerator
from cgn.objective import Step

READS = (
    "feature_channels",
    "generator_blocks",
    "alpha",
    "beta",
    "bilateral",
    "negative_embedding",
    "triplet",
    "variant",
    "generator_level",
    "cam_class",
    "omega_gradient",
    "adversarial",
    "counterfactual_gradient",
    "loss_weights",
    "precision",
)
"""Fields of `Config` that change this method, beside `provenance.TRAINING_FIELDS`."""

WIDEST = 512  # channels; what is wider is projected (reading 3)
PROJECTED = 256

# What G sees, by Table III's first column: of H_T, H_R and alpha.
GENERATOR_INPUT: Mapping[Bilateral, Callable[[Tensor, Tensor, float], Tensor]] = {
    Bilateral.NONE: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.TF_GAN: lambda h_t, _h_r, _alpha: h_t,
    Bilateral.BF_GAN: lambda h_t, h_r, alpha: torch.lerp(h_t, h_r, alpha),
    Bilateral.ADAIN_GAN: eq.interpolate,
}
# What a prediction looks at beside the target: fields of Batch.
SEES: Mapping[Bilateral, tuple[str, ...]] = {
    Bilateral.NONE: (),
    Bilateral.SBF: ("reference",),
    Bilateral.GF: ("reference",),
    Bilateral.SFF: ("reference", "other_target", "other_reference"),
    Bilateral.TF_GAN: (),
    Bilateral.BF_GAN: ("reference",),
    Bilateral.ADAIN_GAN: ("reference",),
    Bilateral.ORACLE: ("counterfactual",),
}
# Where features side by side are not simply fused.
CLASSIFIERS: Mapping[Bilateral, type[FusionClassifier]] = {Bilateral.GF: GatedFusionClassifier}
GENERATORS: Mapping[GeneratorLevel, Callable[[int, int], nn.Module]] = {
    GeneratorLevel.FEATURE: Generator,
    GeneratorLevel.IMAGE: ImageGenerator,
}

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
        backbone = backbones.load(config.backbone, config.backbone_weights)
        self.backbone: nn.Module = backbone
        wide = backbone.channels
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
        self.sees = ("target", *SEES[config.bilateral])
        self.needs_other = "other_target" in self.sees
        self.backbone = Extractor(config)
        channels = self.backbone.channels
        self.generates = bool(self.needs & OF_H_C)
        make = GENERATORS[config.generator_level]
        self.generator = make(channels, config.generator_blocks) if self.generates else None
        self.discriminator = Discriminator(channels) if "fake" in self.needs else None
        # Beside H_T stands the residual H_T - H_C, or H_R itself, or nothing.
        beside = self.generates or len(self.sees) > 1
        classifier = CLASSIFIERS.get(config.bilateral, FusionClassifier)
        self.classifier = classifier(channels * (2 if beside else 1), channels)

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
            logits, cam = self._classify(self._features(batch, self.sees))
        return Prediction(logits.softmax(1)[:, 1], _of_class(cam, logits.argmax(1)))

    def release_trunk(self) -> tuple[str, nn.Module]:
        """What a frozen backbone computes once for all epochs; the projection stays and is trained."""
        trunk, self.backbone.backbone = self.backbone.backbone, nn.Identity()
        return "backbone.backbone.", trunk

    @torch.no_grad()
    def features(self, batch: Batch) -> Features:
        """Sec. IV-F: what is compared with what. Raises ConfigError where nothing is generated."""
        if self.generator is None:
            raise ConfigError(
                f"bilateral={self.config.bilateral} must generate a counterfactual to be measured but does "
                "not: take tf_gan, bf_gan or adain_gan"
            )
        with self._autocast():
            h = self._features(batch, ("target", "reference"))
            truth = None if batch.counterfactual is None else self.backbone(batch.counterfactual).float()
        return Features(h["target"], h["reference"], h["counterfactual"], truth)

    def forward(self, batch: Batch) -> Step:
        """Everything that some term reads, once."""
        compared = ("reference",) if self.needs & OF_H_R and "reference" not in self.sees else ()
        h = self._features(batch, (*self.sees, *compared))
        logits, cam = self._classify(h)
        h_t, h_r, h_c = h["target"], h.get("reference"), h.get("counterfactual")
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

    def _features(self, batch: Batch, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Features of these fields of the batch in one pass through the backbone, and H_C if there is a G."""
        present = {name: image for name in names if (image := getattr(batch, name)) is not None}
        if absent := [name for name in names if name not in present]:
            raise ConfigError(
                f"bilateral={self.config.bilateral} needs the {absent[0]} image, which these pairs have not "
                "(a true counterfactual is what only phantoms have): take another value or other pairs"
            )
        of_images = self.generator is not None and self.config.generator_level is GeneratorLevel.IMAGE
        if of_images:
            present["counterfactual"] = self._generate(present)
        h = self.backbone(torch.cat(list(present.values()))).float().chunk(len(present))
        named: dict[str, Tensor] = dict(zip(present, h, strict=True))
        if self.generator is not None and not of_images:
            named["counterfactual"] = self._generate(named)
        return named

    def _generate(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Eq. 7, of features or of images."""
        assert self.generator is not None  # noqa: S101  (asked for by _features alone)
        mix = GENERATOR_INPUT[self.config.bilateral]
        target = seen["target"]
        made: Tensor = self.generator(mix(target, seen.get("reference", target), self.config.alpha))
        return made.float()

    def _classify(self, h: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and the target's maps. SFF averages two views' logits, hence their pooled features."""
        h_t = h["target"]
        beside = h_t - h["counterfactual"] if "counterfactual" in h else h.get("reference")
        views = [h_t if beside is None else torch.cat([beside, h_t], 1)]
        if "other_target" in h:
            views.append(torch.cat([h["other_reference"], h["other_target"]], 1))
        logits, cam = self.classifier(torch.cat(views))
        return torch.stack(logits.float().chunk(len(views))).mean(0), cam.float().chunk(len(views))[0]

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
